/** What a user gets from `npm install`: packed, installed in an empty folder, and at work. */
import assert from 'node:assert/strict';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { delimiter, dirname, join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type LabFolder, openFolder } from '../lab/folder.ts';
import { startRegistry } from '../lab/registry.ts';
import { attempt, run } from '../lab/run.ts';
import { openStack } from './stack.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const quiet = () => undefined;

describe('the package', { timeout: 1_800_000 }, () => {
  let folder: LabFolder;
  let place: string;
  let files: Map<string, number>;
  let env: NodeJS.ProcessEnv;
  before(async () => {
    folder = await openFolder('package', quiet);
    place = join(folder.path, 'empty');
    await mkdir(place);
    // Without it, npm installs into the next folder above that has a node_modules.
    await writeFile(join(place, 'package.json'), '{}');
    // Nothing of the settings of who runs this, nor of the npm that may have started it.
    const own = Object.entries(process.env).filter(([name]) => !/^(npm_|.*_proxy$)/i.test(name));
    await using registry = await startRegistry();
    env = {
      ...Object.fromEntries(own),
      PATH: `${dirname(process.execPath)}${delimiter}${process.env.PATH}`,
      HOME: folder.path,
      npm_config_registry: registry.url,
      npm_config_globalconfig: join(folder.path, 'none'),
      npm_config_cache: join(folder.path, 'cache'),
    };
    const packing = ['pack', '--json', '--pack-destination', folder.path];
    // What it builds goes to standard output too.
    const printed = await run('npm', packing, { cwd: root, env });
    const [packed] = JSON.parse(printed.slice(printed.search(/^\[$/m)));
    files = new Map(packed.files.map(({ path, size }: { path: string; size: number }) => [path, size]));
    await run('npm', ['install', '--engine-strict', '--no-audit', join(folder.path, packed.filename)], {
      cwd: place,
      env,
    });
  });
  after(() => folder?.[Symbol.asyncDispose]());

  it('is small, with licence and documents, and without what is ours alone', async () => {
    for (const path of ['LICENSE', 'README.md', 'CHANGELOG.md', 'nats.conf', 'docs/configuration.md'])
      assert.ok(files.has(path), path);
    const strange = [...files.keys()].filter((path) => !/^(dist|docs)\/|^[^/]+$/.test(path) || /\.ts$/.test(path));
    assert.deepEqual(strange, []);
    const bytes = [...files.values()].reduce((sum, size) => sum + size, 0);
    assert.ok(bytes < 3_000_000, `${bytes} bytes`);
  });

  it('has the documents that its README links to', async () => {
    const readme = await readFile(join(root, 'README.md'), 'utf8');
    const links = [...readme.matchAll(/\]\((docs\/[^)#]+)/g)].map(([, path = '']) => path);
    assert.ok(links.length > 0);
    const packed = [...files.keys()];
    assert.deepEqual(
      links.filter((link) => !packed.some((path) => path === link || path.startsWith(`${link}/`))),
      [],
    );
  });

  it('says what it is and what is wrong', async () => {
    const npx = (...args: string[]) => attempt('npx', ['--no', '--', 'lxstow', ...args], { cwd: place, env });
    const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'));
    assert.equal((await npx('--version')).stdout.toString(), `${version}\n`);
    const help = await npx('--help');
    assert.equal(help.status, 0, help.stderr);
    assert.match(help.stdout.toString(), /^Usage: lxstow /);
    const doctor = await npx('doctor', '--format', 'json');
    assert.equal(doctor.status, 1, doctor.stderr);
    assert.match(doctor.stdout.toString(), /accessKey/);
  });

  it('says in one sentence that Node is too old, before it does anything', async () => {
    const old = `Object.defineProperty(process, 'versions', { value: { ...process.versions, node: '20.19.0' } })`;
    const cli = join(place, 'node_modules/lxstow/dist/services/cli/main.js');
    const args = ['--import', `data:text/javascript,${encodeURIComponent(old)}`, cli, 'standalone'];
    const { status, stdout, stderr } = await attempt(process.execPath, args, { cwd: place, env });
    assert.equal(status, 78, stderr);
    assert.equal(stderr, 'lxstow: Node.js 20.19.0 is too old: lxstow needs 24 or newer\n');
    assert.equal(stdout.length, 0);
  });

  it('brings what calls ISA-L', async () => {
    const { stdout } = await attempt(process.execPath, ['-p', 'require("koffi").version'], { cwd: place, env });
    assert.match(stdout.toString(), /^3\./);
  });

  it('backs up', async () => {
    const cli = join(place, 'node_modules/lxstow/dist/services/cli/main.js');
    await using stack = await openStack('package', { cli });
    await stack.launch('c1');
    const name = await stack.backup('c1');
    const [backup] = (await stack.stow.request('GET', '/1.0/instances/c1/backups')).body.metadata;
    assert.equal(backup.name, name);
  });
});
