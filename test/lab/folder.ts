import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, statSync } from 'node:fs';
import { chmod, rm, writeFile } from 'node:fs/promises';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { withLock } from './lock.ts';
import { detachLoops, endMarked, isAlive, mark, startOf, unmountBelow } from './remnants.ts';
import { errorText, type Log, run } from './run.ts';

/** On disk where there is one: /tmp may be memory, and a pool or a bucket can be large. */
const folderRoot = existsSync('/var/tmp') ? '/var/tmp' : tmpdir();
/** Name of a folder: word, process and its start, random. It says whose it is from the moment it exists. */
const folderName = /^lxstow-lab-[\w-]+-(?<pid>\d+)\.(?<start>\d+)-\w+$/;

export interface LabFolder extends AsyncDisposable {
  readonly path: string;
  /** What a process must be started with to belong to this folder, and be ended with it. */
  readonly env: NodeJS.ProcessEnv;
  /** Commands for `sh` that undo what is about to be made outside of the folder; they run first when it is removed. */
  setUndo(script: string): Promise<void>;
}

/**
 * A new folder below /var/tmp that goes away with all that runs and is mounted in it: when it is disposed of, or else
 * when this process ends, in whatever way; after a SIGKILL, when the next lab folder is opened.
 */
export async function openFolder(name: string, log: Log): Promise<LabFolder> {
  // A path to a Unix socket in there may have 107 bytes at most (unix(7)).
  if (!/^[\w-]{1,32}$/.test(name)) throw new Error(`"${name}" is no name for a lab folder`);
  await sweep(log);
  const path = mkdtempSync(join(folderRoot, `lxstow-lab-${name}-${process.pid}.${startOf(process.pid)}-`));
  opened.add(path);
  if (!process.listeners('exit').includes(removeOpened)) process.on('exit', removeOpened);
  exitOnSignals();
  await chmod(path, 0o711); // an unprivileged container's root must get through
  return {
    path,
    env: { ...process.env, [mark]: path },
    setUndo: (script) => writeFile(join(path, 'undo.sh'), script),
    async [Symbol.asyncDispose]() {
      await removeFolder(path);
      opened.delete(path);
    },
  };
}

/** Those of this process. One listener for all of them: Node warns of more than ten. */
const opened = new Set<string>();

function removeOpened(): void {
  for (const path of opened)
    spawnSync(process.execPath, [fileURLToPath(new URL('sweep.ts', import.meta.url)), path], { stdio: 'inherit' });
}

/** Removes the folders of labs whose process is gone. */
export async function sweep(log: Log): Promise<void> {
  if (orphans().length === 0) return;
  await withLock('sweep', log, undefined, async () => {
    for (const path of orphans()) {
      log(`removing ${path}, left by a lab that was killed`);
      await removeFolder(path).catch((error) => log(`cannot remove ${path}: ${errorText(error)}`));
    }
  });
}

/** Ends what runs in the folder, unmounts what is mounted in it, and removes it; nothing, if that has been done. */
export async function removeFolder(path: string): Promise<void> {
  if (existsSync(join(path, 'undo.sh'))) await run('sh', [join(path, 'undo.sh')]);
  await endMarked(path);
  await unmountBelow(path);
  await detachLoops(path);
  await rm(path, { recursive: true, force: true, maxRetries: 3 });
  await rm(join('/run/lxc/lock', path), { recursive: true, force: true }); // liblxc's, one for each LXD_DIR
}

/** Folders whose process is gone, as far as this user may remove them: root may remove everybody's. */
function orphans(): string[] {
  const user = process.getuid?.();
  return readdirSync(folderRoot).flatMap((name) => {
    const owner = folderName.exec(name)?.groups;
    const path = join(folderRoot, name);
    if (!owner || isAlive(Number(owner.pid), Number(owner.start))) return [];
    const isMine = user === 0 || statSync(path, { throwIfNoEntry: false })?.uid === user;
    return isMine ? [path] : [];
  });
}

/** Without a handler a signal ends Node at once and no `exit` event runs. */
function exitOnSignals(): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    if (!process.listeners(signal).includes(exitUnlessHandled)) process.on(signal, exitUnlessHandled);
  }
}

/** A program that has a handler of its own decides itself when to end. */
function exitUnlessHandled(signal: NodeJS.Signals): void {
  if (process.listenerCount(signal) === 1) process.exit(128 + constants.signals[signal]);
}
