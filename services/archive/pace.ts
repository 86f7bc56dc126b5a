/** Reading no faster than a bandwidth allows. */
import type { Bandwidth, TakeOptions } from '../bandwidth.ts';
import type { ByteSource } from './blocks.ts';

/**
 * Fills a buffer in pieces, each when it may be read; returns how far. `read` fills a piece that begins `at` so far into the buffer, and
 * returns how much of it it has: less than all of it ends the reading.
 */
export async function inPieces(
  bandwidth: Bandwidth,
  into: Buffer,
  options: TakeOptions,
  read: (piece: Buffer, at: number) => Promise<number>,
): Promise<number> {
  for (let at = 0; at < into.length; ) {
    const piece = into.subarray(at, Math.min(into.length, at + bandwidth.piece));
    await bandwidth.take(piece.length, options);
    const got = await read(piece, at);
    at += got;
    if (got < piece.length) return at;
  }
  return into.length;
}

/** The same bytes, as fast as they may be read. Time in which they may not is not the source's: `onBytes` is told then, too. */
export function paced(source: ByteSource, bandwidth: Bandwidth): ByteSource {
  return {
    fill: (buffer, { signal, onBytes }) =>
      inPieces(bandwidth, buffer, { signal, ...(onBytes && { onWait: onBytes }) }, (piece) =>
        source.fill(piece, { signal, ...(onBytes && { onBytes }) }),
      ),
    destroy: () => source.destroy(),
  };
}
