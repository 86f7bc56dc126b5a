/** The systemd units: what systemd itself says of them. */
import assert from 'node:assert/strict';
import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadConfig } from '../../services/contract/config.ts';
import { placesFor } from '../../services/init/places.ts';
import { dropIn, ownUnit } from '../../services/init/units.ts';
import { onPath } from '../lab/findPart.ts';
import { type LabFolder, openFolder } from '../lab/folder.ts';
import { attempt } from '../lab/run.ts';

const packaging = fileURLToPath(new URL('../../packaging/', import.meta.url));
/** Tenths; systemd calls it OK up to 40. 13 is what programs get that talk to a network and write code, as V8 does. */
const mostExposed = 20;
const skip = !onPath('systemd-analyze') && 'there is no systemd-analyze';

const all = await readdir(join(packaging, 'systemd'));
const units = all.filter((name) => name.endsWith('.service'));

describe('systemd units', { skip, timeout: 1_800_000 }, () => {
  let folder: LabFolder;
  before(async () => {
    folder = await openFolder('systemd', () => undefined);
    await cp(join(packaging, 'systemd'), folder.path, { recursive: true });
    for (const unit of units) {
      const text = await readFile(join(folder.path, unit), 'utf8');
      // What they start need not be installed here.
      await writeFile(join(folder.path, unit), text.replace(/^ExecStart=lxstow /m, `ExecStart=${process.execPath} `));
    }
  });
  after(() => folder?.[Symbol.asyncDispose]());

  const analyze = (...args: string[]) =>
    attempt('systemd-analyze', args, { env: { ...process.env, SYSTEMD_UNIT_PATH: `${folder.path}:` } });

  it('are there for each way to run it', () => {
    assert.deepEqual(units.sort(), ['lxstow-gateway.service', 'lxstow-standalone.service', 'lxstow-worker.service']);
  });

  it('what `lxstow init` writes has no mistake: a unit of its own, and what differs from the package', async () => {
    const service = {
      places: placesFor('/etc/lxstow/lxstow.yaml', {}, true),
      program: [process.execPath],
      env: { PATH: '/usr/local/bin:/usr/bin' },
      natsPort: 4223,
      healthPorts: [],
      gid: 0,
    };
    const command = [process.execPath, '-c', '/etc/lxstow/lxstow.yaml', 'standalone', '--nats-port', '4223'];
    const dropIns = join(folder.path, 'lxstow-standalone.service.d');
    await mkdir(dropIns);
    for (const store of [undefined, '/mnt/nas/backups of %h', '/home/me/backups', '/usr/local/backups']) {
      await writeFile(join(dropIns, 'init.conf'), dropIn({ ...service, folder: store }, command));
      const { status, stderr } = await analyze('verify', join(folder.path, 'lxstow-standalone.service'));
      assert.deepEqual([status, stderr], [0, '']);
    }
    await rm(dropIns, { recursive: true });
    await writeFile(join(folder.path, 'own.service'), ownUnit({ ...service, folder: undefined }, command));
    const { status, stderr } = await analyze('verify', join(folder.path, 'own.service'));
    assert.deepEqual([status, stderr], [0, '']);
  });

  for (const unit of units) {
    it(`${unit} has no mistake`, async () => {
      const { status, stderr } = await analyze('verify', join(folder.path, unit));
      assert.equal(stderr, '');
      assert.equal(status, 0);
    });

    it(`${unit} is confined`, async () => {
      const args = ['security', '--offline=true', `--threshold=${mostExposed}`, '--no-pager', join(folder.path, unit)];
      const { status, stdout, stderr } = await analyze(...args);
      assert.equal(status, 0, stderr + stdout);
      assert.match(stdout.toString(), new RegExp(`Overall exposure level for ${unit}: \\d`));
    });

    it(`${unit} gives it time to end`, async () => {
      const [, seconds] = /^TimeoutStopSec=(\d+)s$/m.exec(await readFile(join(folder.path, unit), 'utf8')) ?? [];
      const { worker } = loadConfig({ env: { LXSTOW_S3_ACCESS_KEY: 'a', LXSTOW_S3_SECRET_KEY: 'b' } });
      const needed = unit === 'lxstow-gateway.service' ? 0 : worker.graceMs;
      assert.ok(Number(seconds) * 1000 >= needed + 10_000, `${seconds} s`);
    });
  }
});
