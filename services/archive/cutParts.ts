/** Collects compressed blocks in parts. A part is the body of one request to the object store. */
import type { Block } from './blocks.ts';
import type { BufferPool } from './bufferPool.ts';
import { blockOverheadBytes } from './compression/blockFormat.ts';
import { blockSizeBytes, type Piece } from './compression/compression.ts';

/** A part to upload. `body` lies in a pooled buffer until `release` is called. */
export interface PartDraft {
  number: number;
  rawStart: number;
  rawEnd: number;
  body: Buffer;
  release(): void;
}

export const smallestPartBytes = 16 * 1024 * 1024;
/** S3 allows 10 000; a tenth is reserved for archives that turn out larger than announced. */
const partsAimedAt = 9000;

/** Part size in bytes, in whole blocks: `rawSize` further bytes fit into 9 000 parts less the `sent` ones. */
export function partSizeFor(rawSize: number, sent = 0): number {
  const blocks = Math.ceil(rawSize / Math.max(1, partsAimedAt - sent) / blockSizeBytes);
  return Math.max(smallestPartBytes, blocks * blockSizeBytes);
}

/** S3's limit on parts of one upload. */
export const mostParts = 10_000;

/** Room for a part and the block that completes it. */
export function partBufferSize(partSize: number): number {
  return partSize + blockSizeBytes + blockOverheadBytes;
}

/**
 * Number of parts of this size, at least one, that may be in flight while a slot stays within the memory of `wanted` parts of the smallest
 * size.
 */
export function partsInFlight(partSize: number, wanted: number): number {
  const budget = (wanted + 1) * smallestPartBytes;
  return Math.max(1, Math.min(wanted, Math.floor(budget / partSize) - 1));
}

/** Where to resume: after the parts that are already stored. */
export interface PartStart {
  number: number;
  rawStart: number;
}

const beginning: PartStart = { number: 1, rawStart: 0 };

/** Turns each uncompressed block into one part. */
export async function* partsOfBlocks(blocks: AsyncIterable<Block>, start = beginning): AsyncGenerator<PartDraft> {
  let { number, rawStart } = start;
  for await (const { bytes, release } of blocks) {
    const rawEnd = rawStart + bytes.length;
    yield { number, rawStart, rawEnd, body: bytes, release };
    number += 1;
    rawStart = rawEnd;
  }
}

/** Collects whole pieces in parts of at least `sizeAt(rawStart)` bytes; the last part may be smaller. */
export async function* partsOfPieces(
  pieces: AsyncIterable<Piece>,
  sizeAt: (rawStart: number) => number,
  pool: BufferPool,
  signal: AbortSignal,
  start = beginning,
): AsyncGenerator<PartDraft> {
  let { number, rawStart } = start;
  let rawEnd = rawStart;
  let buffer: Buffer | undefined;
  let filled = 0;
  const draft = (slab: Buffer): PartDraft => ({
    number,
    rawStart,
    rawEnd,
    body: slab.subarray(0, filled),
    release: () => pool.give(slab),
  });
  for await (const piece of pieces) {
    buffer ??= await pool.take(signal);
    piece.copyInto(buffer, filled);
    filled += piece.size;
    rawEnd += piece.rawSize;
    if (filled < sizeAt(rawStart)) continue;
    yield draft(buffer);
    buffer = undefined;
    filled = 0;
    number += 1;
    rawStart = rawEnd;
  }
  if (buffer) yield draft(buffer);
}
