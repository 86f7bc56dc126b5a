/** What a user gets when a disk is full: the store's, LXD's pool, the disk on which LXD stages its backups. */
import assert from 'node:assert/strict';
import { mkdir, rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { Client } from 'minio';
import type { Operation } from '../../services/contract/schemas.ts';
import { LxdClient } from '../../services/lxd/connection/client.ts';
import { assertSame, failed, succeeded, until } from '../integration/stack.ts';
import { mountSmallDisk } from '../lab/disk.ts';
import { findLxd } from '../lab/findLxd.ts';
import { type LabLxd, startLxd } from '../lab/lxd.ts';
import { type Answer, type Lxstow, startLxstow } from '../lab/lxstow.ts';
import { startNats } from '../lab/nats.ts';
import { run } from '../lab/run.ts';
import { type LabS3, startS3 } from '../lab/s3.ts';

const log = () => undefined;
const name = 'disk';
const found = await findLxd(log);
// A small disk is a loop device, and mounting it needs what a private LXD needs.
const skip =
  found.available && !process.env.LXSTOW_LAB_LXD_SOCKET ? false : 'no LXD of our own, so no small disks either';

describe('a full disk', { timeout: 1_800_000, skip }, () => {
  const owned = new AsyncDisposableStack();
  let lxd: LabLxd;
  let api: LxdClient;
  let s3: LabS3;
  let stow: Lxstow;
  let client: Client;
  before(async () => {
    lxd = owned.use(await startLxd({ log, name, poolSizeGiB: 1 }));
    s3 = owned.use(await startS3({ log, name, kind: 'minio', diskMiB: 800 }));
    const nats = owned.use(await startNats({ log, name }));
    const config = { worker: { attempts: 2, lxdIdleTimeoutMs: 3000 } };
    stow = owned.use(await startLxstow({ name, log, natsUrl: nats.url, s3, socket: lxd.socket, config }));
    api = owned.use(new LxdClient('local', { socket: lxd.socket }, {}));
    const { hostname, port } = new URL(s3.endpoint);
    const { accessKey, secretKey } = s3;
    client = new Client({ endPoint: hostname, port: Number(port), useSSL: false, accessKey, secretKey });
    await lxd.launch('c1', { dataMiB: 180, kind: 'random', pool: lxd.dirPool });
  });
  after(() => owned.disposeAsync());

  const begin = (instance: string) => stow.request('POST', `/1.0/instances/${instance}/backups?compression=none`);

  async function assertNothingStored(instance: string): Promise<void> {
    const keys = await client.listObjectsV2(s3.bucket, `local/default/${instance}/`, true).toArray();
    const uploads = await client.listIncompleteUploads(s3.bucket, '', true).toArray();
    assert.deepEqual([keys, uploads], [[], []]);
  }

  async function lxdBackupsOf(instance: string): Promise<string[]> {
    return api.get<string[]>(`/1.0/instances/${instance}/backups`, {}, AbortSignal.timeout(60_000));
  }

  const operationOf = async (answer: Answer): Promise<Operation> =>
    (await stow.request('GET', answer.body.operation)).body.metadata;

  /** Waits until the operation waits for room on LXD's disk; returns why. */
  async function waitsForRoom(answer: Answer): Promise<string> {
    const { metadata, err } = await until(
      () => operationOf(answer),
      ({ status_code, metadata }) => status_code >= 200 || metadata.retry_reason !== undefined,
    );
    assert.equal(metadata.waiting_for, "room on LXD's disk", err || metadata.retry_reason);
    return metadata.retry_reason ?? '';
  }

  /** MinIO empties its trash when it likes, and looks at its disk when it likes, some minutes later perhaps. */
  async function ended(answer: Answer): Promise<void> {
    while ((await operationOf(answer)).status_code < 200) {
      await run('find', [join(s3.dir, 'data/.minio.sys/tmp/.trash'), '-mindepth', '1', '-delete']);
      await setTimeout(1000);
    }
  }

  it("the store's: the backup waits, and succeeds when there is room", async () => {
    const filler = join(s3.dir, 'data/.filler');
    await run('fallocate', ['-l', '650M', filler]);
    const answer = await begin('c1');
    const { metadata } = await until(
      () => operationOf(answer),
      ({ status_code, metadata }) => status_code >= 200 || metadata.retry_reason !== undefined,
    );
    assert.match(
      metadata.retry_reason ?? '',
      /S3 at http:\/\/127\.0\.0\.1:\d+ said XMinioStorageFull: .*minimum free drive threshold/,
    );
    assert.doesNotMatch(await stow.logOf(0), /another follows/);

    await rm(filler);
    await ended(answer);
    await succeeded(stow, answer);
    assert.deepEqual(await lxdBackupsOf('c1'), []);
    const files = await lxd.fingerprint('c1');
    const path = `/1.0/instances/c1/backups/${answer.body.metadata.name}`;
    await succeeded(stow, await stow.request('POST', path, { body: { name: 'copy', pool: lxd.dirPool } }));
    assertSame(await lxd.fingerprint('copy'), files);
    await lxd.lxc(['delete', '-f', 'copy']);
  });

  it("that of LXD's pool: the restore fails with LXD's reason, and no instance and no archive of it is left", async () => {
    const [backup = { name: '' }] = (await stow.request('GET', '/1.0/instances/c1/backups')).body.metadata;
    const pool = join(lxd.dir, 'storage-pools', lxd.pool);
    const filler = join(pool, 'filler');
    const { bavail, bsize } = await statfs(pool);
    await run('fallocate', ['-l', String(bavail * bsize - 60 * 1024 * 1024), filler]);
    const path = `/1.0/instances/c1/backups/${backup.name}`;
    const { err, code } = await failed(
      stow,
      await stow.request('POST', path, { body: { name: 'copy', pool: lxd.pool } }),
    );
    assert.equal(code, 'lxd-failed');
    assert.match(err, /LXD \(local\): .*(No space left on device|no space left|quota)/i);
    const instances = await api.get<string[]>('/1.0/instances', {}, AbortSignal.timeout(60_000));
    assert.deepEqual(instances, ['/1.0/instances/c1']);
    await rm(filler);
    await run('btrfs', ['subvolume', 'sync', pool]);
    await succeeded(stow, await stow.request('POST', path, { body: { name: 'copy', pool: lxd.pool } }));
    assertSame(await lxd.fingerprint('copy'), await lxd.fingerprint('c1'));
    await lxd.lxc(['delete', '-f', 'copy']);
    assert.equal((await stow.request('DELETE', path)).status, 200);
  });

  it('that on which LXD stages its backups: what fills it and what has no room there wait, and succeed when there is some', async () => {
    const known = await begin('c1');
    await ended(known);
    await succeeded(stow, known);
    const staging = join(lxd.dir, 'backups');
    await mountSmallDisk(staging, 100);
    await Promise.all(['custom', 'instances'].map((each) => mkdir(join(staging, each))));
    // Nothing is known of c2: LXD is asked, once.
    await lxd.launch('c2', { dataMiB: 180, kind: 'random', pool: lxd.dirPool });
    const unknown = await begin('c2');
    const free = await until(
      () => operationOf(unknown),
      ({ metadata }) => metadata.lxd_free_bytes !== undefined,
    );
    assert.equal(free.metadata.stage, 'generating');
    assert.match(await waitsForRoom(unknown), /^LXD's disk is full: /);
    assert.deepEqual(await lxdBackupsOf('c2'), []);
    await assertNothingStored('c2');
    await until(
      () => operationOf(unknown),
      ({ metadata }) =>
        /^LXD has \d+ MiB free in .*; with \d+ MiB the backup of c2 has filled it$/.test(metadata.retry_reason ?? ''),
    );

    const answer = await begin('c1');
    assert.match(
      await waitsForRoom(answer),
      /^LXD has \d+ MiB free in \/.*\/backups; the last backup of c1 needed 1[89]\d MiB\. If the instance has become smaller, make one backup with --instance-only$/,
    );
    assert.deepEqual(await lxdBackupsOf('c1'), []);
    const page = await (await fetch(`${stow.healthUrl.worker}/metrics`)).text();
    assert.match(page, /^lxstow_lxd_disk_full_total [1-9]/m);
    assert.match(page, /^lxstow_lxd_staging_free_bytes \d+$/m);
    assert.match(await stow.logOf(0), /"message":"LXD's disk is full"/);
    await run('umount', ['-l', staging]);
    // The store has room for one of them.
    const path = `/1.0/instances/c1/backups/${known.body.metadata.name}`;
    assert.equal((await stow.request('DELETE', path)).status, 200);
    await ended(answer);
    await succeeded(stow, answer);
    // The store has room for one of them.
    const made = `/1.0/instances/c1/backups/${answer.body.metadata.name}`;
    assert.equal((await stow.request('DELETE', made)).status, 200);
    await ended(unknown);
    await succeeded(stow, unknown);
    assert.deepEqual(await lxdBackupsOf('c2'), []);
    assert.doesNotMatch(await stow.logOf(0), /"instance":"c2".*another follows/);
  });
});
