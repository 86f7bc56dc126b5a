import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { describe, it } from 'node:test';
import zlib from 'node:zlib';
import fc from 'fast-check';
import { readBlocks } from '../../services/archive/blocks.ts';
import { blockOverheadBytes } from '../../services/archive/compression/blockFormat.ts';
import { blockPool, compressBlocks, decompressBlocks } from '../../services/archive/compression/compression.ts';
import { openIsal } from '../../services/archive/compression/isal.ts';
import { TaskError, Threads } from '../../services/archive/compression/threads.ts';
import { SlotMemory } from '../../services/archive/slotMemory.ts';
import { isCode } from '../../services/contract/errors.ts';
import { findIsal } from '../lab/parts.ts';

const mib = 1024 * 1024;

/** Memory as the pools have it, with `bytes` at its beginning. */
function room(bytes: Buffer, size = bytes.length + blockOverheadBytes): Buffer {
  const shared = Buffer.from(new SharedArrayBuffer(size));
  bytes.copy(shared);
  return shared;
}

/** Blocks of all sorts: nothing, a byte, what shrinks and what does not, and both in one, up to 1 MiB and around deflate's 64 KiB. */
const block = fc
  .array(
    fc.record({
      random: fc.boolean(),
      size: fc.oneof(
        fc.constantFrom(0, 1, 2, 16_384, 65_534, 65_535, 65_536, 131_070, 131_071, mib / 2),
        fc.integer({ min: 0, max: 150_000 }),
      ),
    }),
    { maxLength: 4 },
  )
  .map((runs) =>
    Buffer.concat(runs.map(({ random, size }) => (random ? randomBytes(size) : Buffer.alloc(size, 'a line\n')))),
  )
  .map((bytes) => bytes.subarray(0, mib));

/** Threads that do their work, and end where `deadly` bytes are to be packed, or unpacked into as many. */
const deadly = 13;
function mortal(most: number): Threads {
  const real = new URL('../../services/archive/compression/thread.ts', import.meta.url).href;
  const code = `
    import { parentPort } from 'node:worker_threads';
    parentPort.on('message', ({ length, into }) => { if ([length, into?.length].includes(${deadly})) process.exit(3); });
    await import(${JSON.stringify(real)});`;
  return new Threads({ most, source: new URL(`data:text/javascript,${encodeURIComponent(code)}`) });
}

const gzipLibrary = await findIsal(() => undefined).catch(() => '');
const noIsal = gzipLibrary === '' && 'ISA-L cannot be had here';

