/** The engines that the lab can start: LXD and Incus as Debian has them, each but the machine's own LXD in a system of its own. */
import { type DebianSystem, makeSystem } from './debian.ts';
import { findPart } from './findPart.ts';
import { heard } from './installers.ts';
import { type Log, run } from './run.ts';

/** What both engines want of a system before they make virtual machines; it need not run any. Debian has them under these names for x86 only. */
const forVirtualMachines =
  process.arch === 'x64' ? ['qemu-system-x86', 'qemu-utils', 'ovmf', 'genisoimage', 'gdisk'] : [];

/** An engine that runs in a root filesystem of its own. */
interface Caged {
  /** What a person calls it. */
  title: string;
  system: DebianSystem;
  /** About what the installation takes on a machine with two cores. */
  seconds: number;
  /** Of the daemon and of its client, in the root filesystem. */
  daemon: string;
  client: string;
  /** What the names of the environment variables begin with: LXD_DIR, INCUS_DIR. */
  prefix: 'LXD' | 'INCUS';
}

const caged = {
  'lxd-debian13': {
    title: "Debian 13's LXD",
    system: {
      codename: 'trixie',
      packages: [
        'lxd',
        'lxd-client',
        'btrfs-progs',
        'squashfs-tools',
        'iproute2',
        'e2fsprogs',
        'zstd',
        'busybox-static',
        ...forVirtualMachines,
      ],
    },
    seconds: 60,
    daemon: '/usr/bin/lxd',
    client: '/usr/bin/lxc',
    prefix: 'LXD',
  },
  incus6: {
    title: 'Incus 6.0',
    system: {
      codename: 'bookworm',
      suite: 'bookworm-backports',
      packages: [
        'systemd-standalone-sysusers',
        'incus-base',
        'incus-client',
        'btrfs-progs',
        'zstd',
        'busybox-static',
        ...forVirtualMachines,
      ],
    },
    seconds: 60,
    daemon: '/usr/libexec/incus/incusd',
    client: '/usr/bin/incus',
    prefix: 'INCUS',
  },
} as const satisfies Record<string, Caged>;

export type CagedEngine = keyof typeof caged;
/** `lxd` is the machine's own: Debian 12's where the lab is at home. */
export type Engine = 'lxd' | CagedEngine;

export const engines = ['lxd', ...(Object.keys(caged) as CagedEngine[])] as const;

export function titleOf(engine: Engine): string {
  return engine === 'lxd' ? 'the LXD of this machine' : caged[engine].title;
}

export function cageOf(engine: CagedEngine): Caged {
  return caged[engine];
}

/** The one for labs that do not name theirs. */
export function defaultEngine(env: NodeJS.ProcessEnv = process.env): Engine {
  const wanted = env.LXSTOW_LAB_ENGINE || 'lxd';
  const engine = engines.find((name) => name === wanted);
  if (!engine) throw new Error(`LXSTOW_LAB_ENGINE=${wanted} is none of ${engines.join(', ')}`);
  return engine;
}

/** Path of the engine's root filesystem, from the cache or made now. Throws where there is no Debian to fetch it from. */
export function findTree(engine: CagedEngine, log: Log, signal?: AbortSignal): Promise<string> {
  const { title, system, seconds, daemon } = caged[engine];
  return findPart(
    {
      name: `engine-${engine}`,
      version: '3',
      accepts: async (tree) => (await run('unshare', [...withProc, tree, daemon, '--version'])) !== '',
      installers: [
        async (folder, log, signal) => {
          log(`installing ${title} from Debian ${system.codename} into the lab's cache (about ${seconds} s)`);
          return heard(`still installing ${title}`, log, () => makeSystem(system, folder, log, signal));
        },
      ],
    },
    log,
    signal,
  );
}

/** Arguments for `unshare`: runs a command in a root filesystem, which follows with it. LXD does not start without /proc. */
const withProc = [
  ...['--mount', '--propagation', 'private', 'sh', '-ec'],
  'mount --rbind /proc "$0/proc"; exec chroot "$0" "$@"',
];
