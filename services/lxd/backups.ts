/** LXD's own backups: creates, exports, imports and removes them. Known pitfalls are in docs/lxd.md. */
import type { ClientRequest } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import type { ByteSource } from '../archive/blocks.ts';
import { isCode, LxstowError } from '../contract/errors.ts';
import type { Address } from '../contract/schemas.ts';
import type { Download } from '../http/download.ts';
import type { LxdClient } from './client.ts';
import { instanceExists } from './instances.ts';

/** Prefix of all our backups in LXD; others are not ours. */
export const mark = 'lxstow-';
/** Added to the hours that a job may wait with its copy. Long enough to send 2 TB at 5 MB/s, and for LXD's hourly pruning. */
const transferHours = 7 * 24;

interface Waiting {
  signal: AbortSignal;
  idleTimeoutMs: number;
}

function backupsPath({ instance }: Address): string {
  return `/1.0/instances/${encodeURIComponent(instance)}/backups`;
}

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
export interface LxdBackupRequest {
  name: string;
  optimized: boolean;
  instanceOnly: boolean;
  /** Format of the index, where LXD can write more than one; undefined: LXD's default. */
  metadataVersion?: number | undefined;
  /** For how long a job may wait before this copy is sent. Default: 24. */
  waitHours?: number;
}

/**
 * Has LXD write an uncompressed backup: of a compressed one, LXD may report Success although it is truncated. Resolves when LXD has begun.
 * `onProgress` gets the bytes written so far. LXD deletes a backup that lxstow could not remove a week after `waitHours`.
 */
export async function beginLxdBackup(
  lxd: LxdClient,
  address: Address,
  backup: LxdBackupRequest,
  options: Waiting & { onProgress: (bytes: number, text: string) => void },
): Promise<Writing> {
  const { project } = address;
  const { signal } = options;
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
    signal,
  });
  const made = (async () => {
    await lxd.wait(operation, {
      ...options,
      onProgress: (metadata) => {
        const text = metadata.create_backup_progress;
        if (typeof text === 'string') options.onProgress(parseProgress(text), text);
      },
    });
    const details = lxd.get<{ optimized_storage: boolean }>(`${backupsPath(address)}/${name}`, { project }, signal);
    const [{ optimized_storage: optimized }, size] = await Promise.all([
      details,
      exportSize(lxd, address, name, signal),
    ]);
    return { size, optimized };
  })();
  // Avoid an unhandled rejection: when the caller's other work fails first, it does not await `made`.
  made.catch(() => undefined);
  return { name, made };
}

/** Has LXD write a backup, and waits until it is complete. */
export async function createLxdBackup(...request: Parameters<typeof beginLxdBackup>): Promise<LxdBackup> {
  return (await beginLxdBackup(...request)).made;
}

/** Opens the archive from byte `from` on; `size` is that of the whole in bytes. Read the source to its end, or destroy it. */
export async function openExport(
  lxd: LxdClient,
  address: Address,
  name: string,
  signal: AbortSignal,
  from = 0,
): Promise<{ size: number; source: ByteSource }> {
  const download = await exportRange(lxd, address, name, signal, `${from}-`);
  const size = sizeOf(download);
  if (download.length === 0 || download.length !== size - from) {
    download.destroy();
    throw new LxstowError('lxd-failed', `${lxd.title}: ${exportOf(address, name)} lacks the bytes from ${from} on`);
  }
  return { size, source: readable(lxd, download) };
}

/** Pause before asking LXD for more, once all that it had written was read. */
const lookAgainMs = 100;

/**
 * Reads the archive while LXD writes it, up to byte `limit`, and waits for bytes that are not there yet. Ends when LXD has said that the backup is
 * complete; fails when LXD does. LXD only ever appends (docs/lxd.md).
 */
export function followExport(lxd: LxdClient, address: Address, { name, made }: Writing, limit: number): ByteSource {
  let at = 0;
  let whole = false;
  const settled = made.then(() => {
    whole = true;
  });
  settled.catch(() => undefined);
  let stretch: { last: boolean; source: ByteSource | undefined } | undefined;
  return {
    async fill(buffer, options) {
      const { signal } = options;
      let filled = 0;
      for (const wanted = Math.min(buffer.length, limit - at); filled < wanted; ) {
        // In this order: an export opened after the backup was complete has all bytes.
        stretch ??= { last: whole, source: await openWritten(lxd, address, name, signal, at) };
        const got = (await stretch.source?.fill(buffer.subarray(filled, wanted), options)) ?? 0;
        filled += got;
        at += got;
        if (filled === wanted || (stretch.last && got === 0)) break;
        if (stretch.last) continue;
        stretch = undefined;
        // Reset the caller's idle timer: LXD's operation has its own.
        options.onBytes?.();
        await Promise.race([settled, delay(lookAgainMs, undefined, { signal })]).catch((error) => {
          throw lxd.failure(error, signal);
        });
      }
      return filled;
    },
    destroy: () => stretch?.source?.destroy(),
  };
}

/** Opens what LXD has written from byte `from` on; undefined if that is nothing yet. */
async function openWritten(
  lxd: LxdClient,
  address: Address,
  name: string,
  signal: AbortSignal,
  from: number,
): Promise<ByteSource | undefined> {
  try {
    const download = await exportRange(lxd, address, name, signal, `${from}-`, [200, 416]);
    if (download.status === 206) return readable(lxd, download);
    // Do not read the body: LXD gives 416 a wrong length.
    download.destroy();
  } catch (error) {
    // LXD creates a backup's record before its file.
    if (!isCode(error, 'not-found')) throw error;
  }
  return undefined;
}

