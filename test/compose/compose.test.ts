/**
 * docker-compose.yml, done as its first lines say, by a Docker of this test's own: a container is backed up, deleted and restored through it, by
 * LXD's socket and then by https. Images that a registry would have are stood in for (images.ts); lxstow's own is built by its Dockerfile.
 */
import assert from 'node:assert/strict';
import { chown, cp, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { assertSame } from '../integration/stack.ts';
import { makeCertificate } from '../lab/certificates.ts';
import { type LabDocker, startDocker, whyNoDocker } from '../lab/docker.ts';
import { findLxd } from '../lab/findLxd.ts';
import { type LabFolder, openFolder } from '../lab/folder.ts';
import { type LabLxd, startLxd } from '../lab/lxd.ts';
import { freePort } from '../lab/processes.ts';
import { run } from '../lab/run.ts';
import { buildStandIns, imageNames } from './images.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
/** Of the project, what a clone has not. */
const notCopied = ['node_modules', '.git', 'dist', 'secrets', 'trust', '.env'].map((name) => join(root, name));
const servers = ['nats', 'store', 'gateway', 'worker'];

const started = Date.now();
const log = (line: string) => console.log(`${((Date.now() - started) / 1000).toFixed(1).padStart(6)} s  ${line}`);

/** The commands that a file's first comment gives. */
async function commandsOf(file: string): Promise<string> {
  const [comment = ''] = (await readFile(file, 'utf8')).split(/^(?!#)/m);
  const lines = [...comment.matchAll(/^# {3}(.*)$/gm)].map(([, line]) => line);
  assert.ok(lines.length > 0, `${file} says nothing`);
  return `set -euo pipefail\n${lines.join('\n')}`;
}

describe('docker-compose.yml', { timeout: 900_000 }, () => {
  let folder: LabFolder;
  let lxd: LabLxd;
  let docker: LabDocker;
  let project: string;
  let home: string;
  let files: Map<string, string>;

  before(async () => {
    const lxdThere = await findLxd(log);
    const missing = whyNoDocker() ?? (lxdThere.available ? undefined : lxdThere.reason);
    if (missing) throw new Error(`this test cannot run here: ${missing}`);
    folder = await openFolder('compose', log);
    lxd = await startLxd({ name: 'compose', log });
    docker = await startDocker({ name: 'compose', log });
    project = join(folder.path, 'project');
    await cp(root, project, { recursive: true, filter: (path) => !notCopied.includes(path) });
    home = join(folder.path, 'home');
    const client = await makeCertificate({ commonName: 'lab client' });
    await mkdir(join(home, '.config', 'lxc'), { recursive: true });
    await writeFile(join(home, '.config', 'lxc', 'client.crt'), client.cert);
    // lxstow's own client is to have the same one.
    await mkdir(join(home, '.config', 'lxstow', 'client'), { recursive: true });
    await writeFile(join(home, '.config', 'lxstow', 'client', 'client.crt'), client.cert);
    await writeFile(join(home, '.config', 'lxstow', 'client', 'client.key'), client.key, { mode: 0o600 });
    await giveSocket();
    await lxd.launch('c1', { dataMiB: 40 });
    files = await lxd.fingerprint('c1');
    await buildStandIns(docker, await imageNames(project), folder, log);
  });
  after(async () => {
    for (const each of [docker, lxd, folder]) await each?.[Symbol.asyncDispose]();
  });

  /** As a packaged LXD has it: the lab's is root's alone. */
  async function giveSocket(): Promise<void> {
    if (process.env.LXSTOW_LAB_LXD_SOCKET) return;
    const [, , gid] = (await run('getent', ['group', 'lxd'])).split(':');
    await chown(lxd.socket, 0, Number(gid));
  }

  const environment = () => ({ HOME: home, XDG_CONFIG_HOME: '', LXD_DIR: lxd.dir, LXD_SOCKET: lxd.socket });
  const shell = (script: string) => docker.shell(script, { cwd: project, env: environment() });
  /** lxstow's own client, on the published port. */
  const stow = (args: string, as = home) =>
    shell(`HOME=${as} ${process.execPath} ${join(root, 'services/cli/main.ts')} ${args}`);

  async function services(): Promise<Map<string, { State: string; Health: string }>> {
    const lines = (await shell('docker compose ps --format json')).trim().split('\n');
    return new Map(lines.map((line) => JSON.parse(line)).map((service) => [service.Service, service]));
  }

  async function assertHealthy(): Promise<void> {
    const running = await services();
    for (const name of servers) assert.equal(running.get(name)?.Health, 'healthy', name);
    assert.equal(running.size, servers.length, 'setup has ended');
  }

  async function backUpAndRestore(): Promise<void> {
    await stow('backup c1');
    await lxd.lxc(['delete', '--force', 'c1']);
    await stow('restore c1 latest --start');
    assertSame(await lxd.fingerprint('c1'), files);
    assert.match(await lxd.lxc(['list', 'c1', '--format', 'csv', '--columns', 's']), /RUNNING/);
  }

  it('comes up as its first lines say', async () => {
    log('running what docker-compose.yml says first: secrets, build, up');
    await shell(await commandsOf(join(project, 'docker-compose.yml')));
    log('up');
    await shell('docker compose config --quiet');
    await assertHealthy();
  });

  it('is what it says: this version, in the version of Node that is tested', async () => {
    const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'));
    const image = await shell('docker compose config --images gateway');
    assert.ok(image.split('\n').includes(`lxstow:${version}`), image);
    assert.equal(await shell('docker compose exec -T gateway lxstow --version'), `${version}\n`);
    assert.equal(await shell('docker compose exec -T gateway node --version'), `${process.version}\n`);
    assert.ok((await imageNames(project)).node.includes(process.version.slice(1)));
  });

  it('gives no process more than it needs', async () => {
    for (const name of servers) {
      const status = await shell(`docker compose exec -T ${name} cat /proc/1/status`);
      assert.match(status, /^CapEff:\t0+$/m, name);
      assert.match(status, /^CapBnd:\t0+$/m, name);
      assert.match(status, /^NoNewPrivs:\t1$/m, name);
      assert.match(status, /^Seccomp:\t2$/m, name);
      if (['gateway', 'worker'].includes(name)) assert.match(status, /^Uid:\t1000\t1000\t1000\t1000$/m, name);
      const written = shell(`docker compose exec -T ${name} sh -c 'touch /new'`);
      await assert.rejects(written, /Read-only file system/, name);
    }
    // It can be built and run without compose, too.
    const alone = 'docker run --rm --read-only --cap-drop ALL --network none';
    const [image] = (await shell('docker compose images --quiet gateway')).split('\n');
    assert.equal(await shell(`${alone} --entrypoint id ${image} -u`), '1000\n');
    const natsConfig = 'nats-config --hosts berlin --server nats --out /tmp/nats';
    assert.match(await shell(`${alone} --tmpfs /tmp ${image} ${natsConfig}`), /nats-server -c \/tmp\/nats\/nats\.conf/);
  });

  it('satisfies lxstow doctor', async () => {
    for (const name of ['gateway', 'worker']) {
      const report = await shell(`docker compose exec -T ${name} lxstow doctor ${name} --format json`);
      const findings: { level: string; finding: string }[] = JSON.parse(report);
      assert.deepEqual(
        findings.filter(({ level }) => level === 'problem'),
        [],
      );
      assert.ok(findings.some(({ finding }) => finding === 'gzip uses ISA-L, libisal.so.2'));
    }
  });

  it('shows nobody its secrets', async () => {
    const secrets = await Promise.all(
      ['s3-secret-key', 'nats-admin', 'nats-gateway', 'nats-worker'].map((name) =>
        readFile(join(project, 'secrets', name), 'utf8'),
      ),
    );
    const shown = await shell('docker compose logs; docker inspect $(docker compose ps --all --quiet)');
    for (const secret of secrets) assert.ok(!shown.includes(secret.trim()));
  });

  it('backs up, and restores what is gone, by the client that trust/ holds', async () => {
    await stow('remote add stow https://127.0.0.1:8443 --accept-certificate');
    await backUpAndRestore();
  });

  it('trusts who has a token', async () => {
    const other = join(folder.path, 'other');
    await mkdir(other);
    const token = (await shell('docker compose exec -T gateway lxstow trust token anna')).trim();
    await stow(`remote add stow ${token}`, other);
    assert.match(await stow('list c1', other), /backup_/);
  });

  it('finds LXD again after LXD has been started anew', { skip: !!process.env.LXSTOW_LAB_LXD_SOCKET }, async () => {
    await lxd.stop();
    await lxd.start();
    await giveSocket();
    await stow('backup c1');
  });

  it('keeps its certificate and backups when the containers are made anew', async () => {
    await shell('docker compose down && docker compose up -d --wait');
    assert.match(await stow('list c1'), /backup_/);
  });

  it('takes MinIO as the store, as docker-compose.minio.yml says first', async () => {
    await shell(`${await commandsOf(join(project, 'docker-compose.minio.yml'))}\ndocker compose up -d --wait`);
    await assertHealthy();
    assert.match(await shell('docker compose config --images store'), /minio/);
    await backUpAndRestore();
    await shell("sed -i '/^COMPOSE_FILE=/d' .env && docker compose up -d --wait && docker volume rm lxstow_minio");
    assert.match(await stow('list c1'), /backup_/, 'VersityGW has its own again');
  });

  it('takes an LXD by https in the place of the socket, as docker-compose.remote.yml says first', async () => {
    const port = await freePort();
    await lxd.lxc(['config', 'set', 'core.https_address', `127.0.0.1:${port}`]);
    const commands = await commandsOf(join(project, 'docker-compose.remote.yml'));
    assert.match(commands, /lxd\.example\.net:8443/);
    await shell(commands.replaceAll('lxd.example.net:8443', `${docker.machine}:${port}`));
    await assertHealthy();
    const mounts = await shell('docker inspect $(docker compose ps --quiet worker)');
    assert.ok(!mounts.includes('/lxd"'), 'the socket is out of reach');
    await backUpAndRestore();
  });

  it('leaves nothing behind', async () => {
    await shell('docker compose down --volumes');
    for (const what of ['container ls --all', 'volume ls', 'network ls --filter type=custom'])
      assert.equal(await docker.docker([...what.split(' '), '--quiet']), '', what);
  });
});
