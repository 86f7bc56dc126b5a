/** The janitor, on real parts: every kind of leftover, what only looks like one, and what is in use. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { after, before, describe, it } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import zlib from 'node:zlib';
import { loadConfig } from '../../services/contract/config.ts';
import { LxstowError } from '../../services/contract/errors.ts';
import type { Checkpoint, Config, JobKind } from '../../services/contract/schemas.ts';
import { Leases } from '../../services/coordination/leases.ts';
import { type Finding, Janitor } from '../../services/janitor/janitor.ts';
import { waitForOperation } from '../../services/lxd/connection/lxdOperation.ts';
import { changeInstance, setState } from '../../services/lxd/instanceChanges.ts';
import { everyInstance, lxdBackupsOf } from '../../services/lxd/inventory.ts';
import { Bucket } from '../../services/nats/bucket/bucket.ts';
import { claimKey, instanceLeaseKey, reservationKey } from '../../services/nats/bucketKeys.ts';
import { connectNats, type Nats } from '../../services/nats/connection.ts';
import { checkpointsBucket, leasesBucket } from '../../services/nats/streams.ts';
import { begin, fail, newOperation, succeed } from '../../services/operations/operation.ts';
import { OperationStore } from '../../services/operations/operationStore.ts';
import type { ObjectStore, Upload } from '../../services/storage/objectStore.ts';
import { createS3Store } from '../../services/storage/s3/s3.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { type ScriptedS3, scriptedS3 } from '../fault/scriptedS3.ts';
import { attempt } from '../lab/run.ts';
import { openStack, type Stack, succeeded, until } from './stack.ts';

const cli = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));
const never = new AbortController().signal;
const settings = { tags: {}, contentType: 'application/gzip' };
const prefix = 'stow';
/** As short as it may be: stale leases are told by it. */
const leaseTtlMs = 1000;

