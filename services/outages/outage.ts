/**
 * The record of a dependency's outage: a circuit breaker with a slow start. Pure. During the outage `allowed` is 0. Each successful probe doubles the
 * number of jobs that may use the dependency (1, 2, 4 …), so that a returning store is not overloaded; at the end the record is removed.
 */

import type { LxstowError } from '../contract/errors.ts';
import { faultsOf, type JobKind, type Outage } from '../contract/schemas.ts';
import { onlyDeletes } from '../nats/streams.ts';

/** The slow start ends when this many jobs may use the dependency. */
const mostAllowed = 32;
const firstLookMs = 1000;
const longestLookMs = 30_000;
const stepMs = 2000;

/** The record after a failure, in a new or a known outage. */
export function failed(
  known: Outage | undefined,
  { dependency, worker }: Pick<Outage, 'dependency' | 'worker'>,
  { code, message, only }: Pick<LxstowError, 'code' | 'message'> & Pick<Outage, 'only'>,
  now: Date,
): Outage {
  const since = known?.since ?? now.toISOString();
  return { dependency, since, code, reason: message, allowed: 0, ...(only && { only }), worker };
}

/** The record after an answer; undefined if that ends the outage. */
export function answered(outage: Outage): Outage | undefined {
  const allowed = outage.allowed === 0 ? 1 : outage.allowed * 2;
  return allowed > mostAllowed ? undefined : { ...outage, allowed };
}

/** Milliseconds until the next probe: a quarter of the outage so far, within bounds; fixed while it comes back. */
export function nextLookMs({ since, allowed }: Outage, now: Date): number {
  if (allowed > 0) return stepMs;
  return Math.min(Math.max((now.getTime() - Date.parse(since)) / 4, firstLookMs), longestLookMs);
}

const names = { s3: 'S3', lxd: 'LXD' };

/** What a job waits for, in words: `S3, away since 2026-11-28T03:12:07Z`. Leaves out the reason, which may change, so that operations are written only once. */
export function describeOutage({ dependency, since, allowed, only }: Outage): string {
  const name = names[dependency];
  if (allowed > 0) return `${name}, which has just come back`;
  return `${name}, ${only ? 'which takes no writes' : 'away'} since ${since.slice(0, 19)}Z`;
}

/** Whether jobs of this kind wait for the end of this outage. */
export function concerns({ dependency, only }: Outage, kind: JobKind): boolean {
  return dependency === 'lxd' ? !onlyDeletes(kind) : only === undefined || kind === 'backup';
}

/** Parses a stored record; undefined if it is invalid. */
export function parseOutage(text: string): Outage | undefined {
  try {
    const value = JSON.parse(text) as Outage;
    return faultsOf('outage.json', value).length === 0 ? value : undefined;
  } catch {
    return undefined;
  }
}
