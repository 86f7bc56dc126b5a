/** Reads LXD's own backups, also while LXD writes them. Known pitfalls are in docs/lxd.md. */
import { setTimeout as delay } from 'node:timers/promises';
import type { ByteSource } from '../../archive/blocks.ts';
import { isCode, LxstowError } from '../../contract/errors.ts';
import type { Address } from '../../contract/schemas.ts';
import type { Download } from '../../http/download.ts';
import type { LxdClient } from '../connection/client.ts';

/** Path of an instance's backups in LXD's API. */
export function backupsPath({ instance }: Address): string {
  return `/1.0/instances/${encodeURIComponent(instance)}/backups`;
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
    throw new LxstowError('lxd-failed', `${lxd.title}: ${exportOf(address, name)} ends before byte ${from}`);
  }
  return { size, source: readable(lxd, download) };
}

/**
 * Pause before asking LXD for newly written bytes. It ends early when LXD reports that it has written everything. It triples while there is little new: LXD may work
 * for a long time before it writes, and a request for bytes that do not exist yet costs a connection (it answers 416 with a wrong length).
 */
const shortestPauseMs = 100;
const longestPauseMs = 1000;
const muchBytes = 4 * 1024 * 1024;

/**
 * Reads the archive while LXD writes it, up to byte `limit`, and waits for bytes that are not there yet. Ends when LXD has said that the backup is
 * complete; fails when LXD does. LXD only ever appends (docs/lxd.md).
 */
export function followExport(
  lxd: LxdClient,
  address: Address,
  { name, made }: { name: string; made: Promise<{ size: number }> },
  limit: number,
): ByteSource {
  let at = 0;
  let pauseMs = shortestPauseMs;
  /** Set once LXD has said that the backup is complete. */
  let size: number | undefined;
  const settled = made.then((backup) => {
    size = backup.size;
  });
  settled.catch(() => undefined);
  let stretch: { last: boolean; source: ByteSource | undefined; from: number } | undefined;
  return {
    async fill(buffer, options) {
      const { signal } = options;
      let filled = 0;
      for (const wanted = Math.min(buffer.length, limit - at); filled < wanted; ) {
        if (!stretch) {
          // Reset the caller's idle timer: LXD's operation has its own.
          options.onBytes?.();
          await Promise.race([settled, delay(pauseMs, undefined, { signal })]).catch((error) => {
            throw lxd.failure(error, signal);
          });
          if (at === size) break;
          // In this order: an export opened after the backup was complete has all bytes.
          const last = size !== undefined;
          stretch = { last, source: await openWritten(lxd, address, name, signal, at), from: at };
        }
        const got = (await stretch.source?.fill(buffer.subarray(filled, wanted), options)) ?? 0;
        filled += got;
        at += got;
        if (filled === wanted || (stretch.last && got === 0)) break;
        if (stretch.last) continue;
        pauseMs = at - stretch.from >= muchBytes ? shortestPauseMs : Math.min(3 * pauseMs, longestPauseMs);
        stretch = undefined;
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

/** Size in bytes of a complete export. */
export async function exportSize(lxd: LxdClient, address: Address, name: string, signal: AbortSignal): Promise<number> {
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
  throw new LxstowError('lxd-failed', `${lxd.title}: ${exportOf(address, name)} does not begin at the requested byte`);
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
