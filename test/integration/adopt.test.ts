/** Moving in: what lxmin has left in a bucket is found, looked into, verified, and becomes backups that are as good as our own. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import zlib from 'node:zlib';
import { loadConfig } from '../../services/contract/config.ts';
import type { Manifest, Operation } from '../../services/contract/schemas.ts';
import { connectNats } from '../../services/nats/connection.ts';
import { OperationStore } from '../../services/operations/operationStore.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { startProxy } from '../fault/proxy.ts';
import { onPath } from '../lab/findPart.ts';
import { openFolder } from '../lab/folder.ts';
import { clientOf, exportOf, putArchive, putProfiles, writeAsLxmin } from '../lab/lxmin.ts';
import { typePage } from '../lab/page.ts';
import { attempt } from '../lab/run.ts';
import { type LabS3, startS3 } from '../lab/s3.ts';
import { assertSame, openStack, type Stack, succeeded, until } from './stack.ts';

const cli = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));
const never = new AbortController().signal;

interface Line {
  instance: string;
  name: string;
  created: string | null;
  size: number | null;
  optimized: boolean | null;
  profiles: string[];
  source: string | null;
  state: string;
  backup?: string;
  notes?: string[];
  error?: string;
  code?: string;
}

/** Names of lxmin's. */
const plain = 'backup_2022-02-17-09-3329';
const optimized = 'backup_2022-02-26-07-3921';
const old = 'backup_2022-02-15-04-1040';
const bare = 'backup_2022-04-01-00-0000';
const headless = 'backup_2022-03-01-00-2142';
const cut = 'backup_2022-05-01-10-0000';
const packed = 'backup_2022-06-01-10-0000';
const moved = 'backup_2022-07-01-10-0000';
const large = 'backup_2022-08-01-10-0000';

