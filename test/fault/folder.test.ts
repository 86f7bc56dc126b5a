/** A folder as the store, under what disks and processes do: VersityGW killed amid each call, a disk that is full. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import zlib from 'node:zlib';
import { crcInS3 } from '../../services/archive/crcInS3.ts';
import { isCode } from '../../services/contract/errors.ts';
import type { ObjectStore, UploadedPart } from '../../services/storage/objectStore.ts';
import { retrying } from '../../services/storage/retrying.ts';
import { createS3Store } from '../../services/storage/s3/s3.ts';
import { multipartEtag } from '../../services/storage/s3/s3Messages.ts';
import { findVersityGw } from '../lab/parts.ts';
import { type LabS3, startS3 } from '../lab/s3.ts';
import { Dice, rounds, seed } from './truth.ts';

const log = () => undefined;
const mib = 1024 * 1024;
const never = new AbortController().signal;
const small = { contentType: 'text/plain' };
const skip = await findVersityGw(log).then(
  () => false,
  () => 'no VersityGW, and no Go',
);

/** As standalone has it over a folder. */
function open(s3: LabS3, attempts: number) {
  const { endpoint, accessKey, secretKey, bucket, dir } = s3;
  const limits = { idleTimeoutMs: 30_000, uploadMaxAgeMs: 1e12, attempts };
  const place = { region: 'us-east-1', prefix: '', pathStyle: true, checksumHeaders: true, folder: join(dir, 'data') };
  const store = createS3Store({ endpoint, bucket, accessKey, secretKey, ...place, ...limits });
  return Object.assign(retrying(store, { attempts }), { [Symbol.dispose]: () => store[Symbol.dispose]() });
}

async function send(store: ObjectStore, key: string, bodies: Buffer[]): Promise<string> {
  const upload = await store.beginUpload(key, { ...small, tags: { kept: '1' } }, never);
  const parts: UploadedPart[] = [];
  for (const [index, body] of bodies.entries()) {
    const sum = crcInS3(zlib.crc32(body));
    parts.push({ number: index + 1, etag: await store.putPart(upload, index + 1, body, sum, never), crc32: sum });
  }
  return store.completeUpload(upload, parts, never);
}

async function sumOf(store: ObjectStore, key: string): Promise<string> {
  const { etag, size } = await store.stat(key, never);
  const into = Buffer.alloc(size);
  await store.readRange(key, etag, 0, into, never);
  return createHash('sha256').update(into).digest('hex');
}

