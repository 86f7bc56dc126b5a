/** What the package carries besides Node.js: programs built from their Go modules, whose sums are in carried.json, and ISA-L. The lab's cache keeps them. */
import { existsSync } from 'node:fs';
import { glob, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { findPart, partsFolder } from '../../test/lab/findPart.ts';
import { run } from '../../test/lab/run.ts';
import carried from '../carried.json' with { type: 'json' };

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

/** Throws where there is no Go, or a module is not the one of carried.json. */
export async function goPrograms(): Promise<Carried[]> {
  const all: Carried[] = [];
  for (const [name, { version, module, command, sum, licence }] of Object.entries(carried)) {
    const { Sum, Dir } = JSON.parse(await run('go', ['mod', 'download', '-json', `${module}@v${version}`]));
    if (Sum !== sum) throw new Error(`${module}@v${version} has the sum ${Sum}, and carried.json ${sum}`);
    const isIt = async (path: string) =>
      (await run('go', ['version', '-m', path])).includes(`${module}\tv${version}\t${sum}`);
    // What the lab has built of the same module will do.
    const built = join(partsFolder(), `${name}-${version}`);
    const file = (await isIt(built).catch(() => false))
      ? built
      : await findPart(
          {
            name: `${name}-carried`,
            version,
            accepts: isIt,
            installers: [(folder) => build(`${command}@v${version}`, name, folder)],
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
async function build(command: string, name: string, folder: string): Promise<string> {
  log(`building ${command}; the first time this takes minutes`);
  const env = { ...process.env, CGO_ENABLED: '0', GOBIN: folder };
  await run('go', ['install', '-trimpath', '-ldflags', '-s -w', command], { env });
  return join(folder, name);
}

/** ISA-L of this machine's Debian, whose signature apt has verified. */
export async function isal(): Promise<Carried> {
  const folder = await findPart(
    {
      name: 'libisal2-carried',
      version: '1',
      accepts: async (path) => existsSync(join(path, 'usr/share/doc/libisal2/copyright')),
      installers: [
        async (into) => {
          await run('apt-get', ['download', '-q', 'libisal2'], { cwd: into });
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
