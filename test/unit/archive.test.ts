import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough, Readable, Writable } from 'node:stream';
import { describe, it } from 'node:test';
import zlib from 'node:zlib';
import fc from 'fast-check';
import { type Block, readBlocks } from '../../services/archive/blocks.ts';
import { BufferPool } from '../../services/archive/bufferPool.ts';
import { blockOverheadBytes } from '../../services/archive/compression/blockFormat.ts';
import { blockPool, compressBlocks, type Piece } from '../../services/archive/compression/compression.ts';
import { Threads } from '../../services/archive/compression/threads.ts';
import { partSizeFor, partsInFlight, partsOfBlocks, partsOfPieces } from '../../services/archive/cutParts.ts';
import { SlotMemory } from '../../services/archive/slotMemory.ts';
import { readTar, type UnpackLimit, unpackLimits } from '../../services/archive/tar/decompress.ts';
import { largestIndexBytes } from '../../services/archive/tar/indexYaml.ts';
import { mostEntriesBefore, mostIndexMarks, readIndex } from '../../services/archive/tar/lxdIndex.ts';
import { SnapshotFiles } from '../../services/archive/tar/snapshotFiles.ts';
import { largestPaxBytes, TarScanner } from '../../services/archive/tar/tar.ts';
import { writeTar } from '../../services/archive/verifiedParts.ts';
import { mapInOrder } from '../../services/concurrency/orderedMap.ts';
import type { Compression, ManifestArchive, Part } from '../../services/contract/schemas.ts';
import { isLarge, partSizesFor } from '../../services/intake/receive.ts';
import { type Entry, entriesOf } from '../lab/tar.ts';

const mib = 1024 * 1024;
const never = new AbortController().signal;

/** Bytes in chunks of the given sizes, over and over. */
function chunked(bytes: Buffer, sizes: number[]): Readable {
  return Readable.from(
    (function* () {
      for (let at = 0, i = 0; at < bytes.length; i++) {
        const size = sizes[i % sizes.length] ?? 1;
        yield bytes.subarray(at, at + size);
        at += size;
      }
    })(),
    { objectMode: false },
  );
}

async function collect(blocks: AsyncIterable<Block>): Promise<Buffer[]> {
  const seen: Buffer[] = [];
  for await (const { bytes, release } of blocks) {
    seen.push(Buffer.from(bytes));
    release();
  }
  return seen;
}

describe('blocks', () => {
  it('hold the same bytes in the same order, whatever chunks they came in', async () => {
    const cases = fc.asyncProperty(
      fc.uint8Array({ maxLength: 5000 }),
      fc.array(fc.integer({ min: 1, max: 900 }), { minLength: 1, maxLength: 5 }),
      fc.integer({ min: 1, max: 700 }),
      async (bytes, sizes, size) => {
        const seen = await collect(
          readBlocks(chunked(Buffer.from(bytes), sizes), new BufferPool(2, size), { signal: never }),
        );
        assert.deepEqual(Buffer.concat(seen), Buffer.from(bytes));
        assert.ok(seen.slice(0, -1).every((block) => block.length === size));
      },
    );
    await fc.assert(cases, { numRuns: 60 });
  });

  it('keep the source waiting while no buffer is free', async () => {
    const source = new PassThrough({ highWaterMark: 10 });
    const blocks = readBlocks(source, new BufferPool(1, 10), { signal: never });
    source.write(Buffer.alloc(30));
    const first = (await blocks.next()).value as Block;
    const second = blocks.next();
    assert.equal(
      await Promise.race([second.then(() => 'read'), new Promise((resolve) => setImmediate(resolve, 'waits'))]),
      'waits',
    );
    first.release();
    assert.equal((await second).value?.bytes.length, 10);
    await blocks.return(undefined);
    assert.ok(source.destroyed);
  });

  it("fail with the source's error, and with the reason of an abort", async () => {
    const broken = new PassThrough();
    const failing = collect(readBlocks(broken, new BufferPool(1, 10), { signal: never }));
    broken.destroy(new Error('cut'));
    await assert.rejects(failing, /cut/);

    const controller = new AbortController();
    const aborted = collect(readBlocks(new PassThrough(), new BufferPool(1, 10), { signal: controller.signal }));
    controller.abort(new Error('no more'));
    await assert.rejects(aborted, /no more/);
  });
});