describe('the janitor', { timeout: 1_800_000 }, () => {
  const open = new AsyncDisposableStack();
  let stack: Stack;
  /** What the worker has in the place of the S3 server. */
  let s3: ScriptedS3;
  let config: Config;
  let nats: Nats;
  let store: ObjectStore;
  let operations: OperationStore;
  let leases: Bucket;
  let checkpoints: Bucket;

  before(async () => {
    stack = open.use(
      await openStack('janitor', {
        workers: 0,
        config: { s3: { prefix }, worker: { janitorEveryMinutes: 0, leaseTtlMs, heartbeatMs: 300 } },
      }),
    );
    s3 = open.use(await scriptedS3(stack.s3.endpoint));
    await stack.stow.addWorker({ LXSTOW_S3_ENDPOINT: s3.endpoint, LXSTOW_S3_IDLE_TIMEOUT_MS: '600000' });
    config = loadConfig({ file: stack.stow.configFile, env: {} });
    nats = open.use(await connectNats(config.nats, 'test', createLogger({ level: 'error', format: 'text' }, {})));
    store = open.use(createS3Store(config.s3));
    operations = new OperationStore(nats, 1);
    leases = new Bucket(nats, leasesBucket);
    checkpoints = new Bucket(nats, checkpointsBucket);
    await stack.launch('c1');
    await stack.launch('c2', { project: stack.project });
  });
  after(() => open.disposeAsync());

  const at = (instance: string, project = 'default') => ({ remote: 'local', project, instance });
  const waiting = { signal: never, idleTimeoutMs: 30_000 };

  /** Runs the command as a process; `grace` in hours. */
  async function janitor(args: string[], { grace, env = {} }: { grace?: number; env?: NodeJS.ProcessEnv } = {}) {
    const hours = grace === undefined ? {} : { LXSTOW_WORKER_JANITOR_GRACE_HOURS: String(grace) };
    return attempt(process.execPath, [cli, '--config', stack.stow.configFile, 'janitor', ...args], {
      env: { ...process.env, ...hours, ...env },
    });
  }

  /** Its findings, by what was found. */
  async function findings(args: string[], options?: Parameters<typeof janitor>[1]): Promise<Map<string, Finding>> {
    const { status, stdout, stderr } = await janitor([...args, '--format', 'json'], options);
    assert.equal(status, 0, stderr + stdout);
    const found = JSON.parse(stdout.toString()) as Finding[];
    return new Map(found.map((finding) => [`${finding.kind} ${finding.what}`, finding]));
  }

  /** An operation as a worker would have left it, an hour ago unless told. */
  async function operation(
    kind: JobKind,
    address: ReturnType<typeof at>,
    end: 'Running' | 'Failure' | 'Success',
    body: object = {},
    now = new Date(Date.now() - 3_600_000),
    checkpoint?: Checkpoint,
  ): Promise<string> {
    const id = randomUUID();
    const begun = begin(newOperation({ id, kind, address, body }, now), 'nobody', now);
    const running = checkpoint ? { ...begun, checkpoint } : begun;
    const ended = {
      Running: () => running,
      Failure: () => fail(running, new LxstowError('internal', 'a test'), now),
      Success: () => succeed(running, now),
    };
    assert.ok(await operations.create(ended[end]()));
    return id;
  }

  async function lxdBackup(name: string, instance = 'c1', project = 'default'): Promise<string> {
    const { operation: path = '' } = await stack.lxd.call({
      method: 'POST',
      path: `/1.0/instances/${instance}/backups`,
      query: { project },
      body: { name, compression_algorithm: 'none', expires_at: new Date(Date.now() + 3_600_000).toISOString() },
      signal: never,
    });
    await waitForOperation(stack.lxd, path, waiting);
    return name;
  }

  async function upload(key: string): Promise<Upload> {
    const begun = await store.beginUpload(key, settings, never);
    await store.putPart(begun, 1, Buffer.from('x'), crcOf('x'), never);
    return begun;
  }

  async function archive(key: string): Promise<string> {
    const begun = await store.beginUpload(key, settings, never);
    const etag = await store.putPart(begun, 1, Buffer.from('x'), crcOf('x'), never);
    await store.completeUpload(begun, [{ number: 1, etag, crc32: crcOf('x') }], never);
    return key;
  }

  async function archiveInOnePiece(key: string): Promise<string> {
    await store.create(key, Buffer.from('x'), { ...settings, operation: randomUUID() }, never);
    return key;
  }

  async function stoppedInstance(name: string): Promise<void> {
    await stack.launch(name);
    await setState(stack.lxd, at(name), 'stop', waiting, true);
  }

  /** Everything there is, by the names that the findings have. */
  async function everything(): Promise<string[]> {
    const found: string[] = [];
    for await (const { address, instance } of everyInstance(stack.lxd, (found) => found, never)) {
      found.push(`instance ${address.instance}`);
      if (instance.config['user.lxstow.replaced']) found.push(`mark ${address.instance}`);
      for (const { name } of await lxdBackupsOf(stack.lxd, address, never)) found.push(`lxd-backup ${name}`);
    }
    for await (const { key } of store.listUploads('', never)) found.push(`upload ${key}`);
    for await (const { key } of store.list('', never)) found.push(`archive ${key}`);
    for (const key of await leases.keys('local.>')) {
      const kind = ['lease', 'reservation', 'claim'][key.split('.').length - 3];
      found.push(`${kind} ${key}`);
    }
    for (const key of await checkpoints.keys('local.>')) found.push(`checkpoint ${key}`);
    return found.sort();
  }

  it('finds nothing where nothing is left, and says so', async () => {
    const { status, stdout, stderr } = await janitor([]);
    assert.deepEqual([status, stdout.toString()], [0, 'nothing is left over on host local\n'], stderr);
  });

  it('removes exactly what is ours and nobody owns, and touches nothing else', async () => {
    const here = `${prefix}/local/default/c1`;
    const ended = await operation('backup', at('c1'), 'Failure', { backup: 'ended' });
    const living = await operation('backup', at('c1'), 'Running', { backup: 'living' });
    await operation('backup', at('c1'), 'Success', { backup: 'was-good' });
    await operation('delete', at('c1'), 'Success', { backup: 'half-deleted' });
    await operation('backup', at('c1'), 'Failure', { backup: 'half-made' }, undefined, { lxdBackup: 'made' });
    await operation('backup', at('c1'), 'Failure', { backup: 'refused' });
    await operation('backup', at('c1'), 'Running', { backup: 'unreserved' });
    const gone = randomUUID();
    const replaced = await operation('restore', at('c1'), 'Failure', { backup: 'b', replace: true });
    const replacing = await operation('restore', at('c1'), 'Running', { backup: 'b', replace: true });
    const running = await operation('restore', at('c1'), 'Failure', { backup: 'b', replace: true });
    const targetless = await operation('restore', at('nobody'), 'Failure', { backup: 'b', replace: true });
    const replacedWell = await operation('restore', at('c1'), 'Success', { backup: 'b', replace: true });
    const temporary = (id: string) => `lxstow-${id}`;
    const aside = `lxstow-old-${replaced}`;
    const backedUp = await stack.backup('c1', '?backup=whole');

    const atOnce = [
      `lxd-backup ${await lxdBackup(`lxstow-${ended}-1`)}`,
      `lxd-backup ${await lxdBackup(`lxstow-${ended}-12`, 'c2', stack.project)}`,
      `upload ${(await upload(`${here}/ended`)).key}`,
      `upload ${(await upload(`${here}/was-good`)).key}`,
      `archive ${await archive(`${here}/half-deleted`)}`,
      `archive ${await archive(`${here}/half-made`)}`,
      `instance ${temporary(replaced)}`,
      `instance lxstow-old-${replacedWell}`,
      'mark marked',
      `reservation ${reservationKey(at('c1'), 'ended')}`,
      `claim ${claimKey(at('c1'), 'whole', `${ended}-1`)}`,
      `lease ${instanceLeaseKey(at('c9'))}`,
      `checkpoint local.${ended}.start`,
      `checkpoint local.${ended}.0`,
    ];
    const afterGrace = [
      `lxd-backup ${await lxdBackup(`lxstow-${gone}-1`)}`,
      `upload ${(await upload(`${here}/nobodys`)).key}`,
      `upload ${(await upload(`${prefix}/local/gone/c7/nobodys`)).key}`,
      `archive ${await archive(`${here}/nobodys-archive.tar.gz`)}`,
      `archive ${await archive(`${here}/was-good`)}`,
      `archive ${await archiveInOnePiece(`${here}/nobodys-small`)}`,
      `archive ${await archive(`${here}/refused`)}`,
      `reservation ${reservationKey(at('c1'), 'nobodys')}`,
      `checkpoint local.${gone}.start`,
    ];
    const forPeople = [`instance ${aside}`, `instance ${temporary(running)}`, `instance ${temporary(targetless)}`];

    // Owned by somebody who lives, or not ours at all.
    await lxdBackup(`lxstow-${living}-1`);
    await lxdBackup(`lxstow-${await operation('backup', { ...at('c1'), remote: 'same-lxd' }, 'Running')}-1`);
    for (const name of [`lxstow-${ended}`, `lxstow-${ended}-`, `my-lxstow-${ended}-1`, 'lxstow-mine', 'mine'])
      await lxdBackup(name);
    for (const key of [
      `${here}/unreserved`,
      `${here}/reserved`,
      `${here}/living`,
      `${prefix}/oslo/default/c1/ended`,
      'local/default/c1/ended',
      `other${prefix}/local/default/c1/ended`,
      `${prefix}/local/ended`,
      `${here}/deeper/ended`,
    ]) {
      await upload(key);
      if (!key.endsWith('living')) await archive(key);
    }
    await store.create(`${here}/notes.txt`, Buffer.from('mine'), settings, never);
    await store.create(`${here}/alone.manifest.json`, Buffer.from('{}'), settings, never);
    for (const id of [replaced, replacing, targetless]) await stoppedInstance(temporary(id));
    await stack.launch(temporary(running));
    for (const name of [aside, `lxstow-old-${replacedWell}`, 'lxstow-0badcafe', 'marked']) await stoppedInstance(name);
    const marked = { 'user.lxstow.replaced': replaced, 'boot.autostart': 'false' };
    await changeInstance(stack.lxd, at('marked'), () => true, { config: marked }, never);
    const holder = (id: string) => JSON.stringify({ worker: 'w', operation: id });
    await leases.create(reservationKey(at('c1'), 'ended'), ended, { ttlMs: 3_600_000 });
    await leases.create(reservationKey(at('c1'), 'living'), living, { ttlMs: 3_600_000 });
    await leases.create(reservationKey(at('c1'), 'reserved'), living, { ttlMs: 3_600_000 });
    await leases.create(reservationKey(at('c1'), 'nobodys'), gone, { ttlMs: 3_600_000 });
    // These two have lost their TTL.
    await leases.create(claimKey(at('c1'), 'whole', `${ended}-1`), holder(ended));
    await leases.create(instanceLeaseKey(at('c9')), holder(ended));
    await leases.create(claimKey(at('c1'), 'whole', `${living}-1`), holder(living));
    for (const key of [`${ended}.start`, `${ended}.0`, `${living}.start`, `${gone}.start`])
      await checkpoints.create(`local.${key}`, '{}');

    // Those of an operation that has ended are told by not being renewed for three TTLs.
    const dry = await until(
      () => findings(['--dry-run'], { grace: 0 }),
      (found) => found.has(`lease ${instanceLeaseKey(at('c9'))}`),
    );
    const before = await everything();
    for (const name of [...atOnce, ...afterGrace, ...forPeople]) assert.ok(before.includes(name), `no ${name}`);

    assert.deepEqual(sortedKeys(dry), [...atOnce, ...afterGrace, ...forPeople].sort());
    for (const name of [...atOnce, ...afterGrace]) assert.equal(dry.get(name)?.action, 'would remove', name);
    assert.equal(dry.get(`lxd-backup lxstow-${ended}-1`)?.operation, ended);
    assert.equal(dry.get(`lxd-backup lxstow-${ended}-12`)?.where, `c2 (project ${stack.project})`);
    assert.ok((dry.get(`upload ${here}/ended`)?.age ?? -1) >= 0);
    assert.deepEqual(await everything(), before, 'a dry run changed something');

    const first = await findings([]);
    assert.deepEqual(sortedKeys(first), sortedKeys(dry));
    for (const name of atOnce) assert.equal(first.get(name)?.action, 'removed', name);
    for (const name of afterGrace) assert.match(first.get(name)?.action ?? '', /^kept: it is younger than 24 h/, name);
    assert.match(first.get(`instance ${aside}`)?.action ?? '', /^kept: it is c1 as it was before the restore/);
    assert.match(first.get(`instance ${temporary(running)}`)?.action ?? '', /^kept: it is running/);
    assert.match(first.get(`instance ${temporary(targetless)}`)?.action ?? '', /^kept: there is no nobody/);
    assert.deepEqual(
      await everything(),
      before.filter((name) => !atOnce.includes(name)),
    );

    const second = await findings([], { grace: 0 });
    assert.deepEqual(sortedKeys(second), [...afterGrace, ...forPeople].sort());
    const left = before.filter((name) => !atOnce.includes(name) && !afterGrace.includes(name));
    assert.deepEqual(await everything(), left);
    assert.deepEqual(sortedKeys(await findings([], { grace: 0 })), forPeople.sort());
    assert.deepEqual(await everything(), left);

    // What is owned was not harmed.
    await succeeded(
      stack.stow,
      await stack.stow.request('POST', `/1.0/instances/c1/backups/${backedUp}`, { body: { name: 'again' } }),
    );

    for (const { name } of await lxdBackupsOf(stack.lxd, at('c1'), never)) {
      const { operation: path = '' } = await stack.lxd.call({
        method: 'DELETE',
        path: `/1.0/instances/c1/backups/${name}`,
        query: { project: 'default' },
        signal: never,
      });
      await waitForOperation(stack.lxd, path, waiting);
    }
  });

  it('leaves an archive of whatever age for the grace period after it has found it without its manifest', async () => {
    const backup = await stack.backup('c1', '?backup=loses-its-manifest');
    const key = `${prefix}/local/default/c1/${backup}`;
    const old: ObjectStore = {
      ...store,
      async *list(...args) {
        for await (const object of store.list(...args)) yield { ...object, modified: '2026-01-01T00:00:00.000Z' };
      },
    };
    const log = createLogger({ level: 'error', format: 'text' }, {});
    const worker = { ...config.worker };
    const tools = { worker: 'test', config: { ...config, worker }, nats, lxd: stack.lxd, store: old, log };
    const tidier = new Janitor({ ...tools, leases: new Leases(leases, leaseTtlMs), leasesBucket: leases, checkpoints });
    const actionOn = async () => (await tidier.run({ signal: never })).find(({ what }) => what === key)?.action;
    await store.remove(`${key}.manifest.json`, never);
    // The operation is living until its worker has released everything.
    assert.match((await until(actionOn, (action) => action !== undefined)) ?? '', /^kept: its manifest is missing/);
    worker.janitorGraceHours = 1 / 3600;
    await until(actionOn, (action) => action === 'removed');
    assert.deepEqual(await Array.fromAsync(store.list(key, never)), []);
  });

  it('finds the upload of an ended operation although MinIO has forgotten it', async (t) => {
    if (stack.s3.kind !== 'minio') return t.skip('no MinIO here');
    await operation('backup', at('c1'), 'Failure', { backup: 'forgotten' });
    const { key } = await upload(`${prefix}/local/default/c1/forgotten`);
    await stack.s3.kill('SIGKILL');
    await stack.s3.start();
    assert.deepEqual(await uploadsOf(store, `${prefix}/`), [], 'MinIO remembers: this test proves nothing');
    assert.equal((await uploadsOf(store, key)).length, 1);
    assert.equal((await findings([])).get(`upload ${key}`)?.action, 'removed');
    assert.deepEqual(await uploadsOf(store, key), []);
  });

  it('leaves an instance alone that somebody works on, and comes back to it', async () => {
    const id = await operation('backup', at('c1'), 'Failure', { backup: 'busy' });
    const name = `lxd-backup ${await lxdBackup(`lxstow-${id}-1`)}`;
    const lease = await new Leases(leases, 60_000).acquire(instanceLeaseKey(at('c1')), {
      worker: 'somebody',
      operation: randomUUID(),
    });
    for (const args of [['--dry-run'], []])
      assert.equal((await findings(args)).get(name)?.action, 'kept: c1 is being worked on by somebody');
    await lease?.release();
    assert.equal((await findings([])).get(name)?.action, 'removed');
  });

  it('leaves it to the worker for a moment when an operation has just ended', async () => {
    const id = await operation('backup', at('c1'), 'Failure', { backup: 'just-ended' }, new Date());
    const name = `lxd-backup ${await lxdBackup(`lxstow-${id}-1`)}`;
    const slow = { env: { LXSTOW_WORKER_LEASE_TTL_MS: '60000' } };
    assert.ok(!(await findings(['--dry-run'], slow)).has(name));
    const found = await until(
      () => findings([]),
      (all) => all.has(name),
    );
    assert.equal(found.get(name)?.action, 'removed');
  });

  it('waits for another janitor of the same remote', async () => {
    const lease = await new Leases(leases, 60_000).acquire('janitor.local', { worker: 'w', operation: 'janitor' });
    const running = janitor([]);
    const early = await Promise.race([running, setTimeout(2500, 'not yet')]);
    assert.equal(early, 'not yet');
    await lease?.release();
    assert.equal((await running).status, 0);
  });

  it('lets a backup be that runs at the same time', async () => {
    await stack.launch('large', { dataMiB: 100 });
    const { reached, release } = s3.hold(/\/large\/.*partNumber=2/);
    const answer = await stack.stow.request('POST', '/1.0/instances/large/backups?compression=gzip');
    await reached;
    const seen = new Set<string>();
    let rounds = 0;
    const ended = stack.stow.finished(answer).then(() => true);
    let over = false;
    while (!over) {
      for (const [name, { action }] of await findings([], { grace: 0 })) if (action === 'removed') seen.add(name);
      rounds += 1;
      if (rounds === 2) release();
      over = await Promise.race([ended, Promise.resolve(false)]);
    }
    const operation = await succeeded(stack.stow, answer);
    assert.deepEqual(
      [...seen].filter((name) => name.includes('large') || name.includes(operation.id)),
      [],
    );
    const restore = await stack.stow.request('POST', `/1.0/instances/large/backups/${answer.body.metadata.name}`, {
      body: { name: 'large2' },
    });
    await succeeded(stack.stow, restore);
    await stack.remove('large');
    await stack.remove('large2');
  });

  it('goes on where one place cannot be looked through, and ends with 1', async () => {
    await operation('backup', at('c1'), 'Failure', { backup: 'no-lxd' });
    const { key } = await upload(`${prefix}/local/default/c1/no-lxd`);
    const { status, stdout } = await janitor(['--format', 'json'], {
      env: { LXSTOW_REMOTES: '{"local":{"socket":"/nowhere"}}' },
    });
    assert.equal(status, 1);
    const found = JSON.parse(stdout.toString()) as Finding[];
    assert.match(found.find(({ kind }) => kind === 'search')?.action ?? '', /^failed: .*\/nowhere/);
    assert.equal(found.find(({ what }) => what === key)?.action, 'removed');
  });

  it('touches nothing when it cannot know who lives', async () => {
    await operation('backup', at('c1'), 'Failure', { backup: 'no-nats' });
    const { key } = await upload(`${prefix}/local/default/c1/no-nats`);
    const { status, stderr } = await janitor([], { env: { LXSTOW_NATS_SERVERS: 'nats://127.0.0.1:9' } });
    assert.equal(status, 69);
    assert.match(stderr, /cannot connect to NATS/);
    assert.equal((await uploadsOf(store, key)).length, 1);
  });

  it('runs by itself in a worker, and each removal is an event in its log', async () => {
    const name = `lxstow-${await operation('backup', at('c1'), 'Failure', { backup: 'by-itself' })}-1`;
    await lxdBackup(name);
    const file = JSON.parse(await readFile(stack.stow.configFile, 'utf8'));
    file.worker.janitorEveryMinutes = 60;
    await writeFile(stack.stow.configFile, JSON.stringify(file));
    await stack.stow.addWorker();
    const log = await until(
      () => stack.stow.logOf(1),
      (text) => text.includes(name),
    );
    const line = log.split('\n').find((text) => text.includes(name)) ?? '';
    assert.equal(JSON.parse(line).message, 'leftover removed');
    assert.deepEqual(await lxdBackupsOf(stack.lxd, at('c1'), never), []);
  });
});

function sortedKeys(found: Map<string, Finding>): string[] {
  return [...found.keys()].sort();
}

async function uploadsOf(store: ObjectStore, at: string): Promise<string[]> {
  const found: string[] = [];
  for await (const { uploadId } of store.listUploads(at, never)) found.push(uploadId);
  return found;
}

function crcOf(text: string): string {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(zlib.crc32(text));
  return bytes.toString('base64');
}
