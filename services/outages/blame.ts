/** What an error is blamed on: the one table that decides whether a job ends, is retried, or waits (docs/adr/0032-outages.md). */
import { type ErrorCode, LxstowError } from '../contract/errors.ts';

export type Dependency = 's3' | 'lxd' | 'nats';

export type Blame =
  /** The job asks for something impossible: it fails at once. */
  | { on: 'job' }
  /**
   * A failure that may not recur: the job is retried, and attempts are counted. `elseBlame`: ask this dependency at once; if it does not answer,
   * blame it instead. If it does, only this job meets the fault: an object that the store cannot read, say.
   */
  | { on: 'attempt'; elseBlame?: Dependency }
  /**
   * The dependency is full, denies us access, or is NATS: the job waits, and no attempt is counted. `jobIfUp`: it refused this one request;
   * if it serves others, blame the job.
   */
  | { on: Dependency; jobIfUp?: true };

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
  'lxd-unavailable': { on: 'attempt', elseBlame: 'lxd' },
  'lxd-stalled': { on: 'attempt', elseBlame: 'lxd' },
  'lxd-refused': { on: 'lxd', jobIfUp: true },
  'lxd-full': { on: 'lxd' },
  'lxd-failed': { on: 'attempt', elseBlame: 'lxd' },
  's3-unavailable': { on: 'attempt', elseBlame: 's3' },
  's3-denied': { on: 's3' },
  's3-refused': { on: 's3', jobIfUp: true },
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

const words: Partial<Record<ErrorCode, string>> = {
  's3-denied': 'access to S3',
  's3-full': 'room in S3',
  'lxd-full': "room on LXD's disk",
  'nats-unavailable': 'NATS',
  'queue-full': 'room in NATS',
  'nats-unfit': 'a fitting NATS: run `lxstow doctor`',
};

/** What a job waits for after this error, if no outage is recorded. */
export function waitedForAfter(code: ErrorCode): string | undefined {
  return words[code];
}

/** The dependency to ask whether it is away, when a job fails by this. */
export function suspectOf(code: ErrorCode): Dependency | undefined {
  const blame = blames[code];
  if (blame.on === 'attempt') return blame.elseBlame;
  return blame.on === 'job' ? undefined : blame.on;
}

/** Whether S3 has refused a request that may have been a write: then it is asked whether it takes any. */
export function mayBeOfWrites(code: ErrorCode): boolean {
  return code === 's3-denied' || code === 's3-full';
}

/** Whether the error says that S3 is away, full, or does not let us in, rather than that it refused this one request. */
export function isS3Away(thrown: unknown): boolean {
  return thrown instanceof LxstowError && ['s3-unavailable', 's3-denied', 's3-full'].includes(thrown.code);
}
