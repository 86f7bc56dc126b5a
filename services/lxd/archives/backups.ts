/** LXD's own backups: creates and removes them. Known pitfalls are in docs/lxd.md. */
import { setTimeout as delay } from 'node:timers/promises';
import { unlessMissing } from '../../contract/errors.ts';
import type { Address } from '../../contract/schemas.ts';
import type { LxdClient } from '../connection/client.ts';
import { type Waiting, waitForOperation } from '../connection/lxdOperation.ts';
import { exists } from '../instances.ts';
import { backupsPath, exportSize } from './exports.ts';

/** Prefix of all our backups in LXD; others are not ours. */
export const mark = 'lxstow-';
/** Added to the hours that a job may wait with its copy. Long enough to send 2 TB at 5 MB/s, and for LXD's hourly pruning. */
const transferHours = 7 * 24;

const mostLooks = 20;
const lookEveryMs = 100;

/** A complete backup in LXD. */
export interface LxdBackup {
  /** Bytes of the archive. */
  size: number;
  /** Whether it is in the driver's own format: on some pools LXD silently writes a plain one. */
  optimized: boolean;
}

/** A backup that LXD is writing, or has written. */
export interface Writing {
  name: string;
  /** Resolves when LXD says that the backup is complete. */
  made: Promise<LxdBackup>;
}

/** A backup that LXD is to write. */
interface LxdBackupRequest {
  name: string;
  optimized: boolean;
  instanceOnly: boolean;
  /** Format of the index, where LXD can write more than one; undefined: LXD's default. */
  metadataVersion?: number | undefined;
  /** How long a job may wait before this copy is sent. Default: 24. */
  waitHours?: number;
}

/**
 * Makes LXD write an uncompressed backup, because LXD may report Success for a compressed one although it is truncated. Resolves when LXD has begun.
 * `onProgress` gets the bytes written so far. `creating` aborts the request, some time after `signal`; default: with it. LXD deletes a backup that lxstow could not remove a week after `waitHours`.
 */
export async function beginLxdBackup(
  lxd: LxdClient,
  address: Address,
  backup: LxdBackupRequest,
  options: Omit<Waiting, 'onProgress'> & { onProgress: (bytes: number, text: string) => void; creating?: AbortSignal },
): Promise<Writing> {
  const { project } = address;
  const { signal, creating = signal } = options;
  const { name, waitHours = 24 } = backup;
  const { operation = '' } = await lxd.call({
    method: 'POST',
    path: backupsPath(address),
    query: { project },
    body: {
      name,
      expires_at: new Date(Date.now() + (waitHours + transferHours) * 3_600_000).toISOString(),
      instance_only: backup.instanceOnly,
      optimized_storage: backup.optimized,
      compression_algorithm: 'none',
      version: backup.metadataVersion,
    },
    signal: creating,
  });
  if (signal.aborted) {
    // LXD adds the backup a little later: a deletion before that would find nothing, and the backup would stay.
    for (let look = 0; look < mostLooks && !(await lxdBackupExists(lxd, address, name, creating)); look++)
      await delay(lookEveryMs);
    throw lxd.failure(signal.reason, signal);
  }
  const made = (async () => {
    await waitForOperation(lxd, operation, {
      ...options,
      onProgress: (metadata) => {
        const text = metadata.create_backup_progress;
        if (typeof text === 'string') options.onProgress(parseProgress(text), text);
      },
    });
    const ask = () => lxd.get<{ optimized_storage: boolean }>(`${backupsPath(address)}/${name}`, { project }, signal);
    const plain = { optimized_storage: false };
    const [{ optimized_storage: optimized }, size] = await Promise.all([
      backup.optimized ? ask() : plain,
      exportSize(lxd, address, name, signal),
    ]);
    return { size, optimized };
  })();
  // Avoid an unhandled rejection: when the caller's other work fails first, it does not await `made`.
  made.catch(() => undefined);
  return { name, made };
}

export function lxdBackupExists(lxd: LxdClient, address: Address, name: string, signal: AbortSignal): Promise<boolean> {
  return exists(lxd, `${backupsPath(address)}/${name}`, { project: address.project }, signal);
}

/** Removes a backup from LXD; does nothing if it or its instance is gone. */
export async function deleteLxdBackup(lxd: LxdClient, address: Address, name: string, waiting: Waiting): Promise<void> {
  const { project } = address;
  const path = `${backupsPath(address)}/${name}`;
  await unlessMissing(async () => {
    const { operation = '' } = await lxd.call({ method: 'DELETE', path, query: { project }, signal: waiting.signal });
    await waitForOperation(lxd, operation, waiting);
  });
}

const units: Record<string, number> = { B: 1, kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 };

/** Parses LXD's "71.60MB (35.65MB/s)" to bytes. */
function parseProgress(text: string): number {
  const [, amount = '0', unit = 'B'] = /^([\d.]+)\s*([kMGT]?B)/.exec(text) ?? [];
  return Math.round(Number(amount) * (units[unit] ?? 1));
}
