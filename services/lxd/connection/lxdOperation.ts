/** LXD's operations: waits until one has ended. */
import { setTimeout as delay } from 'node:timers/promises';
import { isCode, LxstowError } from '../../contract/errors.ts';
import type { LxdClient } from './client.ts';
import { isRefusal } from './refusals.ts';

interface LxdOperation {
  id: string;
  status: string;
  status_code: number;
  err: string;
  metadata: Record<string, unknown> | null;
}

/** How to wait for an operation. */
export interface Waiting {
  signal: AbortSignal;
  /** How long the operation may make no progress. */
  idleTimeoutMs: number;
  onProgress?: (metadata: Record<string, unknown>) => void;
}

/** The longest wait for an operation while LXD does not answer: longer than an upgrade of LXD takes. */
const longestOutageMs = 600_000;

/** LXD does not know the operation: it was restarted, or the operation ended too long ago. The caller must find out the result. */
export class LostOperation extends LxstowError {}

/** Whether LXD is away, or was restarted and has lost its operation: a retry may succeed when it is back. */
export function isLxdAway(error: unknown): boolean {
  return isCode(error, 'lxd-unavailable') || error instanceof LostOperation;
}

/**
 * Waits for an operation to succeed. `onProgress` gets its metadata about once a second. Throws lxd-failed or lxd-refused with LXD's reason, and
 * lxd-stalled if its metadata has not changed for `idleTimeoutMs`: on a full disk LXD's operation runs for ever. While LXD does not answer, its
 * operation may go on: lxd-unavailable is thrown only after `idleTimeoutMs` (at most `longestOutageMs`) without an answer. Throws LostOperation, a
 * retryable lxd-failed, if LXD does not know the operation, because it was restarted or the operation ended more than 5 s ago.
 */
export async function waitForOperation(
  lxd: LxdClient,
  path: string,
  { signal, idleTimeoutMs, onProgress }: Waiting,
): Promise<LxdOperation> {
  let [seen, seenAt] = ['', performance.now()];
  let answeredAt = performance.now();
  for (;;) {
    const askedAt = performance.now();
    const operation = await poll(lxd, path, signal).catch((error) => {
      const isLost = performance.now() - answeredAt > Math.min(idleTimeoutMs, longestOutageMs);
      if (isLost || !isCode(error, 'lxd-unavailable')) throw error;
      return undefined;
    });
    if (!operation) {
      await untilNextPoll(lxd, askedAt, signal);
      continue;
    }
    answeredAt = performance.now();
    if (operation.status_code === 200) return operation;
    if (operation.status_code > 200) throw failed(lxd, operation);
    const metadata = JSON.stringify(operation.metadata);
    if (metadata !== seen) [seen, seenAt] = [metadata, performance.now()];
    if (performance.now() - seenAt > idleTimeoutMs) {
      throw new LxstowError(
        'lxd-stalled',
        `${lxd.title}: its operation ${operation.id} has made no progress for ${Math.round(idleTimeoutMs / 1000)} s; is its disk full?`,
      );
    }
    if (operation.metadata) onProgress?.(operation.metadata);
    await untilNextPoll(lxd, askedAt, signal);
  }
}

/**
 * Returns the operation when it has ended, or after `pollMs`. If it still runs then, or has failed, LXD's `wait` answers an error since December
 * 2023, with the operation's own code or 500: only the operation itself says its state.
 */
async function poll(lxd: LxdClient, path: string, signal: AbortSignal): Promise<LxdOperation> {
  try {
    return await lxd.get<LxdOperation>(`${path}/wait`, { timeout: String(Math.ceil(lxd.pollMs / 1000)) }, signal);
  } catch (error) {
    if (signal.aborted || !(error instanceof LxstowError)) throw error;
  }
  try {
    return await lxd.get<LxdOperation>(path, {}, signal);
  } catch (error) {
    if (!isCode(error, 'not-found')) throw error;
    const message = `${lxd.title} does not know its operation ${path}; was it restarted?`;
    throw new LostOperation('lxd-failed', message, { cause: error });
  }
}

/** Waits for the rest of `pollMs` after a poll that was answered early. */
async function untilNextPoll(lxd: LxdClient, askedAt: number, signal: AbortSignal): Promise<void> {
  const restMs = lxd.pollMs - (performance.now() - askedAt);
  if (restMs <= 0) return;
  await delay(restMs, undefined, { signal }).catch((error) => {
    throw lxd.failure(error, signal);
  });
}

function failed(lxd: LxdClient, { err, status }: LxdOperation): LxstowError {
  const text = err || status;
  return new LxstowError(isRefusal(text) ? 'lxd-refused' : 'lxd-failed', `${lxd.title}: ${text}`);
}
