/** Limits how fast a source is read. */
import type { Bandwidth, TakeOptions } from '../concurrency/rateLimit.ts';
import type { ByteSource } from './blocks.ts';

/**
 * Fills a buffer piece by piece, waiting for the bandwidth limit before each piece. Returns the number of bytes read. `read` fills the piece
 * at offset `at` of the buffer and returns its number of bytes; fewer than the piece holds means the end of the source.
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

/** Wraps a source in the bandwidth limit. `onBytes` also fires while the limit makes us wait, because the source is not to blame for that time. */
export function paced(source: ByteSource, bandwidth: Bandwidth): ByteSource {
  return {
    fill: (buffer, { signal, onBytes }) =>
      inPieces(bandwidth, buffer, { signal, ...(onBytes && { onWait: onBytes }) }, (piece) =>
        source.fill(piece, { signal, ...(onBytes && { onBytes }) }),
      ),
    destroy: () => source.destroy(),
  };
}
