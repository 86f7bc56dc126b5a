import { mkdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type DataKind, writeData } from './data.ts';
import { defaultEngine, type Engine, findTree, titleOf } from './engines.ts';
import { fingerprintOf } from './fingerprint.ts';
import { type LabFolder, openFolder } from './folder.ts';
import { buildImage } from './image.ts';
import { cagedLxd, type Lxc, type LxdPlace, ownLxd, projectInLxd } from './lxdPlace.ts';
import { describeDisks, writeDisk } from './machines.ts';
import type { Daemon } from './processes.ts';
import { errorText, type Log } from './run.ts';
import type { Held, Tool } from './tools.ts';

/** Far more than LXD needs to delete what a test leaves; after it the processes are ended all the same. */
const deleteTimeoutMs = 30_000;

interface LxdOptions {
  log: Log;
  name: string;
  /** That of LXSTOW_LAB_ENGINE unless told, else the machine's own LXD. findLxd() says whether it can be had. */
  engine?: Engine;
  /** Size of the btrfs pool's file, which is sparse; 6 GiB unless told. */
  poolSizeGiB?: number;
  signal?: AbortSignal;
}

interface LaunchOptions {
  project?: string;
  pool?: string;
  /** Yes unless told otherwise: not every kernel lets a container have users of its own. */
  privileged?: boolean;
  /** Size of the files in /data, besides the image's 10 MB; none unless told. */
  dataMiB?: number;
  kind?: DataKind;
}

interface MachineOptions {
  project?: string;
  pool?: string;
  diskMiB: number;
  /** Random bytes at the beginning of its disk; the rest is zeros. */
  dataMiB: number;
}

/** A real LXD or Incus with the image `bb` (busybox, see buildImage()) and nothing else. */
export interface LabLxd extends Daemon, AsyncDisposable {
  readonly engine: Engine;
  readonly socket: string;
  /** LXD_DIR. */
  readonly dir: string;
  /** Where this process finds what the daemon sees as `dir`. */
  readonly visibleDir: string;
  readonly version: string;
  /** On btrfs; the default profile's root disk is there. `bt` in a daemon of our own. */
  readonly pool: string;
  /** On plain directories, and so without optimized backups. `dirpool` in a daemon of our own. */
  readonly dirPool: string;
  /** Where everything goes unless told otherwise: `default`, or our own one in somebody's daemon. */
  readonly project: string;
  readonly lxc: Lxc;
  /** Has the programs that LXD runs wait before they begin. Throws for a daemon that is not ours. */
  hold(tool: Tool): Promise<Held>;
  /** Creates a container, fills its /data with files that depend on name, size and kind only, and starts it. */
  launch(name: string, options?: LaunchOptions): Promise<void>;
  /** Why it makes no virtual machines, in a sentence; undefined where it does. */
  readonly noMachines: string | undefined;
  /** Creates a virtual machine, which is not started: it has nothing to boot. Its disk depends on name and sizes only. */
  createMachine(name: string, options: MachineOptions): Promise<void>;
  /** See fingerprintOf(); of a virtual machine its disk and those of its snapshots. The instance may run or be stopped, but should not be writing. */
  fingerprint(name: string, project?: string): Promise<Map<string, string>>;
}

/**
 * A private LXD with an LXD_DIR of its own: the machine's LXD and its instances are not touched. It has a project
 * `lxstow-lab` too, which shares the default project's images and profiles. With LXSTOW_LAB_LXD_SOCKET in the
 * environment: that LXD instead, in a new project with new pools that are removed at the end; it cannot be killed.
 * Engines other than the machine's LXD run in a root filesystem of their own, which all labs share (see openCage()).
 */
