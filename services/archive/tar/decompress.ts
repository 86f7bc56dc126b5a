/** Reads archives that lxstow did not make: detects the compression and passes on the tar. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { Readable, type Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import zlib from 'node:zlib';
import { LxstowError } from '../../contract/errors.ts';

/** Offset of the magic string in a tar header (POSIX ustar, GNU). */
const tarMagicAt = 257;
const enoughToTell = 512;

/** Characters kept of a program's standard error. */
const longestComplaint = 500;

/** Above `bytes` of output, gzip and zstd may yield `times` bytes per input byte. */
export interface UnpackLimit {
  bytes: number;
  times: number;
}

/**
 * Limits for archives of clients, because unpacking costs the gateway's time. gzip can expand 1032 times, zstd 32 000 times. Up to 16 GiB any ratio is allowed, because the
 * empty disk of a virtual machine compresses that well, too.
 */
export const unpackLimits: readonly UnpackLimit[] = [
  { bytes: 16 * 1024 ** 3, times: 1100 },
  { bytes: 256 * 1024 ** 3, times: 100 },
];

const signatures: [bytes: number[], name: string][] = [
  [[0x1f, 0x8b], 'gzip'],
  [[0x28, 0xb5, 0x2f, 0xfd], 'zstd'],
  [[0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00], 'xz'],
  [[0x42, 0x5a, 0x68], 'bzip2'],
  [[0x5d, 0x00, 0x00], 'lzma'],
  [[0x04, 0x22, 0x4d, 0x18], 'lz4'],
  [[0x68, 0x73, 0x71, 0x73], 'squashfs'],
];

interface ReadTarOptions {
  programs?: Record<string, string>;
  limits?: readonly UnpackLimit[];
}

/**
 * Calls `take` with the tar in `source`, which is plain, gzip or zstd; resolves when `take` does. `programs` maps further compressions to the
 * programs that decompress them. Throws bad-request for any other format and for a damaged or truncated archive; too-large when gzip or zstd
 * yields more than one of `limits`. Does not destroy `source`.
 */
export async function readTar(
  source: Readable,
  take: (tar: AsyncIterable<Buffer>) => Promise<void>,
  signal: AbortSignal,
  { programs = {}, limits = [] }: ReadTarOptions = {},
): Promise<void> {
  const chunks = source.iterator({ destroyOnReturn: false }) as AsyncIterator<Buffer>;
  const head = await firstBytes(chunks);
  const all = rejoined(head, chunks);
  try {
    const compression = compressionOf(head, Object.keys(programs));
    if (compression === 'none') return await take(all);
    const program = programs[compression];
    if (program) {
      const tar = throughProgram(program, compression, all, signal);
      try {
        return await take(tar);
      } finally {
        await tar.return(undefined);
      }
    }
    const ratio = new Ratio(limits);
    const packed = ratio.packed(all);
    const [bytes, decoder]: [AsyncIterable<Buffer>, Transform] =
      compression === 'gzip' ? [packed, zlib.createGunzip()] : [cutAtFrames(packed), zlib.createZstdDecompress()];
    await pipeline(Readable.from(bytes), decoder, (tar: AsyncIterable<Buffer>) => take(ratio.unpacked(tar)), {
      signal,
    });
  } catch (error) {
    const code = String((error as { code?: unknown }).code);
    if (!/^(Z|ZSTD_error)_/.test(code)) throw error;
    throw new LxstowError('bad-request', `the archive is damaged or truncated: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

/** Detects decompression bombs: counts the bytes into and out of a decoder. */
class Ratio {
  readonly #limits: readonly UnpackLimit[];
  #packed = 0;
  #unpacked = 0;

  constructor(limits: readonly UnpackLimit[]) {
    this.#limits = limits;
  }

  async *packed(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of chunks) {
      this.#packed += chunk.length;
      yield chunk;
    }
  }

  async *unpacked(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of chunks) {
      this.#unpacked += chunk.length;
      const isOver = ({ bytes, times }: UnpackLimit) => this.#unpacked > bytes && this.#unpacked > times * this.#packed;
      if (this.#limits.some(isOver))
        throw new LxstowError(
          'too-large',
          `the archive expands to more than ${this.#unpacked} bytes from ${this.#packed} bytes read: send it uncompressed`,
        );
      yield chunk;
    }
  }
}

