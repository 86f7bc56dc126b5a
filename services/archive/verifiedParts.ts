/** Reads archives. Verifies each part before passing on a byte of it. */
import { addAbortListener } from 'node:events';
import type { Writable } from 'node:stream';
import { mapInOrder } from '../concurrency/orderedMap.ts';
import { LxstowError } from '../contract/errors.ts';
import type { ManifestArchive, Part } from '../contract/schemas.ts';
import type { BufferPool } from './bufferPool.ts';
import { blockPool, decompressBlocks } from './compression/compression.ts';
import type { Threads } from './compression/threads.ts';
import type { SlotMemory } from './slotMemory.ts';
import type { TarHead } from './tar/tarHead.ts';

const partsAhead = 3;

interface PartsOptions {
  /** Fills the buffer with stored bytes, from offset `start` on. */
  fetch: (start: number, into: Buffer) => Promise<void>;
  threads: Threads;
  /** Buffers of at least the largest part's size. */
  pool: BufferPool;
  /** Parts read in parallel; the pool must have as many buffers. Default: 3. */
  ahead?: number;
  signal: AbortSignal;
}

interface ReadOptions extends Omit<PartsOptions, 'pool' | 'ahead'> {
  memory: SlotMemory;
  /** Gets the start of the tar before the sink does, and may change it. */
  head?: TarHead;
  /** Sees the tar. */
  onTar?: (bytes: Buffer) => void;
  /** Called after each block with the total bytes of the tar that the sink has taken. */
  onProgress: (rawBytes: number) => void;
  /** Called with true before each wait for the sink, and with false after it. */
  onWaiting?: (waiting: boolean) => void;
}

/** Bytes of the archive's largest part: the size of the buffers that reading it needs. */
export function largestPart(archive: ManifestArchive): number {
  return archive.parts.reduce((largest, { size }) => Math.max(largest, size), 0);
}

/**
 * Writes the archive's decompressed tar into `sink`. Does not end `sink`: the caller ends it when this resolves, and destroys it when this
 * rejects. Throws archive-corrupt, naming the part, before any byte of a damaged part is written.
 */
export async function writeTar(archive: ManifestArchive, sink: Writable, options: ReadOptions): Promise<void> {
  const { compression, blockSize, rawSize } = archive;
  const { memory, threads, head, signal } = options;
  const pool = memory.pool('parts', partsAhead, largestPart(archive));
  let raw = 0;
  const through = async (bytes: Buffer) => {
    raw += bytes.length;
    options.onTar?.(bytes);
    options.onWaiting?.(true);
    for (const piece of head ? head.push(bytes) : [bytes]) await write(sink, piece, signal);
    options.onWaiting?.(false);
    options.onProgress(raw);
  };
  for await (const { bytes, release } of verifiedParts(archive.parts, { ...options, pool })) {
    if (compression === 'none') await through(bytes);
    else {
      const blocks = blockPool(memory, threads, blockSize);
      for await (const block of decompressBlocks(bytes, compression, blockSize, { threads, pool: blocks, signal })) {
        await through(block.bytes);
        block.release();
      }
    }
    release();
  }
  if (raw !== rawSize)
    throw new LxstowError('archive-corrupt', `the archive unpacks to ${raw} bytes, but its manifest says ${rawSize}`);
  for (const piece of head?.rest() ?? []) await write(sink, piece, signal);
}

interface VerifiedPart {
  part: Part;
  /** Offset of the part in the stored archive. */
  start: number;
  bytes: Buffer;
  /** Returns the buffer of `bytes` to the pool. Call it once, when `bytes` is no longer needed. */
  release(): void;
}

/** A range of stored bytes; `end` is inclusive. */
export interface ByteRange {
  start: number;
  end: number;
}

/** Yields the parts that overlap `range`, each whole, in order. Throws archive-corrupt, naming the part, instead of yielding a damaged one. */
export function verifiedParts(
  parts: Part[],
  { fetch, threads, pool, ahead = partsAhead, signal }: PartsOptions,
  range: ByteRange = { start: 0, end: Number.POSITIVE_INFINITY },
): AsyncGenerator<VerifiedPart> {
  return mapInOrder(placed(parts, range), ahead, async ({ part, start }) => {
    const buffer = await pool.take(signal);
    const release = () => pool.give(buffer);
    try {
      const bytes = buffer.subarray(0, part.size);
      await fetch(start, bytes);
      const sha256 = await threads.sha256(bytes);
      if (sha256 !== part.sha256) {
        throw new LxstowError(
          'archive-corrupt',
          `part ${part.number} of ${parts.length} is damaged in the object store: its SHA-256 is ${sha256}, the manifest says ${part.sha256}`,
        );
      }
      return { part, start, bytes, release };
    } catch (error) {
      release();
      throw error;
    }
  });
}

async function* placed(parts: Part[], range: ByteRange): AsyncGenerator<{ part: Part; start: number }> {
  let start = 0;
  for (const part of parts) {
    if (start + part.size > range.start && start <= range.end) yield { part, start };
    start += part.size;
  }
}

/** Resolves when the stream has taken the chunk and its memory may be reused. Rejects when the stream fails or the signal aborts. */
export async function write(stream: Writable, chunk: Buffer, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const closed = () => reject(new Error('the stream was closed'));
  if (stream.destroyed) closed();
  using _listener = addAbortListener(signal, () => reject(signal.reason));
  stream.once('error', reject).once('close', closed);
  try {
    if (!stream.destroyed) stream.write(chunk, (error) => (error ? reject(error) : resolve()));
    await promise;
  } finally {
    stream.off('error', reject).off('close', closed);
  }
}