describe('a folder, whose server is killed', { timeout: 120_000 + rounds * 60_000, skip }, () => {
  const dice = new Dice(seed);
  let s3: LabS3;
  before(async () => {
    s3 = await startS3({ log, name: 'folder', kind: 'versitygw' });
  });
  after(() => s3?.[Symbol.asyncDispose]());

  for (let round = 0; round < Math.max(rounds, 8); round++) {
    it(`round ${round + 1}: has whole what it said that it has, and nothing half`, async (context) => {
      using store = open(s3, 10);
      const bodies = Array.from({ length: 4 }, () => randomBytes(8 * mib));
      const whole = createHash('sha256').update(Buffer.concat(bodies)).digest('hex');
      const key = `round-${round}/archive`;
      const killed = delay(dice.between(0, 600)).then(async () => {
        await s3.kill('SIGKILL');
        await delay(dice.between(0, 1000));
        await s3.start();
      });
      const manifest = Buffer.from(`manifest ${round}`);
      const [archive, created] = await Promise.allSettled([
        send(store, key, bodies),
        store.create(`round-${round}/manifest`, manifest, { ...small, tags: { kept: '1' } }, never),
      ]);
      await killed;
      context.diagnostic(`seed ${seed}: archive ${archive.status}, manifest ${created.status}`);
      for (const ended of [archive, created])
        if (ended.status === 'rejected')
          assert.ok(isCode(ended.reason, 's3-unavailable') || isCode(ended.reason, 'not-found'), ended.reason);
      const kept: string[] = [];
      for await (const object of store.list(`round-${round}/`, never)) kept.push(object.key);
      if (archive.status === 'fulfilled') assert.ok(kept.includes(key));
      if (created.status === 'fulfilled') assert.ok(kept.includes(`round-${round}/manifest`));
      if (kept.includes(key)) {
        assert.equal(await sumOf(store, key), whole);
        assert.deepEqual(await store.tagsOf(key, never), { kept: '1' });
      }
      if (kept.includes(`round-${round}/manifest`))
        assert.deepEqual((await store.read(`round-${round}/manifest`, never)).body, manifest);
    });
  }

  it('goes on with a completion that was cut off, and says it only when it is so', async () => {
    using store = open(s3, 1);
    const bodies = Array.from({ length: 24 }, () => randomBytes(8 * mib));
    let cut = 0;
    for (let round = 0; round < 6; round++) {
      const key = `completed-${round}`;
      const upload = await store.beginUpload(key, { ...small, tags: {} }, never);
      const parts: UploadedPart[] = [];
      for (const [index, body] of bodies.entries()) {
        const sum = crcInS3(zlib.crc32(body));
        parts.push({ number: index + 1, etag: await store.putPart(upload, index + 1, body, sum, never), crc32: sum });
      }
      const completing = store.completeUpload(upload, parts, never).catch(() => (cut += 1));
      await delay(round * 30);
      await s3.kill('SIGKILL');
      await s3.start();
      await completing;
      using patient = open(s3, 3);
      const etag = await patient.completeUpload(upload, parts, never).catch(async (error) => {
        // It was made, and its answer lost.
        assert.ok(isCode(error, 'conflict'), error);
        return (await store.stat(key, never)).etag;
      });
      assert.equal(etag, multipartEtag(parts));
      assert.equal((await store.stat(key, never)).size, 24 * 8 * mib);
      await store.abortUpload(upload, never);
      await store.remove(key, never);
    }
    assert.ok(cut > 0, 'no completion was cut off');
    const left: string[] = [];
    for await (const { key } of store.listUploads('completed', never)) left.push(key);
    assert.deepEqual(left, []);
  });

  it('keeps no bytes of what was cut off', async () => {
    const uploads = join(s3.dir, 'data', 'objects', s3.bucket, '.sgwtmp');
    const files = (await readdir(uploads, { withFileTypes: true })).filter((entry) => entry.isFile());
    assert.deepEqual(files, []);
  });
});

describe('a folder on a full disk', {
  timeout: 120_000,
  skip: skip || (process.getuid?.() === 0 ? false : 'not root'),
}, () => {
  it('is s3-full, for parts, completions and small objects, and takes objects again when there is room', async () => {
    await using s3 = await startS3({ log, name: 'folder-full', kind: 'versitygw', diskMiB: 64 });
    using store = open(s3, 1);
    const body = randomBytes(8 * mib);
    const sum = crcInS3(zlib.crc32(body));
    const upload = await store.beginUpload('large', { ...small, tags: {} }, never);
    const parts: UploadedPart[] = [];
    for (let number = 1; number <= 4; number++)
      parts.push({ number, etag: await store.putPart(upload, number, body, sum, never), crc32: sum });
    // A completion takes the room of the whole object once more.
    await assert.rejects(store.completeUpload(upload, parts, never), { code: 's3-full' });
    await assert.rejects(store.stat('large', never), { code: 'not-found' });
    const filling = async () => {
      for (let number = 5; number < 20; number++) await store.putPart(upload, number, body, sum, never);
    };
    await assert.rejects(filling(), { code: 's3-full' });
    await assert.rejects(store.create('small', body, small, never), { code: 's3-full' });
    await store.abortUpload(upload, never);
    await send(store, 'next', [body]);
    assert.equal((await store.stat('next', never)).size, body.length);
  });
});
