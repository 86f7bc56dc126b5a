/** What a backup's attempts leave in LXD, in the store and in NATS, and its removal. */
import { etagAt } from '../../backups/archives.ts';
import { archiveKey, manifestKey } from '../../backups/keys.ts';
import { formatManifest, parseManifest } from '../../backups/manifest.ts';
import { isCode, LxstowError, unlessMissing } from '../../contract/errors.ts';
import type { BackupAddress } from '../../contract/schemas.ts';
import type { JobOf } from '../../jobs/jobs.ts';
import { deleteLxdBackup } from '../../lxd/archives/backups.ts';
import { type Attempt, cleanupSignal } from '../../operations/attempt.ts';
import type { Upload } from '../../storage/objectStore.ts';
import type { Tools } from '../tools.ts';
import { removeCheckpoint } from './checkpoint.ts';

/** Removes everything that this operation's attempts have made, including the backup, because the operation will end without one. Throws lease-lost. */
export async function undoBackup(job: JobOf<'backup'>, attempt: Attempt, tools: Tools): Promise<void> {
  const { backup, checkpoint } = attempt.operation;
  attempt.assertHeld();
  try {
    if (checkpoint && backup !== undefined) await removeOwnManifest({ ...job.address, backup }, attempt, tools);
  } finally {
    // Delete LXD's copy, which takes space, even if the store does not answer.
    await removeTraces(job, attempt, tools);
  }
}

/**
 * Removes a manifest whose answer was lost, or that was written while the operation was cancelled. A locked manifest stays in the bucket as an old
 * version, which `lxstow rebuild` would take as a backup that something other than lxstow deleted. So a manifest without the lock is written over it first.
 */
export async function removeOwnManifest(address: BackupAddress, attempt: Attempt, tools: Tools): Promise<void> {
  const { store, config, keeper } = tools;
  const key = manifestKey(config.s3.prefix, address);
  try {
    await inTime(attempt, tools, async (signal) => {
      const { body, etag } = await store.read(key, signal);
      const manifest = parseManifest(body, address);
      if (manifest.operation !== attempt.operation.id) return;
      const { lock, ...backup } = manifest.backup;
      const options = { tags: backup.tags, contentType: 'application/json' };
      // Check the lease after reading: if another worker's attempt at this operation has written the manifest, the lease was lost before.
      attempt.assertHeld();
      if (lock) await store.replace(key, etag, formatManifest({ ...manifest, backup }), options, signal);
      attempt.assertHeld();
      await store.remove(key, signal);
      await keeper.removed(address);
    });
  } catch (error) {
    if (!isCode(error, 'not-found') && !isCode(error, 'bad-manifest')) throw error;
  }
}

/** Runs a step at the store that a cancel must not interrupt. It ends after 30 s, with s3-unavailable, or when the lease is lost: the next owner may do the same. */
export async function inTime<T>(
  attempt: Attempt,
  { config }: Tools,
  step: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const late = cleanupSignal();
  try {
    return await step(AbortSignal.any([late, attempt.leaseLost]));
  } catch (error) {
    if (error !== late.reason) throw error;
    throw new LxstowError('s3-unavailable', `S3 at ${config.s3.endpoint} did not answer in time`, { cause: error });
  }
}

/** Removes what this operation's attempts have left in LXD and in the store. A backup that already has its manifest stays. */
export async function removeTraces(job: JobOf<'backup'>, attempt: Attempt, tools: Tools): Promise<void> {
  const { operation } = attempt;
  // An attempt writes its checkpoint before it makes anything.
  if (!operation.checkpoint) return;
  const { key, uploadId, lxdBackup } = operation.checkpoint;
  const upload = key && uploadId ? { key, uploadId } : undefined;
  await tidy(lxdBackup, upload, attempt, tools);
  if (operation.backup !== undefined)
    await removeLeftoverArchive({ ...job.address, backup: operation.backup }, upload, attempt, tools);
  attempt.assertHeld();
  await removeCheckpoint(tools.checkpoints, operation);
}

/** Removes an archive that this operation has made, but that never got its manifest. */
async function removeLeftoverArchive(
  address: BackupAddress,
  upload: Upload | undefined,
  attempt: Attempt,
  tools: Tools,
): Promise<void> {
  const { store, config } = tools;
  const { prefix } = config.s3;
  await inTime(attempt, tools, async (signal) => {
    if ((await etagAt(store, manifestKey(prefix, address), signal)) !== undefined) return;
    const key = archiveKey(prefix, address);
    if (!upload && (await unlessMissing(() => store.stat(key, signal)))?.operation !== attempt.operation.id) return;
    attempt.assertHeld();
    await store.remove(key, signal);
    attempt.log.debug('no archive without its manifest', { backup: address.backup });
  });
}

/** Removes LXD's copy and the upload; logs what cannot be removed. Touches nothing after a lost lease: the next owner has the checkpoint, and does this itself. */
export async function tidy(
  lxdBackup: string | undefined,
  upload: Upload | undefined,
  attempt: Attempt,
  { lxd, store, config }: Tools,
): Promise<void> {
  const { lxdIdleTimeoutMs: idleTimeoutMs } = config.worker;
  const signalOfStep = () => AbortSignal.any([cleanupSignal(), attempt.leaseLost]);
  const waiting = () => ({ signal: signalOfStep(), idleTimeoutMs });
  const steps = [
    ['backup in LXD', async () => lxdBackup && (await deleteLxdBackup(lxd, attempt.operation, lxdBackup, waiting()))],
    ['upload', async () => upload && (await store.abortUpload(upload, signalOfStep()))],
  ] as const;
  for (const [what, run] of steps) {
    try {
      attempt.assertHeld();
      await run();
    } catch (error) {
      if (isCode(error, 'lease-lost')) return;
      attempt.log.error('left behind', { what, lxdBackup, upload, error });
    }
  }
}