async function exportSize(lxd: LxdClient, address: Address, name: string, signal: AbortSignal): Promise<number> {
  const download = await exportRange(lxd, address, name, signal, '0-0', [200, 416]);
  if (download.status !== 206) {
    download.destroy();
    throw new LxstowError('lxd-failed', `${lxd.title}: ${exportOf(address, name)} has no bytes`);
  }
  await download.body(1, { signal, silence: lxd.silence });
  return sizeOf(download);
}

/**
 * Requests bytes of an export, written as in a Range header. `empty`: the statuses that mean "no such bytes"; LXD's choice depends on its version.
 */
async function exportRange(
  lxd: LxdClient,
  address: Address,
  name: string,
  signal: AbortSignal,
  range: string,
  empty: number[] = [],
): Promise<Download> {
  const download = await lxd.download({
    path: `${backupsPath(address)}/${name}/export`,
    query: { project: address.project },
    headers: { range: `bytes=${range}` },
    statuses: [206, ...empty],
    signal,
  });
  const [, first] = contentRange.exec(download.headers.get('content-range') ?? '') ?? [];
  const { status, length } = download;
  if (status === 416 || (status === 200 ? length === 0 : first === range.split('-')[0])) return download;
  download.destroy();
  throw new LxstowError('lxd-failed', `${lxd.title}: ${exportOf(address, name)} is not from where it was asked for`);
}

const contentRange = /^bytes (\d+)-\d+\/(\d+)$/;

/** Size in bytes of the whole export, from the headers of a range. */
function sizeOf({ headers }: Download): number {
  const [, , size] = contentRange.exec(headers.get('content-range') ?? '') ?? [];
  return Number(size);
}

function exportOf({ instance }: Address, name: string): string {
  return `the export of ${instance}/${name}`;
}

function readable(lxd: LxdClient, download: Download): ByteSource {
  return {
    async fill(buffer, options) {
      try {
        return await download.fill(buffer, options);
      } catch (error) {
        throw lxd.failure(error, options.signal);
      }
    },
    destroy: () => download.destroy(),
  };
}

export async function lxdBackupExists(
  lxd: LxdClient,
  address: Address,
  name: string,
  signal: AbortSignal,
): Promise<boolean> {
  try {
    await lxd.get(`${backupsPath(address)}/${name}`, { project: address.project }, signal);
    return true;
  } catch (error) {
    if (isCode(error, 'not-found')) return false;
    throw error;
  }
}

/** Removes a backup from LXD; does nothing if it or its instance is gone. */
export async function deleteLxdBackup(lxd: LxdClient, address: Address, name: string, waiting: Waiting): Promise<void> {
  try {
    const { project } = address;
    const { operation = '' } = await lxd.call({
      method: 'DELETE',
      path: `${backupsPath(address)}/${name}`,
      query: { project },
      signal: waiting.signal,
    });
    await lxd.wait(operation, waiting);
  } catch (error) {
    if (!isCode(error, 'not-found')) throw error;
  }
}

/** An import in progress: write the tar into `request`, and end it only when all of it is verified. */
export interface Import {
  request: ClientRequest;
  /** Waits until LXD has received everything, calls `onTaken`, and waits until LXD has unpacked. Throws with LXD's reason; LXD then keeps nothing. */
  finish(waiting: Waiting, onTaken?: () => void): Promise<void>;
}

/**
 * Starts an import under a name that must be free. LXD discards everything if the request is destroyed before its end. Name and pool are sent in
 * LXD's headers and in Incus's: each reads its own, and an Incus that reads none takes them from the archive.
 */
export function openImport(lxd: LxdClient, address: Address, pool: string | undefined, signal: AbortSignal): Import {
  const { outgoing, answer } = lxd.open({
    method: 'POST',
    path: '/1.0/instances',
    query: { project: address.project },
    headers: {
      'content-type': 'application/octet-stream',
      ...forEachServer('name', address.instance),
      ...(pool ? forEachServer('pool', pool) : {}),
    },
    signal,
  });
  return {
    request: outgoing,
    async finish(waiting, onTaken) {
      const { operation = '' } = await lxd.envelope(await answer, waiting.signal);
      onTaken?.();
      await lxd.wait(operation, { ...waiting, idleTimeoutMs: Number.POSITIVE_INFINITY });
      if (await instanceExists(lxd, address, waiting.signal)) return;
      throw new LxstowError(
        'lxd-refused',
        `${lxd.title} has taken the archive in, but not as ${address.instance}: look for an instance with the name that it had when it was backed up`,
      );
    },
  };
}

function forEachServer(what: 'name' | 'pool', value: string): Record<string, string> {
  return { [`x-lxd-${what}`]: value, [`x-incus-${what}`]: value };
}

const units: Record<string, number> = { B: 1, kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 };

/** Parses LXD's "71.60MB (35.65MB/s)" to bytes. */
function parseProgress(text: string): number {
  const [, amount = '0', unit = 'B'] = /^([\d.]+)\s*([kMGT]?B)/.exec(text) ?? [];
  return Math.round(Number(amount) * (units[unit] ?? 1));
}
