/** What the package carries: Node.js, programs built from their Go modules, and ISA-L. carried.json has the sums. The lab's cache keeps them. */
import { existsSync } from 'node:fs';
import { glob, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { downloadPackage } from '../../test/lab/debian.ts';
import { findPart, partsFolder } from '../../test/lab/findPart.ts';
import { run } from '../../test/lab/run.ts';
import carriedJson from '../carried.json' with { type: 'json' };
import { type Architecture, fetchPackage } from './architecture.ts';

interface Carried {
  name: string;
  version: string;
  /** Where it is from, with the checksum that was verified. */
  source: string;
  licence: string;
  file: string;
  /** The whole text of its licence. */
  licenceText: string;
}

const log = (line: string) => void process.stderr.write(`${line}\n`);

const { node, ...programs } = carriedJson;

/** Throws when Node.js is not the one of carried.json. */
export async function nodeFor({ name, cpu }: Architecture): Promise<Carried> {
  if (process.versions.node !== node.version)
    throw new Error(`this is Node.js ${process.versions.node}, and carried.json has ${node.version}`);
  const npm = `node-linux-${cpu}`;
  const folder = await findPart(
    {
      name: `${npm}-carried`,
      version: node.version,
      accepts: async (path) => existsSync(join(path, 'bin/node')),
      installers: [(into) => fetchPackage(npm, node.version, node.integrity[name], into)],
    },
    log,
  );
  return {
    name: 'node',
    version: node.version,
    source: `npm's package ${npm}@${node.version} ${node.integrity[name]}`,
    licence: node.licence,
    file: join(folder, 'bin/node'),
    licenceText: await readFile(join(folder, 'LICENSE'), 'utf8'),
  };
}

/** Throws where there is no Go, or a module is not the one of carried.json. */
export async function goPrograms(architecture: Architecture): Promise<Carried[]> {
  const all: Carried[] = [];
  for (const [name, { version, module, command, sum, licence }] of Object.entries(programs)) {
    const { Sum, Dir } = JSON.parse(await run('go', ['mod', 'download', '-json', `${module}@v${version}`]));
    if (Sum !== sum) throw new Error(`${module}@v${version} has the sum ${Sum}, and carried.json ${sum}`);
    const isIt = async (path: string) => {
      const built = await run('go', ['version', '-m', path]);
      return built.includes(`${module}\tv${version}\t${sum}`) && built.includes(`\tGOARCH=${architecture.name}\n`);
    };
    // What the lab has built of the same module will do.
    const built = join(partsFolder(), `${name}-${version}`);
    const file = (await isIt(built).catch(() => false))
      ? built
      : await findPart(
          {
            name: `${name}-carried-${architecture.name}`,
            version,
            accepts: isIt,
            installers: [(folder) => build(`${command}@v${version}`, name, architecture, folder)],
          },
          log,
        );
    all.push({
      name,
      version,
      source: `${module}@v${version} ${sum}`,
      licence,
      file,
      licenceText: await readFile(join(Dir, 'LICENSE'), 'utf8'),
    });
  }
  return all;
}

/** Static, so that it runs on every Linux. The sums of what it depends on are in its go.sum. */
async function build(command: string, name: string, architecture: Architecture, folder: string): Promise<string> {
  log(`building ${command} for ${architecture.name}; the first time this takes minutes`);
  const modules = (await run('go', ['env', 'GOMODCACHE'])).trim();
  // For another architecture, Go refuses GOBIN.
  const there = { GOPATH: folder, GOMODCACHE: modules, GOBIN: '', GOOS: 'linux', GOARCH: architecture.name };
  const env = { ...process.env, ...there, CGO_ENABLED: '0' };
  await run('go', ['install', '-trimpath', '-ldflags', '-s -w', command], { env });
  for await (const built of glob([`bin/${name}`, `bin/*/${name}`], { cwd: folder })) return join(folder, built);
  throw new Error(`go install ${command} has left no ${name}`);
}

/** ISA-L of this machine's Debian, whose signature apt has verified. */
export async function isal({ name: architecture }: Architecture): Promise<Carried> {
  const folder = await findPart(
    {
      name: `libisal2-carried-${architecture}`,
      version: '1',
      accepts: async (path) => existsSync(join(path, 'usr/share/doc/libisal2/copyright')),
      installers: [
        async (into) => {
          await downloadPackage('libisal2', architecture, into);
          const archive = (await readdir(into)).find((name) => name.endsWith('.deb')) ?? '';
          await run('dpkg-deb', ['-R', archive, 'content'], { cwd: into });
          return join(into, 'content');
        },
      ],
    },
    log,
  );
  const control = await readFile(join(folder, 'DEBIAN/control'), 'utf8');
  const version = /^Version: (.+)$/m.exec(control)?.[1] ?? '';
  let file = '';
  for await (const found of glob('usr/lib/*/libisal.so.2.*', { cwd: folder })) file = join(folder, found);
  return {
    name: 'libisal.so.2',
    version,
    source: `Debian's package libisal2 ${version}`,
    licence: 'BSD-3-Clause',
    file,
    licenceText: await readFile(join(folder, 'usr/share/doc/libisal2/copyright'), 'utf8'),
  };
}
