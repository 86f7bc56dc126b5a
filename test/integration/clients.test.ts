/** LXD's own clients, and Incus's, as they are: what they are used to works, and an archive that they fetch is one that LXD takes. */
import assert from 'node:assert/strict';
import { createReadStream } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { openImport } from '../../services/lxd/archives/imports.ts';
import { type Found, findDrive, findIncus, findLxc, findPylxd } from '../lab/clients.ts';
import { onPath } from '../lab/findPart.ts';
import { type LabFolder, openFolder } from '../lab/folder.ts';
import { openUserLxc, type UserLxc } from '../lab/lxc.ts';
import { run } from '../lab/run.ts';
import { assertSame, openStack, type Stack } from './stack.ts';

const driver = fileURLToPath(new URL('../clients/drive.py', import.meta.url));
const [pylxd, go, lxc6] = await Promise.all([findPylxd(), findDrive(), findLxc()]);
const incus = await findIncus();
const machines = onPath('lxc');
const lxc5: Found = machines ? { path: machines } : { missing: 'there is no lxc on this machine' };

describe('clients of LXD', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  let folder: LabFolder;
  let files: Map<string, string>;
  let certificates: string[];
  before(async () => {
    stack = await openStack('clients');
    folder = await openFolder('clients', () => undefined);
    await stack.launch('c1', { dataMiB: 20 });
    files = await stack.fingerprint('c1');
    const { stow } = stack;
    const { gateway } = JSON.parse(await readFile(stow.configFile, 'utf8')) as { gateway: { stateDir: string } };
    const [cert, key] = [join(folder.path, 'client.crt'), join(folder.path, 'client.key')];
    await writeFile(cert, stow.client.cert);
    await writeFile(key, stow.client.key);
    certificates = [join(gateway.stateDir, 'server.crt'), cert, key];
  });
  after(async () => {
    await folder?.[Symbol.asyncDispose]();
    await stack?.[Symbol.asyncDispose]();
  });

  const skip = ({ missing }: Found) => missing ?? false;

  /** LXD itself takes the archive, and the instance is the same. */
  async function assertImports(archive: string): Promise<void> {
    const signal = AbortSignal.timeout(120_000);
    const to = { remote: 'local', project: 'default', instance: 'imported' };
    const { request, finish } = openImport(stack.lxd, to, undefined, signal);
    await pipeline(createReadStream(archive), request);
    await finish({ signal, idleTimeoutMs: 60_000 });
    assertSame(await stack.fingerprint('imported'), files);
    await stack.remove('imported');
  }

  /** What a driver printed, by `what`. */
  // biome-ignore lint/suspicious/noExplicitAny: each line has its own fields
  async function drive(command: string, args: string[], archive: string): Promise<Record<string, any>> {
    // Set, they would have Python's requests look for the server's certificate there, whatever it is told.
    const env = { ...folder.env, REQUESTS_CA_BUNDLE: '', CURL_CA_BUNDLE: '' };
    const printed = await run(command, [...args, stack.stow.url, ...certificates, 'c1', archive], { env });
    const lines = printed.trim().split('\n');
    return Object.fromEntries(lines.map((line) => JSON.parse(line)).map(({ what, ...rest }) => [what, rest]));
  }

  for (const [which, found] of [
    ["lxc, this machine's", lxc5],
    ['lxc 6.2', lxc6],
    ['incus 6.0', incus],
  ] as const) {
    describe(which, { skip: skip(found) }, () => {
      let lxc: UserLxc;
      before(async () => {
        lxc = await openUserLxc(stack.stow, 'clients', found.path);
      });
      after(() => lxc?.[Symbol.asyncDispose]());

      it('lists instances, and shows one', async () => {
        assert.match(await lxc(['list', 'stow:', '--format', 'csv', '-c', 'ns']), /^c1,RUNNING$/m);
        const backup = await stack.backup('c1');
        const shown = await lxc(['info', 'stow:c1']);
        assert.match(shown, /^Name: c1$/m);
        const row = new RegExp(`^\\| ${backup} +\\| 20\\d\\d/.*\\| +\\| NO +\\| NO +\\|$`, 'm');
        assert.match(shown, row, 'name, taken at, expires at, instance only, optimized storage');
        await stack.stow.request('DELETE', `/1.0/instances/c1/backups/${backup}`);
      });

      it('makes a backup, waits for it, and lists its operation', async () => {
        const made = JSON.parse(
          await lxc(['query', '--wait', '-X', 'POST', '-d', '{}', 'stow:/1.0/instances/c1/backups']),
        );
        assert.equal(made.status, 'Success');
        assert.match(await lxc(['operation', 'list', 'stow:', '--format', 'csv']), new RegExp(made.id.slice(0, 8)));
        assert.match(await lxc(['operation', 'show', `stow:${made.id}`]), /^status: Success$/m);
        await assert.rejects(
          lxc(['operation', 'delete', `stow:${made.id}`]),
          /Only running operations can be cancelled/,
        );
      });

      it('exports an instance to a file that LXD takes, and leaves no backup', async () => {
        const before = await stack.keys();
        const archive = join(folder.path, `${which.replace(/\W/g, '')}.tar.gz`);
        await lxc(['export', 'stow:c1', archive]);
        await assertImports(archive);
        assert.deepEqual(await stack.keys(), before);
      });

      it('imports an archive under another name, as a backup', async () => {
        const archive = join(folder.path, `${which.replace(/\W/g, '')}.tar.gz`);
        await lxc(['import', 'stow:', archive, 'renamed']);
        const { metadata } = (await stack.stow.request('GET', '/1.0/instances/renamed/backups')).body;
        assert.equal(metadata.length, 1);
        await stack.stow.request('DELETE', `/1.0/instances/renamed/backups/${metadata[0].name}`);
      });
    });
  }

  it("LXD's Go client does all that it has for backups", { skip: skip(go) }, async () => {
    assert.ok(go.path);
    const archive = join(folder.path, 'go.tar');
    const got = await drive(go.path, [], archive);
    assert.deepEqual(got.server, { auth: 'trusted', server: 'lxstow' });
    assert.deepEqual(got.instance, { name: 'c1', status: 'Running' });
    assert.deepEqual(got.full, { name: 'c1', state: 'Running' });
    assert.deepEqual(got.created, {
      status: 'Success',
      backups: ['/1.0/backups/from-go.tar'],
      action: 'instance-backup-created',
      events: true,
    });
    assert.ok(got.names.names.includes('from-go.tar'));
    assert.deepEqual(got.backup, { name: 'from-go.tar', optimized: false });
    assert.match(got.refused.error, /Only running operations can be cancelled/);
    assert.match(got.deleted.error, /does not exist/);
    await assertImports(archive);
  });

  it('pylxd lists, makes, fetches and deletes backups, and hears of it', { skip: skip(pylxd) }, async () => {
    assert.ok(pylxd.path);
    const archive = join(folder.path, 'python.tar');
    const got = await drive(pylxd.path, [driver], archive);
    assert.deepEqual(got.server, { auth: 'trusted', trusted: true });
    assert.deepEqual(got.instance, { name: 'c1', status: 'Running' });
    assert.deepEqual(got.full, { name: 'c1', state: 'Running' });
    assert.equal(got.created.status, 'Success');
    assert.ok(got.created.events.includes('lifecycle'));
    assert.equal(got.backup.name, 'from-python.tar');
    assert.equal(got.archive.size, got.backup.size);
    assert.equal(got.deleted.status, 'Success');
    assert.match(got.gone.error, /does not exist/);
    await assertImports(archive);
  });
});
