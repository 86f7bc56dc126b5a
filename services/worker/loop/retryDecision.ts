/** Decides what happens to a job whose attempt has failed, from the error code (outages/blame.ts) and the circumstances. Pure. */
import type { LxstowError } from '../../contract/errors.ts';
import type { Operation } from '../../contract/schemas.ts';
import { blameOf } from '../../outages/blame.ts';

export interface Circumstances {
  /** The attempt that has failed, from 1, and how many the job has (`attemptsOf`). */
  attempt: number;
  attempts: number;
  /** The dependency that is to blame was asked, and does not serve us. */
  isDependencyAway: boolean;
  /** How many attempts were interrupted because LXD ended or restarted, including this one; 0 if this one was not. */
  cutsByLxd: number;
  /** How long the job has waited for its dependencies, and how long it may, in ms. */
  waitedMs: number;
  patienceMs: number;
}

export type AfterFailure =
  /** Writes nothing, because another worker has the job or will get it. */
  | { kind: 'give-up' }
  /** Undoes the job; then the operation is Cancelled. */
  | { kind: 'cancel' }
  /** The job goes back to the queue at once; the attempt does not count. */
  | { kind: 'hand-back' }
  /** The job gets another attempt after a delay; this one counts. */
  | { kind: 'retry'; delayMs: number }
  /** The job goes back to the queue until the dependency serves us, or for `delayMs` if it does already; the attempt does not count. */
  | { kind: 'wait'; delayMs: number }
  /** Undoes the job; then the operation is Failure. `deadLetter`: a dead letter keeps the job, because it may succeed later. */
  | { kind: 'fail'; deadLetter: boolean };

export const firstDelayMs = 5000;
const longestDelayMs = 300_000;

export function decideAfterFailure({ code }: Pick<LxstowError, 'code'>, circumstances: Circumstances): AfterFailure {
  const { attempt, attempts, isDependencyAway, cutsByLxd, waitedMs, patienceMs } = circumstances;
  if (code === 'lease-lost') return { kind: 'give-up' };
  if (code === 'cancelled') return { kind: 'cancel' };
  if (code === 'stopping') return { kind: 'hand-back' };
  const blame = blameOf(code);
  if (blame.on === 'job') return { kind: 'fail', deadLetter: code === 'attempts-exhausted' };
  if (blame.on === 'attempt' && !isDependencyAway) {
    if (attempt >= attempts) return { kind: 'fail', deadLetter: true };
    return { kind: 'retry', delayMs: delayAfter(attempt) };
  }
  if (blame.on !== 'attempt' && blame.jobsFaultIfUp && !isDependencyAway) return { kind: 'fail', deadLetter: false };
  if (waitedMs >= patienceMs) return { kind: 'fail', deadLetter: true };
  // The job itself may be what ends LXD, and that interrupts other jobs. So the more often it happens, the longer the job waits.
  if (cutsByLxd > 0)
    return { kind: 'wait', delayMs: Math.min(firstDelayMs * 2 ** (cutsByLxd - 1), patienceMs - waitedMs) };
  // The longer the outage, the longer the pauses: each is a quarter of the time waited so far.
  return { kind: 'wait', delayMs: bounded(waitedMs / 4) };
}

/** How many attempts a job has. Once the restored instance is in service, the restore must succeed, so it is retried without a limit. */
export function attemptsOf({ checkpoint }: Operation, configured: number): number {
  return checkpoint?.swapped ? Number.POSITIVE_INFINITY : configured;
}

/**
 * Since when the job has waited, in ms of the clock. An attempt of 5 min or more resets the wait to now. An attempt that LXD interrupted does not, because the job may be the
 * cause; only its running time is not counted as waiting.
 */
export function waitingSinceOf(
  since: string | undefined,
  { now, ranMs, cut }: { now: number; ranMs: number; cut: boolean },
): number {
  if (since === undefined) return now;
  if (cut) return Date.parse(since) + ranMs;
  return ranMs < longestDelayMs ? Date.parse(since) : now;
}

/** The delay after this attempt, if it counts: it doubles with each. */
export function delayAfter(attempt: number): number {
  return bounded(firstDelayMs * 2 ** (attempt - 1));
}

function bounded(ms: number): number {
  return Math.min(Math.max(ms, firstDelayMs), longestDelayMs);
}
