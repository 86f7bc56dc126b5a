/**
 * `npm run deb -- [--arch arm64] [folder]`: builds lxstow_<version>_<architecture>.deb, for this machine's architecture unless told. It includes the Node,
 * nats-server and VersityGW that lxstow is tested with, because Debian has none or older ones, and ISA-L. The build needs Go, and otherwise tools that every
 * Debian has.
 */
import { createHash } from 'node:crypto';
import { chmod, copyFile, cp, mkdir, mkdtemp, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { onPath } from '../../test/lab/findPart.ts';
import { run } from '../../test/lab/run.ts';
import { architectureOf, assertMachine, isFor, type LockedPackage, placeOf } from './architecture.ts';
import { goPrograms, isal, nodeFor } from './carried.ts';

const root = fileURLToPath(new URL('../../', import.meta.url));
const packaging = join(root, 'packaging');
const { name, version, description, license } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8'));
const { values, positionals } = parseArgs({ options: { arch: { type: 'string' } }, allowPositionals: true });
const target = resolve(positionals[0] ?? root);
const here = (await run('dpkg', ['--print-architecture'])).trim();
const architecture = architectureOf(values.arch ?? here);

const work = await mkdtemp(join(tmpdir(), 'lxstow-deb-'));
try {
  const tree = join(work, 'tree');
  const at = async (path: string) => {
    const full = join(tree, path);
    await mkdir(dirname(full), { recursive: true });
    return full;
  };
  const put = async (from: string, path: string, mode = 0o644) => {
    const full = await at(path);
    await copyFile(from, full);
    await chmod(full, mode);
  };
  const write = async (path: string, content: string, mode = 0o644) => {
    await writeFile(await at(path), content, { mode });
  };

  // What npm publishes, and its dependencies. Pack a copy: packing rebuilds dist, which may be in use.
  const source = join(work, 'source');
  const kept = ['node_modules', '.git', 'dist'].map((each) => join(root, each));
  await cp(root, source, { recursive: true, filter: (path) => !kept.includes(path) });
  await symlink(join(root, 'node_modules'), join(source, 'node_modules'));
  await run('npm', ['pack', '--pack-destination', work], { cwd: source });
  const library = await at('usr/lib/lxstow');
  await mkdir(library);
  await run('tar', [
    '-xzf',
    join(work, `${name}-${version}.tgz`),
    '--strip-components=1',
    '--no-same-owner',
    '-C',
    library,
  ]);
  // Copy what is installed here, which matches package-lock.json (test/lab/ensure.mjs); fetch what is another one there.
  const { packages } = JSON.parse(await readFile(join(root, 'package-lock.json'), 'utf8'));
  const notNested = (path: string) => !path.endsWith('/node_modules');
  for (const [path, locked] of Object.entries<LockedPackage>(packages)) {
    if (!path || !isFor(architecture, locked)) continue;
    const from = await placeOf(path, locked, root, join(work, 'fetched'));
    if (from) await cp(from, join(library, path), { recursive: true, filter: notNested });
  }
  const node = await nodeFor(architecture);
  await put(node.file, 'usr/lib/lxstow/node', 0o755);
  const programs = await goPrograms(architecture);
  const compressor = await isal(architecture);
  for (const { name, file } of programs) {
    await put(file, `usr/lib/lxstow/bin/${name}`, 0o755);
    if (architecture.name === here && onPath('strip')) await run('strip', [join(library, 'bin', name)]);
  }
  await put(compressor.file, `usr/lib/lxstow/lib/${compressor.name}`);
  await put(join(packaging, 'deb', 'lxstow'), 'usr/bin/lxstow', 0o755);

  const documents = dirname(await at('usr/share/doc/lxstow/copyright'));
  for (const each of ['README.md', 'CHANGELOG.md', 'docs', 'nats.conf'])
    await rename(join(library, each), join(documents, each));
  await rm(join(library, 'LICENSE'));
  const carried = [...programs, compressor, node];
  const placeIn = ({ name, file }: { name: string; file: string }) =>
    join(library, name === 'node' ? '.' : file.includes('.so') ? 'lib' : 'bin', name);
  const lines = carried.map(async ({ file, licenceText, ...shown }) => ({
    ...shown,
    sha256: await sha256Of(placeIn({ name: shown.name, file })),
  }));
  await write('usr/share/doc/lxstow/carried.json', `${JSON.stringify(await Promise.all(lines), null, 2)}\n`);
  const licences = [
    `lxstow: ${license}, below. After that, the licences of what it carries in /usr/lib/lxstow: ${carried.map(({ name }) => name).join(', ')}. The
licences of the packages in /usr/lib/lxstow/node_modules are beside them.\n`,
    await readFile(join(root, 'LICENSE'), 'utf8'),
    ...carried.map(({ name, version, licenceText }) => `${name} ${version}\n\n${licenceText}`),
  ];
  await write('usr/share/doc/lxstow/copyright', licences.join('\n'));

  const systemd = join(packaging, 'systemd');
  await cp(systemd, await at('usr/lib/systemd/system'), {
    recursive: true,
    filter: (path) => !path.endsWith('.sysusers'),
  });
  await put(join(systemd, 'lxstow.sysusers'), 'usr/lib/sysusers.d/lxstow.conf');
  const completion = await run(process.execPath, [join(root, 'services/cli/main.ts'), 'completion', 'bash']);
  await write('usr/share/bash-completion/completions/lxstow', completion);
  await put(join(packaging, 'lxstow.yaml'), 'etc/lxstow/lxstow.yaml');
  await put(join(packaging, 'admin.env'), 'etc/lxstow/admin.env', 0o600);
  await mkdir(await at('etc/lxstow/credentials'), { mode: 0o700 });
  await mkdir(await at('etc/lxstow/trust'));

  const size = Number((await run('du', ['-sk', '--apparent-size', tree])).split('\t')[0]);
  await write(
    'DEBIAN/control',
    `Package: ${name}
Version: ${version}
Architecture: ${architecture.name}
Maintainer: lxstow <lxstow@localhost>
Installed-Size: ${size}
Depends: libc6 (>= 2.28), libstdc++6
Recommends: systemd (>= 250)
Section: admin
Priority: optional
Description: ${description}
 One command with a gateway that serves LXD's own REST API, workers that back up
 and restore instances, and a client. The package includes Node.js, nats-server,
 VersityGW and ISA-L. lxstow init sets up a machine that has LXD or Incus.
`,
  );
  await write('DEBIAN/conffiles', '/etc/lxstow/lxstow.yaml\n/etc/lxstow/admin.env\n');
  for (const script of ['postinst', 'prerm', 'postrm'])
    await put(join(packaging, 'deb', script), `DEBIAN/${script}`, 0o755);
  await run('chmod', ['-R', 'go-w', tree]);
  await assertMachine(library, architecture);
  const file = join(target, `${name}_${version}_${architecture.name}.deb`);
  await run('dpkg-deb', ['--root-owner-group', '-Zzstd', '-z9', '--build', tree, file]);
  console.log(file);
} finally {
  await rm(work, { recursive: true, force: true });
}

async function sha256Of(file: string): Promise<string> {
  return createHash('sha256')
    .update(await readFile(file))
    .digest('hex');
}
