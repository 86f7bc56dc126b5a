/** Time zones, as the configuration and requests name them. */
import { Temporal } from 'temporal-polyfill';
import { LxstowError } from './errors.ts';

/** Throws bad-request for a name that IANA does not have. */
export function checkZone(zone: string, what: string): void {
  try {
    Temporal.Instant.fromEpochMilliseconds(0).toZonedDateTimeISO(zone);
  } catch {
    throw new LxstowError(
      'bad-request',
      `${what}: ${JSON.stringify(zone)} is not a time zone; for example Europe/Berlin`,
    );
  }
}
