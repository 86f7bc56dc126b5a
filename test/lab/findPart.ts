/** Programs that the lab needs: found on PATH or in the cache, else installed into it. */
import { existsSync } from 'node:fs';
import { chmod, mkdir, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';
import { withLock } from './lock.ts';
import { errorText, type Log } from './run.ts';

/** Where installed parts stay, for every clone on this machine. */
export function partsFolder(): string {
  return process.env.LXSTOW_LAB_DIR ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'lxstow-lab');
}

export interface Part {
  name: string;
  version: string;
  /** Whether the binary at this path will do; may throw when it does not even run. */
  accepts(path: string): Promise<boolean>;
  installers: Installer[];
}

/** Puts the binary somewhere below `folder`, which is empty and goes away afterwards, and says where. */
export type Installer = (folder: string, log: Log, signal?: AbortSignal) => Promise<string>;

/** Where it is once it is installed. */
export function cacheOf({ name, version }: Pick<Part, 'name' | 'version'>): string {
  return join(partsFolder(), `${name}-${version.replace(/^v/, '')}`);
}

/** The part's path: from PATH, from the cache, or put there now by the first of its installers that can. */
export async function findPart(part: Part, log: Log, signal?: AbortSignal): Promise<string> {
  const installed = onPath(part.name);
  if (installed && (await part.accepts(installed).catch(() => false))) return installed;
  const cached = cacheOf(part);
  if (existsSync(cached)) return cached; // it was tried before it was put there
  await mkdir(partsFolder(), { recursive: true });
  return withLock(cached, log, signal, async () => {
    if (existsSync(cached)) return cached;
    const reasons: string[] = [];
    for (const install of part.installers) {
      const folder = `${cached}.partial`;
      await rm(folder, { recursive: true, force: true }); // left by one that was killed
      await mkdir(folder);
      try {
        const built = await install(folder, log, signal);
        await chmod(built, 0o755);
        if (!(await part.accepts(built))) throw new Error('what was installed does not run here');
        await rename(built, cached);
        return cached;
      } catch (error) {
        signal?.throwIfAborted();
        reasons.push(errorText(error));
      } finally {
        await rm(folder, { recursive: true, force: true });
      }
    }
    throw new Error(`${part.name} ${part.version} cannot be installed: ${reasons.join('; ')}`);
  });
}

/** The first executable of that name on PATH. */
export function onPath(name: string): string | undefined {
  const folders = (process.env.PATH ?? '').split(delimiter).filter(Boolean);
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}