describe('threads', () => {
  for (const way of ['gzip', 'gzip by ISA-L', 'zstd'] as const) {
    const compression = way === 'zstd' ? 'zstd' : 'gzip';
    const ordinary = way === 'zstd' ? zlib.zstdDecompressSync : zlib.gunzipSync;

    const isal = way === 'gzip by ISA-L';
    it(`${way}: any block comes back, here and where else it is read`, { skip: isal && noIsal }, async () => {
      await using threads = new Threads(isal ? { gzipLibrary } : {});
      const cases = fc.asyncProperty(block, async (bytes) => {
        const packed = room(bytes);
        const size = await threads.pack(compression, packed, bytes.length);
        assert.ok(size <= bytes.length + blockOverheadBytes);
        const frame = packed.subarray(0, size);
        assert.ok(ordinary(frame).equals(bytes));

        const unpacked = room(Buffer.alloc(bytes.length));
        assert.equal(await threads.unpack(compression, frame, unpacked), bytes.length);
        assert.ok(unpacked.subarray(0, bytes.length).equals(bytes));
      });
      await fc.assert(cases, { numRuns: 60 });
    });
  }

  for (const compression of ['gzip', 'zstd'] as const) {
    it(`${compression}: what is damaged, or too much, is refused, and the thread goes on`, async () => {
      await using threads = new Threads({ most: 1 });
      const bytes = Buffer.alloc(50_000, 'a line\n');
      const packed = room(bytes);
      const size = await threads.pack(compression, packed, bytes.length);
      const frame = packed.subarray(0, size);
      await assert.rejects(threads.unpack(compression, frame, room(Buffer.alloc(0), 49_999)), TaskError);
      await assert.rejects(threads.unpack(compression, frame.subarray(0, size - 9), room(bytes)), TaskError);
      const damaged = room(frame);
      damaged.writeUInt8(damaged.readUInt8(size - 12) ^ 0x55, size - 12);
      await assert.rejects(threads.unpack(compression, damaged.subarray(0, size), room(bytes)), TaskError);
      assert.equal(await threads.unpack(compression, frame, room(bytes)), bytes.length);
    });
  }

  it('do many blocks side by side, and mix up none', async () => {
    await using threads = new Threads({ most: 3 });
    const blocks = Array.from({ length: 40 }, (_, i) => Buffer.alloc(20_000 + i, `block ${i} `));
    const frames = await Promise.all(
      blocks.map(async (bytes) => {
        const packed = room(bytes);
        const { sha256 } = await threads.digest(packed.subarray(0, bytes.length));
        assert.equal(sha256, await threads.sha256(room(bytes, bytes.length)));
        return packed.subarray(0, await threads.pack('gzip', packed, bytes.length));
      }),
    );
    assert.ok(frames.every((frame, i) => zlib.gunzipSync(frame).equals(blocks[i] as Buffer)));
  });

  it('make the same sums by ISA-L and by zlib', { skip: noIsal }, async () => {
    await using threads = new Threads();
    await using native = new Threads({ gzipLibrary });
    const cases = fc.asyncProperty(fc.uint8Array({ maxLength: 600_000 }), async (bytes) => {
      const part = room(Buffer.from(bytes), bytes.length);
      assert.deepEqual(await native.digest(part), await threads.digest(part));
    });
    await fc.assert(cases, { numRuns: 40 });
  });

  it('do without a library that is not there, or is another', async () => {
    for (const library of ['/nowhere/libisal.so.2', 'libc.so.6', process.execPath]) {
      assert.throws(() => openIsal(library), { code: 'bad-config' });
      await using threads = new Threads({ gzipLibrary: library });
      const bytes = Buffer.alloc(50_000, 'a line\n');
      const packed = room(bytes);
      const size = await threads.pack('gzip', packed, bytes.length);
      assert.ok(zlib.gunzipSync(packed.subarray(0, size)).equals(bytes));
    }
  });

  it('see only the memory of pools', async () => {
    await using threads = new Threads();
    await assert.rejects(threads.sha256(Buffer.alloc(10)), TypeError);
  });

  it('that die fail what they were at, and nothing else: others take their place', async () => {
    await using threads = mortal(2);
    const bytes = Buffer.alloc(10_000, 'a line\n');
    const pack = (length: number) => threads.pack('gzip', room(bytes), length);
    await assert.rejects(pack(deadly), /a thread has ended with 3/);
    assert.ok((await pack(bytes.length)) > 0);

    const all = await Promise.allSettled(Array.from({ length: 40 }, (_, i) => pack(i === 20 ? deadly : bytes.length)));
    const failed = all.filter(({ status }) => status === 'rejected').length;
    assert.equal(all[20]?.status, 'rejected');
    assert.ok(failed <= 2, `${failed} failed`);
    assert.ok((await pack(bytes.length)) > 0);
  });

  it('that die fail the archive that is being made, and do not speak ill of one that is read', async () => {
    await using threads = mortal(2);
    const memory = new SlotMemory();
    const signal = new AbortController().signal;
    const archive = async (bytes: Buffer) => {
      const blocks = readBlocks(Readable.from([bytes]), blockPool(memory, threads, 5000), {
        signal,
        sizeAt: () => 5000,
      });
      const part = room(Buffer.alloc(0), 100_000);
      let end = 0;
      for await (const { size, copyInto } of compressBlocks(blocks, 'gzip', threads)) {
        copyInto(part, end);
        end += size;
      }
      return part.subarray(0, end);
    };
    await assert.rejects(archive(Buffer.alloc(15_000 + deadly, 'x')), /a thread has ended with 3/);
    const part = await archive(Buffer.alloc(20_000, 'x'));

    const read = async (blockSize: number) => {
      const pool = blockPool(memory, threads, blockSize);
      for await (const block of decompressBlocks(part, 'gzip', blockSize, { threads, pool, signal })) block.release();
    };
    await assert.rejects(read(deadly), (error) => !isCode(error, 'archive-corrupt'));
    await assert.rejects(read(4999), (error) => isCode(error, 'archive-corrupt'));
    await read(5000);
  });

  it('that cannot begin fail what is asked of them', async () => {
    await using threads = new Threads({ source: new URL('data:text/javascript,throw new Error("no such luck")') });
    const asked = Array.from({ length: 9 }, () => threads.sha256(room(Buffer.from('x'))));
    for (const each of await Promise.allSettled(asked)) {
      assert.equal(each.status, 'rejected');
      assert.match(String(each.reason), /no such luck/);
    }
  });

  it('disposed fail what is under way and what comes later', async () => {
    const threads = new Threads({ most: 1 });
    const asked = Promise.allSettled(
      Array.from({ length: 5 }, () => threads.pack('gzip', room(randomBytes(mib)), mib)),
    );
    await threads[Symbol.asyncDispose]();
    assert.ok((await asked).some(({ status }) => status === 'rejected'));
    await assert.rejects(threads.sha256(room(Buffer.from('x'))), /pool is closed/);
  });
});
