/** Backs an instance up: LXD's own copy, its bytes into the object store, the manifest last. */
import { blockSizeBytes } from '../../archive/compression/compression.ts';
import { archiveKey, manifestKey } from '../../backups/keys.ts';
import { attachedVolumes, formatManifest, manifestVersion, parseManifest } from '../../backups/manifest.ts';
import { isCode, LxstowError } from '../../contract/errors.ts';
import {
  type BackupAddress,
  type Compression,
  checkBackupName,
  compressionNamed,
  contentTypes,
  type Manifest,
  type ManifestLxd,
  type Tags,
} from '../../contract/schemas.ts';
import { version } from '../../contract/version.ts';
import type { JobOf } from '../../jobs/jobs.ts';
import { beginLxdBackup, deleteLxdBackup, lxdBackupExists, mark, type Writing } from '../../lxd/backups.ts';
import { describeInstance, describeServer } from '../../lxd/instances.ts';
import { type Attempt, bytesPerSecond, cleanupSignal, lingering } from '../../operations/attempt.ts';
import type { Upload } from '../../storage/objectStore.ts';
import type { Tools } from '../tools.ts';
import { ArchiveUpload, etagAt } from './archiveUpload.ts';
import { BackupCheckpoint, type BackupStart, removeCheckpoint, type SentPart } from './checkpoint.ts';
import { sendArchive, storedBytes } from './sendArchive.ts';
import { assertStagingRoom, Filled, type StagingRoom, watchStagingRoom } from './stagingRoom.ts';
import { adviseOnZeros } from './zeros.ts';

export async function runBackup(job: JobOf<'backup'>, attempt: Attempt, tools: Tools): Promise<void> {
  const { store, config } = tools;
  const { prefix } = config.s3;
  // As an earlier attempt has named it: another worker's usual compression may be another.
  const begun = attempt.operation.backup === undefined ? undefined : compressionNamed(attempt.operation.backup);
  const compression = job.body.compression ?? begun ?? config.worker.compression;
  const address: BackupAddress = { ...job.address, backup: await settleName(job, compression, attempt, tools) };
  using _kept = tools.reservations.keep(address, address.backup, attempt.operation.id, (error) =>
    attempt.log.warn('the name is not held for longer yet', { error }),
  );
  if (await alreadyThere(address, attempt, tools)) return removeTraces(job, attempt, tools);

  const tags = job.body.tags ?? {};
  const found = await resumable(job, compression, attempt, tools);
  if (!found) await removeTraces(job, attempt, tools);
  // However it ends: of LXD's operation nobody wants to hear any more.
  const given = new AbortController();
  using ending = new DisposableStack();
  ending.defer(() => given.abort());
  const { checkpoint, writing, room } = found
    ? { checkpoint: found }
    : await begin(job, address, compression, attempt, tools, AbortSignal.any([attempt.signal, given.signal]));
  const { start } = checkpoint;
  for (const { volume, pool, device } of attachedVolumes(start.instance))
    attempt.warn(`not in this backup: custom volume ${volume} of pool ${pool}, attached as ${device}`);
  try {
    const upload = new ArchiveUpload(
      checkpoint,
      { tags, contentType: contentTypes[start.compression] },
      attempt,
      tools,
    );
    const { parts, etag, made } = await sendArchive(address, checkpoint, upload, attempt, tools, writing);
    adviseOnZeros(parts, start, attempt);
    const manifest: Manifest = {
      version: manifestVersion,
      writer: `lxstow ${version}`,
      operation: attempt.operation.id,
      backup: backupPart(address, tags),
      archive: {
        key: start.upload.key,
        etag,
        size: storedBytes(parts),
        rawSize: made.size,
        compression: start.compression,
        optimized: made.optimized,
        instanceOnly: job.body.instance_only ?? false,
        blockSize: start.compression === 'none' ? longestStretch(parts) : blockSizeBytes,
        parts: parts.map(({ tar: _, zeros: __, ...part }) => part),
      },
      instance: start.instance,
      lxd: start.lxd,
    };
    attempt.assertOwned();
    const options = { tags, contentType: 'application/json' };
    // Not to be interrupted: given up, it may still arrive when the undoing has looked whether it is there.
    await store.create(manifestKey(prefix, address), formatManifest(manifest), options, cleanupSignal());
    await tools.keeper.made(address, manifest, { operation: attempt.operation.id });
  } catch (error) {
    // Nothing to go on from: the copy itself is bad. On a full disk it takes the room that others need.
    if (isCode(error, 'lxd-full') || isCode(error, 'archive-truncated')) await removeTraces(job, attempt, tools);
    if (error instanceof Filled && room) await attempt.checkpoint({ tooLittleBytes: room.free });
    throw error;
  }
  await tidy(start.lxdBackup, undefined, attempt, tools);
  await checkpoint.remove();
}

