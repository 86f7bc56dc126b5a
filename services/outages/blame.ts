/**
 * What each error is blamed on (docs/adr/0032-outages.md). From this, worker/loop/retryDecision.ts decides what happens to the job; it handles lease-lost, stopping and
 * cancelled itself.
 */
import { type ErrorCode, LxstowError } from '../contract/errors.ts';

type Dependency = 's3' | 'lxd' | 'nats';

type Blame =
  /** The job asks for something impossible: it fails at once. */
  | { on: 'job' }
  /**
   * A failure that may not recur: the job is retried, and attempts are counted. `suspect`: this dependency is probed at once; if it does not serve us, the
   * job waits for it. If it does, only this job meets the fault: an object that the store cannot read, say.
   */
  | { on: 'attempt'; suspect?: Dependency }
  /**
   * The dependency is full, denies us access, or is NATS: the job waits, and no attempt is counted. `jobsFaultIfUp`: it refused this one request;
   * if a probe shows that it serves others, the job is to blame.
   */
  | { on: Dependency; jobsFaultIfUp?: true };

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
  'lxd-unavailable': { on: 'attempt', suspect: 'lxd' },
  'lxd-stalled': { on: 'attempt', suspect: 'lxd' },
  'lxd-refused': { on: 'lxd', jobsFaultIfUp: true },
  'lxd-full': { on: 'lxd' },
  'lxd-failed': { on: 'attempt', suspect: 'lxd' },
  's3-unavailable': { on: 'attempt', suspect: 's3' },
  's3-denied': { on: 's3' },
  's3-refused': { on: 's3', jobsFaultIfUp: true },
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
export function describeMissing(code: ErrorCode): string | undefined {
  return words[code];
}

/** The dependency to probe if a job fails with this code. */
export function suspectOf(code: ErrorCode): Dependency | undefined {
  const blame = blames[code];
  if (blame.on === 'attempt') return blame.suspect;
  return blame.on === 'job' ? undefined : blame.on;
}

/** Whether S3 has refused a request that may have been a write: then the probe must also try a write. */
export function mayBeOfWrites(code: ErrorCode): boolean {
  return code === 's3-denied' || code === 's3-full';
}

/** Whether the error says that S3 is away, full, or does not let us in, rather than that it refused this one request. */
export function isS3Away(thrown: unknown): boolean {
  return thrown instanceof LxstowError && ['s3-unavailable', 's3-denied', 's3-full'].includes(thrown.code);
}
