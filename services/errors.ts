/**
 * Every way in which lxstow can fail. `status` is the HTTP status; `permanent` says that trying again cannot help.
 * The list is closed: clients and runbooks match on these words.
 */
const codes = {
  'bad-request': { status: 400, permanent: true },
  forbidden: { status: 403, permanent: true },
  'not-found': { status: 404, permanent: true },
  'method-not-allowed': { status: 405, permanent: true },
  conflict: { status: 409, permanent: true },
  'precondition-failed': { status: 412, permanent: true },
  'too-large': { status: 413, permanent: true },
  'range-not-satisfiable': { status: 416, permanent: true },
  'too-many-requests': { status: 429, permanent: false },
  'bad-message': { status: 400, permanent: true },
  'bad-manifest': { status: 500, permanent: true },
  'archive-truncated': { status: 500, permanent: false },
  'archive-corrupt': { status: 500, permanent: true },
  'instance-busy': { status: 503, permanent: false },
  /** A replace that failed, and walked back. */
  'not-replaced': { status: 500, permanent: true },
  /** Restored, but LXD does not start it. */
  'not-started': { status: 500, permanent: true },
  'lxd-unavailable': { status: 503, permanent: false },
  'lxd-stalled': { status: 503, permanent: false },
  'lxd-refused': { status: 400, permanent: true },
  'lxd-full': { status: 503, permanent: false },
  'lxd-failed': { status: 500, permanent: false },
  's3-unavailable': { status: 503, permanent: false },
  's3-denied': { status: 503, permanent: false },
  's3-refused': { status: 500, permanent: true },
  's3-full': { status: 507, permanent: true },
  'nats-unavailable': { status: 503, permanent: false },
  'nats-unfit': { status: 503, permanent: true },
  'queue-full': { status: 503, permanent: false },
  'no-worker': { status: 503, permanent: false },
  'gateway-busy': { status: 503, permanent: false },
  'client-stalled': { status: 408, permanent: true },
  'lease-lost': { status: 503, permanent: false },
  stopping: { status: 503, permanent: false },
  'attempts-exhausted': { status: 500, permanent: true },
  cancelled: { status: 400, permanent: true },
  'bad-config': { status: 500, permanent: true },
  internal: { status: 500, permanent: false },
} as const satisfies Record<string, { status: number; permanent: boolean }>;

export type ErrorCode = keyof typeof codes;

/** docs/troubleshooting.md has them all. */
export const errorCodes = Object.keys(codes) as ErrorCode[];

/** A code that was stored; `internal` for one that this version does not know. */
export function asErrorCode(word: string): ErrorCode {
  return word in codes ? (word as ErrorCode) : 'internal';
}

/** The one error class. `message` tells what happened, to what, and where it helps, what to do. Never anything secret. */
export class LxstowError extends Error {
  override readonly name = 'LxstowError';
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(shortened(message), options);
    this.code = code;
  }

  get status(): number {
    return codes[this.code].status;
  }

  get permanent(): boolean {
    return codes[this.code].permanent;
  }
}

/** LXD passes on all that tar says, a line a file: more than a message or a header can carry, and than anybody reads. */
const longestMessage = 2000;

function shortened(message: string): string {
  if (message.length <= longestMessage) return message;
  const left = message.length - longestMessage;
  return `${message.slice(0, longestMessage * 0.75)} … (${left} characters left out) … ${message.slice(-longestMessage * 0.25)}`;
}

/** Anything thrown, as a LxstowError: what is not one yet becomes `internal`, with itself as the cause. */
export function asLxstowError(thrown: unknown): LxstowError {
  if (thrown instanceof LxstowError) return thrown;
  return new LxstowError('internal', thrown instanceof Error ? thrown.message : String(thrown), { cause: thrown });
}

/** True for an error that says `code`. */
export function isCode(thrown: unknown, code: ErrorCode): boolean {
  return thrown instanceof LxstowError && thrown.code === code;
}

/** A fault of ours, or too little memory: no network's, and no server's. */
export function isFault(thrown: unknown): boolean {
  return thrown instanceof TypeError || thrown instanceof RangeError;
}

/** The system error code (`ECONNREFUSED`, …) of an error or of what caused it. */
export function systemCode(thrown: unknown): string | undefined {
  for (let error = thrown; error instanceof Error; error = error.cause) {
    if ('code' in error && typeof error.code === 'string') return error.code;
  }
  return undefined;
}