describe('memory', () => {
  it('comes back whole from a failure, given back or not', async () => {
    const pool = new BufferPool(2, 10);
    const [kept, given] = [await pool.take(never), await pool.take(never)];
    pool.give(given);
    pool.reclaim();
    assert.deepEqual(new Set([await pool.take(never), await pool.take(never)]), new Set([kept, given]));
  });

  it('is the same from job to job, but for buffers that were for one enormous archive', () => {
    const memory = new SlotMemory();
    const first = memory.pool('parts', 4, 17 * mib);
    assert.equal(memory.pool('parts', 3, 1000), first);
    assert.equal(memory.pool('parts', 4, 17 * mib), first);
    assert.notEqual(memory.pool('parts', 5, 17 * mib), first);
    const enormous = memory.pool('parts', 2, 600 * mib);
    assert.equal(memory.pool('parts', 2, 300 * mib), enormous);
    assert.ok(memory.pool('parts', 4, 17 * mib).size === 17 * mib);
  });
});

describe('mapInOrder', () => {
  it('keeps order, and never runs more than it may', async () => {
    let [running, most] = [0, 0];
    const source = (async function* () {
      for (let i = 0; i < 50; i++) yield i;
    })();
    const seen: number[] = [];
    const slow = async (i: number) => {
      running += 1;
      most = Math.max(most, running);
      for (let turns = (i * 7) % 5; turns >= 0; turns--) await new Promise((resolve) => setImmediate(resolve));
      running -= 1;
      return i;
    };
    for await (const i of mapInOrder(source, 3, slow)) seen.push(i);
    assert.deepEqual(seen, [...Array(50).keys()]);
    assert.equal(most, 3);
  });

  it('closes the source and waits for what runs when something fails', async () => {
    let closed = false;
    let ended = 0;
    const source = (async function* () {
      try {
        for (let i = 0; ; i++) yield i;
      } finally {
        closed = true;
      }
    })();
    const work = async (i: number) => {
      await new Promise((resolve) => setImmediate(resolve));
      ended += 1;
      if (i === 2) throw new Error('the third');
    };
    await assert.rejects(async () => {
      for await (const _ of mapInOrder(source, 4, work));
    }, /the third/);
    assert.ok(closed);
    assert.ok(ended >= 4);
  });
});

function blocksOf(bytes: Buffer, size: number, threads: Threads): AsyncGenerator<Block> {
  return readBlocks(chunked(bytes, [7000]), blockPool(new SlotMemory(), threads, size), {
    signal: never,
    sizeAt: () => size,
  });
}

function copied(piece: Piece): Buffer {
  const target = Buffer.alloc(piece.size);
  piece.copyInto(target, 0);
  return target;
}

/** Data as archives have it: some that shrinks, some that does not, in no order. */
const mixed = fc
  .array(fc.record({ random: fc.boolean(), size: fc.integer({ min: 1, max: 200_000 }) }), {
    minLength: 1,
    maxLength: 6,
  })
  .map((runs) =>
    Buffer.concat(runs.map(({ random, size }) => (random ? randomBytes(size) : Buffer.alloc(size, 'log line 42\n')))),
  );

