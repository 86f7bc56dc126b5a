/**
 * Every error code of lxstow. `status` is the HTTP status; `repeatable`: the same request may be sent again at once (storage/retrying.ts). For what happens to
 * a job, see worker/loop/retryDecision.ts.
 * The list is closed: clients and runbooks match on these words.
 */
const codes = {
  'bad-request': { status: 400, repeatable: false },
  forbidden: { status: 403, repeatable: false },
  'not-found': { status: 404, repeatable: false },
  'method-not-allowed': { status: 405, repeatable: false },
  conflict: { status: 409, repeatable: false },
  'precondition-failed': { status: 412, repeatable: false },
  'too-large': { status: 413, repeatable: false },
  'range-not-satisfiable': { status: 416, repeatable: false },
  'too-many-requests': { status: 429, repeatable: true },
  'bad-message': { status: 400, repeatable: false },
  'bad-manifest': { status: 500, repeatable: false },
  'archive-truncated': { status: 500, repeatable: true },
  'archive-corrupt': { status: 500, repeatable: false },
  'instance-busy': { status: 503, repeatable: true },
  /** A replacement failed and was undone. */
  'not-replaced': { status: 500, repeatable: false },
  /** The instance is restored, but LXD does not start it. */
  'not-started': { status: 500, repeatable: false },
  'lxd-unavailable': { status: 503, repeatable: true },
  'lxd-stalled': { status: 503, repeatable: true },
  'lxd-refused': { status: 400, repeatable: false },
  'lxd-full': { status: 503, repeatable: true },
  'lxd-failed': { status: 500, repeatable: true },
  's3-unavailable': { status: 503, repeatable: true },
  's3-denied': { status: 503, repeatable: true },
  's3-refused': { status: 500, repeatable: false },
  's3-full': { status: 507, repeatable: false },
  'nats-unavailable': { status: 503, repeatable: true },
  'nats-unfit': { status: 503, repeatable: false },
  'queue-full': { status: 503, repeatable: true },
  'no-worker': { status: 503, repeatable: true },
  'gateway-busy': { status: 503, repeatable: true },
  'client-stalled': { status: 408, repeatable: false },
  'lease-lost': { status: 503, repeatable: true },
  stopping: { status: 503, repeatable: true },
  'attempts-exhausted': { status: 500, repeatable: false },
  cancelled: { status: 400, repeatable: false },
  'bad-config': { status: 500, repeatable: false },
  internal: { status: 500, repeatable: true },
} as const satisfies Record<string, { status: number; repeatable: boolean }>;

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

  get repeatable(): boolean {
    return codes[this.code].repeatable;
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

/** The result of `get`; undefined if it throws not-found. */
export function unlessMissing<T>(get: () => Promise<T>): Promise<T | undefined> {
  return unlessCode(['not-found'], get);
}

/** The result of `get`; undefined if it throws one of these codes. */
export async function unlessCode<T>(codes: ErrorCode[], get: () => T): Promise<Awaited<T> | undefined> {
  try {
    return await get();
  } catch (error) {
    if (codes.some((code) => isCode(error, code))) return undefined;
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
