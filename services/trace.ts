/** Trace context as the W3C has it (https://www.w3.org/TR/trace-context/): what one request causes bears one id, in every process. */
import { randomUUID } from 'node:crypto';

export const traceHeader = 'traceparent';

export interface Trace {
  /** 32 hex digits. */
  id: string;
  /** Two hex digits; the last bit: somebody records it. */
  flags: string;
}

/** Goes on with the trace that a `traceparent` names; begins one where there is none, or none that is valid. */
export function traceOf(header: string | undefined): Trace {
  return parseTraceparent(header) ?? { id: hex(32), flags: '00' };
}

/** Section 3.2.2 of the specification: a later version may have more behind the flags, ours has not. */
export function parseTraceparent(header: string | undefined): Trace | undefined {
  const [, version, id = '', parent = '', flags = '', more] =
    /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/.exec(header ?? '') ?? [];
  if (version === undefined || version === 'ff' || (version === '00' && more !== undefined)) return undefined;
  return /[^0]/.test(id) && /[^0]/.test(parent) ? { id, flags } : undefined;
}

/** The header for what the trace causes next. */
export function formatTraceparent({ id, flags }: Trace): string {
  return `00-${id}-${hex(16)}-${flags}`;
}

/** Node has random bits ready for UUIDs. One digit of theirs is always 4: so never all zeros, which would mean "none". */
function hex(digits: 16 | 32): string {
  return randomUUID().replaceAll('-', '').slice(0, digits);
}
