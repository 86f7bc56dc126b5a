/**
 * Holds services/ against the table of floors in docs/architecture.md, and finds exports that nothing imports: `node docs/layout.ts`, part of
 * `npm run check`. Circles are Biome's: noImportCycles.
 */
import { glob, readFile } from 'node:fs/promises';
import { basename, dirname, join, normalize } from 'node:path/posix';

/** Folders of many files that are each one of a kind: names may be those of other folders' files. */
const ofAKind = ['routes', 'commands', 'doctor'];
/** Programs: only their main.ts is imported from elsewhere. */
const programs = ['gateway', 'worker'];
/** What is imported from outside of services/, and by whom. */
const outside = { folder: 'contract', paths: /^(schemas\/|package\.json$|packaging\/carried\.json$)/ };

const row = /^\| `([a-z]\w*)\/?` \|/i;

/** The folders of services/, from the top floor down, as the page has them. */
export function floorsIn(page: string): string[] {
  const section = page.split(/^## /m).find((each) => each.startsWith('Floors\n')) ?? '';
  return section.split('\n').flatMap((line) => row.exec(line)?.[1] ?? []);
}

/** What is wrong, a sentence each. `files`: path and text of each file in services/. */
export function faultsOfLayout(files: Map<string, string>, floors: string[]): string[] {
  const faults: string[] = [];
  const byName = Map.groupBy(files.keys(), (path) => basename(path));
  for (const [name, paths] of byName) {
    const free = (path: string) => ofAKind.some((folder) => path.split('/').includes(folder));
    if (name !== 'main.ts' && paths.filter((path) => !free(path)).length > 1)
      faults.push(`${paths.join(' and ')}: a file name is used once`);
  }
  const folders = new Set([...files.keys()].map(folderOf));
  for (const folder of folders)
    if (!floors.includes(folder)) faults.push(`services/${folder}: not in docs/architecture.md's table of floors`);
  for (const folder of floors) if (!folders.has(folder)) faults.push(`services/${folder}: a floor without files`);
  for (const [path, text] of files)
    for (const target of importsOf(path, text)) {
      const why = refused(folderOf(path), target, floors);
      if (why) faults.push(`${path} imports ${target}: ${why}`);
    }
  return faults;
}

function refused(from: string, target: string, floors: string[]): string | undefined {
  if (!target.startsWith('services/')) {
    if (from === outside.folder && outside.paths.test(target)) return undefined;
    return `of what is outside of services/, only ${outside.folder} imports, and only schemas, package.json and packaging/carried.json`;
  }
  const to = folderOf(target);
  if (to === from) return undefined;
  if (floors.indexOf(to) < floors.indexOf(from)) return `${to} stands above ${from}`;
  if (programs.includes(to) && target !== `services/${to}/main.ts`) return `${to} is a program, and not a library`;
  return undefined;
}

/** `services/gateway/http/requests.ts` is in `gateway`; a file that is loose has none, and is named itself. */
function folderOf(path: string): string {
  return path.split('/')[1] ?? path;
}

/** Each relative path of a module in the file: static, dynamic, of a type, or a thread's. */
function importsOf(path: string, text: string): string[] {
  return [...text.matchAll(/['"](\.{1,2}\/[^'"\s]+\.(?:ts|json))['"]/g)].map(([, found = '']) =>
    normalize(join(dirname(path), found)),
  );
}

/** Used by Node, which takes the file from its command line. */
const usedByNode = ['globalSetup'];

/** The names that a file exports and no file that imports it uses, a sentence each. `files`: path and text of each file in the repository. */
export function needlessExports(files: Map<string, string>): string[] {
  const importers = Map.groupBy(
    [...files].flatMap(([path, text]) => {
      const words = new Set(text.match(/\w+/g));
      return importsOf(path, text).map((target) => ({ target, words }));
    }),
    ({ target }) => target,
  );
  return [...files].flatMap(([path, text]) =>
    [...text.matchAll(/^export (?:abstract |async )*(?:class|const|function\*?|interface|type) (\w+)/gm)]
      .filter(
        ([, name = '']) => !usedByNode.includes(name) && !importers.get(path)?.some(({ words }) => words.has(name)),
      )
      .map(([, name]) => `${path}: ${name} is exported, but no other file uses it`),
  );
}

if (import.meta.main) {
  const root = join(import.meta.dirname, '..');
  const all = new Map<string, string>();
  for await (const path of glob('{services,test,docs,schemas,packaging}/**/*.{ts,mjs}', { cwd: root }))
    if (path !== 'schemas/types.ts') all.set(path, await readFile(join(root, path), 'utf8'));
  const services = new Map([...all].filter(([path]) => path.startsWith('services/')));
  const floors = floorsIn(await readFile(join(root, 'docs/architecture.md'), 'utf8'));
  const faults = [...faultsOfLayout(services, floors), ...needlessExports(all)];
  for (const fault of faults) console.error(fault);
  if (faults.length > 0) process.exit(1);
}
