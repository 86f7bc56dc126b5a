import { randomBytes } from 'node:crypto';
import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { openCage } from './cage.ts';
import { type CagedEngine, cageOf } from './engines.ts';
import { onPath } from './findPart.ts';
import type { LabFolder } from './folder.ts';
import { type Daemon, startDaemon } from './processes.ts';
import { type RunOptions, run } from './run.ts';
import { makeTools, type Tools } from './tools.ts';

interface LxcOptions extends RunOptions {
  /** Instead of the lab's own. Not for `lxc query`, which wants it in the URL, nor with `--all-projects`. */
  project?: string;
}

/** Runs lxc and returns what it printed. Throws with its standard error. */
export type Lxc = (args: string[], options?: LxcOptions) => Promise<string>;

/** A daemon, and the names in it that are the lab's to use. */
export interface LxdPlace {
  daemon: Daemon;
  lxc: Lxc;
  socket: string;
  /** LXD_DIR. */
  dir: string;
  /** Where this process finds what the daemon sees as `dir`. */
  visibleDir: string;
  project: string;
  pool: string;
  dirPool: string;
  /** None in a daemon that is not ours. */
  tools?: Tools;
}

/** Our own LXD project besides `default`, which shares its images and profiles. */
const secondProject = [
  ...['project', 'create', 'lxstow-lab', '--config', 'features.images=false'],
  ...['--config', 'features.profiles=false'],
];

/** An engine in a root filesystem of its own; its state is below the folder, whose removal ends it. */
export async function cagedLxd(
  engine: CagedEngine,
  tree: string,
  folder: LabFolder,
  signal?: AbortSignal,
): Promise<LxdPlace> {
  const { daemon: binary, client, prefix } = cageOf(engine);
  const cage = await openCage(tree, folder, signal);
  const dir = join(folder.path, 'lxd');
  await mkdir(dir);
  const tools = await makeTools(folder, (tool) => join('/usr/bin', tool));
  const launcher = await forVirtualMachines(folder);
  const env = {
    PATH: `${tools.folder}:${cage.path}`,
    [`${prefix}_DIR`]: dir,
    [`${prefix}_CONF`]: join(folder.path, 'conf'),
  };
  const daemon = await startDaemon({
    ...cage.enter('perl', [...launcher, binary, '--group', 'root']),
    folder,
    env,
    async ready(signal) {
      const { command, args } = cage.enter(binary, ['waitready']);
      await run(command, args, { env: { ...folder.env, ...env }, signal });
    },
    signal,
  });
  const lxc: Lxc = (given, { project = 'default', ...options } = {}) => {
    const words = given[0] === 'snapshot' && prefix === 'INCUS' ? ['snapshot', 'create', ...given.slice(1)] : given;
    const { command, args } = cage.enter(client, ['-q', ...projectFlags(given, project), ...words]);
    return run(command, args, { env: { ...folder.env, ...env }, ...options });
  };
  await lxc(secondProject);
  const visibleDir = cage.visible(dir);
  const socket = join(dir, 'unix.socket');
  return { daemon, lxc, socket, dir, visibleDir, project: 'default', pool: 'bt', dirPool: 'dirpool', tools };
}

/** What perl starts the daemon with, so that it makes virtual machines, without any help of the kernel's: those that are not started need none. */
async function forVirtualMachines(folder: LabFolder): Promise<string[]> {
  const programs = join(folder.path, 'programs-for-machines');
  await mkdir(programs);
  // It asks for vhost_vsock so.
  await writeFile(join(programs, 'modprobe'), '#!/bin/sh\n', { mode: 0o755 });
  const script = join(programs, 'withoutVsock.pl');
  await copyFile(new URL('withoutVsock.pl', import.meta.url), script);
  return [script, programs];
}

/** A daemon of our own below the folder. */
export async function ownLxd(folder: LabFolder, signal?: AbortSignal): Promise<LxdPlace> {
  const dir = join(folder.path, 'lxd');
  await mkdir(dir);
  const tools = await makeTools(folder, (tool) => onPath(tool) ?? tool);
  const env = { PATH: `${tools.folder}:${process.env.PATH}`, LXD_DIR: dir };
  const daemon = await startDaemon({
    command: 'lxd',
    args: ['--group', 'root'],
    folder,
    env,
    async ready(signal) {
      await run('lxd', ['waitready'], { env: { ...folder.env, ...env }, signal });
    },
    signal,
  });
  const socket = join(dir, 'unix.socket');
  const lxc = lxcFor(socket, 'default', folder);
  await lxc(secondProject);
  return { daemon, lxc, socket, dir, visibleDir: dir, project: 'default', pool: 'bt', dirPool: 'dirpool', tools };
}

/** A new project, with images and profiles of its own, in a daemon that is not ours; the folder's removal ends it. */
export async function projectInLxd(socket: string, folder: LabFolder): Promise<LxdPlace> {
  const project = `lxstow-lab-${randomBytes(3).toString('hex')}`;
  const [pool, dirPool] = [`${project}-bt`, `${project}-dir`];
  const lxc = lxcFor(socket, project, folder);
  const { environment } = JSON.parse(await lxc(['query', '/1.0']));
  await folder.setUndo(`set -e
export LXD_SOCKET='${socket}' LXD_CONF='${folder.path}/conf'
lxc() { command lxc -q "$@" </dev/null; }
if lxc project show ${project} >/dev/null 2>&1; then
  for name in $(lxc list --project ${project} -f csv -c n); do lxc delete --project ${project} --force "$name"; done
  for image in $(lxc image list --project ${project} -f csv -c f); do lxc image delete --project ${project} "$image"; done
  lxc project delete ${project}
fi
for pool in ${pool} ${dirPool}; do
  if lxc storage show $pool >/dev/null 2>&1; then lxc storage delete $pool; fi
done
`);
  await lxc(['project', 'create', project]);
  const dir = dirname(socket);
  // The daemon may have a mount namespace of its own, as the snap has.
  const visibleDir = `/proc/${environment.server_pid}/root${dir}`;
  return { daemon: somebodysDaemon(environment.server_pid), lxc, socket, dir, visibleDir, project, pool, dirPool };
}

function lxcFor(socket: string, ownProject: string, folder: LabFolder): Lxc {
  const env = { ...folder.env, LXD_SOCKET: socket, LXD_CONF: join(folder.path, 'conf') };
  return (args, { project = ownProject, ...options } = {}) =>
    run('lxc', ['-q', ...projectFlags(args, project), ...args], { env, ...options });
}

function projectFlags(args: string[], project: string): string[] {
  const namesItself = args[0] === 'query' || args.includes('--all-projects');
  return namesItself ? [] : ['--project', project];
}

function somebodysDaemon(pid: number): Daemon {
  const refuse = () =>
    Promise.reject(new Error('this LXD is not the lab’s own: it may not be killed, stopped or started'));
  return { pid, isRunning: true, kill: refuse, stop: refuse, start: refuse };
}
