/** W3C trace context (https://www.w3.org/TR/trace-context/): all that one request causes has the same trace id, in every process. */
import { randomUUID } from 'node:crypto';

export const traceHeader = 'traceparent';

export interface Trace {
  /** 32 hex digits. */
  id: string;
  /** Two hex digits; the last bit means that the trace is recorded. */
  flags: string;
}

/** Continues the trace of a `traceparent`; starts one if there is none, or it is invalid. */
export function traceOf(header: string | undefined): Trace {
  return parseTraceparent(header) ?? { id: hex(32), flags: '00' };
}

/** Section 3.2.2 of the specification: a later version may have more fields after the flags, version 00 has none. */
export function parseTraceparent(header: string | undefined): Trace | undefined {
  const [, version, id = '', parent = '', flags = '', more] =
    /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/.exec(header ?? '') ?? [];
  if (version === undefined || version === 'ff' || (version === '00' && more !== undefined)) return undefined;
  return /[^0]/.test(id) && /[^0]/.test(parent) ? { id, flags } : undefined;
}

/** Formats the header for the trace's next request. */
export function formatTraceparent({ id, flags }: Trace): string {
  return `00-${id}-${hex(16)}-${flags}`;
}

/** Node has random bits ready for UUIDs. One digit of a UUID is always 4: so never all zeros, which would be invalid. */
function hex(digits: 16 | 32): string {
  return randomUUID().replaceAll('-', '').slice(0, digits);
}
