/** LXD's own backups: made, exported, imported, removed. What is known of their traps is in docs/lxd.md. */
import type { ClientRequest } from 'node:http';
import type { ByteSource } from '../archive/blocks.ts';
import type { Address } from '../contract.ts';
import { isCode, LxstowError } from '../errors.ts';
import type { LxdClient } from './client.ts';

/** All our backups in LXD begin so; what does not is not ours. */
export const mark = 'lxstow-';
/** LXD prunes what we could not remove; long enough for 2 TB over 5 MB/s, and for a worker that goes on days later. */
const expiryMs = 30 * 24 * 3_600_000;

interface Waiting {
  signal: AbortSignal;
  idleTimeoutMs: number;
}

function backupsPath({ instance }: Address): string {
  return `/1.0/instances/${encodeURIComponent(instance)}/backups`;
}

/**
 * Has LXD write an uncompressed backup (compressed, it may say Success over a cut one). `onProgress` gets the bytes written so far.
 * Returns whether it is in the driver's own format: on some pools LXD quietly makes a plain one.
 */
export async function createLxdBackup(
  lxd: LxdClient,
  address: Address,
  backup: { name: string; optimized: boolean; instanceOnly: boolean },
  options: Waiting & { onProgress: (bytes: number, text: string) => void },
): Promise<{ optimized: boolean }> {
  const { project } = address;
  const { operation = '' } = await lxd.call({
    method: 'POST',
    path: backupsPath(address),
    query: { project },
    body: {
      name: backup.name,
      expires_at: new Date(Date.now() + expiryMs).toISOString(),
      instance_only: backup.instanceOnly,
      optimized_storage: backup.optimized,
      compression_algorithm: 'none',
    },
    signal: options.signal,
  });
  await lxd.wait(operation, {
    ...options,
    onProgress: (metadata) => {
      const text = metadata.create_backup_progress;
      if (typeof text === 'string') options.onProgress(parseProgress(text), text);
    },
  });
  const made = await lxd.get<{ optimized_storage: boolean }>(
    `${backupsPath(address)}/${backup.name}`,
    { project },
    options.signal,
  );
  return { optimized: made.optimized_storage };
}

/** The archive from byte `from` on, and the size of the whole in bytes. Read the source to its end, or destroy it. */
export async function openExport(
  lxd: LxdClient,
  address: Address,
  name: string,
  signal: AbortSignal,
  from = 0,
): Promise<{ size: number; source: ByteSource }> {
  const download = await lxd.download({
    path: `${backupsPath(address)}/${name}/export`,
    query: { project: address.project },
    headers: from > 0 ? { range: `bytes=${from}-` } : {},
    status: from > 0 ? 206 : 200,
    signal,
  });
  const size = from + download.length;
  const range = download.headers.get('content-range');
  if (download.length === 0 || (from > 0 && range !== `bytes ${from}-${size - 1}/${size}`)) {
    download.destroy();
    const what = from > 0 ? `the bytes from ${from} on` : 'any bytes';
    throw new LxstowError('lxd-failed', `LXD (${lxd.remote}): export of ${address.instance}/${name} lacks ${what}`);
  }
  const source: ByteSource = {
    async fill(buffer, options) {
      try {
        return await download.fill(buffer, options);
      } catch (error) {
        throw lxd.failure(error, options.signal);
      }
    },
    destroy: () => download.destroy(),
  };
  return { size, source };
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

/** Removes a backup from LXD. One that is gone, or whose instance is, is fine. */
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

/** An import under way: write the tar into `request`, and end it only when all of it is proved good. */
export interface Import {
  request: ClientRequest;
  /** Waits until LXD has taken everything, `onTaken` then, and until it has unpacked. Throws with LXD's reason; LXD then keeps nothing. */
  finish(waiting: Waiting, onTaken?: () => void): Promise<void>;
}

/** Opens an import under a name that must be free. LXD discards everything when the request is destroyed before its end. */
export function openImport(lxd: LxdClient, address: Address, pool: string | undefined, signal: AbortSignal): Import {
  const { outgoing, answer } = lxd.open({
    method: 'POST',
    path: '/1.0/instances',
    query: { project: address.project },
    headers: {
      'content-type': 'application/octet-stream',
      'x-lxd-name': address.instance,
      ...(pool ? { 'x-lxd-pool': pool } : {}),
    },
    signal,
  });
  return {
    request: outgoing,
    async finish(waiting, onTaken) {
      const { operation = '' } = await lxd.envelope(await answer, waiting.signal);
      onTaken?.();
      await lxd.wait(operation, { ...waiting, idleTimeoutMs: Number.POSITIVE_INFINITY });
    },
  };
}

const units: Record<string, number> = { B: 1, kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 };

/** LXD says "71.60MB (35.65MB/s)". */
function parseProgress(text: string): number {
  const [, amount = '0', unit = 'B'] = /^([\d.]+)\s*([kMGT]?B)/.exec(text) ?? [];
  return Math.round(Number(amount) * (units[unit] ?? 1));
}
