/**
 * The room on LXD's disk: LXD writes a backup there before it can be fetched, and on a full disk its operation runs for ever (docs/lxd.md). So the free
 * room is compared with the size of the instance's last backup before LXD begins, and watched while LXD writes.
 */
import type { StatsFs } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { readManifest } from '../../backups/manifest.ts';
import { sizeText } from '../../contract/amounts.ts';
import { LxstowError, unlessCode } from '../../contract/errors.ts';
import type { Address, Manifest } from '../../contract/schemas.ts';
import type { LxdBackup, Writing } from '../../lxd/archives/backups.ts';
import { defaultSocket } from '../../lxd/connection/sockets.ts';
import { type LxdServer, nameOf } from '../../lxd/instances.ts';
import type { Attempt } from '../../operations/attempt.ts';
import type { Tools } from '../tools.ts';

type RoomTools = Pick<Tools, 'config' | 'store' | 'keeper' | 'metrics'>;

/** The folder to which LXD writes its copies, and the bytes that were free there before it began. */
export interface StagingRoom {
  dir: string;
  free: number;
}

/** We saw the disk full. LXD itself also reports a lack of room of a pool or a quota. */
export class Filled extends LxstowError {}

const lookEveryMs = 1000;
/** A disk with less free space counts as full. ext4 also withholds some space from every process: a fiftieth of the disk, 16 MiB at most. */
const fullBytes = 1024 * 1024;
const withheldShare = 1 / 50;
const mostWithheldBytes = 16 * 1024 * 1024;
/** LXD stops once a write has failed. If it made progress within this time, it may still finish on a full disk. */
const stuckMs = 5000;
/** After a job has filled the disk, it needs this many times the space that was free then, so that it does not fill the disk again and again. */
const moreShare = 1.1;

/**
 * Throws lxd-full if LXD's disk has less room than the last backup of this kind took, or no more than when an earlier attempt filled it. Returns
 * undefined if this worker cannot see the disk: an LXD over HTTPS, a volume of its own for backups.
 */
export async function assertStagingRoom(
  address: Address,
  kind: { optimized?: boolean; instance_only?: boolean },
  server: LxdServer,
  attempt: Attempt,
  tools: RoomTools,
): Promise<StagingRoom | undefined> {
  const { signal, operation } = attempt;
  const { socket, url } = tools.config.remotes[address.remote] ?? {};
  if (url !== undefined) return undefined;
  if (server.config?.['storage.backups_volume']) return undefined;
  const dir = join(dirname(socket ?? defaultSocket(address.remote, process.env)), 'backups');
  const disk = await diskOf(dir);
  if (!disk) return undefined;
  const free = disk.bavail * disk.bsize;
  tools.metrics.stagingFree.set(free);
  const has = `LXD has ${sizeText(free)} free in ${dir}`;
  const { tooLittleBytes = 0 } = operation.checkpoint ?? {};
  const tooLittle = (why: string) => new LxstowError('lxd-full', full(`${has}; ${why}`, attempt, tools));
  if (free < tooLittleBytes * moreShare)
    throw tooLittle(`with ${sizeText(tooLittleBytes)} the backup of ${nameOf(address)} has filled it`);
  const last = await lastManifest(address, tools, signal);
  const isSameKind =
    last?.archive.optimized === (kind.optimized ?? false) &&
    last.archive.instanceOnly === (kind.instance_only ?? false);
  if (last && isSameKind && last.archive.rawSize > free) {
    // Backups of another kind are not compared.
    const other = `${kind.instance_only ? 'without' : 'with'} --instance-only`;
    throw tooLittle(
      `the last backup of ${nameOf(address)} needed ${sizeText(last.archive.rawSize)}. If the instance has become smaller, make one backup ${other}`,
    );
  }
  return { dir, free };
}

/**
 * Returns the same backup, which fails with lxd-full if LXD's disk is full and LXD makes no progress, or if LXD says that there is no room. Reports the
 * free room to the operation. `movedAt`: when LXD last reported progress, by performance.now().
 */
export function watchStagingRoom(
  writing: Writing,
  room: StagingRoom | undefined,
  { attempt, tools, movedAt }: { attempt: Attempt; tools: RoomTools; movedAt: () => number },
): Writing {
  const over = new AbortController();
  const address = attempt.operation;
  const written = writing.made
    .catch((error) => {
      if (!/no space left on device/i.test((error as Error).message)) throw error;
      throw new LxstowError('lxd-full', full(`LXD's disk is full: ${(error as Error).message}`, attempt, tools));
    })
    .finally(() => over.abort());
  const lookUntilFull = async ({ dir }: StagingRoom): Promise<LxdBackup> => {
    const patienceMs = Math.min(stuckMs, tools.config.worker.lxdIdleTimeoutMs / 2);
    for (;;) {
      await delay(lookEveryMs, undefined, { signal: over.signal });
      const disk = await diskOf(dir);
      if (!disk) continue;
      // LXD runs as root, and may use what is reserved for root.
      const free = Math.max(0, disk.bfree * disk.bsize - withheldBytes(disk));
      tools.metrics.stagingFree.set(free);
      attempt.report({ lxd_free_bytes: Math.floor(free) });
      if (free >= fullBytes || performance.now() - movedAt() < patienceMs) continue;
      const said = `LXD's disk is full: ${dir} has no room for the backup of ${nameOf(address)}`;
      throw new Filled('lxd-full', full(said, attempt, tools));
    }
  };
  const made = room
    ? Promise.race([
        written,
        lookUntilFull(room).catch((error) => (over.signal.aborted ? written : Promise.reject(error))),
      ])
    : written;
  made.catch(() => undefined).finally(() => over.abort());
  return { ...writing, made };
}

/** Logs and counts a full disk, because a person must make room; returns the message. */
function full(message: string, { log }: Attempt, { metrics }: RoomTools): string {
  metrics.diskFull.inc();
  log.error("LXD's disk is full", { reason: message });
  return message;
}

/** The disk's free space; undefined if this worker cannot see the disk. Some of these folders only root may read; their parents are nearly always on the same disk. */
async function diskOf(dir: string): Promise<StatsFs | undefined> {
  for (const path of [dir, dirname(dir)]) {
    try {
      return await statfs(path);
    } catch {
      // Try the parent.
    }
  }
  return undefined;
}

function withheldBytes({ blocks, bsize }: StatsFs): number {
  return Math.min(blocks * bsize * withheldShare, mostWithheldBytes);
}

async function lastManifest(
  { remote, project, instance }: Address,
  { config, store, keeper }: RoomTools,
  signal: AbortSignal,
): Promise<Manifest | undefined> {
  const address = { remote, project, instance };
  const good = await keeper.lastGood(address);
  if (!good) return undefined;
  // If the last backup is gone by now, or unreadable, there is nothing to compare with.
  const found = await unlessCode(['not-found', 'bad-manifest'], () =>
    readManifest(store, config.s3.prefix, { ...address, backup: good.backup }, signal),
  );
  return found?.manifest;
}
