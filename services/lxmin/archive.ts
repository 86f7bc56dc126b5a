/** Reads an archive in lxmin's bucket: by ranges, each of the object that was listed. */
import { Readable } from 'node:stream';
import { readTar } from '../archive/tar/decompress.ts';
import type { LxdIndex } from '../archive/tar/indexYaml.ts';
import { readIndex } from '../archive/tar/lxdIndex.ts';
import { TarScanner } from '../archive/tar/tar.ts';
import { mapInOrder } from '../concurrency/orderedMap.ts';
import { LxstowError } from '../contract/errors.ts';
import type { ObjectStore, StoredObject } from '../storage/objectStore.ts';

/** lxmin's bucket, read-only. */
export interface LxminBucket {
  store: Pick<ObjectStore, 'list' | 'read' | 'readRange' | 'tagsOf'>;
  endpoint: string;
  bucket: string;
}

/** The first range usually holds the index. */
const firstRangeBytes = 256 * 1024;
const rangeBytes = 4 * 1024 * 1024;
const rangesAhead = 2;

/** Compressions that LXD offers and lxstow does not read itself, and the programs that it runs for them. */
const programs = { xz: 'xz', lzma: 'xz', bzip2: 'bzip2', lz4: 'lz4' };

/** An object's location, for messages. */
export function urlOf({ bucket }: Pick<LxminBucket, 'bucket'>, { key }: Pick<StoredObject, 'key'>): string {
  return `s3://${bucket}/${key}`;
}

interface Reading {
  signal: AbortSignal;
  /** Called with the number of the object's bytes that have arrived. */
  onBytes?: (count: number) => void;
}

/** Calls `take` with the decompressed tar. Run it in `about` so that errors name the object. */
export async function readArchiveOf(
  from: LxminBucket,
  object: StoredObject,
  { signal, onBytes }: Reading,
  take: (tar: AsyncIterable<Buffer>) => Promise<void>,
  ahead = rangesAhead,
): Promise<void> {
  const done = new AbortController();
  const reading = AbortSignal.any([signal, done.signal]);
  const source = Readable.from(rangesOf(from, object, ahead, reading, onBytes), { objectMode: false });
  try {
    await readTar(source, take, signal, { programs });
  } catch (error) {
    throw signal.aborted ? signal.reason : error;
  } finally {
    // Abort the ranges that were requested ahead.
    done.abort();
    source.destroy();
  }
}

/** Reads only the index, from as few bytes as possible. */
export async function readIndexOf(from: LxminBucket, object: StoredObject, signal: AbortSignal): Promise<LxdIndex> {
  let index: LxdIndex | undefined;
  const enough = new Error('enough');
  const take = async (tar: AsyncIterable<Buffer>) => {
    ({ index } = await readIndex(tar));
    throw enough;
  };
  try {
    await about(from, object, () => readArchiveOf(from, object, { signal }, take, 1));
  } catch (error) {
    if (error !== enough) throw error;
  }
  if (!index) throw new LxstowError('archive-corrupt', `${urlOf(from, object)}: the archive is empty`);
  return index;
}

/** Reads the whole archive, to the tar's end marker. Returns the tar's size in bytes. */
export async function verifyArchiveOf(from: LxminBucket, object: StoredObject, reading: Reading): Promise<number> {
  const scanner = new TarScanner('the archive');
  let size = 0;
  await about(from, object, () =>
    readArchiveOf(from, object, reading, async (tar) => {
      for await (const chunk of tar) {
        scanner.push(chunk);
        size += chunk.length;
      }
      scanner.finish();
    }),
  );
  return size;
}

/** Adds the object's URL to any LxstowError that `run` throws. Faults of the archive become archive-corrupt. */
export async function about<T>(
  from: LxminBucket,
  object: Pick<StoredObject, 'key'>,
  run: () => Promise<T>,
): Promise<T> {
  try {
    return await run();
  } catch (error) {
    if (!(error instanceof LxstowError) || error.code === 'stopping') throw error;
    const url = urlOf(from, object);
    if (error.message.startsWith(url)) throw error;
    const bad = error.code === 'bad-request' || error.code === 'archive-truncated';
    throw new LxstowError(bad ? 'archive-corrupt' : error.code, `${url}: ${error.message}`, { cause: error });
  }
}

async function* rangesOf(
  { store }: LxminBucket,
  { key, etag, size }: StoredObject,
  ahead: number,
  signal: AbortSignal,
  onBytes: (count: number) => void = () => undefined,
): AsyncGenerator<Buffer> {
  const starts = (function* () {
    for (let start = 0; start < size; start += start === 0 ? firstRangeBytes : rangeBytes) yield start;
  })();
  const read = async (start: number) => {
    const most = start === 0 ? firstRangeBytes : rangeBytes;
    const bytes = Buffer.allocUnsafeSlow(Math.min(most, size - start));
    await store.readRange(key, etag, start, bytes, signal);
    return bytes;
  };
  for await (const bytes of mapInOrder(starts, ahead, read)) {
    onBytes(bytes.length);
    yield bytes;
  }
}
