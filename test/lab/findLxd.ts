import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { defaultEngine, type Engine, findTree, titleOf } from './engines.ts';
import { onPath } from './findPart.ts';
import { attempt, errorText, type Log, run } from './run.ts';

/** Debian's; Ubuntu's package of that name only installs the snap. */
const packages = ['lxd', 'lxd-client', 'squashfs-tools', 'btrfs-progs', 'busybox-static'];
/** Capability number 21, linux/capability.h: what mounting, and so LXD, needs. */
const capSysAdmin = 1n << 21n;

type FoundLxd = { available: true } | { available: false; reason: string };

/**
 * Whether a private LXD or Incus can be started here, after an installation with apt-get where that helps. Never throws:
 * `reason` is a sentence for the person who will do without a real one.
 */
export async function findLxd(log: Log, signal?: AbortSignal, engine = defaultEngine()): Promise<FoundLxd> {
  try {
    const reason = await whyNot(engine, log, signal);
    return reason ? { available: false, reason } : { available: true };
  } catch (error) {
    signal?.throwIfAborted();
    return {
      available: false,
      reason: `${titleOf(engine)} cannot be installed: ${errorText(error).split('\n').at(-1)}`,
    };
  }
}

async function whyNot(engine: Engine, log: Log, signal?: AbortSignal): Promise<string | undefined> {
  if (engine === 'lxd') {
    if (process.env.LXSTOW_LAB_LXD_SOCKET) return whyNotSomebodys();
    return whyNotHere() ?? whyNotBesideSnap() ?? whyNotInstalled(log, signal);
  }
  const reason = whyNotHere();
  if (!reason) await findTree(engine, log, signal);
  return reason;
}

/** What about this machine keeps LXD from running, whatever is installed. */
function whyNotHere(): string | undefined {
  if (process.env.LXSTOW_LAB_LXD === 'none') return 'LXSTOW_LAB_LXD=none says to do without';
  if (process.platform !== 'linux') return 'LXD runs on Linux only';
  if (process.getuid?.() !== 0) return 'a private LXD needs root';
  const capabilities = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  if (!(BigInt(`0x${capabilities ?? 0}`) & capSysAdmin))
    return 'root may not mount here (an unprivileged container?), and LXD has to';
  if (!existsSync('/dev/loop-control')) return 'there are no loop devices here, and the btrfs pool needs one';
  return undefined;
}

function whyNotBesideSnap(): string | undefined {
  const lxd = onPath('lxd');
  if (lxd && realpathSync(lxd).endsWith('/snap')) {
    return 'LXD is a snap here, which runs only one daemon; set LXSTOW_LAB_LXD_SOCKET to use that one, in a project of its own';
  }
  return undefined;
}

function whyNotSomebodys(): string | undefined {
  const missing = ['lxc', 'busybox'].find((name) => !onPath(name));
  return missing && `to use the LXD at LXSTOW_LAB_LXD_SOCKET the lab needs ${missing}`;
}

async function whyNotInstalled(log: Log, signal?: AbortSignal): Promise<string | undefined> {
  if (!whatIsMissing()) return undefined;
  if (!onPath('apt-get')) return `there is no ${whatIsMissing()}, and no apt-get to install it with`;
  const options = { env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }, signal };
  log('looking for an lxd package (apt-get update)');
  await run('apt-get', ['update', '-q'], options);
  const policy = await attempt('apt-cache', ['policy', 'lxd'], options);
  if (!/Candidate: (\d+:)?5\./.test(policy.stdout.toString()))
    return 'this system has no lxd package (Debian 12 and 13 have)';
  log(`installing ${packages.join(' ')}`);
  await run(
    'apt-get',
    ['install', '-y', '-q', '--no-install-recommends', '-o', 'DPkg::Lock::Timeout=300', ...packages],
    options,
  );
  const missing = whatIsMissing();
  return missing && `${packages.join(' ')} are installed, but there is no ${missing}`;
}

function whatIsMissing(): string | undefined {
  const command = ['lxd', 'lxc', 'unsquashfs', 'mkfs.btrfs', 'busybox'].find((name) => !onPath(name));
  if (command) return command;
  // A dynamic executable names its loader (/lib64/ld-…) in its first page; in the image there is none.
  return readFileSync(onPath('busybox') ?? '')
    .subarray(0, 4_096)
    .includes('/ld-')
    ? 'static busybox'
    : undefined;
}
