/** What is in a new simulated instance: small, but of every kind that a careless backup would lose. */
import { chmod, chown, link, lutimes, mkdir, symlink, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../lab/run.ts';

const isRoot = process.getuid?.() === 0;

/** Fills a volume as LXD does. Other owners, and files that their owner may not read, only as root. */
export async function writeVolume(volume: string, name: string): Promise<void> {
  const rootfs = join(volume, 'rootfs');
  for (const folder of ['bin', 'etc', 'odd', 'proc', 'root', 'tmp'])
    await mkdir(join(rootfs, folder), { recursive: true });
  await writeFile(join(volume, 'metadata.yaml'), 'properties:\n  description: simulated\n');
  await writeFile(join(rootfs, 'etc/hostname'), `${name}\n`);
  await writeFile(join(rootfs, 'bin/busybox'), Buffer.alloc(512 * 1024, `${name} `));
  await chmod(join(rootfs, 'bin/busybox'), 0o755);
  await symlink('busybox', join(rootfs, 'bin/sh'));
  await chmod(join(rootfs, 'tmp'), 0o1777);
  await writeOddFiles(join(rootfs, 'odd'));
  await chmod(volume, isRoot ? 0o100 : 0o700);
}

async function writeOddFiles(odd: string): Promise<void> {
  const file = (name: string) => join(odd, name);
  await writeFile(file('owned'), 'by 1234:5678\n');
  if (isRoot) await chown(file('owned'), 1234, 5678);
  await chmod(file('owned'), 0o640);
  await link(file('owned'), file('hard-link'));
  await writeFile(file('setuid'), '#!/bin/sh\n');
  await chmod(file('setuid'), 0o6755);
  await writeFile(file('unreadable'), 'by others\n');
  await chmod(file('unreadable'), isRoot ? 0o000 : 0o400);
  await writeFile(file('empty'), '');
  await writeFile(file('name with spaces, ünïcödé ☃ and a\nnewline'), 'found\n');
  await writeFile(file(`long-${'x'.repeat(200)}`), 'beyond the 100 bytes of a plain tar header\n');
  await writeFile(file('old'), 'from 1999\n');
  await utimes(file('old'), 930_000_000, 930_000_000);
  await writeFile(file('sparse'), 'only a start');
  await truncate(file('sparse'), 8 * 1024 * 1024);
  await symlink('../etc/hostname', file('symlink'));
  await lutimes(file('symlink'), 1_000_000_000, 1_000_000_000);
  await symlink('/nowhere/at all', file('dangling'));
  await run('mkfifo', [file('fifo')]);
  await mkdir(file('sticky'));
  await chmod(file('sticky'), 0o1777);
}
