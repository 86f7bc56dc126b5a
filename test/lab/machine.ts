/** A machine for a page to be typed on: every port is free, names are known, and /etc and /var/lib may be written to. */
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { LabFolder } from './folder.ts';
import { answers, startDaemon } from './processes.ts';

export interface Machine {
  /** What a command is put behind to run there. */
  readonly enter: string[];
}

/**
 * A network with nothing but a loopback, and mounts, of its own; files elsewhere, processes and users are everybody's. It ends with the
 * folder. Needs root. Each of `hosts` is an address of the loopback, so that one machine can stand for several.
 */
export async function openMachine(folder: LabFolder, hosts: string[] = []): Promise<Machine> {
  const ready = join(folder.path, 'machine-is-ready');
  const script = join(folder.path, 'machine.sh');
  await mkdir(join(folder.path, 'etc'));
  const lines = hosts.map((host, index) => `127.0.0.${index + 11} ${host}\n`).join('');
  await writeFile(join(folder.path, 'hosts'), lines);
  await writeFile(
    script,
    `set -e
ip link set lo up
cp -a /etc/. '${folder.path}/etc'
cat '${folder.path}/hosts' >>'${folder.path}/etc/hosts'
mount --bind '${folder.path}/etc' /etc
mount -t tmpfs none /var/lib
touch '${ready}'
exec sleep infinity
`,
  );
  const daemon = await startDaemon({
    command: 'unshare',
    args: ['--net', '--mount', '--propagation', 'private', 'sh', script],
    folder,
    ready: answers(async () => {
      if (!existsSync(ready)) throw new Error('it is not ready yet');
    }),
  });
  return { enter: ['nsenter', '--target', String(daemon.pid), '--net', '--mount', '--'] };
}