describe('compression', () => {
  for (const compression of ['gzip', 'zstd'] as const) {
    it(`${compression}: any blocks make one ordinary file`, async () => {
      await using threads = new Threads();
      const cases = fc.asyncProperty(mixed, fc.integer({ min: 20_000, max: 150_000 }), async (bytes, size) => {
        const pieces: Buffer[] = [];
        for await (const piece of compressBlocks(blocksOf(bytes, size, threads), compression, threads)) {
          assert.ok(piece.size <= piece.rawSize + blockOverheadBytes);
          pieces.push(copied(piece));
        }
        const whole = Buffer.concat(pieces);

        const ordinary = spawnSync(compression, ['-dc'], { input: whole, maxBuffer: 1e8 });
        if (!ordinary.error) assert.ok(ordinary.stdout.equals(bytes), ordinary.stderr.toString());
        else assert.equal(compression, 'zstd', 'gzip is everywhere, zstd need not be');
      });
      await fc.assert(cases, { numRuns: 25 });
    });

    it(`${compression}: zeros cost next to nothing, and are compressed once`, async (t) => {
      await using threads = new Threads();
      const pack = t.mock.method(threads, 'pack');
      const compressor = t.mock.method(zlib, compression === 'gzip' ? 'deflateRawSync' : 'zstdCompressSync');
      const compress = async (bytes: Buffer) => {
        const pieces: Buffer[] = [];
        for await (const piece of compressBlocks(blocksOf(bytes, mib, threads), compression, threads))
          pieces.push(copied(piece));
        return pieces;
      };
      const zeros = Buffer.alloc(8 * mib);
      await compress(zeros.subarray(0, mib));
      const callsForOne = compressor.mock.callCount();
      const size = Buffer.concat(await compress(zeros)).length;
      assert.equal(compressor.mock.callCount(), 2 * callsForOne, 'eight blocks need as many calls as one');
      assert.equal(pack.mock.callCount(), 0, 'no thread is asked');
      const atMost = zeros.length / { gzip: 900, zstd: 10_000 }[compression];
      assert.ok(size <= atMost, `${size} bytes, at most ${atMost}`);

      const almost = Buffer.concat([zeros.subarray(0, 2 * mib + 5000), Buffer.from('x'), zeros.subarray(0, mib)]);
      const pieces = await compress(almost);
      assert.equal(pack.mock.callCount(), 1, 'one block has a byte that is not 0');
      const ordinary = spawnSync(compression, ['-dc'], { input: Buffer.concat(pieces), maxBuffer: 1e8 });
      if (!ordinary.error) assert.ok(ordinary.stdout.equals(almost), ordinary.stderr.toString());
      const unpack = compression === 'gzip' ? zlib.gunzipSync : zlib.zstdDecompressSync;
      assert.ok(Buffer.concat(pieces.map((piece) => unpack(piece))).equals(almost));
    });
  }

  it('gzip: a block that does not shrink grows by a few bytes only', async () => {
    await using threads = new Threads();
    const pieces = compressBlocks(blocksOf(randomBytes(mib), mib, threads), 'gzip', threads);
    const { value } = await pieces.next();
    assert.equal((value as Piece).size, mib + 28 + 5 * 17);
    assert.ok(zlib.gunzipSync(copied(value as Piece)).length === mib);
  });
});

describe('parts', () => {
  it('are at most 9 000 of whole blocks, and at least 16 MiB', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 5 * 1024 ** 4 }), (size) => {
        const part = partSizeFor(size);
        assert.ok(part >= 16 * mib && part % mib === 0 && Math.ceil(size / part) <= 9000);
      }),
    );
  });

  it('fewer are in flight where they are large', () => {
    assert.equal(partsInFlight(16 * mib, 4), 4);
    assert.equal(partsInFlight(32 * mib, 4), 1);
    assert.equal(partsInFlight(512 * mib, 4), 1);
  });

  it('of an upload are as large as its announced size needs, but only after as much has come', () => {
    const tib = 1024 ** 4;
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 7 * tib }), (length) => {
        const { sizeAt } = partSizesFor(length);
        let [at, parts] = [0, 0];
        for (; at < length * 1.25; parts++) {
          const size = sizeAt?.(at) ?? 0;
          assert.ok(size >= 16 * mib && size % mib === 0 && size <= Math.max(32 * mib, at / 200), `${size} at ${at}`);
          at += size;
        }
        assert.ok(parts <= 10_000, `${parts} parts`);
      }),
    );
    const { partSize } = partSizesFor(Number.MAX_SAFE_INTEGER);
    assert.equal(partSize, 1024 * mib);
    assert.deepEqual(
      [450, 451].map((gib) => isLarge(gib * 1024 * mib)),
      [false, true],
    );
    assert.equal(isLarge(undefined), false);
  });

  it('cover the tar without a gap, and all but the last have the size', async () => {
    const cases = fc.asyncProperty(
      fc.array(fc.integer({ min: 1, max: 90 }), { minLength: 1, maxLength: 40 }),
      async (sizes) => {
        const pool = new BufferPool(2, 200);
        const pieces = (async function* () {
          for (const size of sizes) {
            yield {
              size,
              rawSize: size * 2,
              copyInto: (target: Buffer, at: number) => target.fill(size, at, at + size),
            };
          }
        })();
        let [raw, stored, number] = [0, 0, 0];
        const bytes: Buffer[] = [];
        for await (const draft of partsOfPieces(pieces, () => 100, pool, never)) {
          assert.equal(draft.number, ++number);
          assert.equal(draft.rawStart, raw);
          raw = draft.rawEnd;
          stored += draft.body.length;
          if (raw < 2 * sizes.reduce((a, b) => a + b, 0)) assert.ok(draft.body.length >= 100);
          bytes.push(Buffer.from(draft.body));
          draft.release();
        }
        assert.equal(raw, 2 * stored);
        assert.deepEqual(Buffer.concat(bytes), Buffer.concat(sizes.map((size) => Buffer.alloc(size, size))));
      },
    );
    await fc.assert(cases);
  });
});

