/** A mount namespace of its own with another root filesystem, which several labs share and none can write to. */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { systemPath } from './debian.ts';
import type { LabFolder } from './folder.ts';
import { startDaemon } from './processes.ts';

interface Cage {
  /** A command, as it must be started from outside to run inside. */
  enter(command: string, args: string[]): { command: string; args: string[] };
  /** Its PATH: this machine's may name what is not in there. */
  readonly path: string;
  /** Where this process finds a path of the inside. */
  visible(path: string): string;
}

/**
 * The tree becomes `/`, read-only but for /run, /tmp and /var/tmp; the lab's folder has the same path as outside. A process of the folder holds
 * the namespace: when it ends with all the others, every mount in there is gone.
 */
export async function openCage(tree: string, folder: LabFolder, signal?: AbortSignal): Promise<Cage> {
  const isReady = join(folder.path, 'cage-is-ready');
  const holder = await startDaemon({
    command: 'unshare',
    args: [...['--mount', '--propagation', 'private', 'sh', '-ec'], script, tree, dirname(folder.path), isReady],
    folder,
    async ready(signal) {
      while (!existsSync(isReady)) await delay(10, undefined, { signal });
    },
    signal,
  });
  const namespace = ['--target', String(holder.pid), '--mount', '--'];
  return {
    enter: (command, args) => ({ command: 'nsenter', args: [...namespace, command, ...args] }),
    path: systemPath,
    visible: (path) => `/proc/${holder.pid}/root${path}`,
  };
}

/** For `sh`: the tree, the folder of the lab's folders, the file that says when all is mounted. `pivot_root` wants a mount point. */
const script = `tree=$0 shared=$1 ready=$2
mount --bind "$tree" "$tree"
cd "$tree"
for path in /proc /sys /dev; do mount --rbind "$path" ".$path"; done
for path in run tmp; do mount -t tmpfs tmpfs "$path"; done
mount --bind "$shared" ".$shared"
mount -o remount,bind,ro .
pivot_root . mnt
umount -l /mnt
touch "$ready"
exec sleep infinity
`;
