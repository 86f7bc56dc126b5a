/** Deletes a backup: the manifest first, for without it there is no backup, then the archive. */
import { setTimeout } from 'node:timers/promises';
import { archiveKey, manifestKey } from '../backups/keys.ts';
import { assertUnpinned, parseManifest } from '../backups/manifest.ts';
import { isCode, LxstowError } from '../contract/errors.ts';
import type { BackupAddress, Manifest } from '../contract/schemas.ts';
import type { JobOf } from '../jobs/jobs.ts';
import { claimKey, removal } from '../nats/bucketKeys.ts';
import type { Attempt } from '../operations/attempt.ts';
import type { Tools } from './tools.ts';

/** How long to wait for those that read or change the backup. */
const lastReadersMs = 1000;
const lookAgainMs = 100;

export async function runRemove(job: JobOf<'delete'>, attempt: Attempt, tools: Tools): Promise<void> {
  attempt.report({ stage: 'deleting' });
  await removeBackup({ ...job.address, backup: job.body.backup }, attempt, tools, (manifest) => {
    if (manifest) assertUnpinned(manifest);
  });
}

/**
 * Deletes a backup, under a claim. `mayGo` gets its manifest as it is under the claim, or undefined for one that cannot be read; what it throws keeps the
 * backup. Throws instance-busy when it is being deleted already, conflict while it is read, not-found.
 */
export async function removeBackup(
  address: BackupAddress,
  attempt: Attempt,
  { store, leasesBucket, config, keeper }: Tools,
  mayGo: (manifest: Manifest | undefined) => void,
): Promise<void> {
  const { signal } = attempt;
  const { prefix } = config.s3;
  const name = `${address.instance}/${address.backup}`;
  const own = claimKey(address, address.backup, removal);
  await using _claim = await attempt.claim(own, `backup ${name} is being deleted already`);
  const until = performance.now() + lastReadersMs;
  const isRead = async () =>
    (await leasesBucket.keys(claimKey(address, address.backup, '*'))).some((key) => key !== own);
  // Our claim keeps new readers out, and a change of tags is over in a moment.
  while (await isRead()) {
    if (performance.now() < until) await setTimeout(lookAgainMs, undefined, { signal });
    else throw new LxstowError('conflict', `backup ${name} is being restored or exported; it was not deleted`);
  }

  // An earlier attempt that died between the two removals has left its checkpoint: then we have removed the manifest ourselves.
  const key = archiveKey(prefix, address);
  const isOurs = attempt.operation.checkpoint?.key === key;
  const found = await store.read(manifestKey(prefix, address), signal).catch((error) => {
    if (!isCode(error, 'not-found')) throw error;
    if (!isOurs) throw new LxstowError('not-found', `backup ${name} does not exist`, { cause: error });
  });
  // While that attempt was waited for, the backup may have been pinned.
  if (found) mayGo(readable(found.body, address));
  if (!isOurs) await attempt.checkpoint({ key });
  attempt.assertOwned();
  await store.remove(manifestKey(prefix, address), signal);
  await store.remove(key, signal);
  await keeper.removed(address);
}

function readable(body: Buffer, address: BackupAddress): Manifest | undefined {
  try {
    return parseManifest(body, address);
  } catch (error) {
    if (isCode(error, 'bad-manifest')) return undefined;
    throw error;
  }
}
