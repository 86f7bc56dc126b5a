/** Locked, held and versioned backups, on a MinIO whose bucket has Object Lock. */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Client } from 'minio';
import type { Operation, PruneVerdict } from '../../services/contract/schemas.ts';
import { type ScriptedS3, scriptedS3 } from '../fault/scriptedS3.ts';
import { lxstow } from '../lab/lxstow.ts';
import type { Daemon } from '../lab/processes.ts';
import { attempt } from '../lab/run.ts';
import { type LabS3, startS3 } from '../lab/s3.ts';
import { publish } from './publisher.ts';
import { assertError, assertSame, idOf, openStack, type Stack, succeeded, until } from './stack.ts';

const main = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));
const bucket = 'locked';
const dayMs = 86_400_000;

describe('a bucket with Object Lock', { timeout: 1_800_000 }, () => {
  let s3: LabS3;
  let stack: Stack;
  let home: string;
  let store: Client;
  let proxy: ScriptedS3;
  let worker: Daemon;
  before(async () => {
    home = await mkdtemp(join(tmpdir(), 'lxstow-locks-'));
    s3 = await startS3({ log: () => undefined, name: 'locks', kind: 'minio' });
    const { hostname, port } = new URL(s3.endpoint);
    const { accessKey, secretKey } = s3;
    store = new Client({ endPoint: hostname, port: Number(port), useSSL: false, accessKey, secretKey });
    await store.makeBucket(bucket, '', { ObjectLocking: true });
    stack = await openStack('locks', {
      s3: Object.assign(Object.create(s3), { bucket }) as LabS3,
      config: { worker: { compression: 'none', inventoryEverySeconds: 1, leaseTtlMs: 4000, heartbeatMs: 1000 } },
      workers: 0,
    });
    proxy = await scriptedS3(s3.endpoint);
    worker = await stack.stow.addWorker({ LXSTOW_S3_ENDPOINT: proxy.endpoint });
    await stack.launch('c1');
    const token = await lxstow(['-c', stack.stow.configFile, 'trust', 'token', 'tester']);
    assert.equal((await cli('remote', 'add', 'stow', token.trim())).status, 0);
  });
  after(async () => {
    await stack?.[Symbol.asyncDispose]();
    await proxy?.[Symbol.asyncDispose]();
    await s3?.[Symbol.asyncDispose]();
    await rm(home, { recursive: true, force: true });
  });

  async function cli(...args: string[]) {
    const env = { ...process.env, XDG_CONFIG_HOME: home };
    const { status, stdout, stderr } = await attempt(process.execPath, [main, ...args], { env });
    return { status, stdout: stdout.toString(), stderr };
  }
  const rebuild = (...args: string[]) => cli('-c', stack.stow.configFile, 'rebuild', ...args);
  const path = (name: string) => `/1.0/instances/c1/backups/${name}`;
  const show = async (name: string) => (await stack.stow.request('GET', path(name))).body.metadata;
  const names = async (): Promise<string[]> =>
    (await stack.stow.request('GET', '/1.0/instances/c1/backups')).body.metadata.map(
      ({ name }: { name: string }) => name,
    );
  const key = (name: string) => `local/default/c1/${name}`;
  async function ended(id: string): Promise<Operation> {
    const ask = () => stack.stow.request('GET', `/1.0/operations/${id}/wait?timeout=120`);
    return (await until(ask, ({ status }) => status === 200)).body.metadata;
  }
  async function locked(mode: string, days: number): Promise<string> {
    const body = { object_lock: { mode, days } };
    const begun = await stack.stow.request('POST', '/1.0/instances/c1/backups', { body });
    await succeeded(stack.stow, begun);
    return begun.body.metadata.name;
  }
  const retention = (name: string) => store.getObjectRetention(bucket, key(name));
  const hold = async (name: string, ...version: { versionId: string }[]) => {
    const held = await store.getObjectLegalHold(bucket, key(name), ...version).catch((error) => {
      if (error.code !== 'NoSuchObjectLockConfiguration') throw error;
      return { Status: 'OFF' };
    });
    return (held as unknown as { Status: string }).Status;
  };

  it('locks archive and manifest; nothing deletes the backup, and each says until when', async () => {
    const before = Date.now();
    const name = await locked('compliance', 30);
    const { locked_until: until } = await show(name);
    const days = (Date.parse(until) - before) / dayMs;
    assert.ok(days >= 30 && days < 30.01, until);
    for (const object of [name, `${name}.manifest.json`]) {
      const kept = await retention(object);
      assert.equal(kept?.mode, 'COMPLIANCE');
      assert.equal(Date.parse(String(kept?.retainUntilDate)), Date.parse(until));
    }
    const date = `${until.slice(0, 10)} ${until.slice(11, 16)} UTC`;
    const refusal = new RegExp(`backup c1/${name} is locked until ${date} \\(compliance\\); it was not deleted`);
    assertError(await stack.stow.request('DELETE', path(name)), 409, refusal);
    const byNats = await ended(await publish(stack.nats.url, 'lxstow.jobs.local.delete.default.c1', { backup: name }));
    assert.equal(byNats.status, 'Failure');
    assert.match(byNats.err, refusal);
    const other = await stack.backup('c1');
    const body = { keep: { keep_last: 1 }, dry_run: true };
    const verdicts: PruneVerdict[] = (await stack.stow.request('POST', '/1.0/prune', { body })).body.metadata;
    assert.deepEqual(
      verdicts.map(({ backup, action, reasons }) => [backup, action, ...reasons]),
      [
        [name, 'keep', `locked until ${date}`],
        [other, 'keep', 'last 1'],
      ],
    );
    assert.match((await cli('list', 'c1')).stdout, new RegExp(`${name} .*\\(locked until ${until.slice(0, 10)}\\)`));
    // A changed manifest is another version: it is locked, too.
    assert.equal((await stack.stow.request('PATCH', path(name), { body: { notes: 'x' } })).status, 200);
    assert.equal(Date.parse(String((await retention(`${name}.manifest.json`))?.retainUntilDate)), Date.parse(until));
  });

  it('is what a schedule and the command line can ask for', async () => {
    const { status, stderr } = await cli('backup', 'c1', '--name', 'by-cli', '--lock', '7d', '-q');
    assert.equal(status, 0, stderr);
    assert.equal((await retention('by-cli'))?.mode, 'GOVERNANCE');
    const args = ['--cron', '@yearly', '--instance', 'c1', '--lock', '3', '--lock-mode', 'compliance'];
    assert.equal((await cli('schedule', 'create', 'safe', ...args)).status, 0);
    assert.equal((await cli('schedule', 'run', 'safe', '--wait', '-q')).status, 0);
    const all: { name: string; created: string }[] = (await stack.stow.request('GET', '/1.0/instances/c1/backups')).body
      .metadata;
    const newest = all.toSorted((a, b) => a.created.localeCompare(b.created)).at(-1)?.name ?? '';
    assert.equal((await retention(newest))?.mode, 'COMPLIANCE');
    assert.match((await cli('backup', 'c1', '--lock-mode', 'compliance')).stderr, /--lock-mode is for --lock/);
  });

  it('holds a pinned backup by a legal hold until it is unpinned', async () => {
    const name = await stack.backup('c1');
    assert.equal((await cli('pin', 'c1', name, '--hold')).stdout, `c1/${name} is pinned and held\n`);
    assert.deepEqual([await hold(name), await hold(`${name}.manifest.json`)], ['ON', 'ON']);
    const { pinned, held } = await show(name);
    assert.deepEqual([pinned, held], [true, true]);
    assertError(await stack.stow.request('DELETE', path(name)), 409, /is pinned; it was not deleted/);
    assert.equal((await stack.stow.request('PATCH', path(name), { body: { notes: 'x' } })).status, 200);
    assert.equal((await cli('unpin', 'c1', name)).status, 0);
    assert.deepEqual([await hold(name), await hold(`${name}.manifest.json`)], ['OFF', 'OFF']);
    // A lifecycle rule removes no old version that is held.
    const listed = store.listObjects(bucket, key(`${name}.manifest.json`), true, { IncludeVersion: true });
    const versions: { versionId: string }[] = await Array.fromAsync(listed);
    assert.equal(versions.length, 4);
    for (const version of versions) assert.equal(await hold(`${name}.manifest.json`, version), 'OFF');
    const deleted = await cli('delete', 'c1', name);
    assert.equal(deleted.stdout, `c1/${name} is deleted\n`);
    assert.match(deleted.stderr, /KiB|MiB are not free yet: the bucket keeps old versions until a lifecycle rule/);
  });

  it('releases no hold that somebody else has set, until a request says held: false', async () => {
    const name = await stack.backup('c1');
    for (const object of [name, `${name}.manifest.json`])
      await store.setObjectLegalHold(bucket, key(object), { status: 'ON' });
    const patch = async (change: object) =>
      assert.equal((await stack.stow.request('PATCH', path(name), { body: change })).status, 200);
    const [{ versionId }] = (await Array.fromAsync(
      store.listObjects(bucket, key(`${name}.manifest.json`), true, { IncludeVersion: true }),
    )) as [{ versionId: string }];
    await patch({ pinned: false });
    assert.deepEqual([await hold(name), await hold(`${name}.manifest.json`, { versionId })], ['ON', 'ON']);
    await patch({ held: false });
    assert.deepEqual([await hold(name), await hold(`${name}.manifest.json`, { versionId })], ['OFF', 'OFF']);
  });

  it('leaves the hold of an earlier backup of the same name', async () => {
    const versions = async (object: string): Promise<{ versionId: string }[]> =>
      (await Array.fromAsync(store.listObjects(bucket, key(object), true, { IncludeVersion: true }))).filter(
        (version) => version.name === key(object) && !version.isDeleteMarker,
      );
    const make = async () =>
      succeeded(stack.stow, await stack.stow.request('POST', '/1.0/instances/c1/backups', { body: { name: 'daily' } }));
    const objects = ['daily', 'daily.manifest.json'];
    await make();
    assert.equal((await cli('pin', 'c1', 'daily', '--hold')).status, 0);
    const first = await Promise.all(objects.map(versions));
    for (const object of objects) await store.removeObject(bucket, key(object));
    await make();
    assert.equal((await cli('pin', 'c1', 'daily', '--hold')).status, 0);
    const pinned = (await Promise.all(objects.map(versions))).map((all, index) =>
      all.filter(({ versionId }) => !first[index]?.some((old) => old.versionId === versionId)),
    );
    assert.equal((await cli('unpin', 'c1', 'daily')).status, 0);
    for (const [index, object] of objects.entries()) {
      const states = await Promise.all((first[index] ?? []).map((version) => hold(object, version)));
      // The manifest's first version is from before the pin.
      assert.deepEqual(states.toSorted(), index === 0 ? ['ON'] : ['OFF', 'ON']);
      for (const version of pinned[index] ?? []) assert.equal(await hold(object, version), 'OFF');
    }
  });

  it('frees nothing by a prune, which says so', async () => {
    const name = await stack.backup('c1');
    await stack.backup('c1');
    const done = await cli('prune', 'c1', '--keep-last', '1', '-q', '--format', 'json');
    assert.equal(done.status, 0, done.stderr);
    assert.equal(JSON.parse(done.stdout)[0].freed, 0);
    assert.match(done.stderr, /are not free yet/);
    assert.ok(!(await names()).includes(name));
  });

  it('gives back a backup that somebody has deleted past lxstow, and it can be restored', async () => {
    const files = await stack.fingerprint('c1');
    const half = await stack.backup('c1');
    const whole = await locked('governance', 1);
    const gone = await stack.backup('c1');
    await store.removeObject(bucket, key(`${half}.manifest.json`));
    for (const object of [whole, `${whole}.manifest.json`]) await store.removeObject(bucket, key(object));
    assert.equal((await stack.stow.request('DELETE', path(gone))).status, 200);
    assert.ok(!(await names()).some((name) => [half, whole, gone].includes(name)));

    const looked = await rebuild('--format', 'json');
    assert.equal(looked.status, 0, looked.stderr);
    assert.match(looked.stderr, /2 can be brought back: lxstow rebuild --yes/);
    assert.match(looked.stderr, /more deleted backups are kept as old versions/);
    const { deleted } = JSON.parse(looked.stdout)[0];
    // In whatever order: of two made in one second, the later name sorts first.
    assert.deepEqual(
      new Map(deleted.map(({ backup, lifted }: { backup: string; lifted: boolean }) => [backup, lifted])),
      new Map([half, whole].map((name) => [name, false])),
    );
    const lifted = await rebuild('--yes');
    assert.equal(lifted.status, 0, lifted.stderr);
    assert.match(lifted.stdout, new RegExp(`${half} .* yes +only its manifest was deleted`));
    assert.match(lifted.stdout, new RegExp(`${whole} .* yes +locked until `));
    for (const name of [half, whole]) assert.ok((await names()).includes(name), name);
    assert.ok(!(await names()).includes(gone));
    await succeeded(stack.stow, await stack.stow.request('POST', path(whole), { body: { name: 'c2' } }));
    assertSame(await stack.fingerprint('c2'), files);
    await stack.remove('c2');
    // By a time, what lxstow has deleted itself, too.
    const all = await rebuild('--yes', '--deleted-since', '1h');
    assert.equal(all.status, 0, all.stderr);
    assert.ok((await names()).includes(gone));
  });

  it('does not give back a backup that was cancelled just as its locked manifest was written', async () => {
    const held = proxy.hold(/doomed\.manifest\.json/, 'PUT');
    const body = { name: 'doomed', object_lock: { mode: 'governance', days: 1 } };
    const begun = await stack.stow.request('POST', '/1.0/instances/c1/backups', { body });
    const operation = `/1.0/operations/${idOf(begun)}`;
    await held.reached;
    assert.equal((await stack.stow.request('DELETE', operation)).status, 200);
    await stack.nats.kill('SIGKILL');
    held.release();
    // Its manifest is there, and the worker dies before it can say so.
    await until(
      () => store.statObject(bucket, key('doomed.manifest.json')).catch(() => undefined),
      (stored) => stored !== undefined,
    );
    await worker.kill('SIGKILL');
    await stack.nats.start();
    await worker.start();
    assert.equal((await ended(idOf(begun))).status, 'Cancelled');
    assert.ok(!(await names()).includes('doomed'));
    const looked = await rebuild('--format', 'json');
    assert.equal(looked.status, 0, looked.stderr);
    assert.deepEqual(JSON.parse(looked.stdout)[0].deleted, []);
    assert.match(looked.stderr, /more deleted backups are kept as old versions/);
  });
});