export async function startLxd({
  log,
  name,
  engine = defaultEngine(),
  poolSizeGiB = 6,
  signal,
}: LxdOptions): Promise<LabLxd> {
  await using opening = new AsyncDisposableStack();
  const tree = engine === 'lxd' ? undefined : await findTree(engine, log, signal);
  const folder = opening.use(await openFolder(`${name}-lxd`, log));
  const socket = engine === 'lxd' ? process.env.LXSTOW_LAB_LXD_SOCKET : undefined;
  const place = await openPlace(engine, tree, socket, folder, signal);
  if (!socket) opening.defer(() => deleteInstances(place, log));
  const { daemon, lxc, pool, dirPool, project } = place;
  await makePools(place, poolSizeGiB, signal);
  const imageFolder = join(folder.path, 'image');
  await mkdir(imageFolder);
  const image = await buildImage(imageFolder, tree && join(tree, 'usr/bin/busybox'));
  await lxc(['image', 'import', image, '--alias', 'bb'], { signal });
  const { environment } = JSON.parse(await lxc(['query', '/1.0']));
  log(`${titleOf(engine)}, ${environment.server_version}, is ready`);
  const volume = (instance: string, of = project) => volumeOf(place, instance, of);
  const owned = opening.move();
  return Object.assign(daemon, {
    engine,
    socket: place.socket,
    dir: place.dir,
    visibleDir: place.visibleDir,
    version: environment.server_version as string,
    pool,
    dirPool,
    project,
    lxc,
    async hold(tool: Tool) {
      if (!place.tools) throw new Error('the programs of an LXD that is not ours are not to be held');
      return place.tools.hold(tool);
    },
    async launch(instance: string, options: LaunchOptions = {}) {
      const { project: into = project, pool: on = pool, privileged = true, dataMiB = 0, kind = 'mixed' } = options;
      const config = ['--storage', on, '--config', `security.privileged=${privileged}`];
      await lxc(['init', 'bb', instance, ...config], { project: into });
      const { path: root } = await volume(instance, into);
      const { uid, gid } = await stat(root); // the container's root, as the disk has it
      if (dataMiB > 0) await writeData(join(root, 'data'), { sizeMiB: dataMiB, kind, seed: instance, uid, gid });
      await lxc(['start', instance], { project: into });
    },
    noMachines: environment.driver.includes('qemu')
      ? undefined
      : `${titleOf(engine)} makes no virtual machines here: ${await whyNoMachines(folder)}`,
    async createMachine(
      instance: string,
      { project: into = project, pool: on = pool, diskMiB, dataMiB }: MachineOptions,
    ) {
      const disk = ['--storage', on, '--device', `root,size=${diskMiB}MiB`];
      await lxc(['init', '--empty', '--vm', instance, ...disk], { project: into });
      await writeDisk((await volume(instance, into)).path, dataMiB, instance);
    },
    async fingerprint(instance: string, of?: string) {
      const { path, isMachine, snapshots } = await volume(instance, of);
      return isMachine ? describeDisks(path, snapshots) : fingerprintOf(path);
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  });
}

function openPlace(
  engine: Engine,
  tree: string | undefined,
  socket: string | undefined,
  folder: LabFolder,
  signal: AbortSignal | undefined,
): Promise<LxdPlace> {
  if (engine !== 'lxd' && tree) return cagedLxd(engine, tree, folder, signal);
  return socket ? projectInLxd(socket, folder) : ownLxd(folder, signal);
}

async function makePools({ lxc, pool, dirPool }: LxdPlace, sizeGiB: number, signal: AbortSignal | undefined) {
  await lxc(['storage', 'create', pool, 'btrfs', `size=${sizeGiB}GiB`], { signal });
  await lxc(['storage', 'create', dirPool, 'dir'], { signal });
  await lxc(['profile', 'device', 'add', 'default', 'root', 'disk', 'path=/', `pool=${pool}`], { signal });
}

/** Where this process finds the instance's root filesystem, or its disk, and the folder of its snapshots. */
async function volumeOf(
  { lxc, visibleDir }: LxdPlace,
  instance: string,
  project: string,
): Promise<{ path: string; isMachine: boolean; snapshots: string }> {
  const { type, expanded_devices } = JSON.parse(await lxc(['query', `/1.0/instances/${instance}?project=${project}`]));
  const isMachine = type === 'virtual-machine';
  const folder = project === 'default' ? instance : `${project}_${instance}`;
  const kind = isMachine ? 'virtual-machines' : 'containers';
  const pool = join(visibleDir, 'storage-pools', expanded_devices.root.pool);
  return {
    path: join(pool, kind, folder, isMachine ? 'root.img' : 'rootfs'),
    isMachine,
    snapshots: join(pool, `${kind}-snapshots`, folder),
  };
}

/** In the daemon's own words, where it logs to us. */
async function whyNoMachines({ path }: LabFolder): Promise<string> {
  const log = await readFile(join(path, 'daemon.log'), 'utf8').catch(() => '');
  return /driver=qemu err="([^"]*)"/.exec(log)?.[1] ?? 'it has no driver for them';
}

/** LXD itself must delete them where it can: it alone tidies up in the kernel (AppArmor profiles, cgroups). */
async function deleteInstances({ daemon, lxc }: LxdPlace, log: Log): Promise<void> {
  if (!daemon.isRunning) return;
  try {
    await daemon.kill('SIGCONT'); // a test may have paused it
    const signal = AbortSignal.timeout(deleteTimeoutMs);
    const instances: { name: string; project: string }[] = JSON.parse(
      await lxc(['list', '--all-projects', '--format', 'json'], { signal }),
    );
    await Promise.all(instances.map(({ name, project }) => lxc(['delete', '--force', name], { project, signal })));
  } catch (error) {
    log(`LXD could not delete everything, ending it now: ${errorText(error)}`);
  }
}
