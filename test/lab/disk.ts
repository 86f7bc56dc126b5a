import { mkdir, open, rm } from 'node:fs/promises';
import { run } from './run.ts';

/**
 * Mounts an empty filesystem of so many MiB at `path`, which must be below a lab folder: it goes away with that. Needs root and a
 * loop device.
 */
export async function mountSmallDisk(path: string, sizeMiB: number): Promise<void> {
  const image = `${path}.img`;
  await mkdir(path, { recursive: true });
  await using file = await open(image, 'wx');
  await file.truncate(sizeMiB * 1024 * 1024);
  await run('mkfs.ext4', ['-q', '-F', '-m', '0', image]);
  await run('mount', ['-o', 'loop', image, path]);
  await rm(`${path}/lost+found`, { recursive: true });
}
