/** Interprets the client's errors, and translates them to LxstowError. */
import { JetStreamApiError } from '@nats-io/jetstream';
import { PermissionViolationError, RequestError } from '@nats-io/transport-node';
import { asLxstowError, type ErrorCode, isFault, LxstowError } from '../contract/errors.ts';

/** Returns the server's own error code (10071, …) if it answered with one. */
export function apiCode(error: unknown): number | undefined {
  return error instanceof JetStreamApiError ? error.code : undefined;
}

/** Returns the missing permission if that is the error or a cause of it. */
export function violationOf(error: unknown): PermissionViolationError | undefined {
  for (let each = error; each instanceof Error; each = each.cause)
    if (each instanceof PermissionViolationError) return each;
  return undefined;
}

/** Whether a write was refused because the subject's last message is not the expected one. */
export function isWrongSequence(error: unknown): boolean {
  return [10071, 10164].includes(apiCode(error) ?? 0);
}

/** Whether nothing received the request, no JetStream either: then it had no effect. */
export function isNoResponders(error: unknown): boolean {
  return (error instanceof RequestError && error.isNoResponders()) || (error as Error).name === 'JetStreamNotEnabled';
}

/** The stream is full, the server's disk or memory is full, or the account has reached a limit: of bytes (10002, 10028) or of consumers (10026). */
const noRoom = [10077, 10023, 10047, 10002, 10028, 10026];

/** Whether a request failed because of NATS itself, not because of its content. */
export function isOfNats(code: ErrorCode): boolean {
  return code === 'nats-unavailable' || code === 'nats-unfit' || code === 'queue-full';
}

/** Translates a failed call to NATS: the server refused it, could not be reached, or did not answer in time. */
export function natsFailure(error: unknown, what: string): LxstowError {
  if (error instanceof LxstowError) return error;
  // A bug of our own, for example in the code that reads the messages.
  if (isFault(error)) return asLxstowError(error);
  const code = apiCode(error);
  if (code !== undefined && noRoom.includes(code)) {
    return new LxstowError('queue-full', `${what}: NATS has no room: ${(error as Error).message}`, { cause: error });
  }
  if (code === 10059 || code === 10014) {
    return new LxstowError('nats-unfit', `${what}: NATS lacks our stream or consumer: run \`lxstow setup\``, {
      cause: error,
    });
  }
  if (isNoResponders(error)) {
    const why = 'JetStream is off or electing a leader, or `lxstow setup` was not run';
    return new LxstowError('nats-unavailable', `${what}: NATS has no JetStream to receive it: ${why}`, {
      cause: error,
    });
  }
  // The client throws this itself, before it sends anything.
  if (/max_payload/.test((error as Error).message))
    return new LxstowError('too-large', `${what}: larger than a message may be on this NATS (max_payload)`, {
      cause: error,
    });
  if (violationOf(error))
    return new LxstowError('nats-unfit', `${what}: ${(error as Error).message}`, { cause: error });
  return new LxstowError('nats-unavailable', `${what}: NATS: ${(error as Error).message || (error as Error).name}`, {
    cause: error,
  });
}