/** Makes an archive in memory as a backup does. */
async function archived(
  bytes: Buffer,
  compression: Compression,
  threads: Threads,
): Promise<{ archive: ManifestArchive; stored: Buffer }> {
  const pool = new BufferPool(2, 80_000);
  const drafts =
    compression === 'none'
      ? partsOfBlocks(readBlocks(chunked(bytes, [7000]), pool, { signal: never }))
      : partsOfPieces(compressBlocks(blocksOf(bytes, 9000, threads), compression, threads), () => 20_000, pool, never);
  const parts: Part[] = [];
  const stored: Buffer[] = [];
  for await (const { number, rawStart, rawEnd, body, release } of drafts) {
    parts.push({ number, rawStart, rawEnd, size: body.length, etag: '', ...(await threads.digest(body)) });
    stored.push(Buffer.from(body));
    release();
  }
  const size = parts.reduce((sum, part) => sum + part.size, 0);
  const archive = {
    key: 'k',
    etag: 'e',
    size,
    rawSize: bytes.length,
    compression,
    optimized: false,
    instanceOnly: false,
    blockSize: 9000,
    parts,
  };
  return { archive, stored: Buffer.concat(stored) };
}

/** Reads an archive into memory, as LXD's socket would: what is written is taken before the next write. */
async function restored(
  archive: ManifestArchive,
  stored: Buffer,
  threads: Threads,
  breakAfter = Number.POSITIVE_INFINITY,
): Promise<Buffer> {
  const seen: Buffer[] = [];
  const sink = new Writable({
    write(chunk: Buffer, _encoding, done) {
      seen.push(Buffer.from(chunk));
      done(seen.length > breakAfter ? new Error('LXD went away') : undefined);
    },
  });
  sink.on('error', () => undefined); // its owner's business, as with a request
  await writeTar(archive, sink, {
    fetch: async (start, into) => void stored.copy(into, 0, start, start + into.length),
    threads,
    memory: new SlotMemory(),
    onProgress: () => undefined,
    signal: never,
  });
  return Buffer.concat(seen);
}

describe('an archive', () => {
  for (const compression of ['gzip', 'zstd', 'none'] as const) {
    it(`${compression}: comes back as it went`, async () => {
      await using threads = new Threads();
      const bytes = Buffer.concat([randomBytes(120_000), Buffer.alloc(300_000, 'text '), randomBytes(11)]);
      const { archive, stored } = await archived(bytes, compression, threads);
      assert.ok(archive.parts.length > 2);
      assert.ok((await restored(archive, stored, threads)).equals(bytes));
    });

    it(`${compression}: one flipped bit in any part is refused, and the part is named`, async () => {
      await using threads = new Threads();
      const { archive, stored } = await archived(randomBytes(200_000), compression, threads);
      for (const part of archive.parts) {
        const at = archive.parts.slice(0, part.number - 1).reduce((sum, { size }) => sum + size, 0) + (part.size >> 1);
        const damaged = Buffer.from(stored);
        damaged.writeUInt8(damaged.readUInt8(at) ^ 1, at);
        await assert.rejects(
          restored(archive, damaged, threads),
          new RegExp(`part ${part.number} of ${archive.parts.length} is damaged`),
        );
      }
    });
  }

  it('that unpacks to another length than its manifest says is refused', async () => {
    await using threads = new Threads();
    const { archive, stored } = await archived(randomBytes(50_000), 'gzip', threads);
    await assert.rejects(restored({ ...archive, rawSize: 50_001 }, stored, threads), /unpacks to 50000 bytes/);
  });

  it('tells when what it is written to breaks', async () => {
    await using threads = new Threads();
    const { archive, stored } = await archived(randomBytes(400_000), 'gzip', threads);
    await assert.rejects(restored(archive, stored, threads, 5), /LXD went away/);
  });
});

