/** Virtual machines that are never started: their disks are all that a backup is about. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { open, readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { isZero } from '../../services/archive/compression/blockFormat.ts';
import { randomBytes } from './data.ts';

const mib = 1024 * 1024;
/** A disk's last block: what is cut, or a byte short, shows there. */
const lastBytes = 4096;

/** Writes `dataMiB` of random bytes to the beginning of an empty disk, and some to its end; they depend on `seed` only. */
export async function writeDisk(path: string, dataMiB: number, seed: string): Promise<void> {
  await using file = await open(path, 'r+');
  const { size } = await file.stat();
  const random = randomBytes(seed);
  for (let at = 0; at < dataMiB * mib; at += mib) await file.write(random.next().value ?? Buffer.alloc(0), 0, mib, at);
  await file.write(random.next().value ?? Buffer.alloc(0), 0, lastBytes, size - lastBytes);
}

/** The disk, and that of each snapshot in the folder: see describeDisk(). */
export async function describeDisks(disk: string, snapshots: string): Promise<Map<string, string>> {
  const disks = new Map([['disk', await describeDisk(disk)]]);
  for (const name of existsSync(snapshots) ? await readdir(snapshots) : [])
    disks.set(`snapshot ${name}`, await describeDisk(join(snapshots, name, basename(disk))));
  return disks;
}

/** A disk's size, and the SHA-256 of every MiB of it that is not zeros, with its place: gigabytes of zeros cost little. */
async function describeDisk(path: string): Promise<string> {
  await using file = await open(path);
  const { size } = await file.stat();
  const hash = createHash('sha256');
  const buffer = Buffer.alloc(mib);
  for (let at = 0; at < size; at += mib) {
    const { bytesRead } = await file.read(buffer, 0, mib, at);
    const bytes = buffer.subarray(0, bytesRead);
    if (!isZero(bytes)) hash.update(`${at} ${bytesRead}\n`).update(bytes);
  }
  return `size=${size} ${hash.digest('hex')}`;
}
