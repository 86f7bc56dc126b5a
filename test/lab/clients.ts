/** LXD's clients besides the `lxc` that a machine may have, installed into the lab's cache: pylxd from PyPI, Go programs with Go. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findTree } from './engines.ts';
import { onPath, partsFolder } from './findPart.ts';
import { withLock } from './lock.ts';
import { errorText, run } from './run.ts';

const pylxdVersion = '2.4.2';
const goFolder = fileURLToPath(new URL('../clients/go', import.meta.url));

/** What is found, or why there is none. */
export type Found = { path: string; missing?: undefined } | { path?: undefined; missing: string };

/** A Python that has pylxd. */
export function findPylxd(): Promise<Found> {
  return installed(`pylxd-${pylxdVersion}`, 'bin/python', async (folder) => {
    if (!onPath('python3')) throw new Error('no Python');
    await run('python3', ['-m', 'venv', folder]);
    await run(join(folder, 'bin/python'), ['-m', 'pip', 'install', '--quiet', `pylxd==${pylxdVersion}`]);
  });
}

/** Incus's client, which runs on any Debian: it needs nothing of its root filesystem but the C library, which is everywhere. */
export async function findIncus(): Promise<Found> {
  try {
    const path = join(await findTree('incus6', console.log), 'usr/bin/incus');
    await run(path, ['--version']);
    return { path };
  } catch (error) {
    return { missing: `incus does not run here: ${errorText(error)}` };
  }
}

/** test/clients/go itself. */
export const findDrive = () => findGoProgram('drive', '.');

/** LXD's own client, of a newer version than Debian's. */
export const findLxc = () => findGoProgram('lxc', 'github.com/canonical/lxd/lxc');

/** A program of test/clients/go, or one that its go.mod names. */
async function findGoProgram(name: string, path: string): Promise<Found> {
  const sources = await Promise.all(['go.mod', 'main.go'].map((file) => readFile(join(goFolder, file))));
  const hash = createHash('sha256').update(Buffer.concat(sources)).digest('hex').slice(0, 12);
  return installed(`${name}-${hash}`, name, async (folder) => {
    if (!onPath('go')) throw new Error('no Go');
    await run('go', ['build', '-o', join(folder, name), path], {
      cwd: goFolder,
      env: { ...process.env, CGO_ENABLED: '0' },
    });
  });
}

/** `file` in a folder of the cache that `install` fills. A venv cannot be moved: a file beside it says that it is whole. */
async function installed(name: string, file: string, install: (folder: string) => Promise<void>): Promise<Found> {
  const folder = join(partsFolder(), name);
  const path = join(folder, file);
  const whole = join(folder, '.whole');
  if (existsSync(whole)) return { path };
  return withLock(
    folder,
    () => undefined,
    undefined,
    async () => {
      if (existsSync(whole)) return { path };
      await rm(folder, { recursive: true, force: true });
      await mkdir(folder, { recursive: true });
      try {
        await install(folder);
        await mkdir(whole);
        return { path };
      } catch (error) {
        return { missing: `${name} cannot be installed: ${errorText(error)}` };
      }
    },
  );
}
