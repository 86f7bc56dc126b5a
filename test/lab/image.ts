import { chmod, chown, copyFile, link, lutimes, mkdir, symlink, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { onPath } from './findPart.ts';
import { run } from './run.ts';

/**
 * Writes an image that LXD can import, without a network: a static busybox, this machine's unless told, as a root filesystem, and
 * in /odd one file of each kind that a careless backup would lose. Returns its path. Needs root.
 */
export async function buildImage(folder: string, busybox = onPath('busybox')): Promise<string> {
  if (!busybox) throw new Error('the image needs busybox on PATH');
  const rootfs = join(folder, 'rootfs');
  for (const name of ['bin', 'sbin', 'etc', 'dev', 'proc', 'sys', 'run', 'tmp', 'root', 'odd']) {
    await mkdir(join(rootfs, name), { recursive: true });
  }
  await copyFile(busybox, join(rootfs, 'bin/busybox'));
  const applets = (await run(busybox, ['--list'])).trim().split('\n');
  for (const applet of applets) {
    if (applet !== 'busybox' && applet !== 'init') await symlink('busybox', join(rootfs, 'bin', applet));
  }
  await symlink('../bin/busybox', join(rootfs, 'sbin/init'));
  await writeFile(join(rootfs, 'etc/inittab'), '::respawn:/bin/sleep 100000\n');
  await writeFile(join(rootfs, 'etc/passwd'), 'root:x:0:0:root:/root:/bin/sh\n');
  await writeFile(join(rootfs, 'etc/group'), 'root:x:0:\n');
  await chmod(join(rootfs, 'tmp'), 0o1777);
  await writeOddFiles(join(rootfs, 'odd'));
  await writeFile(
    join(folder, 'metadata.yaml'),
    `architecture: ${(await run('uname', ['-m'])).trim()}
creation_date: 1700000000
properties:
  description: busybox of the lxstow lab
`,
  );
  const image = join(folder, 'image.tar.gz');
  await run('tar', ['-C', folder, '--numeric-owner', '-czf', image, 'metadata.yaml', 'rootfs']);
  return image;
}

async function writeOddFiles(odd: string): Promise<void> {
  const file = (name: string) => join(odd, name);
  await writeFile(file('owned'), 'by 1234:5678\n');
  await chown(file('owned'), 1234, 5678);
  await chmod(file('owned'), 0o640);
  await link(file('owned'), file('hard-link'));
  await writeFile(file('setuid'), '#!/bin/sh\n');
  await chmod(file('setuid'), 0o6755);
  await writeFile(file('unreadable'), 'mode 000\n');
  await chmod(file('unreadable'), 0o000);
  await writeFile(file('empty'), '');
  await writeFile(file('name with spaces, ünïcödé ☃ and a\nnewline'), 'found\n');
  await writeFile(file(`long-${'x'.repeat(200)}`), 'beyond the 100 bytes of a plain tar header\n');
  await writeFile(file('old'), 'from 1999\n');
  await utimes(file('old'), 930_000_000, 930_000_000);
  await writeFile(file('sparse'), 'only a start');
  await truncate(file('sparse'), 8 * 1024 * 1024);
  await symlink('../etc/passwd', file('symlink'));
  await lutimes(file('symlink'), 1_000_000_000, 1_000_000_000);
  await symlink('/nowhere/at all', file('dangling'));
  await run('mkfifo', [file('fifo')]);
  await run('mknod', [file('null'), 'c', '1', '3']);
  await mkdir(file('sticky'));
  await chmod(file('sticky'), 0o1777);
  await mkdir(file('empty-directory'));
}
