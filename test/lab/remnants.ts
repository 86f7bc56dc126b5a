import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { attempt } from './run.ts';

/** In the environment of what is started for a folder, and so of its children: how they are all found again. */
export const mark = 'LXSTOW_LAB_FOLDER';
/** liblxc's monitor removes its container's cgroups once the container is dead; it has never needed a second. */
const monitorGraceMs = 5_000;
/** A killed process that waits for a disk ends only when the disk has answered. */
const endTimeoutMs = 60_000;

/** When a process started, in ticks since the machine did; 0 if it is gone, a zombie, or there is no /proc. */
export function startOf(pid: number): number {
  return statOf(pid)?.start ?? 0;
}

/** Whether the process still runs that had this number and start: numbers are used again. */
export function isAlive(pid: number, start: number): boolean {
  if (start > 0) return startOf(pid) === start;
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** Kills every process that carries the folder's mark, and their descendants; resolves when they are gone. */
export async function endMarked(folder: string): Promise<void> {
  const started = Date.now();
  // Who is killed may have started others meanwhile: they are looked for again when it is gone.
  for (let found = markedBy(folder); found.length > 0; found = markedBy(folder)) {
    for (let left = found; left.length > 0; left = left.filter(({ pid, start }) => startOf(pid) === start)) {
      const elapsedMs = Date.now() - started;
      const pids = left.map(({ pid }) => pid);
      if (elapsedMs > endTimeoutMs) throw new Error(`cannot end process ${pids.join(', ')}`);
      for (const pid of pids) {
        const isMonitor = read(`/proc/${pid}/cmdline`).startsWith('[lxc monitor]');
        if (!isMonitor || elapsedMs > monitorGraceMs) kill(pid);
      }
      await delay(20); // they need not be our children: there is no event to wait for
    }
  }
}

/** Unmounts everything below the folder, innermost first. */
export async function unmountBelow(folder: string): Promise<void> {
  for (const flags of [[], ['-l']]) {
    for (const mount of mountsBelow(folder)) await attempt('umount', [...flags, mount]);
  }
  const left = mountsBelow(folder);
  if (left.length > 0) throw new Error(`cannot unmount ${left.join(', ')}`);
}

/** Detaches loop devices on files below the folder. Most go with their mount; a crash can leave one. */
export async function detachLoops(folder: string): Promise<void> {
  for (const name of list('/sys/block')) {
    const file = read(`/sys/block/${name}/loop/backing_file`);
    if (file.startsWith(`${folder}/`)) await attempt('losetup', ['-d', `/dev/${name}`]);
  }
}

/** Incus starts a container's monitor with nothing but PATH and INCUS_DIR in its environment. */
function markedBy(folder: string): { pid: number; start: number }[] {
  const stats = new Map<number, { parent: number; start: number }>();
  const marked = new Set<number>();
  for (const pid of list('/proc').map(Number)) {
    const stat = statOf(pid);
    if (!stat) continue;
    stats.set(pid, stat);
    const environment = read(`/proc/${pid}/environ`).split('\0');
    if (environment.some((variable) => variable === `${mark}=${folder}` || variable.startsWith(`INCUS_DIR=${folder}/`)))
      marked.add(pid);
  }
  const isMarked = (pid = 0): boolean => pid > 1 && (marked.has(pid) || isMarked(stats.get(pid)?.parent));
  return [...stats].filter(([pid]) => pid !== process.pid && isMarked(pid)).map(([pid, { start }]) => ({ pid, start }));
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

/** From proc_pid_stat(5), where the command, in parentheses, may hold anything. Undefined for a zombie. */
function statOf(pid: number): { parent: number; start: number } | undefined {
  const [state, parent, ...rest] = read(`/proc/${pid}/stat`).split(') ').at(-1)?.split(' ') ?? [];
  return state && state !== 'Z' ? { parent: Number(parent), start: Number(rest[17]) } : undefined;
}

function mountsBelow(folder: string): string[] {
  return read('/proc/self/mountinfo')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((mount) => mount.startsWith(`${folder}/`))
    .reverse();
}

/** Entries of a folder below /proc or /sys; none where there is no such folder. */
function list(path: string): string[] {
  return existsSync(path) ? readdirSync(path) : [];
}

/** Text of a file below /proc or /sys; empty when it is gone or not ours to read. */
function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
