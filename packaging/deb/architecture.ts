/** The architectures that the package is built for, on a machine of either: what a package of npm is there, and what a file of it must be. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, open, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../../test/lab/run.ts';

export interface Architecture {
  /** As dpkg, Go and the names of packages have it. */
  name: 'amd64' | 'arm64';
  /** As Node.js and npm have it. */
  cpu: 'x64' | 'arm64';
  /** Of an ELF file: `e_machine`. */
  machine: number;
}

const architectures: Architecture[] = [
  { name: 'amd64', cpu: 'x64', machine: 0x3e },
  { name: 'arm64', cpu: 'arm64', machine: 0xb7 },
];

export function architectureOf(name: string): Architecture {
  const known = architectures.find((each) => each.name === name);
  if (!known) throw new Error(`--arch ${name}: give ${architectures.map((each) => each.name).join(' or ')}`);
  return known;
}

/** A package of npm, unpacked below `folder`. Throws when it is not the one with this checksum. */
export async function fetchPackage(name: string, version: string, integrity: string, folder: string): Promise<string> {
  await mkdir(folder, { recursive: true });
  const archive = (await run('npm', ['pack', '--silent', `${name}@${version}`], { cwd: folder })).trim();
  const sum = createHash('sha512')
    .update(await readFile(join(folder, archive)))
    .digest('base64');
  if (`sha512-${sum}` !== integrity) throw new Error(`${name}@${version} has the sum sha512-${sum}, not ${integrity}`);
  await run('tar', ['-xzf', archive, '--no-same-owner'], { cwd: folder });
  return join(folder, 'package');
}

export interface LockedPackage {
  version: string;
  integrity: string;
  dev?: true;
  optional?: true;
  os?: string[];
  cpu?: string[];
}

/** Whether a package of package-lock.json belongs there: it is neither for development nor for others. */
export function isFor({ cpu }: Architecture, { dev, os, cpu: cpus }: LockedPackage): boolean {
  return !dev && (os?.includes('linux') ?? true) && (cpus?.includes(cpu) ?? true);
}

/** Where it is: installed here, or fetched. Undefined for one that `npm ci` could do without. */
export async function placeOf(
  path: string,
  { version, integrity, optional, cpu }: LockedPackage,
  root: string,
  folder: string,
): Promise<string | undefined> {
  const installed = join(root, path);
  if (existsSync(installed)) return installed;
  if (!cpu) {
    if (optional) return undefined;
    throw new Error(`${installed} is missing: run npm ci`);
  }
  return fetchPackage(path.replace(/^.*node_modules\//, ''), version, integrity, join(folder, path));
}

/** Throws when a program or library below `folder` is for another machine. */
export async function assertMachine(folder: string, { name, machine }: Architecture): Promise<void> {
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    await using file = await open(path);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(20), 0, 20, 0);
    const isElf = bytesRead === 20 && buffer.readUInt32BE(0) === 0x7f454c46;
    if (isElf && buffer.readUInt16LE(18) !== machine) throw new Error(`${path} is not for ${name}`);
  }
}
