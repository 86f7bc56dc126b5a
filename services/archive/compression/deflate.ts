/** Deflate and CRC-32 for blocks: zlib's here, ISA-L's in isal.ts (docs/adr/0029-isa-l.md). */
import zlib from 'node:zlib';

export interface Deflate {
  /**
   * Deflates the first `length` bytes of `room` (RFC 1951) into `room` itself, at offset `at`; returns the offset after the result. When they do
   * not shrink, returns undefined and changes nothing.
   */
  deflate(room: Buffer, length: number, at: number): number | undefined;
  /** CRC-32 of `bytes`; `before` is the CRC-32 of the bytes before them. */
  crc32(bytes: Uint8Array, before?: number): number;
}

/** Fast; the threads compress with it. */
export const zlibDeflate: Deflate = zlibAt(1);
/** Level 4 is zlib's lowest that packs 1 MiB of zeros into 1033 bytes, as the higher ones do; level 1 needs 4590. */
export const denseDeflate: Deflate = zlibAt(4);

function zlibAt(level: number): Deflate {
  return {
    crc32: zlib.crc32,

    deflate(room, length, at) {
      const made = zlib.deflateRawSync(room.subarray(0, length), { level, chunkSize: chunkSizeFor(length) });
      if (made.length < length) return at + move(made, room, at);
      giveBack(made);
      return undefined;
    },
  };
}

/** Upper bound for the growth of incompressible bytes. */
const growthBytes = 4096;
const unpooledBytes = 256 * 1024;

/** Room for zlib's whole output for `length` bytes, and too large for the pool from which Node takes small buffers. */
export function chunkSizeFor(length: number): number {
  return Math.max(unpooledBytes, length + growthBytes);
}

/** Copies zlib's output and frees its memory; returns the number of bytes. */
export function move(made: Buffer, to: Buffer, at: number): number {
  const size = made.copy(to, at);
  giveBack(made);
  return size;
}

/** Frees the memory of zlib's output at once. The garbage collector would let many megabytes accumulate. */
function giveBack({ buffer }: Buffer): void {
  if (buffer instanceof ArrayBuffer && buffer.byteLength >= unpooledBytes) buffer.transfer(0);
}
