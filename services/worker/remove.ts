/** Deletes a backup: first the manifest, after which the backup no longer exists, then the archive. */
import { setTimeout } from 'node:timers/promises';
import { etagAt } from '../backups/archives.ts';
import { archiveKey, manifestKey } from '../backups/keys.ts';
import { parseManifest } from '../backups/manifest.ts';
import { assertDeletable } from '../backups/protection.ts';
import { isCode, LxstowError, unlessCode, unlessMissing } from '../contract/errors.ts';
import type { BackupAddress, Manifest, RemovedBackup } from '../contract/schemas.ts';
import type { JobOf } from '../jobs/jobs.ts';
import { claimKey, removal } from '../nats/bucketKeys.ts';
import type { Attempt } from '../operations/attempt.ts';
import type { ObjectStore } from '../storage/objectStore.ts';
import type { Tools } from './tools.ts';

/** How long to wait for operations that read or change the backup. */
const lastReadersMs = 1000;
const lookAgainMs = 100;

export async function runRemove(job: JobOf<'delete'>, attempt: Attempt, tools: Tools): Promise<void> {
  attempt.report({ stage: 'deleting' });
  const address = { ...job.address, backup: job.body.backup };
  const { key, removing } = attempt.operation.checkpoint ?? {};
  try {
    const { bytes, isKept } = await removeBackup(address, attempt, tools, (found) => {
      if (removing && !isThat(found, removing)) throw missing(address);
      if (found.manifest) assertDeletable(found.manifest);
    });
    auditRemoval(address, attempt, tools);
    attempt.report(isKept ? { bytes_in_old_versions: bytes } : { bytes_freed: bytes });
  } catch (error) {
    // An earlier attempt has deleted the manifest.
    if (key === undefined || !isCode(error, 'not-found')) throw error;
    if (!removing || (await finishRemoval(address, removing, attempt, tools))) auditRemoval(address, attempt, tools);
  }
}

/** Writes a deletion's line of the audit log. `by`: what chose the backup for deletion. */
export function auditRemoval(address: BackupAddress, attempt: Attempt, { audit }: Tools, by: object = {}): void {
  const { id: operation, kind, requestor, trace } = attempt.operation;
  const { remote: location, project, instance, backup } = address;
  const what = { requestor, kind, location, project, instance, backup, ...by };
  audit.info('audit', { ...what, result: 'done', operation, trace });
}

/** A backup as its deletion finds it. */
export interface FoundBackup {
  /** Undefined if it cannot be read. */
  manifest: Manifest | undefined;
  /** The ETag of the manifest. */
  etag: string;
}

export interface Removed {
  /** Bytes of the archive; 0 if the manifest could not be read. */
  bytes: number;
  /** Whether the bucket keeps the archive as an old version, so that no space is free yet. */
  isKept: boolean;
}

/**
 * Deletes a backup, under a claim. `mayGo` is called with the backup as it is under the claim; if it throws, the backup stays. Throws instance-busy if the backup is being
 * deleted already, conflict while it is being read, and not-found. `noted` is recorded with what is deleted.
 */
export async function removeBackup(
  address: BackupAddress,
  attempt: Attempt,
  { store, leasesBucket, config, keeper }: Tools,
  mayGo: (found: FoundBackup) => void,
  noted: Pick<RemovedBackup, 'deletedBefore'> = {},
): Promise<Removed> {
  const { signal } = attempt;
  const { prefix } = config.s3;
  const name = `${address.instance}/${address.backup}`;
  const own = claimKey(address, address.backup, removal);
  await using _claim = await claimRemoval(address, attempt);
  const until = performance.now() + lastReadersMs;
  const isRead = async () =>
    (await leasesBucket.keys(claimKey(address, address.backup, '*'))).some((key) => key !== own);
  // Our claim keeps new readers out, and a change of tags takes only a moment.
  while (await isRead()) {
    if (performance.now() < until) await setTimeout(lookAgainMs, undefined, { signal });
    else throw new LxstowError('conflict', `backup ${name} is being restored or exported; it was not deleted`);
  }

  const key = archiveKey(prefix, address);
  const found = await findBackup(address, store, prefix, signal);
  if (!found) throw missing(address);
  mayGo(found);
  await attempt.checkpoint({ key, removing: { ...(await identityOf(found, key, store, signal)), ...noted } });
  attempt.assertOwned();
  await store.remove(manifestKey(prefix, address), signal);
  // Without the claim, a new backup may have the name.
  attempt.assertOwned();
  const isKept = await store.remove(key, signal);
  await keeper.removed(address);
  return { bytes: found.manifest?.archive.size ?? 0, isKept };
}

/** Keeps readers out, and new backups of that name. */
function claimRemoval(address: BackupAddress, attempt: Attempt): Promise<AsyncDisposable> {
  const { instance, backup } = address;
  return attempt.claim(claimKey(address, backup, removal), `backup ${instance}/${backup} is being deleted already`);
}

/**
 * Finishes a deletion that an earlier attempt has begun. Undefined if that attempt has not removed the manifest: then the backup is whole. Does not touch
 * another backup that has this name by now, or is about to get it.
 */
export async function finishRemoval(
  address: BackupAddress,
  removing: RemovedBackup,
  attempt: Attempt,
  { config, keeper, reservations, store }: Tools,
): Promise<Removed | undefined> {
  const { signal } = attempt;
  const { prefix } = config.s3;
  await using _claim = await claimRemoval(address, attempt);
  const nothing = { bytes: 0, isKept: false };
  const found = await findBackup(address, store, prefix, signal);
  if (found) return isThat(found, removing) ? undefined : nothing;
  const key = archiveKey(prefix, address);
  const archive = await unlessMissing(() => store.stat(key, signal));
  const isLeft = archive !== undefined && archive.etag === removing.archive;
  const isFree = (await reservations.holder(address, address.backup)) === undefined;
  if (isLeft) attempt.assertOwned();
  const removed = isLeft && isFree ? { bytes: archive.size, isKept: await store.remove(key, signal) } : nothing;
  await keeper.removed(address);
  return removed;
}

/** Undefined if there is no such backup. */
async function findBackup(
  address: BackupAddress,
  store: ObjectStore,
  prefix: string,
  signal: AbortSignal,
): Promise<FoundBackup | undefined> {
  const stored = await unlessMissing(() => store.read(manifestKey(prefix, address), signal));
  if (!stored) return undefined;
  const manifest = await unlessCode(['bad-manifest'], () => parseManifest(stored.body, address));
  return { manifest, etag: stored.etag };
}

async function identityOf(
  { manifest, etag }: FoundBackup,
  key: string,
  store: ObjectStore,
  signal: AbortSignal,
): Promise<RemovedBackup> {
  if (manifest) return { manifest: etag, archive: manifest.archive.etag, operation: manifest.operation };
  const archive = await etagAt(store, key, signal);
  return { manifest: etag, ...(archive !== undefined && { archive }) };
}

/** Whether this is the backup to delete. Tags and pins change a manifest's ETag, but not the operation that made the backup. */
function isThat({ manifest, etag }: FoundBackup, removing: RemovedBackup): boolean {
  return etag === removing.manifest || (manifest !== undefined && manifest.operation === removing.operation);
}

function missing({ instance, backup }: BackupAddress): LxstowError {
  return new LxstowError('not-found', `backup ${instance}/${backup} does not exist`);
}
