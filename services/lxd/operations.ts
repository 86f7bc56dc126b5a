/** Waiting for LXD's operations, as each LXD and Incus has them. */
import { setTimeout as delay } from 'node:timers/promises';
import { isCode, LxstowError } from '../errors.ts';
import type { LxdClient } from './client.ts';
import { isRefusal } from './refusals.ts';

export interface LxdOperation {
  id: string;
  status: string;
  status_code: number;
  err: string;
  metadata: Record<string, unknown> | null;
}

export interface WaitOptions {
  signal: AbortSignal;
  idleTimeoutMs: number;
  onProgress?: (metadata: Record<string, unknown>) => void;
}

const pollSeconds = 1;
/** How long an operation is waited for whose LXD does not answer, at the most: longer than an LXD takes to be upgraded. */
const longestOutageMs = 600_000;

/**
 * Waits for an operation to end well. `onProgress` sees its metadata about once a second. Throws lxd-failed or lxd-refused with LXD's reason,
 * and lxd-stalled when its metadata has not changed for `idleTimeoutMs`: on a full disk LXD's operation runs for ever. While LXD does not
 * answer, its operation goes on: only after `idleTimeoutMs` (at most `longestOutageMs`) without an answer is it lxd-unavailable. An operation
 * that LXD does not know, because it was restarted or because the end is more than 5 s ago, is lxd-failed: it may be tried again.
 */
export async function waitFor(lxd: LxdClient, path: string, options: WaitOptions): Promise<LxdOperation> {
  const { signal, idleTimeoutMs, onProgress } = options;
  const outageMs = Math.min(idleTimeoutMs, longestOutageMs);
  let [seen, seenAt] = ['', performance.now()];
  let answeredAt = performance.now();
  for (;;) {
    const askedAt = performance.now();
    const operation = await poll(lxd, path, signal).catch((error) => {
      if (!isCode(error, 'lxd-unavailable') || performance.now() - answeredAt > outageMs) throw error;
      return undefined;
    });
    if (operation) {
      answeredAt = performance.now();
      if (operation.status_code === 200) return operation;
      if (operation.status_code > 200) throw failureOf(lxd, operation);
      const metadata = JSON.stringify(operation.metadata);
      if (metadata !== seen) [seen, seenAt] = [metadata, performance.now()];
      if (performance.now() - seenAt > idleTimeoutMs) throw stalled(lxd, operation, idleTimeoutMs);
      if (operation.metadata) onProgress?.(operation.metadata);
    }
    await untilNextPoll(lxd, askedAt, signal);
  }
}

/**
 * The operation, when it has ended or a second is over. Of an operation that still runs then, and of one that failed, `wait` answers an error
 * since December 2023, with a code that is the operation's own or 500: what became of it says the operation itself.
 */
async function poll(lxd: LxdClient, path: string, signal: AbortSignal): Promise<LxdOperation> {
  try {
    return await lxd.get<LxdOperation>(`${path}/wait`, { timeout: String(pollSeconds) }, signal);
  } catch (error) {
    if (signal.aborted || !(error instanceof LxstowError)) throw error;
  }
  try {
    return await lxd.get<LxdOperation>(path, {}, signal);
  } catch (error) {
    if (!isCode(error, 'not-found')) throw error;
    const message = `${lxd.title} does not know its operation ${path}; was it restarted?`;
    throw new LxstowError('lxd-failed', message, { cause: error });
  }
}

/** A poll that was answered early is not followed by the next one at once. */
async function untilNextPoll(lxd: LxdClient, askedAt: number, signal: AbortSignal): Promise<void> {
  const restMs = pollSeconds * 1000 - (performance.now() - askedAt);
  if (restMs <= 0) return;
  await delay(restMs, undefined, { signal }).catch((error) => {
    throw lxd.failure(error, signal);
  });
}

function failureOf(lxd: LxdClient, { err, status }: LxdOperation): LxstowError {
  const text = err || status;
  return new LxstowError(isRefusal(text) ? 'lxd-refused' : 'lxd-failed', `${lxd.title}: ${text}`);
}

function stalled(lxd: LxdClient, { id }: LxdOperation, idleTimeoutMs: number): LxstowError {
  const seconds = Math.round(idleTimeoutMs / 1000);
  return new LxstowError(
    'lxd-stalled',
    `${lxd.title}: its operation ${id} has not moved for ${seconds} s; is its disk full?`,
  );
}
