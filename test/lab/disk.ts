import { mkdir, open, rename, rm } from 'node:fs/promises';
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
  await mount(image, path);
  await rm(`${path}/lost+found`, { recursive: true });
}

/**
 * Leaves on the disk what a power cut at this moment would: what its filesystem has written, not what is in memory only. `stop` ends the processes that
 * use it. For a moment at which nothing writes: the copy takes a while.
 */
export async function cutPower(path: string, stop: () => Promise<void>): Promise<void> {
  const image = `${path}.img`;
  await run('cp', ['--sparse=always', image, `${image}.cut`]);
  await stop();
  await run('umount', [path]);
  await rename(`${image}.cut`, image);
  await mount(image, path);
}

/** The journal is written only when something asks for it, not each 5 s: what a server has not synced does not reach the disk by chance. */
function mount(image: string, path: string): Promise<string> {
  return run('mount', ['-o', 'loop,commit=300', image, path]);
}