describe('the tar scanner', () => {
  const folder = mkdtempSync(join(tmpdir(), 'lxstow-tar-'));
  mkdirSync(join(folder, 'd'.repeat(60), 'e'.repeat(60)), { recursive: true });
  writeFileSync(join(folder, 'd'.repeat(60), 'e'.repeat(60), 'a long way down.txt'), 'x'.repeat(3000));
  writeFileSync(join(folder, 'empty'), '');
  writeFileSync(join(folder, 'data'), randomBytes(20_000));
  symlinkSync('data', join(folder, 'link'));
  const tars = ['gnu', 'pax', 'ustar'].map((format) => {
    const { stdout } = spawnSync('tar', ['-C', folder, `--format=${format}`, '-cf', '-', '.'], { maxBuffer: 1e8 });
    return { format, bytes: stdout };
  });
  rmSync(folder, { recursive: true });

  for (const { format, bytes } of tars) {
    it(`${format}: takes a whole tar in any chunks, and counts its entries`, () => {
      fc.assert(
        fc.property(fc.array(fc.integer({ min: 1, max: 3000 }), { minLength: 1, maxLength: 6 }), (sizes) => {
          const scanner = new TarScanner();
          for (let at = 0, i = 0; at < bytes.length; i++) {
            const size = sizes[i % sizes.length] ?? 1;
            scanner.push(bytes.subarray(at, at + size));
            at += size;
          }
          scanner.finish();
          assert.equal(scanner.entries, 7);
        }),
        { numRuns: 30 },
      );
    });

    it(`${format}: refuses one that is cut anywhere before its end marker`, () => {
      const end = bytes.length - trailingZeros(bytes);
      fc.assert(
        fc.property(fc.integer({ min: 0, max: Math.ceil(end / 512) * 512 + 512 }), (cut) => {
          const scanner = new TarScanner();
          scanner.push(bytes.subarray(0, cut));
          assert.throws(() => scanner.finish(), { code: 'archive-truncated' });
        }),
      );
    });
  }

  it('refuses what is no tar, naming the byte', () => {
    const scanner = new TarScanner();
    assert.throws(() => scanner.push(randomBytes(2048)), /at byte 0 there is no tar header/);
  });

  it('follows files that are larger than octal digits can say', () => {
    const scanner = new TarScanner();
    scanner.push(header({ name: 'big', size: 9 * 1024 ** 3, base256: true }));
    const chunk = Buffer.alloc(64 * mib);
    for (let left = 9 * 1024 ** 3; left > 0; left -= chunk.length) scanner.push(chunk);
    scanner.push(Buffer.alloc(1024));
    scanner.finish();
    assert.equal(scanner.entries, 1);
  });
});

