/** Compresses and decompresses blocks. Each block is a gzip member or a zstd frame of its own, so blocks can be processed in parallel. */
import { mapInOrder } from '../../concurrency/orderedMap.ts';
import { LxstowError } from '../../contract/errors.ts';
import type { Block } from '../blocks.ts';
import type { BufferPool } from '../bufferPool.ts';
import type { SlotMemory } from '../slotMemory.ts';
import { blockOverheadBytes, type Compressed, isZero, packZeros } from './blockFormat.ts';
import { framesOf } from './frames.ts';
import { TaskError, type Threads } from './threads.ts';

/** Bytes of the tar per compressed block. */
export const blockSizeBytes = 1024 * 1024;

/** zlib's error codes that blame its input, not zlib. */
const unreadable = /^(Z_(DATA|BUF)_ERROR|Z_NEED_DICT|ZSTD_error_.*|ERR_BUFFER_TOO_LARGE|ERR_TRAILING_JUNK.*)$/;

/** A compressed block. `copyInto` writes its `size` bytes and releases the block's buffer, unless that is free already. Call it once. */
export interface Piece {
  size: number;
  rawSize: number;
  copyInto(target: Buffer, at: number): void;
}

/** Buffers for blocks of `size` bytes: those that the threads work on, one being filled, one being copied from. */
export function blockPool(memory: SlotMemory, threads: Threads, size: number): BufferPool {
  return memory.pool('blocks', threads.blocksAtOnce + 2, size + blockOverheadBytes);
}

/**
 * Compresses blocks in parallel and in place; yields them in order. An empty disk of a virtual machine has thousands of blocks of zeros: those are
 * compressed once for each length (full block, last block) and then copied. Not for `none`, where each block is a part.
 */
export function compressBlocks(
  blocks: AsyncIterable<Block>,
  compression: Compressed,
  threads: Threads,
): AsyncGenerator<Piece> {
  const zeros = new Map<number, Buffer>();
  return mapInOrder(blocks, threads.blocksAtOnce, async ({ bytes, room, release }) => {
    if (isZero(bytes)) {
      const rawSize = bytes.length;
      release();
      const packed = zeros.get(rawSize) ?? packZeros(compression, rawSize);
      zeros.set(rawSize, packed);
      return {
        size: packed.length,
        rawSize,
        copyInto: (target: Buffer, at: number) => void packed.copy(target, at),
      };
    }
    const size = await threads.pack(compression, room, bytes.length);
    return {
      size,
      rawSize: bytes.length,
      copyInto(target: Buffer, at: number) {
        room.copy(target, at, 0, size);
        release();
      },
    };
  });
}

/**
 * Decompresses the blocks of a part in parallel, each into a buffer of the pool; yields them in order. A block holds at most `blockSize` bytes of
 * the tar. Throws archive-corrupt for a damaged block.
 */
export function decompressBlocks(
  part: Buffer,
  compression: Compressed,
  blockSize: number,
  { threads, pool, signal }: { threads: Threads; pool: BufferPool; signal: AbortSignal },
): AsyncGenerator<Block> {
  return mapInOrder(asynchronous(framesOf(part, compression)), threads.blocksAtOnce, async (frame) => {
    const room = await pool.take(signal);
    const release = () => pool.give(room);
    try {
      const size = await threads.unpack(compression, frame, room.subarray(0, blockSize));
      return { bytes: room.subarray(0, size), room, release };
    } catch (error) {
      release();
      if (!(error instanceof TaskError && unreadable.test(error.code ?? ''))) throw error;
      throw new LxstowError('archive-corrupt', `a ${compression} block cannot be read: ${error.message}`, {
        cause: error,
      });
    }
  });
}

async function* asynchronous<T>(items: Iterable<T>): AsyncGenerator<T> {
  yield* items;
}
