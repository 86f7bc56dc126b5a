/** The name of a backup: settled once for its operation, and free of any other backup. */
import { archiveKey, manifestKey } from '../../backups/keys.ts';
import { parseManifest } from '../../backups/manifest.ts';
import { LxstowError, unlessMissing } from '../../contract/errors.ts';
import { type BackupAddress, type Compression, checkBackupName } from '../../contract/schemas.ts';
import type { JobOf } from '../../jobs/jobs.ts';
import type { Attempt } from '../../operations/attempt.ts';
import type { Tools } from '../tools.ts';
import { etagAt } from './archiveUpload.ts';

/** Returns the name that an earlier attempt has settled, the one that was asked for, or the next free one, and reserves it for this operation. */
export async function settleName(
  job: JobOf<'backup'>,
  compression: Compression,
  attempt: Attempt,
  { reservations, store, config }: Tools,
): Promise<string> {
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
  if (backup !== operation.backup) await attempt.record({ backup });
  return backup;
}

/** True if an earlier attempt got as far as the manifest. Throws conflict if the backup is another operation's. */
export async function alreadyThere(
  address: BackupAddress,
  attempt: Attempt,
  { store, config, keeper }: Tools,
): Promise<boolean> {
  const operation = attempt.operation.id;
  const { prefix } = config.s3;
  const what = `${address.instance}/${address.backup}`;
  const found = await unlessMissing(() => store.read(manifestKey(prefix, address), attempt.signal));
  if (found) {
    const manifest = parseManifest(found.body, address);
    if (manifest.operation !== operation) throw new LxstowError('conflict', `backup ${what} already exists`);
    await keeper.made(address, manifest, { operation });
    return true;
  }
  // An archive of our own earlier attempt is resumed. Any other is refused now, not when everything has been sent.
  if (attempt.operation.checkpoint?.uploadId) return false;
  if ((await etagAt(store, archiveKey(prefix, address), attempt.signal)) === undefined) return false;
  throw new LxstowError(
    'conflict',
    `an archive without its manifest is where backup ${what} would be, left by an operation that ended: \`lxstow janitor\` removes it, or take another name`,
  );
}
