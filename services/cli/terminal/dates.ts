/** Reads times as users give them: dates and times in UTC, or an age. */
import { parseDuration } from '../../contract/durations.ts';
import { CliError, exits } from '../exit.ts';

const dayMs = 86_400_000;

/** `2026-11-24`, `2026-11-24 03:00`, `2026-11-24T03:00:00Z` or `14d`; ISO 8601, in UTC. A date is the beginning of that day, or with `end` of the next one. */
export function parseTime(text: string, option: string, end = false, now = Date.now()): Date {
  const ageMs = parseDuration(text, 'mhdw');
  if (!Number.isNaN(ageMs)) return new Date(now - ageMs);
  const [, day, clock, zone = 'Z'] =
    /^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2})?)(Z|[+-]\d{2}:\d{2})?)?$/.exec(text) ?? [];
  const time = Date.parse(clock === undefined ? `${day}T00:00:00Z` : `${day}T${clock}${zone}`);
  if (Number.isNaN(time))
    throw new CliError(
      exits.usage,
      `${option} ${text}: give a date (2026-11-24), a time (2026-11-24 03:00, in UTC) or an age (14d, 12h)`,
    );
  return new Date(end && clock === undefined ? time + dayMs : time);
}

/** This machine's time zone, by IANA's name. */
export function localZone(): string {
  return Intl.DateTimeFormat().resolvedOptions().timeZone;
}