describe("a bucket of lxmin's", { timeout: 1_800_000 }, () => {
  const open = new AsyncDisposableStack();
  let stack: Stack;
  let lxmin: LabS3;
  let operations: OperationStore;
  let secretFile: string;
  let files: Map<string, string>;
  const profile = { name: 'special', description: 'for a test', config: { 'user.color': 'blue' }, devices: {} };
  /** Everything in lxmin's bucket, with its ETag. */
  let untouched: string[];

  before(async () => {
    stack = open.use(
      await openStack('adopt', { config: { worker: { janitorEveryMinutes: 0, leaseTtlMs: 5000, heartbeatMs: 500 } } }),
    );
    lxmin = open.use(await startS3({ log: () => undefined, name: 'adopt-lxmin' }));
    const config = loadConfig({ file: stack.stow.configFile, env: {} });
    const nats = open.use(await connectNats(config.nats, 'test', createLogger({ level: 'error', format: 'text' }, {})));
    operations = new OperationStore(nats, 1);
    const folder = open.use(await openFolder('adopt', () => undefined));
    secretFile = join(folder.path, 'secret');
    await writeFile(secretFile, `${lxmin.secretKey}\n`);
    const { lxd } = stack;
    await stack.launch('c1', { dataMiB: 20 });
    await lxd.call({ method: 'POST', path: '/1.0/profiles', body: profile, signal: never });
    const profiles = ['default', 'special'];
    await lxd.call({ method: 'PATCH', path: '/1.0/instances/c1', body: { profiles }, signal: never });
    files = await stack.fingerprint('c1');

    await writeAsLxmin(lxmin, lxd, 'c1', plain, { tags: { OS: 'Ubuntu', Version: '20.04' } });
    await writeAsLxmin(lxmin, lxd, 'c1', optimized, { optimized: true });
    const archive = await exportOf(lxd, 'c1', {});
    await putArchive(lxmin, `c1/${old}.tar.gz`, await exportOf(lxd, 'c1', { compression: 'none' }));
    await putArchive(lxmin, `c1/${bare}_instance.tar.gz`, archive);
    await putProfiles(lxmin, lxd, 'c1', headless);
    await putArchive(lxmin, `c1/${cut}_instance.tar.gz`, archive.subarray(0, archive.length - 20_000));
    await putArchive(lxmin, `c9/${moved}_instance.tar.gz`, archive);
    if (onPath('xz'))
      await putArchive(lxmin, `c1/${packed}_instance.tar.gz`, await exportOf(lxd, 'c1', { compression: 'xz' }));
    await clientOf(lxmin).putObject(lxmin.bucket, 'c1/notes.txt', 'mine');
    untouched = await objects();
  });
  after(() => open.disposeAsync());

  async function objects(): Promise<string[]> {
    const found: string[] = [];
    for await (const { name, etag } of clientOf(lxmin).listObjectsV2(lxmin.bucket, '', true))
      found.push(`${name} ${etag}`);
    return found;
  }

  const env = (endpoint = lxmin.endpoint) => ({
    ...process.env,
    LXMIN_ENDPOINT: endpoint,
    LXMIN_BUCKET: lxmin.bucket,
    LXMIN_ACCESS_KEY: lxmin.accessKey,
    LXMIN_SECRET_KEY: lxmin.secretKey,
  });

  const argsOf = (args: string[]) => [cli, '--config', stack.stow.configFile, 'adopt', ...args];

  async function adopt(...args: string[]) {
    const { status, stdout, stderr } = await attempt(process.execPath, argsOf(args), { env: env() });
    return { status, stdout: stdout.toString(), stderr };
  }

  /** What it says of each, by name. */
  async function lines(...args: string[]) {
    const { status, stdout, stderr } = await adopt(...args, '--format', 'json');
    assert.ok(stdout, stderr);
    return { status, stderr, of: new Map((JSON.parse(stdout) as Line[]).map((line) => [line.name, line])) };
  }

  const stored = async () =>
    (await stack.stow.request('GET', '/1.0/instances/c1/backups')).body.metadata as { name: string; created: string }[];

  async function running(): Promise<Operation[]> {
    const { metadata } = (await stack.stow.request('GET', '/1.0/operations?recursion=1')).body;
    return Object.values(metadata as Record<string, Operation[]>)
      .flat()
      .filter(({ status }) => status === 'Running');
  }

  async function object(s3: LabS3, key: string): Promise<Buffer> {
    return Buffer.concat(await (await clientOf(s3).getObject(s3.bucket, key)).toArray());
  }

  async function loseInstance(): Promise<void> {
    await stack.remove('c1');
    await stack.lxd.call({ method: 'DELETE', path: '/1.0/profiles/special', signal: never });
  }

  async function assertRestores(backup: string): Promise<void> {
    const { stow, lxd } = stack;
    await succeeded(stow, await stow.request('POST', `/1.0/instances/c1/backups/${backup}`, { body: { start: true } }));
    assertSame(await stack.fingerprint('c1'), files);
    const { config, description } = await lxd.get<typeof profile>('/1.0/profiles/special', {}, never);
    assert.deepEqual([config, description], [profile.config, profile.description]);
    const { profiles } = await lxd.get<{ profiles: string[] }>('/1.0/instances/c1', {}, never);
    assert.deepEqual(profiles, ['default', 'special']);
  }

  it('is listed as it is, and nothing is done', async () => {
    const before = await stack.keys();
    const { status, stderr, of } = await lines('--dry-run');
    assert.match(stderr, /ignored 1 object in s3:\/\/lxstow that lxmin did not make: c1\/notes\.txt/);
    // An archive under another instance's name cannot be adopted, and is seen at once.
    assert.equal(status, 1, stderr);
    const said = (name: string) => {
      const { state, optimized, profiles } = of.get(name) ?? assert.fail(name);
      return [state, optimized, profiles.join()];
    };
    assert.deepEqual(said(plain), ['new', false, 'default,special']);
    assert.deepEqual(said(optimized), [
      'new',
      stack.lab.lxd !== undefined || stack.simulator !== undefined,
      'default,special',
    ]);
    assert.deepEqual(said(old), ['new', false, '']);
    assert.deepEqual(said(bare), ['new', false, '']);
    assert.match(of.get(bare)?.notes?.join() ?? '', /profile special is not in the bucket: taken from the archive/);
    assert.deepEqual(said(headless), ['incomplete', null, 'default,special']);
    assert.deepEqual(of.get(headless)?.notes, ['only 2 profiles, no archive']);
    assert.equal(said(cut)[0], 'new');
    assert.deepEqual(
      [of.get(moved)?.state, of.get(moved)?.error],
      ['failed', `s3://lxstow/c9/${moved}_instance.tar.gz: it is an archive of c1, not of c9`],
    );
    assert.deepEqual(await stack.keys(), before);
    const table = await adopt('--dry-run', 'c1');
    assert.equal(table.status, 0, table.stderr);
    assert.match(table.stdout, /^INSTANCE +BACKUP +CREATED \(UTC\) +SIZE +OPTIMIZED +PROFILES +STATE\n/);
    assert.doesNotMatch(table.stdout, /c9/);
  });

  it('is verified to the last byte, where it is, and what is cut is named', async () => {
    const before = await stack.keys();
    const { status, of } = await lines('--verify', 'c1');
    assert.equal(status, 1);
    for (const name of [plain, optimized, old, bare, ...(onPath('xz') ? [packed] : [])])
      assert.equal(of.get(name)?.state, 'sound', JSON.stringify(of.get(name)));
    const { state, error, code } = of.get(cut) ?? {};
    assert.deepEqual([state, code], ['failed', 'archive-corrupt']);
    assert.match(
      error ?? '',
      new RegExp(`^s3://lxstow/c1/${cut}_instance.tar.gz: the archive is damaged or truncated`),
    );
    assert.deepEqual(await stack.keys(), before);
  });

  it('is adopted: names, times and tags stay; what is not whole is said, and stays where it is', async () => {
    const { status, stderr, of } = await lines();
    assert.equal(status, 1, stderr);
    assert.match(stderr, new RegExp(`^c1/${plain}: reading\nc1/${plain}: adopted$`, 'm'));
    assert.deepEqual(
      [plain, optimized, old, bare, cut, headless, moved].map((name) => of.get(name)?.state),
      ['adopted', 'adopted', 'adopted', 'adopted', 'failed', 'incomplete', 'failed'],
    );
    assert.equal(of.get(plain)?.backup, `${plain}.tar.gz`);
    const shown = (await stack.stow.request('GET', `/1.0/instances/c1/backups/${plain}.tar.gz`)).body.metadata;
    assert.deepEqual(shown.tags, { OS: 'Ubuntu', Version: '20.04' });
    assert.equal(new Date(shown.created).toISOString(), new Date(of.get(plain)?.created ?? '').toISOString());
    assert.equal(shown.notes, `adopted from s3://lxstow/c1/${plain}_instance.tar.gz`);
    const other = (await stack.stow.request('GET', `/1.0/instances/c1/backups/${optimized}.tar.gz`)).body.metadata;
    assert.deepEqual([shown.optimized, other.optimized], [false, true]);
    assert.deepEqual(
      (await stored()).map(({ name }) => name),
      [old, plain, optimized, bare, ...(onPath('xz') ? [packed] : [])].map((name) => `${name}.tar.gz`),
    );
    await stack.assertNothingLeft();
  });

  it('has become the same tar, every part of it hashed', async () => {
    const key = `local/default/c1/${plain}.tar.gz`;
    const { archive } = JSON.parse((await object(stack.s3, `${key}.manifest.json`)).toString()) as Manifest;
    const copy = await object(stack.s3, key);
    let start = 0;
    for (const { size, sha256 } of archive.parts) {
      assert.equal(
        createHash('sha256')
          .update(copy.subarray(start, start + size))
          .digest('hex'),
        sha256,
      );
      start += size;
    }
    assert.equal(start, copy.length);
    const source = await object(lxmin, `c1/${plain}_instance.tar.gz`);
    assert.ok(zlib.gunzipSync(copy).equals(zlib.gunzipSync(source)));
  });

  for (const [what, name] of Object.entries({ plain, optimized, 'without its profiles': bare, 'of 2022': old })) {
    it(`is restored, profiles and all: ${what}`, async () => {
      await loseInstance();
      await assertRestores(`${name}.tar.gz`);
    });
  }

  it('is adopted once, however often that is asked for', async () => {
    const before = await stack.keys();
    const { status, of } = await lines();
    assert.equal(status, 1);
    assert.deepEqual([of.get(plain)?.state, of.get(plain)?.backup], ['already adopted', `${plain}.tar.gz`]);
    assert.deepEqual(await stack.keys(), before);
    assert.deepEqual(await objects(), untouched);
  });

  it('gives a backup again that was deleted meanwhile, and keeps out of the way of one that has its name', async () => {
    const { stow } = stack;
    const name = `${plain}.tar.gz`;
    assert.equal((await stow.request('DELETE', `/1.0/instances/c1/backups/${name}`)).status, 200);
    await succeeded(stow, await stow.request('POST', '/1.0/instances/c1/backups', { body: { name } }));
    assert.equal((await lines('c1', '--dry-run')).of.get(plain)?.state, 'new');
    const { of } = await lines('c1');
    assert.deepEqual([of.get(plain)?.state, of.get(plain)?.backup], ['adopted', `${plain}-2.tar.gz`]);
    assert.equal((await lines('c1')).of.get(plain)?.state, 'already adopted');
  });

  /** An instance with more data than fits into what is read ahead, and lxmin's backup of it. */
  async function writeLarge(instance: string): Promise<Map<string, string>> {
    await stack.launch(instance, { dataMiB: 60 });
    await writeAsLxmin(lxmin, stack.lxd, instance, large);
    return stack.fingerprint(instance);
  }

  it('is adopted by the next run when one is killed in the middle, and nothing is left of that', async () => {
    const before = await writeLarge('c2');
    await using wire = await startProxy({ target: { port: Number(new URL(lxmin.endpoint).port) } });
    wire.after('down', 24 * 1024 * 1024, () => wire.stall());
    const child = spawn(process.execPath, argsOf(['c2']), {
      env: env(`http://127.0.0.1:${wire.port}`),
      stdio: 'ignore',
    });
    // What it began before it could note it down is the janitor's.
    const noted = async () => (await operations.list()).find(({ instance }) => instance === 'c2')?.checkpoint;
    const checkpoint = await until(noted, (found) => found?.uploadId !== undefined);
    assert.equal(checkpoint?.key, `local/default/c2/${large}.tar.gz`);
    child.kill('SIGKILL');
    await once(child, 'exit');
    assert.deepEqual((await lines('--dry-run', 'c2')).of.get(large)?.state, 'new');

    const { status, of, stderr } = await lines('c2');
    assert.equal(status, 0, stderr);
    assert.deepEqual([of.get(large)?.state, of.get(large)?.backup], ['adopted', `${large}.tar.gz`]);
    await stack.assertNothingLeft();
    await stack.remove('c2');
    await succeeded(
      stack.stow,
      await stack.stow.request('POST', `/1.0/instances/c2/backups/${large}.tar.gz`, { body: { start: true } }),
    );
    assertSame(await stack.fingerprint('c2'), before);
    assert.deepEqual(await running(), []);
  });

  it('is adopted once by two at the same time', async () => {
    await writeLarge('c3');
    const both = await Promise.all([lines('c3'), lines('c3')]);
    const states = both.map(({ of }) => of.get(large));
    assert.equal(states.filter((line) => line?.state === 'adopted').length, 1, JSON.stringify(states));
    for (const line of states)
      if (line?.state !== 'adopted')
        assert.ok(line?.state === 'already adopted' || line?.code === 'conflict', JSON.stringify(line));
    const { metadata } = (await stack.stow.request('GET', '/1.0/instances/c3/backups')).body;
    assert.equal(metadata.length, 1);
  });

  it('stays where it is when somebody presses Ctrl-C, and nothing is left of what was begun', async () => {
    await stack.launch('c4', { dataMiB: 60 });
    await writeAsLxmin(lxmin, stack.lxd, 'c4', large);
    await using wire = await startProxy({ target: { port: Number(new URL(lxmin.endpoint).port) } });
    wire.after('down', 24 * 1024 * 1024, () => wire.stall());
    const child = spawn(process.execPath, argsOf(['c4']), {
      env: env(`http://127.0.0.1:${wire.port}`),
      stdio: 'ignore',
    });
    await until(running, (found) => found.length > 0);
    child.kill('SIGINT');
    const [status] = await once(child, 'exit');
    assert.equal(status, 130);
    await stack.assertNothingLeft();
    assert.deepEqual((await stack.stow.request('GET', '/1.0/instances/c4/backups')).body.metadata, []);
    assert.equal((await lines('--dry-run', 'c4')).of.get(large)?.state, 'new');
  });

  const mistakes: [what: string, args: () => string[], status: number, text: RegExp][] = [
    ['an instance that is not there', () => ['nobody'], 66, /there is no backup of nobody in s3:\/\/lxstow/],
    ['a bucket that is not there', () => ['--bucket', 'nothing'], 1, /NoSuchBucket.*\(bucket nothing\)/],
    ['a bucket that cannot be', () => ['--bucket', 'NOTHING'], 64, /lxmin's bucket: s3\.bucket/],
    ['a remote that is not configured', () => ['--target', 'oslo'], 66, /host oslo does not exist/],
    ['the wrong key', () => ['--access-key', 'wrong', '--secret-key-file', secretFile], 69, /InvalidAccessKeyId/],
    ['nobody there', () => ['--endpoint', 'http://127.0.0.1:1'], 69, /S3 at http:\/\/127\.0\.0\.1:1: .*ECONNREFUSED/],
  ];
  for (const [what, args, status, text] of mistakes) {
    it(`is told apart from ${what}`, async () => {
      const said = await adopt(...args());
      assert.equal(said.status, status, said.stderr);
      assert.match(said.stderr, text);
      assert.equal(said.stdout, '');
    });
  }

  it('is moved by typing docs/moving-in.md', async () => {
    const backups = { ...lxmin, bucket: 'backups' };
    const client = clientOf(lxmin);
    await client.makeBucket(backups.bucket);
    await stack.launch('u2', { dataMiB: 2 });
    await writeAsLxmin(backups, stack.lxd, 'u2', plain);
    await writeAsLxmin(backups, stack.lxd, 'u2', optimized, { optimized: true });
    await client.putObject(backups.bucket, `u3/${headless}_profile_000_default.yaml`, 'config: {}');
    await client.putObject(backups.bucket, 'notes.txt', 'mine');
    await stack.remove('u2');
    await using folder = await openFolder('moving-in', () => undefined);
    const { LXMIN_BUCKET: _, ...given } = env();
    const { said } = await typePage('docs/moving-in.md', {
      folder,
      env: given,
      before: `
cp '${stack.stow.configFile}' lxstow.yaml
lxstow -c lxstow.yaml trust token me | lxstow remote add stow -
`,
    });
    assert.match(said, new RegExp(`^u2 +${optimized}\\.tar\\.gz +.* +yes$`, 'm'));
    const { status } = await stack.lxd.get<{ status: string }>('/1.0/instances/u2', {}, never);
    assert.equal(status, 'Running');
  });

  it('is as it was', async () => {
    const now = await objects();
    assert.deepEqual(
      now.filter((line) => /^c[19]\//.test(line)),
      untouched,
    );
  });
});
