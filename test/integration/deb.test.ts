/** What a user gets from the Debian package: installed in a bare Debian, used, removed, purged. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { chown, copyFile, mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { findDebian } from '../lab/debian.ts';
import { type LabFolder, openFolder } from '../lab/folder.ts';
import { onPath } from '../lab/parts.ts';
import { freePort } from '../lab/processes.ts';
import { attempt, run } from '../lab/run.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const quiet = () => undefined;
const missing = ['dpkg-deb', 'apt-get', 'chroot'].find((name) => !onPath(name));
const skip = missing ? `there is no ${missing}` : process.getuid?.() !== 0 && 'a chroot needs root';

describe('the Debian package', { skip, timeout: 600_000 }, () => {
  let folder: LabFolder;
  let tree: string;
  let file: string;
  const inside = (...command: string[]) =>
    run('chroot', [tree, 'env', '-i', 'PATH=/usr/sbin:/usr/bin:/sbin:/bin', 'LC_ALL=C', ...command]);
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

  it('keeps a changed configuration when it is installed again', async () => {
    const config = join(tree, 'etc/lxstow/lxstow.yaml');
    const text = `${await readFile(config, 'utf8')}\nlog:\n  level: debug\n`;
    await writeFile(config, text);
    await inside('dpkg', '--force-unsafe-io', '--install', `/${basename(file)}`);
    assert.equal(await readFile(config, 'utf8'), text);
  });

  it('leaves only what is the user’s when it is removed, and of its own nothing when it is purged', async () => {
    await inside('dpkg', '--remove', 'lxstow');
    assert.ok(existsSync(join(tree, 'etc/lxstow/lxstow.yaml')));
    assert.ok(!existsSync(join(tree, 'usr/lib/lxstow')));
    await mkdir(join(tree, 'var/lib/private/lxstow'), { recursive: true });
    const { status, stderr } = await attempt('chroot', [tree, 'dpkg', '--purge', 'lxstow']);
    assert.equal(status, 0, stderr);
    assert.ok(!existsSync(join(tree, 'etc/lxstow/lxstow.yaml')));
    assert.ok(!existsSync(join(tree, 'var/lib/private/lxstow')));
    assert.deepEqual(
      await inside('find', '/etc/lxstow', '-type', 'f').then((text) => text.split('\n').filter(Boolean).sort()),
      [
        '/etc/lxstow/credentials/nats-admin',
        '/etc/lxstow/credentials/s3-access-key',
        '/etc/lxstow/credentials/s3-secret-key',
      ],
    );
  });
});
