/** Chooses the name of a backup, once for its operation, so that no other backup has it. */
import { etagAt } from '../../backups/archives.ts';
import { archiveKey, manifestKey } from '../../backups/keys.ts';
import { readManifest } from '../../backups/manifest.ts';
import { checkBackupName } from '../../contract/backupNames.ts';
import { LxstowError, unlessMissing } from '../../contract/errors.ts';
import type { BackupAddress, Compression } from '../../contract/schemas.ts';
import type { JobOf } from '../../jobs/jobs.ts';
import { claimKey, removal } from '../../nats/bucketKeys.ts';
import type { Attempt } from '../../operations/attempt.ts';
import type { Tools } from '../tools.ts';
import { removeOwnManifest } from './traces.ts';

/**
 * Returns the name that an earlier attempt has chosen, the requested one, or the next free one, and reserves it for this operation. `isFree`: no
 * backup with this name is stored.
 */
export async function settleName(
  job: JobOf<'backup'>,
  compression: Compression,
  attempt: Attempt,
  { reservations, store, config }: Tools,
): Promise<{ backup: string; isFree: boolean }> {
  const { operation, signal } = attempt;
  const wanted = operation.backup ?? job.body.backup;
  if (wanted !== undefined) {
    checkBackupName(wanted, compression);
    if (!(await reservations.take(job.address, wanted, operation.id)))
      throw new LxstowError('conflict', `backup ${job.address.instance}/${wanted} is being made by another operation`);
  }
  const inUse = async (backup: string) =>
    (await etagAt(store, manifestKey(config.s3.prefix, { ...job.address, backup }), signal)) !== undefined;
  const backup =
    wanted ??
    (await reservations.takeNext(job.address, new Date(operation.created_at), compression, operation.id, inUse));
  // The next attempt will choose the same name, because the reservation belongs to this operation.
  if (backup !== operation.backup) attempt.note({ backup });
  return { backup, isFree: wanted === undefined };
}

/**
 * True if an earlier attempt has written the manifest, and the archive that it describes is there. Another archive, or none, means that the manifest was
 * stored late, after the next attempt had removed its archive: then it is removed. Throws conflict if the backup belongs to another operation.
 */
export async function isDone(address: BackupAddress, attempt: Attempt, tools: Tools): Promise<boolean> {
  const { store, config, keeper } = tools;
  const operation = attempt.operation.id;
  const found = await unlessMissing(() => readManifest(store, config.s3.prefix, address, attempt.signal));
  if (!found) return false;
  const { manifest } = found;
  if (manifest.operation !== operation)
    throw new LxstowError('conflict', `backup ${address.instance}/${address.backup} already exists`);
  if ((await etagAt(store, archiveKey(config.s3.prefix, address), attempt.signal)) !== manifest.archive.etag) {
    attempt.log.warn('the manifest of an earlier attempt was stored late, and its archive is gone', { ...address });
    await removeOwnManifest(address, attempt, tools);
    return false;
  }
  // The attempt that wrote them may have ended before they were on the disk.
  await store.flush(attempt.signal);
  await keeper.made(address, manifest, { operation });
  return true;
}

/**
 * Throws instance-busy while a backup of this name is being deleted: the deletion could remove the new archive. Backup and deletion each write their
 * reservation or claim before they look for the other's, so at least one of them sees the other.
 */
export async function assertNotBeingDeleted(
  { backup, ...place }: BackupAddress,
  attempt: Attempt,
  { leases }: Tools,
): Promise<void> {
  // An earlier attempt has looked.
  if (attempt.operation.checkpoint || !(await leases.holder(claimKey(place, backup, removal)))) return;
  throw new LxstowError('instance-busy', `backup ${place.instance}/${backup} is being deleted`);
}

/** Throws conflict if another operation has left an archive without its manifest under this name. Otherwise this would be noticed only after everything was sent. */
export async function assertNoLeftoverArchive(
  address: BackupAddress,
  attempt: Attempt,
  { store, config }: Tools,
): Promise<void> {
  // What is there may be an earlier attempt's, which is removed.
  if (attempt.operation.checkpoint) return;
  if ((await etagAt(store, archiveKey(config.s3.prefix, address), attempt.signal)) === undefined) return;
  const what = `${address.instance}/${address.backup}`;
  throw new LxstowError(
    'conflict',
    `an archive without its manifest has the name of backup ${what}; it is a leftover of an operation. Remove it with \`lxstow janitor\`, or choose another name`,
  );
}