/** Removes all that this operation's attempts have made, the backup too: it ends otherwise than well, and what it says must be true. */
export async function undoBackup(job: JobOf<'backup'>, attempt: Attempt, tools: Tools): Promise<void> {
  const { backup, checkpoint } = attempt.operation;
  if (isCode(attempt.signal.reason, 'lease-lost')) return;
  try {
    if (checkpoint?.uploadId && backup !== undefined)
      await removeOwnManifest({ ...job.address, backup }, attempt, tools);
  } finally {
    // LXD's copy takes its room also where the store does not answer.
    await removeTraces(job, attempt, tools);
  }
}

/** A manifest whose answer was lost, or that was written while somebody cancelled. */
async function removeOwnManifest(
  address: BackupAddress,
  attempt: Attempt,
  { store, config, keeper }: Tools,
): Promise<void> {
  const key = manifestKey(config.s3.prefix, address);
  const signal = cleanupSignal();
  try {
    const { body } = await store.read(key, signal);
    if (parseManifest(body, address).operation !== attempt.operation.id) return;
    await store.remove(key, signal);
    await keeper.removed(address);
  } catch (error) {
    if (!isCode(error, 'not-found') && !isCode(error, 'bad-manifest')) throw error;
  }
}

/** Removes what this operation's attempts have left in LXD and in the store. The backup itself, once its manifest is there, stays. */
async function removeTraces(job: JobOf<'backup'>, attempt: Attempt, tools: Tools): Promise<void> {
  const { operation } = attempt;
  const { key, uploadId, lxdBackup } = operation.checkpoint ?? {};
  const upload = key && uploadId ? { key, uploadId } : undefined;
  await tidy(lxdBackup, upload, attempt, tools);
  if (upload && operation.backup !== undefined)
    await removeOrphan({ ...job.address, backup: operation.backup }, attempt, tools);
  await removeCheckpoint(tools.checkpoints, operation);
}

/** An archive that was completed, but never got its manifest. */
async function removeOrphan(address: BackupAddress, attempt: Attempt, { store, config }: Tools): Promise<void> {
  const { prefix } = config.s3;
  const signal = cleanupSignal();
  try {
    await store.stat(manifestKey(prefix, address), signal);
  } catch (error) {
    if (!isCode(error, 'not-found')) throw error;
    await store.remove(archiveKey(prefix, address), signal);
    attempt.log.debug('no archive without its manifest', { backup: address.backup });
  }
}

