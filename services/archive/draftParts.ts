/** Turns a tar into parts: cuts it into blocks, compresses them if wanted, and collects them in pooled buffers. */
import type { Readable } from 'node:stream';
import type { IdleWatch } from '../concurrency/idleWatch.ts';
import type { Compression } from '../contract/schemas.ts';
import { type Block, type ByteSource, readBlocks } from './blocks.ts';
import { blockPool, blockSizeBytes, compressBlocks } from './compression/compression.ts';
import type { Threads } from './compression/threads.ts';
import { type PartDraft, type PartStart, partBufferSize, partsOfBlocks, partsOfPieces } from './cutParts.ts';
import type { SlotMemory } from './slotMemory.ts';

export interface DraftOptions {
  compression: Compression;
  /** Bytes of the largest part. */
  partSize: number;
  /** Bytes of the part that begins at this offset of the tar; default: `partSize`. */
  sizeAt?: ((rawStart: number) => number) | undefined;
  /** Parts uploaded in parallel; one more is being filled. */
  inFlight: number;
  memory: SlotMemory;
  threads: Threads;
  /** Called once with each block of the tar, in order. */
  onBlock: (bytes: Buffer) => void;
  /** Times the waits for the source. */
  idle: IdleWatch;
  signal: AbortSignal;
  /** Where to resume: after the parts that are already stored. */
  start?: PartStart;
}

export function draftParts(source: Readable | ByteSource, options: DraftOptions): AsyncGenerator<PartDraft> {
  const { compression, partSize, inFlight, memory, threads, onBlock, idle, signal, start } = options;
  const { sizeAt = () => partSize } = options;
  // One size for every compression, so that the next job can reuse the buffers.
  const slabs = memory.pool('parts', inFlight + 1, partBufferSize(partSize));
  const watched = {
    signal,
    onBytes: () => idle.touch(),
    onWaiting: (waiting: boolean) => idle.watch(waiting),
  };
  if (compression === 'none')
    return partsOfBlocks(seen(readBlocks(source, slabs, { ...watched, sizeAt }), onBlock), start);
  const pool = blockPool(memory, threads, blockSizeBytes);
  const blocks = seen(readBlocks(source, pool, { ...watched, sizeAt: () => blockSizeBytes }), onBlock);
  return partsOfPieces(compressBlocks(blocks, compression, threads), sizeAt, slabs, signal, start);
}

async function* seen(blocks: AsyncIterable<Block>, see: (bytes: Buffer) => void): AsyncGenerator<Block> {
  for await (const block of blocks) {
    see(block.bytes);
    yield block;
  }
}