describe('the price of an archive from elsewhere', () => {
  const file = (name: string, data: Buffer, type = '0') => [
    header({ name, size: data.length, type }),
    data,
    Buffer.alloc((512 - (data.length % 512)) % 512),
  ];
  const tarOf = (...parts: Buffer[][]) => chunked(Buffer.concat([...parts.flat(), Buffer.alloc(1024)]), [64 * 1024]);
  const indexOf = (text: string | Buffer) => tarOf(file('backup/index.yaml', Buffer.from(text)));

  it('an index has 1 MiB at most, and no more is read of a larger one than its header', async () => {
    const padded = (bytes: number) => 'name: c1\n'.padEnd(bytes, '#');
    assert.equal((await readIndex(indexOf(padded(largestIndexBytes)))).index.name, 'c1');
    let read = 0;
    async function* endless() {
      yield header({ name: 'backup/index.yaml', size: largestIndexBytes + 1 });
      for (; ; read++) yield Buffer.alloc(512, '#');
    }
    await assert.rejects(readIndex(endless()), { code: 'too-large', message: /1048577 bytes, and LXD imports 1 MiB/ });
    assert.equal(read, 0);
  });

  it('an index has so many lines and values at most', async () => {
    const some = (marks: number) => `name: c1\nx: [${'a,'.repeat(marks - 2)}]`;
    assert.equal((await readIndex(indexOf(some(mostIndexMarks)))).index.name, 'c1');
    await assert.rejects(readIndex(indexOf(some(mostIndexMarks + 1))), {
      code: 'bad-request',
      message: /more than 100000/,
    });
  });

  it('an index is parsed on a thread of its own, for a time that has an end', async () => {
    const slow = `name: c1\n${Array.from({ length: 50_000 }, (_, i) => `k${i}: v`).join('\n')}`;
    await assert.rejects(readIndex(indexOf(slow), { deadlineMs: 1 }), {
      code: 'bad-request',
      message: /longer than 1 ms/,
    });
    await assert.rejects(readIndex(indexOf(`x: ${'['.repeat(5000)}`)), { code: 'bad-request' });
  });

  it('keys that are there twice are not looked for', async () => {
    assert.equal((await readIndex(indexOf('name: c1\nname: c2'))).index.name, 'c2');
  });

  it('so many entries may be before the index, and none of them is large', async () => {
    const folders = (count: number) => Array.from({ length: count }, (_, i) => file(`d${i}/`, Buffer.alloc(0), '5'));
    const index = file('backup/index.yaml', Buffer.from('name: c1'));
    assert.equal((await readIndex(tarOf(...folders(mostEntriesBefore), index))).index.name, 'c1');
    await assert.rejects(readIndex(tarOf(...folders(mostEntriesBefore + 1), index)), { code: 'bad-request' });
    await assert.rejects(readIndex(tarOf(file('x', Buffer.alloc(largestIndexBytes + 1)), index)), {
      code: 'bad-request',
    });
  });

  it('a pax header has 1 MiB at most, and a larger one is not collected', () => {
    const size = '25 size=0000000000001024\n';
    const records = Buffer.from(`${size}`.padEnd(largestPaxBytes, '\0'));
    const scanner = new TarScanner();
    for (const part of [...file('pax', records, 'x'), header({ name: 'f', size: 7 })]) scanner.push(part);
    assert.equal(scanner.state().skip, 1024);
    const large = header({ name: 'pax', size: largestPaxBytes + 1, type: 'x' });
    assert.throws(() => new TarScanner().push(large), {
      code: 'archive-corrupt',
      message: /pax header of 1048577 bytes/,
    });
  });

  it('a pax header of lengths that lead nowhere is read once', () => {
    for (const text of [`${'0'.repeat(largestPaxBytes - 4)}1 x`, '1 '.repeat(1000), '9'.repeat(largestPaxBytes)]) {
      const scanner = new TarScanner();
      for (const part of file('pax', Buffer.from(text), 'x')) scanner.push(part);
      assert.equal(scanner.state().pax, undefined);
    }
  });

  for (const [name, packed] of [
    ['gzip', zlib.gzipSync],
    ['zstd', zlib.zstdCompressSync],
  ] as const)
    it(`${name}: what unpacks to many times its size is read to a limit`, async () => {
      const zeros = Buffer.concat([
        header({ name: 'zeros', size: 16 * mib }),
        Buffer.alloc(16 * mib),
        Buffer.alloc(1024),
      ]);
      const read = async (...limits: UnpackLimit[]) => {
        let size = 0;
        const take = async (tar: AsyncIterable<Buffer>) => {
          for await (const chunk of tar) size += chunk.length;
        };
        await readTar(chunked(packed(zeros), [64 * 1024]), take, never, { limits });
        return size;
      };
      assert.equal(await read({ bytes: 17 * mib, times: 100 }), zeros.length);
      assert.equal(await read({ bytes: mib, times: 40_000 }), zeros.length);
      await assert.rejects(read({ bytes: 17 * mib, times: 100 }, { bytes: mib, times: 100 }), {
        code: 'too-large',
        message: /expands to more than \d+ bytes from \d+ bytes read: send it uncompressed/,
      });
    });

  it('an archive has each snapshot that its index names, as a folder, a file system or a disk', () => {
    const long = 'x'.repeat(63);
    const snapshots = ['first', '50%off', 'größer', 'disk', 'volume', long];
    const entries: Entry[] = [
      { name: 'backup/index.yaml' },
      { name: 'backup/snapshots/first/', type: '5' },
      { name: './backup/snapshots/50%off/rootfs/etc/passwd' },
      { name: 'x', pax: { path: 'backup/snapshots/größer/rootfs/' } },
      { name: 'backup/virtual-machine-snapshots/disk.img' },
      { name: 'backup/snapshots/volume.bin' },
      { name: 'x', longName: `backup/snapshots/${long}/rootfs/${'y'.repeat(80)}` },
      { name: 'backup/container/rootfs/backup/snapshots/lost/' },
    ];
    const assertWhole = (names: string[]) => {
      const files = new SnapshotFiles(names);
      const scanner = new TarScanner('the archive', (entry) => void files.see(entry));
      scanner.push(entriesOf(entries));
      files.finish();
    };
    assertWhole(snapshots);
    assertWhole([]);
    for (const lost of ['lost', 'fir', 'first.bin', 'rootfs'])
      assert.throws(() => assertWhole([...snapshots, lost]), {
        code: 'bad-request',
        message: new RegExp(`of snapshot ${lost},`),
      });
  });

  it('an upload unpacks to 256 GiB, or to 100 times its size, whatever it is packed with', () => {
    const most = (packed: number) =>
      Math.min(...unpackLimits.map(({ bytes, times }) => Math.max(bytes, packed * times)));
    const gib = 1024 ** 3;
    assert.deepEqual([mib, gib, 10 * gib].map(most), [16 * gib, 256 * gib, 1000 * gib]);
  });
});

