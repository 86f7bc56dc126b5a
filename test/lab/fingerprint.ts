import { createHash } from 'node:crypto';
import type { Stats } from 'node:fs';
import { lstat, open, readdir, readlink } from 'node:fs/promises';
import { join } from 'node:path';

/** A running system writes there, or mounts something over it. */
const volatile = new Set(['dev', 'proc', 'run', 'sys', 'tmp']);

/**
 * What is in a root filesystem: for every path below it a line with type, mode, uid:gid as they are on disk, number
 * of links, time of last change in seconds, and SHA-256, target or device. Two are equal when a restore lost nothing.
 * Contents of /dev, /proc, /run, /sys and /tmp are left out.
 */
export async function fingerprintOf(rootfs: string): Promise<Map<string, string>> {
  const lines = new Map<string, string>();
  // One for all files: a buffer for each is what the collector would be busy with.
  const buffer = Buffer.allocUnsafeSlow(1024 * 1024);
  const walk = async (folder: string): Promise<void> => {
    for (const name of (await readdir(join(rootfs, folder))).sort()) {
      const path = join(folder, name);
      const stats = await lstat(join(rootfs, path));
      const isVolatile = folder === '/' && volatile.has(name);
      lines.set(path, isVolatile ? attributes(stats) : await describe(join(rootfs, path), stats, buffer));
      if (stats.isDirectory() && !isVolatile) await walk(path);
    }
  };
  await walk('/');
  return lines;
}

function attributes(stats: Stats): string {
  return `${stats.mode.toString(8).padStart(6, '0')} ${stats.uid}:${stats.gid}`;
}

/** The mode's first two octal digits are the type (inode(7)): 04 directory, 10 file, 12 symbolic link… */
async function describe(path: string, stats: Stats, buffer: Buffer): Promise<string> {
  const line = `${attributes(stats)} ${Math.floor(stats.mtimeMs / 1_000)}`;
  if (stats.isDirectory()) return line;
  if (stats.isFile()) return `${line} links=${stats.nlink} size=${stats.size} ${await sha256(path, buffer)}`;
  if (stats.isSymbolicLink()) return `${line} -> ${await readlink(path)}`;
  return `${line} device=${stats.rdev}`;
}

async function sha256(path: string, buffer: Buffer): Promise<string> {
  const hash = createHash('sha256');
  await using file = await open(path);
  for (;;) {
    const { bytesRead } = await file.read(buffer);
    if (bytesRead === 0) return hash.digest('hex');
    hash.update(buffer.subarray(0, bytesRead));
  }
}
