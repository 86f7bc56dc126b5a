/** `lxstow standalone` over a folder: VersityGW beside it, which runs while the folder has its marker. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { delimiter, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadConfig } from '../../services/contract/config.ts';
import type { Config } from '../../services/contract/schemas.ts';
import { markerName } from '../../services/storage/folder/folderMarker.ts';
import { createS3Store } from '../../services/storage/s3/s3.ts';
import { type LabFolder, openFolder } from '../lab/folder.ts';
import { findNatsServer, findVersityGw } from '../lab/parts.ts';
import { answers, type Daemon, freePort, startDaemon } from '../lab/processes.ts';
import { attempt } from '../lab/run.ts';
import { type LxdSimulator, startSimulator } from '../simulator/simulator.ts';
import { until } from './stack.ts';

const cli = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));
const log = () => undefined;
const never = new AbortController().signal;
const small = { contentType: 'text/plain' };
const isThere = await findVersityGw(log).then(
  () => true,
  () => false,
);

describe('standalone over a folder', { timeout: 1_800_000, skip: isThere ? false : 'no VersityGW, and no Go' }, () => {
  let folder: LabFolder;
  let simulator: LxdSimulator;
  let disk: string;
  let path: string;
  let configFile: string;
  let ports: { nats: number; s3: number; gateway: number; worker: number };
  before(async () => {
    folder = await openFolder('folder-store', log);
    simulator = await startSimulator();
    await simulator.createInstance('c1');
    disk = join(folder.path, 'disk');
    await mkdir(disk);
    const bin = join(folder.path, 'bin');
    await mkdir(bin);
    await symlink(await findNatsServer(log), join(bin, 'nats-server'));
    await symlink(await findVersityGw(log), join(bin, 'versitygw'));
    path = `${bin}${delimiter}${process.env.PATH}`;
    ports = { nats: await freePort(), s3: await freePort(), gateway: await freePort(), worker: await freePort() };
    configFile = join(folder.path, 'lxstow.json');
    await configure();
  });
  after(async () => {
    await folder?.[Symbol.asyncDispose]();
    await simulator?.[Symbol.asyncDispose]();
  });

  const configure = (s3: object = {}) =>
    writeFile(
      configFile,
      JSON.stringify({
        s3: { folder: disk, endpoint: `http://127.0.0.1:${ports.s3}`, attempts: 1, ...s3 },
        remotes: { local: { socket: simulator.socket } },
        gateway: { port: ports.gateway, healthPort: 0, stateDir: join(folder.path, 'state') },
        worker: { healthPort: ports.worker, graceMs: 1000 },
      }),
    );
  const args = () => ['--config', configFile, 'standalone', '--nats-port', String(ports.nats)];
  const lxstow = (...command: string[]) =>
    attempt(process.execPath, [cli, ...command], { env: { ...process.env, PATH: path, XDG_CONFIG_HOME: folder.path } });
  const beside = (...command: string[]) => lxstow('--config', configFile, ...command);
  const start = (...options: string[]): Promise<Daemon> =>
    startDaemon({
      command: process.execPath,
      args: [cli, ...args(), ...options],
      folder,
      env: { PATH: path },
      ready: answers(async (signal) => {
        if (!(await fetch(`http://127.0.0.1:${ports.worker}/healthz`, { signal })).ok) throw new Error('not yet');
      }),
    });
  /** The store as standalone's workers have it. */
  async function opened() {
    const { s3 } = loadConfig({ file: configFile, env: {} });
    const secretKey = await readFile(join(folder.path, 'state', 'store', 'secret'), 'utf8');
    return createS3Store({ ...s3, secretKey } as Config['s3']);
  }
  const ended = async () => {
    using store = await opened();
    await assert.rejects(store.probe(never), /ECONNREFUSED/);
  };
  const versityGw = async () =>
    Number((await readFile(join(folder.path, 'state', 'store', 'pids'), 'utf8')).split(' ')[0]);
  const saysOnProbe = (said: RegExp) =>
    until(
      async () => {
        using store = await opened();
        return (await store.probe(never).catch((error: Error) => error.message)) ?? 'answers';
      },
      (message) => said.test(message),
    );

  it('keeps objects as files, with keys of its own making, and leaves nothing running', async () => {
    const daemon = await start();
    assert.ok(existsSync(join(disk, markerName)));
    assert.equal((await stat(join(folder.path, 'state', 'store', 'secret'))).mode & 0o777, 0o600);
    const doctor = await beside('doctor', '--only', 's3', '--format', 'csv');
    assert.equal(doctor.status, 0, doctor.stdout.toString());
    using store = await opened();
    const etag = await store.create('a/b', Buffer.from('kept'), { ...small, tags: { a: '1' } }, never);
    assert.equal(await readFile(join(disk, 'objects', 'lxstow', 'a', 'b'), 'utf8'), 'kept');
    assert.equal((await stat(join(disk, 'objects', 'lxstow', 'a', 'b'))).mode & 0o777, 0o600);
    await daemon.stop();
    await ended();
    // Another machine has other keys, and reads the folder all the same.
    await rm(join(folder.path, 'state', 'store'), { recursive: true });
    const second = await start();
    using again = await opened();
    assert.deepEqual(await again.read('a/b', never), { body: Buffer.from('kept'), etag });
    assert.deepEqual(await again.tagsOf('a/b', never), { a: '1' });
    await second.stop();
    await ended();
  });

  it('starts the server again when it dies', async () => {
    const daemon = await start();
    const first = await versityGw();
    process.kill(first, 'SIGKILL');
    await until(versityGw, (pid) => pid !== first);
    await saysOnProbe(/^answers$/);
    await daemon.stop();
  });

  it('ends the server that a killed standalone left, but not that of one that runs', async () => {
    const daemon = await start();
    const left = await versityGw();
    const second = await lxstow(...args().with(-1, String(await freePort())));
    assert.equal(second.status, 78, second.stderr);
    assert.match(second.stderr, /another standalone \(process \d+\) runs with the state directory/);
    await daemon.kill('SIGKILL');
    process.kill(left, 0);
    const next = await start();
    assert.notEqual(await versityGw(), left);
    await saysOnProbe(/^answers$/);
    await next.stop();
    await ended();
  });

  it('writes nothing while the marker is missing, says so, and goes on when it is back', async () => {
    const daemon = await start();
    const away = join(folder.path, 'unmounted');
    await rename(disk, away);
    await mkdir(disk);
    await saysOnProbe(/the folder .*disk has no marker: is it mounted\?/);
    using store = await opened();
    await assert.rejects(store.create('lost', Buffer.from('x'), small, never), /has no marker/);
    assert.deepEqual(await readdir(disk), []);
    const doctor = await beside('doctor', '--only', 's3', '--format', 'csv');
    assert.equal(doctor.status, 1);
    assert.match(doctor.stdout.toString(), /has no marker: is it mounted/);
    await rm(disk, { recursive: true });
    await saysOnProbe(/the folder .*disk does not exist: is it mounted\?/);
    await rename(away, disk);
    await saysOnProbe(/^answers$/);
    await daemon.stop();
  });

  it('lets a backup wait, with the reason, and restores what it has made', async () => {
    const daemon = await start();
    const token = (await beside('trust', 'token', 'tester')).stdout.toString().trim();
    const added = await lxstow('remote', 'add', 'stow', token);
    assert.equal(added.status, 0, added.stderr);
    const away = join(folder.path, 'unmounted');
    await rename(disk, away);
    await mkdir(disk);
    const backup = lxstow('backup', 'stow:c1', '--name', 'waited');
    await until(
      async () => (await lxstow('operations', 'list', '--format', 'json')).stdout.toString(),
      (listed) => /has no marker: is it mounted/.test(listed),
    );
    await until(
      async () => (await lxstow('status')).stderr,
      (said) => /jobs of host local wait for S3, away since .*has no marker: is it mounted/.test(said),
    );
    assert.deepEqual(await readdir(disk), []);
    await rm(disk, { recursive: true });
    await rename(away, disk);
    const { status, stderr } = await backup;
    assert.equal(status, 0, stderr);
    const restored = await lxstow('restore', 'stow:c1', 'waited', '--as', 'c2');
    assert.equal(restored.status, 0, restored.stderr);
    await daemon.stop();
  });

  it('starts without the folder, never marks it a second time, and goes on when it is there', async () => {
    const away = join(folder.path, 'unmounted');
    await rename(disk, away);
    await mkdir(disk);
    const daemon = await start();
    await saysOnProbe(/has no marker/);
    assert.deepEqual(await readdir(disk), []);
    await rm(disk, { recursive: true });
    await rename(away, disk);
    await saysOnProbe(/^answers$/);
    await daemon.stop();
  });

  it('takes another folder by --store for one run, and marks neither a second time', async () => {
    const other = join(folder.path, 'other');
    await mkdir(other);
    const daemon = await start('--store', other);
    assert.ok(existsSync(join(other, markerName)));
    using store = await opened();
    await store.create('in/other', Buffer.from('kept'), small, never);
    assert.equal(await readFile(join(other, 'objects', 'lxstow', 'in', 'other'), 'utf8'), 'kept');
    await daemon.stop();
    const away = join(folder.path, 'unmounted');
    await rename(disk, away);
    await mkdir(disk);
    const configured = await start();
    await saysOnProbe(/the folder .*disk has no marker/);
    assert.deepEqual(await readdir(disk), []);
    await configured.stop();
    await rm(disk, { recursive: true });
    await rename(away, disk);
    const nothing = await lxstow(...args(), '--store', '');
    assert.equal(nothing.status, 64, nothing.stderr);
    assert.match(nothing.stderr, /Give a folder/);
  });

  it('says what is wrong with port, program and configuration', async () => {
    const other = createServer().listen(ports.s3, '127.0.0.1');
    const taken = await lxstow(...args());
    assert.equal(taken.status, 78, taken.stderr);
    assert.match(taken.stderr, /a program listens on port \d+: set s3\.endpoint/);
    other.close();
    await rm(join(folder.path, 'bin', 'versitygw'));
    const missing = await lxstow(...args());
    assert.equal(missing.status, 69, missing.stderr);
    assert.match(missing.stderr, /s3\.folder is configured, and versitygw cannot be started/);
    await configure({ accessKey: 'a', secretKey: 'b' });
    const both = await lxstow(...args());
    assert.equal(both.status, 78, both.stderr);
    assert.match(both.stderr, /s3\.folder is set together with s3\.accessKey/);
  });
});
