/** Whose fault an error is: the one table that decides whether a job ends, is tried again, or waits (docs/adr/0032-outages.md). */
import { type ErrorCode, LxstowError } from './errors.ts';

export type Dependency = 's3' | 'lxd' | 'nats';

export type Blame =
  /** The job asks for what cannot be done: it ends, once and at once. */
  | { on: 'job' }
  /** Something failed that may not fail again: another attempt, and the attempts are counted. */
  | { on: 'attempt' }
  /**
   * What the job needs is away, full, or does not let us in: the job waits, and no attempt is counted. `unlessItAnswers`: the dependency refused this
   * one request; if it serves us otherwise, the job is to blame.
   */
  | { on: Dependency; unlessItAnswers?: true };

const job: Blame = { on: 'job' };
const attempt: Blame = { on: 'attempt' };

const blames: Record<ErrorCode, Blame> = {
  'bad-request': job,
  forbidden: job,
  'not-found': job,
  'method-not-allowed': job,
  conflict: job,
  'precondition-failed': job,
  'too-large': job,
  'range-not-satisfiable': job,
  'too-many-requests': attempt,
  'bad-message': job,
  'bad-manifest': job,
  'archive-truncated': attempt,
  'archive-corrupt': job,
  'instance-busy': attempt,
  'not-replaced': job,
  'not-started': job,
  'lxd-unavailable': { on: 'lxd' },
  'lxd-stalled': attempt,
  'lxd-refused': { on: 'lxd', unlessItAnswers: true },
  'lxd-failed': attempt,
  's3-unavailable': { on: 's3' },
  's3-denied': { on: 's3' },
  's3-refused': { on: 's3', unlessItAnswers: true },
  's3-full': { on: 's3' },
  'nats-unavailable': { on: 'nats' },
  'nats-unfit': { on: 'nats' },
  'queue-full': { on: 'nats' },
  'no-worker': attempt,
  'gateway-busy': attempt,
  'client-stalled': job,
  'lease-lost': attempt,
  stopping: attempt,
  'attempts-exhausted': job,
  cancelled: job,
  'bad-config': job,
  internal: attempt,
};

export function blameOf(code: ErrorCode): Blame {
  return blames[code];
}

/** Whether the error says that S3 is away, full, or does not let us in, rather than that it refused this one request. */
export function isS3Away(thrown: unknown): boolean {
  if (!(thrown instanceof LxstowError)) return false;
  const blame = blameOf(thrown.code);
  return blame.on === 's3' && !blame.unlessItAnswers;
}
