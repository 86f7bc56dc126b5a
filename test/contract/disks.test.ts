/** What each server makes of its disk: of a power cut right after it has answered, and of one that is full. */
import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { isCode, unlessMissing } from '../../services/contract/errors.ts';
import type { Config } from '../../services/contract/schemas.ts';
import type { ObjectStore } from '../../services/storage/objectStore.ts';
import { retrying } from '../../services/storage/retrying.ts';
import { createS3Store } from '../../services/storage/s3/s3.ts';
import { startProxy } from '../fault/proxy.ts';
import { until } from '../integration/stack.ts';
import { run } from '../lab/run.ts';
import { type LabS3, s3Titles, serversHere, startS3 } from '../lab/s3.ts';
import { crcOf } from './objectStore.ts';
import { type Server, servers } from './servers.ts';

const mib = 1024 * 1024;
const never = new AbortController().signal;
const small = { contentType: 'text/plain' };
/** SeaweedFS takes nothing on a disk with less than a volume's room. */
const diskMiB = 4096;
const skip = process.getuid?.() === 0 ? false : 'a disk of our own needs root';

async function send(store: ObjectStore, key: string, body: Buffer): Promise<void> {
  const upload = await store.beginUpload(key, { ...small, tags: {} }, never);
  const crc32 = crcOf(body);
  const etag = await store.putPart(upload, 1, body, crc32, never);
  await store.completeUpload(upload, [{ number: 1, etag, crc32 }], never);
}

async function bytesOf(store: ObjectStore, key: string): Promise<Buffer> {
  const { etag, size } = await store.stat(key, never);
  const into = Buffer.alloc(size);
  await store.readRange(key, etag, 0, into, never);
  return into;
}

for (const kind of serversHere)
  describe(`the disk of ${s3Titles[kind]}`, { timeout: 1_800_000, skip }, () => {
    const { differs }: Server = servers[kind];
    let s3: LabS3;
    before(async () => {
      s3 = await startS3({ log: () => undefined, name: 'disks', kind, diskMiB });
    });
    after(() => s3?.[Symbol.asyncDispose]());

    function open(change: Partial<Config['s3']> = {}) {
      const { endpoint, accessKey, secretKey, bucket } = s3;
      const place = { region: 'us-east-1', prefix: '', pathStyle: true, checksumHeaders: true };
      const limits = { uploadMaxAgeMs: 1e12, idleTimeoutMs: 30_000, attempts: 1 };
      return createS3Store({ endpoint, accessKey, secretKey, bucket, ...place, ...limits, ...change });
    }

    /** Writes an archive and its manifest, cuts the power, and looks for both. */
    async function outlivesCut(change: Partial<Config['s3']>): Promise<void> {
      await run('sync', ['-f', join(s3.dir, 'data')]);
      using store = open(change);
      const name = randomUUID();
      const body = randomBytes(8 * mib);
      await send(store, `${name}/archive`, body);
      await store.create(`${name}/manifest`, Buffer.from('whole'), small, never);
      await s3.cutPower();
      using later = open();
      assert.ok((await bytesOf(later, `${name}/archive`)).equals(body), 'other bytes');
      assert.equal((await later.read(`${name}/manifest`, never)).body.toString(), 'whole');
    }

    if (differs.powerCut)
      it('loses what it said that it has when the power is cut', async () => {
        // Unless somebody else on this machine called sync(2) just then, which writes all disks.
        for (let round = 0; round < 3; round++) {
          const outlived = await outlivesCut({}).then(
            () => true,
            () => false,
          );
          if (!outlived) return;
        }
        assert.fail('it has lost nothing in three power cuts');
      });
    else it('keeps what it said that it has when the power is cut', () => outlivesCut({}));

    it('keeps it with s3.syncFolder', () => outlivesCut({ syncFolder: join(s3.dir, 'data') }));

    it('keeps with s3.syncFolder an object whose answer was lost', async () => {
      const key = 'unanswered/manifest';
      const data = join(s3.dir, 'data');
      await run('sync', ['-f', data]);
      await using wire = await startProxy({ target: { port: Number(new URL(s3.endpoint).port) } });
      using told = open();
      using over = open({ endpoint: `http://127.0.0.1:${wire.port}`, syncFolder: data });
      wire.after('up', 1, () => wire.stall('down'));
      const created = retrying(over, { attempts: 5 }).create(key, Buffer.from('whole'), small, never);
      created.catch(() => undefined);
      await until(
        () => unlessMissing(() => told.stat(key, never)),
        (found) => found !== undefined,
      );
      wire.cut();
      await wire.heal();
      await created;
      await s3.cutPower();
      using later = open();
      assert.equal((await later.read(key, never)).body.toString(), 'whole');
    });

    it('keeps what was written before flush()', async () => {
      const data = join(s3.dir, 'data');
      await run('sync', ['-f', data]);
      using before = open();
      using store = open({ syncFolder: data });
      await before.create('flushed/manifest', Buffer.from('whole'), small, never);
      await store.flush(never);
      await s3.cutPower();
      using later = open();
      assert.equal((await later.read('flushed/manifest', never)).body.toString(), 'whole');
    });

    it(`says what it says when it is full, and takes objects again: ${differs.full ?? 's3-full'}`, async () => {
      const disk = join(s3.dir, 'data');
      const fill = join(disk, 'filled-by-the-test');
      const { bavail, bsize } = await statfs(disk);
      await run('fallocate', ['-l', String(bavail * bsize - 32 * mib), fill]);
      using store = open();
      let refusal: unknown;
      // MinIO finds out that it is full within some seconds, and says 500 until then.
      const longestMs = differs.full === undefined ? 60_000 : 5000;
      for (const until = Date.now() + longestMs; !isCode(refusal, 's3-full') && !(refusal && Date.now() > until); )
        refusal =
          (await send(store, `full/${randomUUID()}`, randomBytes(8 * mib)).catch((error: unknown) => error)) ?? refusal;
      assert.equal(isCode(refusal, 's3-full'), differs.full === undefined, String(refusal));
      await run('rm', [fill]);
      // MinIO looks once a second.
      for (const until = Date.now() + 60_000; ; ) {
        const failure = await send(store, 'full/again', randomBytes(mib)).catch((error: Error) => error);
        if (!failure) break;
        if (Date.now() > until) throw failure;
      }
    });
  });
