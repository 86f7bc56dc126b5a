/** Reads records that many processes write: a value that is no record must not hide the others. */
import { parseRecord } from './bucket.ts';

type Check = (value: unknown) => boolean;

/** The record in an entry's value; undefined if the value is not JSON, or `isValid` refuses it. */
export function validRecord<T>(value: Uint8Array, isValid: Check): T | undefined {
  try {
    const record = parseRecord<T>(value);
    return isValid(record) ? record : undefined;
  } catch {
    return undefined;
  }
}

/** Checks that a value is an object with these fields. It may have others: a later version may have added some. */
export function has(fields: Record<string, Check>): Check {
  return (value) => isObject(value) && Object.entries(fields).every(([name, check]) => check(value[name]));
}

export function maybe(check: Check): Check {
  return (value) => value === undefined || check(value);
}

export function isText(value: unknown): boolean {
  return typeof value === 'string';
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