/** LXD at work on its copy, and an open upload for it. LXD is listened to until `listening` ends. */
async function begin(
  job: JobOf<'backup'>,
  address: BackupAddress,
  compression: Compression,
  attempt: Attempt,
  tools: Tools,
  listening: AbortSignal,
): Promise<{ checkpoint: BackupCheckpoint; writing: Writing; room: StagingRoom | undefined }> {
  const { lxd: client, store, config, checkpoints } = tools;
  const { signal, operation } = attempt;
  const [instance, lxd] = await Promise.all([
    describeInstance(client, address, signal),
    describeServer(client, signal),
  ]);
  const room = await assertStagingRoom(address, job.body, attempt, tools);
  const lxdBackup = `${mark}${operation.id}-${operation.attempt}`;
  await attempt.checkpoint({ lxdBackup });
  const writing = await generate({ job, lxdBackup, server: lxd, room }, attempt, tools, listening);
  const key = archiveKey(config.s3.prefix, address);
  const begun = Date.now();
  const upload = await store.beginUpload(
    key,
    { tags: job.body.tags ?? {}, contentType: contentTypes[compression] },
    lingering(signal),
  );
  await attempt.checkpoint({ key, uploadId: upload.uploadId });
  const start: BackupStart = { lxdBackup, compression, upload, begun, session: upload.uploadId, instance, lxd };
  return { writing, room, checkpoint: await BackupCheckpoint.create(checkpoints, operation, start, attempt.log) };
}

/** What an attempt before this one got done, where LXD and the store still have it as it was recorded. */
async function resumable(
  job: JobOf<'backup'>,
  compression: Compression,
  attempt: Attempt,
  tools: Tools,
): Promise<BackupCheckpoint | undefined> {
  const { operation, log, signal } = attempt;
  if (!operation.checkpoint?.uploadId) return undefined;
  const checkpoint = await BackupCheckpoint.load(tools.checkpoints, operation, log);
  if (!checkpoint) return undefined;
  const { start, parts } = checkpoint;
  if (!start.made) return undefined;
  const upload = new ArchiveUpload(
    checkpoint,
    { tags: job.body.tags ?? {}, contentType: contentTypes[compression] },
    attempt,
    tools,
  );
  const object = await etagAt(tools.store, start.upload.key, signal);
  const whole = parts.at(-1)?.rawEnd === start.made.size;
  if (whole && object === upload.etag) return checkpoint;
  if (!(await lxdBackupExists(tools.lxd, operation, start.lxdBackup, signal))) return undefined;
  const sound = operation.checkpoint.uploadId === start.upload.uploadId && (await isSound(upload, signal));
  if (!sound) {
    // It may have ended amid a renewal: the object is there, the next upload is not.
    if (object === undefined || object !== upload.etag) return undefined;
    await upload.reopen(object, signal);
  }
  log.info('going on where an earlier attempt was', { parts: parts.length, rawStart: parts.at(-1)?.rawEnd ?? 0 });
  return checkpoint;
}

async function isSound(upload: ArchiveUpload, signal: AbortSignal): Promise<boolean> {
  try {
    return await upload.isSound(signal);
  } catch (error) {
    if (isCode(error, 'not-found')) return false;
    throw error;
  }
}

/** Bytes of the tar in one part. */
function longestStretch(parts: SentPart[]): number {
  return parts.reduce((largest, { rawStart, rawEnd }) => Math.max(largest, rawEnd - rawStart), 0);
}

function backupPart({ backup, remote, project, instance }: BackupAddress, tags: Tags): Manifest['backup'] {
  return { name: backup, remote, project, instance, created: new Date().toISOString(), tags };
}

/** The backup's name: the one that is settled already, the one that was asked for, or the next free one. It is then reserved for this operation. */
async function settleName(
  job: JobOf<'backup'>,
  compression: Compression,
  attempt: Attempt,
  { reservations, store, config }: Tools,
): Promise<string> {
  const { operation, signal } = attempt;
  const wanted = operation.backup ?? job.body.backup;
  const inUse = async (backup: string) => {
    try {
      await store.stat(manifestKey(config.s3.prefix, { ...job.address, backup }), signal);
      return true;
    } catch (error) {
      if (isCode(error, 'not-found')) return false;
      throw error;
    }
  };
  if (wanted !== undefined) {
    checkBackupName(wanted, compression);
    if (!(await reservations.take(job.address, wanted, operation.id))) {
      throw new LxstowError('conflict', `backup ${job.address.instance}/${wanted} is being made by another operation`);
    }
  }
  const backup =
    wanted ??
    (await reservations.takeNext(job.address, new Date(operation.created_at), compression, operation.id, inUse));
  if (backup !== operation.backup) await attempt.record({ backup });
  return backup;
}

