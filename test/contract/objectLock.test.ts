/** What lxstow relies on Object Lock and old versions for, on each server that has them; and what the others say. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import zlib from 'node:zlib';
import { Client } from 'minio';
import type { BackupLock, Config } from '../../services/contract/schemas.ts';
import { lockHeaders } from '../../services/storage/objectLock.ts';
import type { ObjectStore } from '../../services/storage/objectStore.ts';
import { createS3Store } from '../../services/storage/s3/s3.ts';
import { S3Connection } from '../../services/storage/s3/s3Connection.ts';
import { type DeletedObject, deletedObjects, liftMarker } from '../../services/storage/s3/versions.ts';
import { findS3, type S3Kind, s3Settings, serversHere, startS3 } from '../lab/s3.ts';
import { type Differences, servers } from './servers.ts';

const locked = 'locked';
const settings = { tags: {}, contentType: 'text/plain' };
const lock: BackupLock = {
  mode: 'governance',
  until: new Date(Math.ceil((Date.now() + 86_400_000) / 60_000) * 60_000).toISOString(),
};

async function open(kind: S3Kind) {
  await using opening = new AsyncDisposableStack();
  const server = opening.use(await startS3({ log: () => undefined, name: 'objectLock', kind }));
  const { endpoint, accessKey, secretKey } = server;
  const { hostname, port } = new URL(endpoint);
  const client = new Client({ endPoint: hostname, port: Number(port), useSSL: false, accessKey, secretKey });
  const config = {
    ...s3Settings,
    ...{ endpoint, accessKey, secretKey, attempts: 1, idleTimeoutMs: 30_000 },
  };
  const of = (bucket: string): Config['s3'] => ({ ...config, bucket });
  const owned = opening.move();
  return { client, of, bucket: server.bucket, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

async function upload(store: ObjectStore, key: string, signal: AbortSignal): Promise<void> {
  const body = Buffer.from('part');
  const sum = Buffer.alloc(4);
  sum.writeUInt32BE(zlib.crc32(body));
  const crc32 = sum.toString('base64');
  const begun = await store.beginUpload(key, { ...settings, lock }, signal);
  const etag = await store.putPart(begun, 1, body, crc32, signal);
  await store.completeUpload(begun, [{ number: 1, etag, crc32 }], signal);
}

const kinds = serversHere.map((kind) => {
  const { lock: instead, lockRefused }: Differences = servers[kind].differs;
  return { kind, locks: instead === undefined, takes: lockRefused !== undefined };
});

// Here, because no test's time limit counts it: the first time, servers are built, which takes minutes.
await Promise.allSettled(serversHere.map((kind) => findS3(kind, () => undefined)));

async function lockAndKeep(kind: S3Kind): Promise<void> {
  await using server = await open(kind);
  const { client } = server;
  await client.makeBucket(locked, '', { ObjectLocking: true });
  using s3 = new S3Connection(server.of(locked));
  using store = createS3Store(server.of(locked));
  const signal = AbortSignal.timeout(60_000);
  const until = async (key: string) => {
    const kept = await client.getObjectRetention(locked, key);
    return [kept?.mode, Date.parse(String(kept?.retainUntilDate))];
  };
  const held = async (key: string) =>
    ((await client.getObjectLegalHold(locked, key)) as unknown as { Status: string }).Status;
  const wanted = ['GOVERNANCE', Date.parse(lock.until)];

  const first = await store.create('a/b', Buffer.from('x'), { ...settings, lock }, signal);
  assert.deepEqual(await until('a/b'), wanted);
  const etag = await store.replace('a/b', first, Buffer.from('y'), { ...settings, lock, held: true }, signal);
  assert.deepEqual([await until('a/b'), await held('a/b')], [wanted, 'ON']);
  await upload(store, 'a/c', signal);
  assert.deepEqual(await until('a/c'), wanted);

  assert.equal(await store.remove('a/b', signal), true);
  const found: DeletedObject[] = [];
  for await (const each of deletedObjects(s3, 'a/', signal)) found.push(each);
  assert.deepEqual(
    found.map((each) => [each.key, each.etag, each.size]),
    [['a/b', etag, 1]],
  );
  for (const each of found) await liftMarker(s3, each, signal);
  assert.equal((await store.read('a/b', signal)).body.toString(), 'y');
  await store.hold('a/b', false, signal);
  assert.equal(await held('a/b'), 'OFF');
}

for (const { kind, locks } of kinds)
  describe(`Object Lock of ${kind}`, { timeout: 120_000 }, () => {
    if (locks)
      it('locks and holds what is written, keeps what is deleted, and gives it back without its marker', () =>
        lockAndKeep(kind));
    else it('is not there', () => assert.rejects(lockAndKeep(kind)));
  });

/** Of a bucket without Object Lock. `takes`: the server takes the headers of a lock, and keeps none. */
async function refuseAndForget(kind: S3Kind, takes: boolean): Promise<void> {
  await using server = await open(kind);
  using store = createS3Store(server.of(server.bucket));
  using s3 = new S3Connection(server.of(server.bucket));
  const signal = AbortSignal.timeout(60_000);
  await store.create('a/b', Buffer.from('x'), settings, signal);
  const noLock = /the bucket has no Object Lock/;
  await assert.rejects(store.beginUpload('a/c', { ...settings, lock }, signal), noLock);
  await assert.rejects(store.hold('a/b', true, signal), noLock);
  const asked = s3.send({ method: 'POST', key: 'a/d', query: { uploads: '' }, headers: lockHeaders({ lock }), signal });
  if (takes) await asked;
  else await assert.rejects(asked);
  assert.equal(await store.remove('a/b', signal), false);
  if (takes) return;
  for await (const each of deletedObjects(s3, 'a/', signal)) assert.fail(each.key);
}

for (const { kind, takes } of kinds)
  it(
    `lxstow refuses a lock and a hold in a bucket of ${kind} without Object Lock, and nothing that is deleted is kept`,
    {
      timeout: 120_000,
    },
    () => refuseAndForget(kind, takes),
  );
