/** Retries as a wrapper of the store: callers get the answer, or an error that retries did not cure. */
import { createHash } from 'node:crypto';
import pRetry from 'p-retry';
import { isCode, LxstowError } from '../contract/errors.ts';
import type { ObjectStore, UploadedPart } from './objectStore.ts';

export interface RetryPolicy {
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
 * Wraps the store: tries every call up to `attempts` times, with jittered delays of 0.2 to 3.2 s, unless its error is permanent. When the
 * answer to a write was lost, the retry recognises the write by what the store then holds.
 */
export function retrying(store: ObjectStore, policy: RetryPolicy): ObjectStore {
  function again<T>(call: string, signal: AbortSignal, run: (attempt: number) => Promise<T>): Promise<T> {
    return pRetry(run, {
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

  /** Restarts a listing that breaks off, and skips items already yielded. Keys alone cannot tell where to resume: SeaweedFS orders them differently. */
  async function* listing<T>(
    call: string,
    signal: AbortSignal,
    open: () => AsyncIterable<T>,
    nameOf: (item: T) => string,
  ): AsyncGenerator<T> {
    const given = new Set<string>();
    let iterator = open()[Symbol.asyncIterator]();
    try {
      for (;;) {
        // Most items are already in memory, in a page: set up the retry only after a failure.
        const next = await iterator.next().catch((error) =>
          again(call, signal, async (attempt) => {
            if (attempt === 1) throw error;
            iterator = open()[Symbol.asyncIterator]();
            let result = await iterator.next();
            while (!result.done && given.has(nameOf(result.value))) result = await iterator.next();
            return result;
          }),
        );
        if (next.done) return;
        given.add(nameOf(next.value));
        yield next.value;
      }
    } finally {
      // When the consumer stops early, the inner listing frees what it holds and measures its call.
      await iterator.return?.();
    }
  }

  return {
    probe: (signal) => again('probe', signal, () => store.probe(signal)),
    beginUpload: (key, options, signal) => again('beginUpload', signal, () => store.beginUpload(key, options, signal)),
    putPart: (upload, number, body, crc32, signal) =>
      again('putPart', signal, () => store.putPart(upload, number, body, crc32, signal)),

    copyPart: (upload, number, from, signal) =>
      again('copyPart', signal, () => store.copyPart(upload, number, from, signal)),

    completeUpload: (upload, parts, signal, over) =>
      again('completeUpload', signal, async (attempt) => {
        try {
          return await store.completeUpload(upload, parts, signal, over);
        } catch (error) {
          if (attempt === 1 || !(isCode(error, 'not-found') || isCode(error, 'conflict'))) throw error;
          const { etag } = await store.stat(upload.key, signal);
          if (etag !== multipartEtag(parts)) throw error;
          return etag;
        }
      }),

    listParts: (upload, signal) => again('listParts', signal, () => store.listParts(upload, signal)),
    abortUpload: (upload, signal) => again('abortUpload', signal, () => store.abortUpload(upload, signal)),

    create: (key, body, options, signal) =>
      again('create', signal, async (attempt) => {
        try {
          return await store.create(key, body, options, signal);
        } catch (error) {
          if (attempt === 1 || !isCode(error, 'conflict')) throw error;
          const present = await store.read(key, signal);
          if (!present.body.equals(body)) throw error;
          return present.etag;
        }
      }),

    replace: (key, etag, body, options, signal) =>
      again('replace', signal, async (attempt) => {
        try {
          return await store.replace(key, etag, body, options, signal);
        } catch (error) {
          if (attempt === 1 || !isCode(error, 'conflict')) throw error;
          const present = await store.read(key, signal);
          if (!present.body.equals(body)) throw error;
          return present.etag;
        }
      }),
    tag: (key, tags, signal) => again('tag', signal, () => store.tag(key, tags, signal)),
    tagsOf: (key, signal) => again('tagsOf', signal, () => store.tagsOf(key, signal)),

    read: (key, signal) => again('read', signal, () => store.read(key, signal)),
    stat: (key, signal) => again('stat', signal, () => store.stat(key, signal)),
    readRange: (key, etag, start, into, signal) =>
      again('readRange', signal, () => store.readRange(key, etag, start, into, signal)),
    remove: (key, signal) => again('remove', signal, () => store.remove(key, signal)),

    list: (prefix, signal) =>
      listing(
        'list',
        signal,
        () => store.list(prefix, signal),
        ({ key }) => key,
      ),
    folders: (prefix, signal) =>
      listing(
        'folders',
        signal,
        () => store.folders(prefix, signal),
        (name) => name,
      ),
    listUploads: (prefix, signal) =>
      listing(
        'listUploads',
        signal,
        () => store.listUploads(prefix, signal),
        ({ uploadId }) => uploadId,
      ),
  };
}

/** The ETag that S3 gives an object made from these parts: the MD5 of the parts' MD5s, and their number. */
export function multipartEtag(parts: Pick<UploadedPart, 'etag'>[]): string {
  const hash = createHash('md5');
  for (const { etag } of parts) hash.update(Buffer.from(etag, 'hex'));
  return `${hash.digest('hex')}-${parts.length}`;
}

/** True when a retry may help. Not for s3-denied: wrong keys outlast a request's retries, so the job waits instead (docs/adr/0032-outages.md). */
function isPassing(error: unknown): boolean {
  return error instanceof LxstowError && !error.permanent && error.code !== 's3-denied';
}