function trailingZeros(bytes: Buffer): number {
  let count = 0;
  while (count < bytes.length && bytes[bytes.length - 1 - count] === 0) count += 1;
  return count;
}

function header({
  name,
  size,
  base256 = false,
  type = '0',
}: {
  name: string;
  size: number;
  base256?: boolean;
  type?: string;
}): Buffer {
  const block = Buffer.alloc(512);
  block.write(name);
  if (base256) {
    block.writeUInt8(0x80, 124);
    block.writeBigUInt64BE(BigInt(size), 128);
  } else block.write(size.toString(8).padStart(11, '0'), 124);
  block.write(type, 156);
  block.fill(' ', 148, 156);
  block.write(
    `${block
      .reduce((sum, byte) => sum + byte, 0)
      .toString(8)
      .padStart(6, '0')}\0 `,
    148,
  );
  return block;
}

describe('a tar scanner that is put away', () => {
  it('goes on from its state as if nothing had been', () => {
    const folder = mkdtempSync(join(tmpdir(), 'lxstow-tar-'));
    for (let i = 0; i < 20; i++) writeFileSync(join(folder, `${'long name '.repeat(15)}${i}`), randomBytes(i * 700));
    const { stdout: bytes } = spawnSync('tar', ['-C', folder, '--format=pax', '-cf', '-', '.'], { maxBuffer: 1e8 });
    rmSync(folder, { recursive: true });
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 5000 }), { minLength: 1, maxLength: 5 }), (sizes) => {
        let scanner = new TarScanner();
        for (let at = 0, i = 0; at < bytes.length; i++) {
          const size = sizes[i % sizes.length] ?? 1;
          scanner.push(bytes.subarray(at, at + size));
          at += size;
          scanner = TarScanner.from(JSON.parse(JSON.stringify(scanner.state())));
        }
        scanner.finish();
        assert.equal(scanner.entries, 21);
      }),
    );
  });
});
