/** Retries as a wrapper of the store: callers get the answer, or an error that retries did not cure. */
import { setImmediate } from 'node:timers/promises';
import pRetry from 'p-retry';
import { isCode, LxstowError } from '../contract/errors.ts';
import type { ObjectStore, OpenUpload } from './objectStore.ts';
import { multipartEtag } from './s3/s3Messages.ts';
import { type StoreCall, type StoreListing, signalOf, wrapped } from './wrapped.ts';

interface RetryPolicy {
  /** Tries per call, including the first. */
  attempts: number;
  /** Delay before the second try. It doubles with each try, up to 3.2 s. Default: 200. */
  firstDelayMs?: number;
  /** Called after each failed try that another try follows. */
  onRetry?: (call: string, error: Error) => void;
}

const firstDelayMs = 200;
const longestDelayMs = 3200;

/**
 * Wraps the store: tries every call up to `attempts` times, with jittered delays of 0.2 to 3.2 s, unless its error is not repeatable. When the
 * answer to a write was lost, the retry recognises the write by what the store then holds.
 */
export function retrying(store: ObjectStore, policy: RetryPolicy): ObjectStore {
  const call = (name: StoreCall, args: readonly unknown[], run: () => Promise<unknown>) =>
    again(name, policy, signalOf(args), (attempt) =>
      run().catch((error) => {
        if (attempt === 1 || !(isCode(error, 'conflict') || isCode(error, 'not-found'))) throw error;
        return wonBefore(store, name, args, error);
      }),
    );
  return wrapped(store, {
    call,
    listing: (name, args, open) => resumed(name, policy, args, open),
  });
}

/** The result of a write that another try made, whose answer was lost: the ETag of what the store then holds. Throws `error` if it is not that. */
async function wonBefore(
  store: ObjectStore,
  call: StoreCall,
  args: readonly unknown[],
  error: Error,
): Promise<unknown> {
  if (call === 'completeUpload') {
    const [{ key }, parts, signal] = args as Parameters<ObjectStore['completeUpload']>;
    const { etag } = await store.stat(key, signal);
    if (etag === multipartEtag(parts)) return etag;
  } else if ((call === 'create' || call === 'replace') && isCode(error, 'conflict')) {
    const body = args.find((arg) => Buffer.isBuffer(arg));
    const present = await store.read(args[0] as string, signalOf(args));
    if (body && present.body.equals(body)) return present.etag;
  }
  throw error;
}

function again<T>(
  call: string,
  policy: RetryPolicy,
  signal: AbortSignal,
  run: (attempt: number) => Promise<T>,
): Promise<T> {
  const runUnlessAborted = async (attempt: number) => {
    // If the process was suspended during the pause, other timers are due, too: they may find that a lease is lost, and abort.
    if (attempt > 1) await setImmediate();
    signal.throwIfAborted();
    return run(attempt);
  };
  return pRetry(runUnlessAborted, {
    retries: policy.attempts - 1,
    minTimeout: policy.firstDelayMs ?? firstDelayMs,
    maxTimeout: longestDelayMs,
    randomize: true,
    signal,
    shouldRetry: ({ error }) => isPassing(error) && !signal.aborted,
    onFailedAttempt: ({ error, retriesLeft }) => {
      if (retriesLeft > 0 && isPassing(error)) policy.onRetry?.(call, error as LxstowError);
    },
  });
}

/**
 * Restarts a listing that breaks off. A listing of objects, however long, continues after the last key that it yielded; the other listings, which are short and have
 * no such key, start again and skip what they have yielded.
 */
async function* resumed(
  call: StoreListing,
  policy: RetryPolicy,
  args: readonly unknown[],
  open: (...others: unknown[]) => AsyncIterable<unknown>,
): AsyncGenerator<unknown> {
  const given = new Set<string>();
  let last: string | undefined;
  const reopen = () => {
    if (call !== 'list' || last === undefined) return open();
    const [prefix, signal, options] = args as Parameters<ObjectStore['list']>;
    return open(prefix, signal, { ...options, after: last });
  };
  let iterator = open()[Symbol.asyncIterator]();
  try {
    for (;;) {
      // Most items are already in memory, in a page: set up the retry only after a failure.
      const next = await iterator.next().catch((error) =>
        again(call, policy, signalOf(args), async (attempt) => {
          if (attempt === 1) throw error;
          iterator = reopen()[Symbol.asyncIterator]();
          let result = await iterator.next();
          while (!result.done && given.has(nameOf(result.value))) result = await iterator.next();
          return result;
        }),
      );
      if (next.done) return;
      if (call === 'list') last = nameOf(next.value);
      else given.add(nameOf(next.value));
      yield next.value;
    }
  } finally {
    // When the consumer stops early, the inner listing frees what it holds and measures its call.
    await iterator.return?.();
  }
}

/** What tells the items of a listing apart. */
function nameOf(item: unknown): string {
  const { uploadId, key } = item as Partial<OpenUpload>;
  return uploadId ?? key ?? (item as string);
}

/** True when a retry may help. Not for s3-denied: wrong keys outlast a request's retries, so the job waits instead (docs/adr/0032-outages.md). */
function isPassing(error: unknown): boolean {
  return error instanceof LxstowError && error.repeatable && error.code !== 's3-denied';
}
