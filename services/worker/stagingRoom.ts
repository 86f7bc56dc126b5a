/**
 * LXD writes a backup to its own disk before it can be fetched, and on a full one its operation runs for ever (docs/lxd.md). So the room there is held
 * against what the last backup of the instance took, before LXD is asked.
 */
import { statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { parseManifest } from '../archive/manifest.ts';
import type { Address, Manifest } from '../contract.ts';
import { isCode, LxstowError } from '../errors.ts';
import { nameOf } from '../lxd/instances.ts';
import { defaultSocket } from '../lxd/sockets.ts';
import { listPrefix, parseManifestKey } from '../storage/keys.ts';
import type { Tools } from './tools.ts';

interface Kind {
  optimized?: boolean;
  instance_only?: boolean;
}

type RoomTools = Pick<Tools, 'config' | 'lxd' | 'store'>;

/**
 * Throws lxd-full when LXD's disk has less room than the last backup of this kind took. Where the disk cannot be seen from here (an LXD over HTTPS, a
 * volume of its own for backups), or nothing is known of the instance, it is let be.
 */
export async function assertStagingRoom(
  address: Address,
  kind: Kind,
  tools: RoomTools,
  signal: AbortSignal,
): Promise<void> {
  const { socket, url } = tools.config.remotes[address.remote] ?? {};
  if (url !== undefined) return;
  const server = await tools.lxd.get<{ config?: Record<string, unknown> }>('/1.0', {}, signal);
  if (server.config?.['storage.backups_volume']) return;
  const dir = join(dirname(socket ?? defaultSocket(address.remote, process.env)), 'backups');
  const free = await freeBytes(dir);
  if (free === undefined) return;
  const last = await lastManifest(address, tools, signal);
  if (!last || last.archive.optimized !== (kind.optimized ?? false)) return;
  if (last.archive.instanceOnly !== (kind.instance_only ?? false) || last.archive.rawSize <= free) return;
  throw new LxstowError(
    'lxd-full',
    `LXD has ${mib(free)} MiB free in ${dir}; the last backup of ${nameOf(address)} needed ${mib(last.archive.rawSize)} MiB`,
  );
}

/** Undefined where it cannot be seen. Only root may look into some folders; the disk of the one above is nearly always the same. */
async function freeBytes(dir: string): Promise<number | undefined> {
  for (const path of [dir, dirname(dir)]) {
    try {
      const { bavail, bsize } = await statfs(path);
      return bavail * bsize;
    } catch {
      // The next one, or nobody can say.
    }
  }
  return undefined;
}

async function lastManifest(
  address: Address,
  { config, store }: RoomTools,
  signal: AbortSignal,
): Promise<Manifest | undefined> {
  const { prefix } = config.s3;
  let last: { key: string; modified: string } | undefined;
  for await (const { key, modified } of store.list(listPrefix(prefix, address), signal))
    if (parseManifestKey(prefix, key) && (!last || modified > last.modified)) last = { key, modified };
  const of = last && parseManifestKey(prefix, last.key);
  if (!last || !of) return undefined;
  try {
    return parseManifest((await store.read(last.key, signal)).body, of);
  } catch (error) {
    // One that is gone by now, or cannot be read, says nothing.
    if (isCode(error, 'not-found') || isCode(error, 'bad-manifest')) return undefined;
    throw error;
  }
}

function mib(bytes: number): number {
  return Math.ceil(bytes / 2 ** 20);
}
