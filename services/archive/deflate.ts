/** Deflate and CRC-32 for blocks: here as zlib has them, in isal.ts as ISA-L has them (docs/adr/0029-isa-l.md). */
import zlib from 'node:zlib';

export interface Deflate {
  /**
   * Deflates the first `length` bytes of `room` (RFC 1951) to byte `at` of it; returns where that ends. Undefined when they do not shrink: nothing is
   * changed then.
   */
  deflate(room: Buffer, length: number, at: number): number | undefined;
  /** The CRC-32 of bytes; `before` is that of those before them. */
  crc32(bytes: Uint8Array, before?: number): number;
}

/** Fast: what threads compress with. */
export const zlibDeflate: Deflate = zlibAt(1);
/** The first of zlib's levels that makes 1033 bytes of 1 MiB of zeros, as the higher ones do; level 1 makes 4590. */
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

/** More than what does not shrink can grow by. */
const growthBytes = 4096;
const unpooledBytes = 256 * 1024;

/** Room for all that zlib makes of `length` bytes at once, and too large for the pool that Node makes small buffers in. */
export function chunkSizeFor(length: number): number {
  return Math.max(unpooledBytes, length + growthBytes);
}

/** Copies what zlib has made; returns how much. */
export function move(made: Buffer, to: Buffer, at: number): number {
  const size = made.copy(to, at);
  giveBack(made);
  return size;
}

/** Frees the memory of what zlib has made, at once: the collector would let many megabytes of it gather. */
function giveBack({ buffer }: Buffer): void {
  if (buffer instanceof ArrayBuffer && buffer.byteLength >= unpooledBytes) buffer.transfer(0);
}
