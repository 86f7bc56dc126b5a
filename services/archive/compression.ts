/** Blocks in, compressed pieces out: each block is a gzip member or a zstd frame of its own, so they can be made side by side. */
import { promisify } from 'node:util';
import zlib from 'node:zlib';
import type { Compression } from '../contract.ts';
import { LxstowError } from '../errors.ts';
import type { Block } from './blocks.ts';
import { mapInOrder } from './flow.ts';
import { framesOf, gzipHeaderBytes, gzipTrailerBytes, writeGzipHeader } from './frames.ts';

/** Bytes of the tar in one compressed block. */
export const blockSizeBytes = 1024 * 1024;
/** What a block can grow by: 28 bytes of gzip frame, 5 per stored 64 KiB; zstd's bound is smaller. */
export const blockOverheadBytes = 4096;

/** A compressed block. `copyInto` writes its `size` bytes and gives the block's memory back; call it once. */
export interface Piece {
  size: number;
  rawSize: number;
  copyInto(target: Buffer, at: number): void;
}

/** libuv's thread pool has four threads unless it is told otherwise. */
const threads = Number(process.env.UV_THREADPOOL_SIZE ?? 4);
const level = 1;
const sampleBytes = 4096;
const samples = 4;
const worthwhile = 0.95;

const deflateRaw = promisify<Buffer, zlib.ZlibOptions, Buffer>(zlib.deflateRaw);
const zstd = promisify<Buffer, zlib.ZstdOptions, Buffer>(zlib.zstdCompress);
const gunzip = promisify<Buffer, zlib.ZlibOptions, Buffer>(zlib.gunzip);
const zstdDecompress = promisify<Buffer, zlib.ZstdOptions, Buffer>(zlib.zstdDecompress);

const zstdParams = { [zlib.constants.ZSTD_c_compressionLevel]: level, [zlib.constants.ZSTD_c_checksumFlag]: 1 };
const chunkSize = blockSizeBytes + blockOverheadBytes;

/** Compresses blocks on the thread pool, in order. Not for `none`: there a part is its own block. */
export function compressBlocks(
  blocks: AsyncIterable<Block>,
  compression: Exclude<Compression, 'none'>,
): AsyncGenerator<Piece> {
  return mapInOrder(blocks, threads, compression === 'gzip' ? gzipMember : zstdFrame);
}

async function gzipMember(block: Block): Promise<Piece> {
  const { bytes } = block;
  if (await looksCompressible(bytes)) {
    const deflated = await deflateRaw(bytes, { level, chunkSize });
    if (deflated.length < bytes.length)
      return member(block, deflated.length, (target, at) => at + deflated.copy(target, at));
  }
  return member(block, bytes.length + Math.ceil(bytes.length / storedLimit) * 5, (target, at) =>
    writeStored(bytes, target, at),
  );
}

/** A gzip member (RFC 1952) around deflate data of `size` bytes. */
function member(block: Block, size: number, writeDeflated: (target: Buffer, at: number) => number): Piece {
  const { bytes, release } = block;
  const whole = gzipHeaderBytes + size + gzipTrailerBytes;
  return {
    size: whole,
    rawSize: bytes.length,
    copyInto(target, start) {
      let at = writeDeflated(target, writeGzipHeader(target, start, whole));
      at = target.writeUInt32LE(zlib.crc32(bytes), at);
      target.writeUInt32LE(bytes.length, at);
      release();
    },
  };
}

/** zstd stores by itself what does not shrink, and finds that out fast. */
async function zstdFrame(block: Block): Promise<Piece> {
  return piece(block, await zstd(block.bytes, { params: zstdParams, chunkSize }));
}

function piece(block: Block, bytes: Buffer): Piece {
  const rawSize = block.bytes.length;
  block.release();
  return { size: bytes.length, rawSize, copyInto: (target, at) => bytes.copy(target, at) };
}

/** Deflates a few short samples: 16 KiB tell for a 1 MiB block, at a fiftieth of the cost. */
async function looksCompressible(bytes: Buffer): Promise<boolean> {
  if (bytes.length <= samples * sampleBytes) return true;
  const stride = Math.floor((bytes.length - sampleBytes) / (samples - 1));
  const sample = Buffer.concat(
    Array.from({ length: samples }, (_, i) => bytes.subarray(i * stride, i * stride + sampleBytes)),
  );
  const deflated = await deflateRaw(sample, { level, chunkSize: samples * sampleBytes * 2 });
  return deflated.length < sample.length * worthwhile;
}

const storedLimit = 65535;

/** Stored deflate blocks (RFC 1951, 3.2.4): no compression, and hardly any time. Returns where they end. */
function writeStored(bytes: Buffer, target: Buffer, start: number): number {
  let at = start;
  for (let from = 0; from < bytes.length; from += storedLimit) {
    const length = Math.min(storedLimit, bytes.length - from);
    at = target.writeUInt8(from + length === bytes.length ? 1 : 0, at);
    at = target.writeUInt16LE(length, at);
    at = target.writeUInt16LE(length ^ 0xffff, at);
    at += bytes.copy(target, at, from, from + length);
  }
  return at;
}

/** Decompresses the blocks of a part on the thread pool, in order. A block holds `blockSize` bytes of the tar at most. */
export function decompressBlocks(
  part: Buffer,
  compression: Exclude<Compression, 'none'>,
  blockSize: number,
): AsyncGenerator<Buffer> {
  const undo = compression === 'gzip' ? gunzip : zstdDecompress;
  const options = { maxOutputLength: blockSize, chunkSize: Math.min(blockSize, blockSizeBytes) };
  return mapInOrder(asynchronous(framesOf(part, compression)), threads, async (frame) => {
    try {
      return await undo(frame, options);
    } catch (cause) {
      throw new LxstowError('archive-corrupt', `a ${compression} block cannot be read: ${(cause as Error).message}`, {
        cause,
      });
    }
  });
}

async function* asynchronous<T>(items: Iterable<T>): AsyncGenerator<T> {
  yield* items;
}
