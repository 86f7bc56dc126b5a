/**
 * Finds where compressed blocks end in a part, so that they can be decompressed in parallel. (Node's own zstd stream stops at the end of the
 * first frame, so it cannot read an archive of many.)
 */
import { LxstowError } from '../../contract/errors.ts';
import type { Compression } from '../../contract/schemas.ts';

/** Cuts a part into its gzip members or zstd frames; each is one block of the tar. Throws archive-corrupt where no whole block begins. */
export function* framesOf(part: Buffer, compression: Exclude<Compression, 'none'>): Generator<Buffer> {
  const sizeAt = compression === 'gzip' ? gzipMemberSize : zstdFrameSize;
  for (let at = 0; at < part.length; ) {
    const size = sizeAt(part.subarray(at));
    if (!(size > 0) || at + size > part.length)
      throw new LxstowError('archive-corrupt', `there is no ${compression} block at byte ${at} of a part`);
    yield part.subarray(at, at + size);
    at += size;
  }
}

/** A gzip header (RFC 1952) with an extra field. Its one subfield, "LX", has four bytes: the size of the whole member. */
const gzipHeader = Buffer.from([0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 8, 0, 0x4c, 0x58, 4, 0, 0, 0, 0, 0]);
const sizeOffset = 16;
export const gzipHeaderBytes = gzipHeader.length;
/** CRC-32 and size of the uncompressed data. */
export const gzipTrailerBytes = 8;

/** Writes the header of a member of `size` bytes, header included. Returns the offset after the header. */
export function writeGzipHeader(target: Buffer, at: number, size: number): number {
  gzipHeader.copy(target, at);
  target.writeUInt32LE(size, at + sizeOffset);
  return at + gzipHeaderBytes;
}

function gzipMemberSize(bytes: Buffer): number {
  const ours = bytes.length > gzipHeaderBytes && bytes.compare(gzipHeader, 0, sizeOffset, 0, sizeOffset) === 0;
  return ours ? bytes.readUInt32LE(sizeOffset) : 0;
}

/** Size of the frame (RFC 8878, 3.1.1): magic number, header, blocks up to the last one, checksum. 0 if there is none. */
function zstdFrameSize(bytes: Buffer): number {
  if (bytes.length < 6 || bytes.readUInt32LE(0) !== 0xfd2fb528) return 0;
  const descriptor = bytes.readUInt8(4);
  const singleSegment = (descriptor & 0x20) !== 0;
  const contentSizeBytes = [singleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6] ?? 0;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3] ?? 0;
  let at = 5 + (singleSegment ? 0 : 1) + dictionaryBytes + contentSizeBytes;
  for (let last = false; !last; ) {
    if (at + 3 > bytes.length) return 0;
    const header = bytes.readUIntLE(at, 3);
    last = (header & 1) === 1;
    const runLength = ((header >> 1) & 3) === 1;
    at += 3 + (runLength ? 1 : header >> 3);
  }
  return at + (descriptor & 4 ? 4 : 0);
}
