/** The systemd units: what systemd itself says of them. */
import assert from 'node:assert/strict';
import { cp, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadConfig } from '../../services/contract/config.ts';
import { type LabFolder, openFolder } from '../lab/folder.ts';
import { onPath } from '../lab/parts.ts';
import { attempt } from '../lab/run.ts';

const packaging = fileURLToPath(new URL('../../packaging/', import.meta.url));
/** Tenths; systemd calls it OK up to 40. 13 is what programs get that talk to a network and write code, as V8 does. */
const mostExposed = 20;
const skip = !onPath('systemd-analyze') && 'there is no systemd-analyze';

const all = await readdir(join(packaging, 'systemd'));
const units = all.filter((name) => name.endsWith('.service'));

describe('systemd units', { skip, timeout: 600_000 }, () => {
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
