/**
 * Every error code of lxstow. `status` is the HTTP status; `permanent`: do not repeat this one request at once. Whether a
 * job is retried, outages/blame.ts says.
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
  /** A replace failed and was rolled back. */
  'not-replaced': { status: 500, permanent: true },
  /** The instance is restored, but LXD does not start it. */
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

/** docs/troubleshooting.md explains each. */
export const errorCodes = Object.keys(codes) as ErrorCode[];

/** Reads a stored code; `internal` if this version does not know it. */
export function asErrorCode(word: string): ErrorCode {
  return word in codes ? (word as ErrorCode) : 'internal';
}

/** The one error class. `message` says what happened, to what, and, where it helps, what to do. Never contains secrets. */
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

/** LXD passes on tar's whole output, one line per file: more than a message or header can carry. */
const longestMessage = 2000;

function shortened(message: string): string {
  if (message.length <= longestMessage) return message;
  const left = message.length - longestMessage;
  return `${message.slice(0, longestMessage * 0.75)} … (${left} characters left out) … ${message.slice(-longestMessage * 0.25)}`;
}

/** Converts anything thrown to a LxstowError: any other error becomes `internal`, with itself as the cause. */
export function asLxstowError(thrown: unknown): LxstowError {
  if (thrown instanceof LxstowError) return thrown;
  return new LxstowError('internal', thrown instanceof Error ? thrown.message : String(thrown), { cause: thrown });
}

/** Whether this is a LxstowError with this code. */
export function isCode(thrown: unknown, code: ErrorCode): boolean {
  return thrown instanceof LxstowError && thrown.code === code;
}

/** What `get` returns; undefined if it throws not-found. */
export async function unlessMissing<T>(get: () => Promise<T>): Promise<T | undefined> {
  try {
    return await get();
  } catch (error) {
    if (isCode(error, 'not-found')) return undefined;
    throw error;
  }
}

/** Whether this is our bug or a lack of memory, not a failure of network or server. */
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