/** True when an earlier attempt got as far as the manifest. Throws conflict when the backup is another operation's. */
async function alreadyThere(
  address: BackupAddress,
  attempt: Attempt,
  { store, config, keeper }: Tools,
): Promise<boolean> {
  const operation = attempt.operation.id;
  try {
    const { body } = await store.read(manifestKey(config.s3.prefix, address), attempt.signal);
    const manifest = parseManifest(body, address);
    if (manifest.operation === operation) {
      await keeper.made(address, manifest, { operation });
      return true;
    }
    throw new LxstowError('conflict', `backup ${address.instance}/${address.backup} already exists`);
  } catch (error) {
    if (!isCode(error, 'not-found')) throw error;
  }
  // Found only when all of it is sent, otherwise. One of an earlier attempt of ours is gone on with.
  if (attempt.operation.checkpoint?.uploadId) return false;
  if ((await etagAt(store, archiveKey(config.s3.prefix, address), attempt.signal)) === undefined) return false;
  const what = `${address.instance}/${address.backup}`;
  throw new LxstowError(
    'conflict',
    `an archive without its manifest is where backup ${what} would be, left by an operation that ended: \`lxstow janitor\` removes it, or take another name`,
  );
}

interface Generating {
  job: JobOf<'backup'>;
  lxdBackup: string;
  server: ManifestLxd;
  /** Undefined where this worker cannot see LXD's disk. */
  room: StagingRoom | undefined;
}

async function generate(
  { job, lxdBackup: name, server, room }: Generating,
  attempt: Attempt,
  tools: Tools,
  signal: AbortSignal,
): Promise<Writing> {
  const { lxd, config } = tools;
  const { optimized = false, instance_only: instanceOnly = false } = job.body;
  // LXD 6's own format can be restored by nothing older.
  const metadataVersion = server.extensions?.includes('backup_metadata_version') ? 1 : undefined;
  const begun = performance.now();
  let movedAt = begun;
  let written = 0;
  attempt.report({ stage: 'generating' });
  const writing = await beginLxdBackup(
    lxd,
    job.address,
    { name, optimized, instanceOnly, metadataVersion, waitHours: config.worker.patienceHours },
    {
      signal,
      idleTimeoutMs: config.worker.lxdIdleTimeoutMs,
      onProgress: (bytes, text) => {
        if (bytes !== written) [written, movedAt] = [bytes, performance.now()];
        attempt.report({
          bytes_done: bytes,
          bytes_per_second: bytesPerSecond(bytes, begun),
          create_backup_progress: text,
        });
      },
    },
  );
  return watchStagingRoom(writing, room, { attempt, tools, movedAt: () => movedAt });
}

/** Leaves nothing behind. After a lost lease nothing is touched: the next owner has the checkpoint, and does this itself. */
async function tidy(
  lxdBackup: string | undefined,
  upload: Upload | undefined,
  attempt: Attempt,
  { lxd, store, config }: Tools,
): Promise<void> {
  if (isCode(attempt.signal.reason, 'lease-lost')) return;
  const { lxdIdleTimeoutMs: idleTimeoutMs } = config.worker;
  const waiting = () => ({ signal: cleanupSignal(), idleTimeoutMs });
  const steps = [
    ['backup in LXD', async () => lxdBackup && (await deleteLxdBackup(lxd, attempt.operation, lxdBackup, waiting()))],
    ['upload', async () => upload && (await store.abortUpload(upload, cleanupSignal()))],
  ] as const;
  for (const [what, run] of steps) {
    try {
      await run();
    } catch (error) {
      attempt.log.error('left behind', { what, lxdBackup, upload, error });
    }
  }
}