/** Decompresses the bytes with `program -dc`, as LXD does. */
async function* throughProgram(
  program: string,
  compression: string,
  bytes: AsyncIterable<Buffer>,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  const child = spawn(program, ['-dc'], { stdio: ['pipe', 'pipe', 'pipe'], signal, killSignal: 'SIGKILL' });
  const ended = once(child, 'close').then(
    ([status]) => (status === 0 ? undefined : `${program} ended with status ${status}`),
    (error: NodeJS.ErrnoException) =>
      error.code === 'ENOENT'
        ? `${program} is not installed here, and is needed to read ${compression}`
        : error.message,
  );
  let said = '';
  child.stderr.on('data', (text: Buffer) => {
    said = (said + text.toString()).slice(0, longestComplaint);
  });
  const fed = pipeline(bytes, child.stdin, { signal }).then(
    () => undefined,
    (error: unknown) => error,
  );
  try {
    yield* child.stdout;
    const failure = await ended;
    if (failure) throw new LxstowError('bad-request', `the archive cannot be decompressed: ${said.trim() || failure}`);
    const error = await fed;
    if (error) throw error;
  } catch (error) {
    throw signal.aborted ? signal.reason : error;
  } finally {
    child.stdout.destroy();
    child.kill('SIGKILL');
    await ended;
  }
}

function compressionOf(head: Buffer, more: string[]): string {
  const name = signatures.find(([bytes]) => bytes.every((byte, at) => head[at] === byte))?.[1];
  if (name === 'gzip' || name === 'zstd' || (name !== undefined && more.includes(name))) return name;
  if (name === undefined && head.toString('latin1', tarMagicAt, tarMagicAt + 5) === 'ustar') return 'none';
  // zstd has sixteen signatures for skippable frames.
  if (head.length >= 4 && (head.readUInt32LE(0) & 0xfffffff0) >>> 0 === 0x184d2a50) return 'zstd';
  throw new LxstowError(
    'bad-request',
    `the archive is ${name ?? 'not a tar archive'}: lxstow takes tar, uncompressed or with ${['gzip', ...more].join(', ')} or zstd`,
  );
}

async function firstBytes(chunks: AsyncIterator<Buffer>): Promise<Buffer> {
  const found: Buffer[] = [];
  for (let size = 0; size < enoughToTell; ) {
    const next = await chunks.next();
    if (next.done) break;
    found.push(next.value);
    size += next.value.length;
  }
  return Buffer.concat(found);
}

/** Yields the bytes that were read ahead, then the rest. */
export async function* rejoined(head: Buffer, chunks: AsyncIterator<Buffer>): AsyncGenerator<Buffer> {
  yield head;
  for (let next = await chunks.next(); !next.done; next = await chunks.next()) yield next.value;
}

const zstdMagic = 0xfd2fb528;

/** Cuts the chunks so that none crosses the end of a zstd frame: Node's decoder starts another frame only with a new chunk. */
async function* cutAtFrames(source: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let header: number[] = [];
  let needed = 5;
  let [skip, last, checksum, inFrame] = [0, false, 0, false];
  for await (const chunk of source) {
    let [from, at] = [0, 0];
    while (at < chunk.length || (skip === 0 && last)) {
      if (skip > 0) {
        const step = Math.min(skip, chunk.length - at);
        skip -= step;
        at += step;
      }
      if (skip > 0) break;
      if (last) {
        yield chunk.subarray(from, at);
        from = at;
        [header, needed, last, inFrame] = [[], 5, false, false];
        continue;
      }
      if (at === chunk.length) break;
      header.push(chunk[at] ?? 0);
      at += 1;
      if (header.length < needed) continue;
      const bytes = Buffer.from(header);
      header = [];
      if (inFrame) {
        const block = bytes.readUIntLE(0, 3);
        last = (block & 1) === 1;
        skip = (((block >> 1) & 3) === 1 ? 1 : block >> 3) + (last ? checksum : 0);
      } else if (bytes.readUInt32LE(0) === zstdMagic) {
        // RFC 8878, 3.1.1.1
        const descriptor = bytes.readUInt8(4);
        const single = (descriptor & 0x20) !== 0;
        skip =
          (single ? 0 : 1) + ([0, 1, 2, 4][descriptor & 3] ?? 0) + ([single ? 1 : 0, 2, 4, 8][descriptor >> 6] ?? 0);
        [inFrame, checksum, needed] = [true, descriptor & 4 ? 4 : 0, 3];
      } else if ((bytes.readUInt32LE(0) & 0xfffffff0) >>> 0 === 0x184d2a50) {
        if (bytes.length < 8) [header, needed] = [[...bytes], 8];
        else [skip, last] = [bytes.readUInt32LE(4), true];
      } else throw new LxstowError('bad-request', 'the archive is damaged: there is no zstd frame where one should be');
    }
    if (from < chunk.length) yield chunk.subarray(from);
  }
}
