/** Imports a backup's archive into LXD, under a name that only this restore has. Every part is verified before LXD gets a byte of it. */
import { inPieces } from '../../archive/pace.ts';
import { SnapshotScan } from '../../archive/tar/snapshotFiles.ts';
import type { TarHead } from '../../archive/tar/tarHead.ts';
import { writeTar } from '../../archive/verifiedParts.ts';
import { checkArchive, readArchive } from '../../backups/archives.ts';
import { archiveKey } from '../../backups/keys.ts';
import { IdleWatch } from '../../concurrency/idleWatch.ts';
import { LxstowError, unlessCode } from '../../contract/errors.ts';
import type { Address, BackupAddress, Manifest } from '../../contract/schemas.ts';
import { openImport, runningImport } from '../../lxd/archives/imports.ts';
import type { LxdClient } from '../../lxd/connection/client.ts';
import { waitForOperation } from '../../lxd/connection/lxdOperation.ts';
import { instanceExists, nameOf, readServer } from '../../lxd/instances.ts';
import { type Attempt, bytesPerSecond } from '../../operations/attempt.ts';
import type { Tools } from '../tools.ts';

/** Thrown if LXD was killed during an earlier import and left a volume without its instance, which blocks further imports under this name. */
export class BlockedName extends LxstowError {}

interface Importing {
  from: BackupAddress;
  /** A free name of lxstow's own. */
  to: Address;
  /** Default: LXD chooses. */
  pool: string | undefined;
  manifest: Manifest;
  head: TarHead;
}

/** Imports an archive. Resolves when LXD has unpacked it. */
export async function importArchive(
  { from, to, pool, manifest: { archive, instance }, head }: Importing,
  attempt: Attempt,
  { lxd, store, threads, bandwidth, memory, config, metrics }: Tools,
): Promise<void> {
  const idleTimeoutMs = config.worker.lxdIdleTimeoutMs;
  using idle = new IdleWatch(idleTimeoutMs, `the import of ${nameOf(attempt.operation)}`);
  const moving = AbortSignal.any([attempt.signal, idle.signal]);
  const begun = performance.now();
  let sent = 0;
  const key = archiveKey(config.s3.prefix, from);
  await checkArchive(archive, from, key, store, attempt.signal);
  await recordBeginning(attempt, lxd);
  attempt.assertOwned();
  const scan = new SnapshotScan(instance.snapshots);
  const lxdImport = openImport(lxd, to, pool, moving);
  try {
    await writeTar(archive, lxdImport.request, {
      fetch: async (start, into) =>
        void (await inPieces(bandwidth, into, { signal: moving }, async (piece, at) => {
          await readArchive(archive, from, key, store, start + at, piece, moving);
          return piece.length;
        })),
      threads,
      memory,
      head,
      onTar: (bytes) => scan.push(bytes),
      onWaiting: (waiting) => idle.watch(waiting),
      onProgress: (bytes) => {
        metrics.sent.inc({ peer: 'lxd' }, bytes - sent);
        sent = bytes;
        const rate = bytesPerSecond(bytes, begun);
        attempt.report({ stage: 'restoring', bytes_done: bytes, bytes_total: archive.rawSize, bytes_per_second: rate });
      },
      signal: moving,
    });
    attempt.assertOwned();
    lxdImport.request.end();
  } catch (error) {
    throw await lxdImport.abort(error);
  }
  attempt.report({ stage: 'unpacking', bytes_done: archive.rawSize, bytes_total: archive.rawSize });
  try {
    // LXD has been seen to accept everything and never answer.
    idle.watch(true);
    await lxdImport.finish({ signal: moving, idleTimeoutMs }, async (operation) => {
      idle.watch(false);
      await attempt.checkpoint({ lxdImport: operation });
    });
  } catch (error) {
    const blocked = error instanceof LxstowError && error.message.includes('already exists on target');
    if (!blocked || (await instanceExists(lxd, to, attempt.signal))) throw scan.explain(error);
    throw new BlockedName(
      'conflict',
      `a volume named ${to.instance} is on the storage pool without its instance, left by an LXD that was killed while it imported: remove it from the pool`,
      { cause: error },
    );
  }
}

/** Records what the next attempt must know about the instance that the import will create. */
async function recordBeginning(attempt: Attempt, lxd: LxdClient): Promise<void> {
  const { server_pid: lxdPid } = (await readServer(lxd, attempt.signal)).environment;
  const begun = { importing: true, importedWhole: false, prepared: false };
  await attempt.checkpoint({ ...begun, ...(lxdPid !== undefined && { lxdPid }) });
}

/**
 * Waits for an import under this name that an earlier attempt began before its worker died. True if it was seen to succeed; otherwise the instance
 * may exist afterwards, but in part: LXD may have been killed.
 */
export async function settleImport(
  to: Address,
  attempt: Attempt,
  { lxd }: Pick<Tools, 'lxd'>,
  signal: AbortSignal,
): Promise<boolean> {
  for (let isWhole = false; ; ) {
    // Some servers do not say which instance an import is for, so wait for every import.
    const running = await runningImport(lxd, to, signal);
    if (!running) return isWhole;
    attempt.log.info('waiting for the import of an earlier attempt', { lxdOperation: running });
    const options = { signal, idleTimeoutMs: Number.POSITIVE_INFINITY };
    const ended = await unlessCode(['lxd-failed', 'lxd-refused'], () => waitForOperation(lxd, running, options));
    if (ended && running === attempt.operation.checkpoint?.lxdImport) isWhole = true;
  }
}
