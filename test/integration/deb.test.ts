/** What a user gets from the Debian package: installed in a bare Debian, used, removed, purged. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { chown, copyFile, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { findDebian } from '../lab/debian.ts';
import { findLxd } from '../lab/findLxd.ts';
import { onPath } from '../lab/findPart.ts';
import { type LabFolder, openFolder } from '../lab/folder.ts';
import { startLxd } from '../lab/lxd.ts';
import { freePort } from '../lab/processes.ts';
import { mark } from '../lab/remnants.ts';
import { attempt, run } from '../lab/run.ts';
import { startS3 } from '../lab/s3.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const quiet = () => undefined;
const found = process.env.LXSTOW_LAB_LXD_SOCKET
  ? { available: false, reason: 'it has an LXD of its own' }
  : await findLxd(quiet);
const noLxd = found.available ? false : found.reason;
const missing = ['dpkg-deb', 'apt-get', 'chroot'].find((name) => !onPath(name));
const skip = missing ? `there is no ${missing}` : process.getuid?.() !== 0 && 'a chroot needs root';

describe('the Debian package', { skip, timeout: 1_800_000 }, () => {
  let folder: LabFolder;
  let tree: string;
  let file: string;
  // What is left in the background ends with the folder.
  const clean = () => [
    'env',
    '-i',
    'PATH=/usr/sbin:/usr/bin:/sbin:/bin',
    'LC_ALL=C',
    'HOME=/root',
    `${mark}=${folder.path}`,
  ];
  const inside = (...command: string[]) => run('chroot', [tree, ...clean(), ...command]);
  /** As root in a shell that has settings of lxstow, with programs of the test before those of the system. */
  const asRoot = (...command: string[]) => [
    ...[tree, ...clean(), 'PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'],
    ...['LXSTOW_S3_ACCESS_KEY=another', 'LXSTOW_NATS_USER=admin', ...command],
  ];
  const stub = (name: string, line: string) =>
    writeFile(join(tree, 'usr/local/bin', name), `#!/bin/sh\n${line}\n`, { mode: 0o755 });
  const pidFile = '/var/lib/lxstow/standalone.pid';
  const type = (line: string) => inside('sh', '-ec', line);
  before(async () => {
    folder = await openFolder('deb', quiet);
    const build = [join(root, 'packaging/deb/build.ts'), folder.path];
    file = (await run(process.execPath, build)).trim();
    tree = join(folder.path, 'debian');
    await mkdir(tree);
    await run('tar', ['-xf', await findDebian(quiet), '-C', tree]);
    await copyFile(file, join(tree, basename(file)));
    await inside('dpkg', '--force-unsafe-io', '--install', `/${basename(file)}`);
  });
  after(() => folder?.[Symbol.asyncDispose]());

  it('says what it is, and needs nothing that a bare Debian has not', async () => {
    const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'));
    assert.equal(await inside('lxstow', '--version'), `${version}\n`);
    assert.equal(
      await inside('dpkg-query', '-W', '-f', '$' + '{db:Status-Status} $' + '{Version}', 'lxstow'),
      `installed ${version}`,
    );
    assert.equal(await inside('dpkg', '--verify', 'lxstow'), '');
  });

  it('brings a configuration that works once it has the credentials', async () => {
    await writeFile(join(tree, 'etc/lxstow/credentials/s3-access-key'), 'key\n');
    await writeFile(join(tree, 'etc/lxstow/credentials/s3-secret-key'), 'secret\n');
    await writeFile(join(tree, 'etc/lxstow/credentials/nats-admin'), 'password\n');
    const config = await inside('sh', '-c', 'set -a; . /etc/lxstow/admin.env; lxstow config');
    assert.match(config, /accessKey: key\n/);
    assert.match(config, /trustDir: \/etc\/lxstow\/trust\n/);
    assert.match(config, /user: admin\n/);
    assert.ok(!/secret\n|: password\n/.test(config));
  });

  it('serves as a user without a home, as systemd makes them: it is NATS that is missing', async () => {
    const state = join(tree, 'tmp/state');
    await mkdir(state);
    await chown(state, 61_234, 61_234);
    const nobody = `127.0.0.1:${await freePort()}`;
    const away = [`LXSTOW_S3_ENDPOINT=http://${nobody}`, `LXSTOW_NATS_SERVERS=nats://${nobody}`];
    const env = ['LXSTOW_S3_ACCESS_KEY=a', 'LXSTOW_S3_SECRET_KEY=b', 'STATE_DIRECTORY=/tmp/state', ...away];
    const as = ['--userspec=61234:61234', tree, 'env', '-i', 'PATH=/usr/bin', ...env];
    const { status, stderr } = await attempt('chroot', [...as, 'lxstow', 'gateway']);
    assert.match(stderr, /NATS/);
    assert.equal(status, 69, stderr);
    assert.ok(existsSync(join(state, 'server.crt')));
  });

  it('keeps secrets for root alone, and belongs to root', async () => {
    const mode = async (path: string) => ((await stat(join(tree, path))).mode & 0o777).toString(8);
    assert.equal(await mode('etc/lxstow/credentials'), '700');
    assert.equal(await mode('etc/lxstow/admin.env'), '600');
    assert.equal(await mode('etc/lxstow/lxstow.yaml'), '644');
    assert.equal(await inside('find', '/usr/lib/lxstow', '/usr/share/doc/lxstow', '!', '-user', 'root'), '');
    assert.equal(await inside('find', '/usr/lib/lxstow', '-perm', '/022', '!', '-type', 'l'), '');
  });

  it('has the units, the documents, the licences, and completion', async () => {
    for (const path of [
      'usr/lib/systemd/system/lxstow-gateway.service',
      'usr/lib/systemd/system/lxstow-worker.service',
      'usr/lib/systemd/system/lxstow-standalone.service',
      'usr/lib/systemd/system/lxstow-.service.d/common.conf',
      'usr/lib/sysusers.d/lxstow.conf',
      'usr/share/doc/lxstow/README.md',
      'usr/share/doc/lxstow/docs/install.md',
      'usr/share/doc/lxstow/nats.conf',
    ])
      assert.ok(existsSync(join(tree, path)), path);
    const copyright = await readFile(join(tree, 'usr/share/doc/lxstow/copyright'), 'utf8');
    assert.match(copyright, /Apache License[\s\S]+Node\.js is licensed/);
    const complete = '. /usr/share/bash-completion/completions/lxstow; complete -p lxstow';
    assert.match(await inside('bash', '-c', complete), /lxstow$/m);
  });

  it('carries what it needs, and says which versions, with their checksums', async () => {
    const carried: { name: string; version: string; sha256: string }[] = JSON.parse(
      await readFile(join(tree, 'usr/share/doc/lxstow/carried.json'), 'utf8'),
    );
    assert.deepEqual(carried.map(({ name }) => name).sort(), ['libisal.so.2', 'nats-server', 'node', 'versitygw']);
    for (const { name, version, sha256 } of carried) {
      const path = (await inside('find', '/usr/lib/lxstow', '-maxdepth', '2', '-type', 'f', '-name', name)).trim();
      assert.match(await inside('sha256sum', path), new RegExp(`^${sha256} `), name);
      // VersityGW knows its version only from its own Makefile.
      if (['node', 'nats-server'].includes(name))
        assert.match(await inside(path, '--version'), new RegExp(version.replaceAll('.', '\\.')));
    }
    const copyright = await readFile(join(tree, 'usr/share/doc/lxstow/copyright'), 'utf8');
    assert.match(copyright, /nats-server 2\.[\s\S]+versitygw 1\.[\s\S]+Intel Corporation/);
  });

  it('keeps a changed configuration when it is installed again', async () => {
    const config = join(tree, 'etc/lxstow/lxstow.yaml');
    const text = `${await readFile(config, 'utf8')}\nlog:\n  level: debug\n`;
    await writeFile(config, text);
    await inside('dpkg', '--force-unsafe-io', '--install', `/${basename(file)}`);
    assert.equal(await readFile(config, 'utf8'), text);
  });

  it('does not wait without end for a standalone that does not stop', async () => {
    await run('mount', ['-t', 'proc', 'proc', join(tree, 'proc')]);
    await mkdir(join(tree, 'var/lib/lxstow'), { recursive: true });
    await type(`sh -c 'trap "" TERM; echo $$ >${pidFile}; while :; do sleep 1; done' standalone >/dev/null 2>&1 &
      until [ -s ${pidFile} ]; do sleep 0.1; done`);
    await stub('sleep', 'exit 0');
    const ends = (...script: string[]) => attempt('chroot', asRoot('sh', ...script));
    const removed = await ends('/var/lib/dpkg/info/lxstow.prerm', 'remove');
    const upgraded = await ends('/var/lib/dpkg/info/lxstow.postinst', 'configure', '0.1.0');
    await type(`pid=$(cat ${pidFile}); kill -9 $pid; while grep -qs . /proc/$pid/cmdline; do sleep 0.1; done`);
    assert.deepEqual([removed.status, upgraded.status], [1, 0]);
    assert.match(removed.stderr, /^lxstow: process \d+ has not stopped in 60 s, so lxstow is not removed/);
    assert.match(upgraded.stderr, /^lxstow: process \d+ has not stopped in 60 s\. .*: lxstow init --yes$/m);
    await rm(join(tree, 'usr/local/bin/sleep'));
    await rm(join(tree, 'var/lib/lxstow'), { recursive: true });
    await run('umount', [join(tree, 'proc')]);
  });

  it('with LXD beside it, `lxstow init` is all: backed up, deleted, restored, upgraded, undone', {
    skip: noLxd,
  }, async () => {
    await using lxd = await startLxd({ name: 'deb', log: quiet });
    await using s3 = await startS3({ name: 'deb', log: quiet });
    await lxd.launch('c1', { dataMiB: 1 });
    await mkdir(join(tree, 'var/lib/lxd'), { recursive: true });
    await run('mount', ['--bind', lxd.dir, join(tree, 'var/lib/lxd')]);
    await run('mount', ['-t', 'proc', 'proc', join(tree, 'proc')]);
    await run('mount', ['--rbind', '--make-rslave', '/dev', join(tree, 'dev')]);
    const isThere = async () => (await lxd.lxc(['list', '--format', 'csv', '--columns', 'ns'])).trim();
    const keys = `LXSTOW_S3_ACCESS_KEY=${s3.accessKey} LXSTOW_S3_SECRET_KEY=${s3.secretKey}`;
    // Nothing is set up over a store that is configured as the package proposes it.
    const refused = await attempt('chroot', [tree, ...clean(), 'lxstow', 'init', '--yes']);
    assert.match(refused.stderr, /lxstow\.yaml has a store already/);
    await type('mkdir /root/aside; mv /etc/lxstow/credentials/s3-* /root/aside');
    for (const [init, place] of [
      [`${keys} lxstow init --yes --store ${s3.endpoint}/of-the-package`, /the bucket of-the-package/],
      ['lxstow init --yes --store /srv/backups', /the folder \/srv\/backups/],
    ] as const) {
      assert.match(await type(`${init} --nightly 03:00 --keep-daily 14`), /^1 of 1 backed up$/m);
      await lxd.lxc(['delete', '--force', 'c1']);
      await type('lxstow restore c1 latest --start');
      assert.equal(await isThere(), 'c1,RUNNING');
      const health = await type('lxstow doctor || true');
      assert.match(health, /, 0 problems/);
      assert.match(health, /gzip uses ISA-L/);
      assert.match(health, / lxd +storage pools: /);
      // Installed once more over what runs, it is started anew, and nothing is forgotten: not even a job that waits for the folder's disk.
      const isFolder = init.includes('/srv');
      const before = await type(`cat ${pidFile}`);
      if (isFolder) await type('mv /srv/backups/.lxstow-store /srv/marker; lxstow backup c1 --no-wait');
      const trusted = await type('lxstow trust list');
      // The package does not pass on the mark of what ends with the folder.
      await stub('setsid', `exec env ${mark}='${folder.path}' /usr/bin/setsid "$@"`);
      await run('chroot', asRoot('dpkg', '--force-unsafe-io', '--force-confold', '--install', `/${basename(file)}`));
      assert.notEqual(await type(`cat ${pidFile}; until lxstow operations list; do sleep 0.2; done`), before);
      assert.equal(await type('lxstow trust list'), trusted);
      if (isFolder)
        await type(
          'mv /srv/marker /srv/backups/.lxstow-store; until [ $(lxstow list c1 | grep -c backup_) = 2 ]; do sleep 0.2; done',
        );
      assert.match(await type('lxstow init --yes'), /is unchanged\nlxstow runs already\n/);
      assert.match(await type('lxstow schedule next'), /nightly/);
      assert.match(await type('lxstow list c1'), /backup_/);
      if (isFolder) break;
      const undone = await type('lxstow init --undo');
      assert.match(undone, place);
      assert.match(undone, /that was there before: \/etc\/lxstow\/lxstow\.yaml/);
    }
    await type('mv /root/aside/* /etc/lxstow/credentials');
  });

  it('leaves only what is the user’s when it is removed, and of its own nothing when it is purged', async () => {
    await inside('dpkg', '--remove', 'lxstow');
    if (!noLxd) {
      // What it ran has ended.
      await type(`! grep . "/proc/$(cat ${pidFile})/cmdline"`);
      for (const place of ['proc', 'var/lib/lxd']) await run('umount', [join(tree, place)]);
      await run('umount', ['--recursive', join(tree, 'dev')]);
    }
    assert.ok(existsSync(join(tree, 'etc/lxstow/lxstow.yaml')));
    assert.ok(!existsSync(join(tree, 'usr/lib/lxstow')));
    await mkdir(join(tree, 'var/lib/private/lxstow/nats'), { recursive: true });
    await mkdir(join(tree, 'var/lib/lxstow/store'), { recursive: true });
    await mkdir(join(tree, 'var/lib/lxstow/backups'));
    await writeFile(join(tree, 'var/lib/lxstow/backups/.lxstow-store'), '');
    if (noLxd) await writeFile(join(tree, 'etc/lxstow/recovery.md'), '… Backups are in the folder /srv/backups.\n');
    const { status, stdout, stderr } = await attempt('chroot', [tree, 'dpkg', '--purge', 'lxstow']);
    assert.equal(status, 0, stderr);
    assert.match(stdout.toString(), /^lxstow: no backup was deleted\. Backups are in the folder \/srv\/backups\.$/m);
    assert.match(stdout.toString(), /^lxstow: \/etc\/lxstow\/recovery\.md says how to restore the backups/m);
    assert.match(
      stdout.toString(),
      /^lxstow: the access keys of the backup folder stay in \/var\/lib\/lxstow\/store\.$/m,
    );
    if (!noLxd) assert.ok(existsSync(join(tree, 'srv/backups/objects/lxstow')));
    assert.ok(!existsSync(join(tree, 'etc/lxstow/lxstow.yaml')));
    assert.ok(!existsSync(join(tree, 'var/lib/private/lxstow')));
    assert.deepEqual((await readdir(join(tree, 'var/lib/lxstow'))).sort(), ['backups', 'store']);
    assert.ok(existsSync(join(tree, 'var/lib/lxstow/backups/.lxstow-store')));
    const kept = (await inside('find', '/etc/lxstow', '-type', 'f')).split('\n').filter(Boolean).sort();
    assert.deepEqual(
      kept.filter((path) => !/\.undone$|recovery-/.test(path)),
      [
        '/etc/lxstow/credentials/nats-admin',
        '/etc/lxstow/credentials/s3-access-key',
        '/etc/lxstow/credentials/s3-secret-key',
        '/etc/lxstow/recovery.md',
      ],
    );
  });
});
