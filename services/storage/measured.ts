/** Metrics as a wrapper of the store: each call's duration, result and bytes. */
import { asLxstowError } from '../contract/errors.ts';
import type { StoreMetrics } from '../telemetry/metrics.ts';
import type { ObjectStore } from './objectStore.ts';

/** Wraps the store to measure every call. Put it inside `retrying`, so that each try counts. */
export function measured(store: ObjectStore, { s3Requests, received, sent }: StoreMetrics): ObjectStore {
  async function timed<T>(call: string, run: () => Promise<T>, count?: (result: T) => void): Promise<T> {
    const end = s3Requests.startTimer({ call });
    try {
      const result = await run();
      end({ result: 'ok' });
      count?.(result);
      return result;
    } catch (error) {
      end({ result: asLxstowError(error).code });
      throw error;
    }
  }
  const into = (bytes: number) => () => sent.inc({ peer: 's3' }, bytes);
  const outOf = (bytes: number) => received.inc({ peer: 's3' }, bytes);

  /** Counts a listing as one call: the time that its pages took, without the consumer's time between items. */
  async function* listed<T>(call: string, items: AsyncIterable<T>): AsyncGenerator<T> {
    let seconds = 0;
    let result = 'ok';
    const iterator = items[Symbol.asyncIterator]();
    try {
      for (;;) {
        const begun = performance.now();
        const next = await iterator.next().finally(() => {
          seconds += (performance.now() - begun) / 1000;
        });
        if (next.done) return;
        yield next.value;
      }
    } catch (error) {
      result = asLxstowError(error).code;
      throw error;
    } finally {
      s3Requests.observe({ call, result }, seconds);
      await iterator.return?.();
    }
  }

  return {
    probe: (signal) => timed('probe', () => store.probe(signal)),
    beginUpload: (key, options, signal) => timed('beginUpload', () => store.beginUpload(key, options, signal)),
    putPart: (upload, number, body, crc32, signal) =>
      timed('putPart', () => store.putPart(upload, number, body, crc32, signal), into(body.length)),
    completeUpload: (upload, parts, signal, over) =>
      timed('completeUpload', () => store.completeUpload(upload, parts, signal, over)),
    copyPart: (upload, number, from, signal) => timed('copyPart', () => store.copyPart(upload, number, from, signal)),
    listParts: (upload, signal) => timed('listParts', () => store.listParts(upload, signal)),
    abortUpload: (upload, signal) => timed('abortUpload', () => store.abortUpload(upload, signal)),
    create: (key, body, options, signal) =>
      timed('create', () => store.create(key, body, options, signal), into(body.length)),
    replace: (key, etag, body, options, signal) =>
      timed('replace', () => store.replace(key, etag, body, options, signal), into(body.length)),
    tag: (key, tags, signal) => timed('tag', () => store.tag(key, tags, signal)),
    tagsOf: (key, signal) => timed('tagsOf', () => store.tagsOf(key, signal)),
    read: (key, signal) =>
      timed(
        'read',
        () => store.read(key, signal),
        ({ body }) => outOf(body.length),
      ),
    stat: (key, signal) => timed('stat', () => store.stat(key, signal)),
    readRange: (key, etag, start, buffer, signal) =>
      timed(
        'readRange',
        () => store.readRange(key, etag, start, buffer, signal),
        () => outOf(buffer.length),
      ),
    remove: (key, signal) => timed('remove', () => store.remove(key, signal)),
    list: (prefix, signal) => listed('list', store.list(prefix, signal)),
    folders: (prefix, signal) => listed('folders', store.folders(prefix, signal)),
    listUploads: (prefix, signal) => listed('listUploads', store.listUploads(prefix, signal)),
  };
}
