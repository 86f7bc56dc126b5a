/** An LXD for machines that cannot run one, and for what a real one cannot be made to do. What it is to do, test/contract/lxd.ts says. */
import { once } from 'node:events';
import { mkdir, rm } from 'node:fs/promises';
import type { Server } from 'node:http';
import { join } from 'node:path';
import { writeData } from '../lab/data.ts';
import { fingerprintOf } from '../lab/fingerprint.ts';
import { openFolder } from '../lab/folder.ts';
import { type Log, run } from '../lab/run.ts';
import { backupRoutes } from './backups.ts';
import { catalogRoutes, simulatedVersion, startThoseThatRan } from './catalog.ts';
import { Faults } from './faults.ts';
import { importRoutes, writeBackupYaml } from './imports.ts';
import { type Dialect, Operations, operationRoutes, usualDialect } from './operations.ts';
import { writeVolume } from './rootfs.ts';
import { lxdServer } from './server.ts';
import { type Config, type Profile, State } from './state.ts';

interface SimulatorOptions {
  /** LXD_DIR; a folder of its own, removed at the end, without it. */
  dir?: string;
  /** False: instances are names and configuration only, for models. */
  files?: boolean;
  log?: Log;
}

interface InstanceOptions {
  project?: string;
  config?: Config;
  /** `default` unless told. */
  profiles?: string[];
  /** That of the profiles unless told. */
  pool?: string;
  /** Size of the files in /data, besides 9 MB; none unless told. */
  dataMiB?: number;
}

export interface LxdSimulator extends AsyncDisposable {
  readonly socket: string;
  /** LXD_DIR. */
  readonly dir: string;
  readonly version: string;
  /** Of driver btrfs; the default profile's root disk is there. */
  readonly pool: string;
  /** Of driver dir, and so without optimized backups. */
  readonly dirPool: string;
  readonly faults: Faults;
  /** What it has, past its API. */
  readonly state: State;
  /** Debian 12's unless a test changes it. */
  readonly dialect: Dialect;
  /** Makes an instance that runs. Returns the path of its root filesystem, which may be written to. */
  createInstance(name: string, options?: InstanceOptions): Promise<string>;
  snapshot(name: string, snapshot: string, project?: string): Promise<void>;
  /** Running or not. */
  deleteInstance(name: string, project?: string): Promise<void>;
  rootfs(name: string, project?: string): string;
  /** See fingerprintOf(). */
  fingerprint(name: string, project?: string): Promise<Map<string, string>>;
  /** With `features.profiles` `false` it uses the default project's profiles, else it has its own. */
  addProject(name: string, config?: Config): void;
  addProfile(profile: Partial<Profile> & { name: string }, project?: string): void;
  deleteProfile(name: string, project?: string): void;
  /** Ends like a daemon that is killed: connections and operations are lost, what they were making stays half made. */
  stop(): Promise<void>;
  /** Starts again with the instances and backups that were there; like LXD it starts those that ran. */
  start(): Promise<void>;
}

/** Starts a simulated LXD on a socket of its own. It needs GNU tar; owners are kept as root only. */
export async function startSimulator({
  dir,
  files = true,
  log = () => undefined,
}: SimulatorOptions = {}): Promise<LxdSimulator> {
  await using opening = new AsyncDisposableStack();
  const lxdDir = dir ?? opening.use(await openFolder('simulator', log)).path;
  const state = new State(lxdDir, files);
  await state.makeFolders();
  const faults = new Faults();
  const dialect: Dialect = { ...usualDialect };
  const socket = join(lxdDir, 'unix.socket');
  let daemon = await listen(state, faults, dialect, socket, log);
  opening.defer(() => daemon.stop());
  const owned = opening.move();
  const rootfs = (name: string, project = 'default') => join(state.volume(state.instance(name, project)), 'rootfs');
  return {
    socket,
    dir: lxdDir,
    version: simulatedVersion,
    pool: 'bt',
    dirPool: 'dirpool',
    faults,
    state,
    dialect,
    async createInstance(name, { project = 'default', config = {}, profiles = ['default'], pool, dataMiB = 0 } = {}) {
      const devices = pool ? { root: { path: '/', pool, type: 'disk' } } : undefined;
      const instance = state.newInstance(name, { project, config, profiles, devices: devices ?? {} });
      const volume = state.volume(instance);
      await mkdir(volume);
      await writeVolume(volume, name);
      const [uid, gid] = [process.getuid?.() ?? 0, process.getgid?.() ?? 0];
      if (dataMiB > 0)
        await writeData(join(volume, 'rootfs/data'), { sizeMiB: dataMiB, kind: 'mixed', seed: name, uid, gid });
      instance.isRunning = true;
      instance.config['volatile.last_state.power'] = 'RUNNING';
      await writeBackupYaml(state, instance);
      await state.makeLink(instance);
      state.addInstance(instance);
      return join(volume, 'rootfs');
    },
    async snapshot(name, snapshot, project = 'default') {
      const instance = state.instance(name, project);
      await mkdir(state.snapshotVolume(instance, ''), { recursive: true });
      await run('cp', ['-a', state.volume(instance), state.snapshotVolume(instance, snapshot)]);
      instance.snapshots.push(snapshot);
    },
    deleteInstance: (name, project = 'default') => state.removeInstance(state.instance(name, project)),
    rootfs,
    fingerprint: (name, project) => fingerprintOf(rootfs(name, project)),
    addProject: (name, config) => state.addProject(name, config),
    addProfile: (profile, project) => state.addProfile(profile, project),
    deleteProfile: (name, project = 'default') => void state.profiles(project).delete(name),
    stop: () => daemon.stop(),
    async start() {
      state.restarts += 1;
      await startThoseThatRan(state, log);
      daemon = await listen(state, faults, dialect, socket, log);
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** What a daemon has only while it runs. */
async function listen(
  state: State,
  faults: Faults,
  dialect: Dialect,
  socket: string,
  log: Log,
): Promise<{ stop(): Promise<void> }> {
  const operations = new Operations();
  const stopping = new AbortController();
  const { signal } = stopping;
  const routes = {
    ...catalogRoutes(state, operations, dialect),
    ...backupRoutes(state, operations, faults, dialect, signal),
    ...importRoutes(state, operations, faults, dialect, signal),
    ...operationRoutes(operations, dialect),
  };
  await rm(socket, { force: true });
  const server = lxdServer(routes, faults, log).listen(socket);
  await once(server, 'listening');
  return {
    async stop() {
      if (!server.listening) return;
      stopping.abort(new Error('LXD was stopped'));
      await close(server);
      await operations.forget();
    },
  };
}

async function close(server: Server): Promise<void> {
  const closed = once(server, 'close');
  server.close();
  server.closeAllConnections();
  await closed;
}
