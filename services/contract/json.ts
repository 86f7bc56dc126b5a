/** JSON from outside: size and depth are checked before it is parsed. No I/O. */
import { type ErrorCode, LxstowError } from './errors.ts';

/** Values, keys not counted. The largest sensible request names 1000 projects. */
export const mostJsonNodes = 10_000;
/** No request nests deeper than 4. */
export const deepestJson = 32;

const [quote, backslash, comma] = ['"', '\\', ','].map((sign) => sign.charCodeAt(0));
const opening = ['[', '{'].map((sign) => sign.charCodeAt(0));
const closing = [']', '}'].map((sign) => sign.charCodeAt(0));

/**
 * Says which limit the text exceeds; undefined if none. One pass over the bytes: JSON.parse takes 0.5 s for 1 MiB of brackets, and a validator as
 * long for 1 MiB of numbers. Does not check the syntax; JSON.parse does.
 */
export function excessOfJson(bytes: Uint8Array): string | undefined {
  let [nodes, depth] = [1, 0];
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at] as number;
    if (byte === quote) at = endOfString(bytes, at + 1);
    else if (byte === comma) nodes++;
    else if (opening.includes(byte)) {
      nodes++;
      depth++;
    } else if (closing.includes(byte)) depth--;
    if (nodes > mostJsonNodes) return `it has more than ${mostJsonNodes} values`;
    if (depth > deepestJson) return `it is nested deeper than ${deepestJson}`;
  }
  return undefined;
}

/** Parses a message's UTF-8 bytes; `{}` if there are none. Throws `code`, naming `what`, if they are not JSON, not UTF-8, or exceed a limit. */
export function parseJson(bytes: Uint8Array, what: string, code: ErrorCode): unknown {
  if (bytes.length === 0) return {};
  const excess = excessOfJson(bytes);
  if (excess !== undefined) throw new LxstowError(code, `${what}: ${excess}`);
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new LxstowError(code, `${what} is not JSON: ${(cause as Error).message}`, { cause });
  }
}

function endOfString(bytes: Uint8Array, from: number): number {
  for (let at = from; at < bytes.length; at++) {
    if (bytes[at] === backslash) at++;
    else if (bytes[at] === quote) return at;
  }
  return bytes.length;
}
