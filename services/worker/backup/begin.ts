/** Begins an attempt at a backup: resumes an earlier attempt, or starts a new copy in LXD and a new upload. */
import { etagAt } from '../../backups/archives.ts';
import { archiveKey } from '../../backups/keys.ts';
import { checkLock, lockFrom } from '../../backups/protection.ts';
import { contentTypes } from '../../contract/backupNames.ts';
import { unlessMissing } from '../../contract/errors.ts';
import type { BackupAddress, Compression, ManifestLxd, Operation } from '../../contract/schemas.ts';
import type { JobOf } from '../../jobs/jobs.ts';
import { beginLxdBackup, lxdBackupExists, mark, type Writing } from '../../lxd/archives/backups.ts';
import { describeInstance, describeServer, readServer } from '../../lxd/instances.ts';
import { type Attempt, bytesPerSecond, lingering } from '../../operations/attempt.ts';
import type { ObjectStore } from '../../storage/objectStore.ts';
import type { Tools } from '../tools.ts';
import { ArchiveUpload, type ArchiveUploadOptions } from './archiveUpload.ts';
import { BackupCheckpoint, type BackupStart } from './checkpoint.ts';
import { assertStagingRoom, type StagingRoom, watchStagingRoom } from './stagingRoom.ts';

/** Resumes an earlier attempt. Undefined unless LXD and the store still have all that it recorded. */
export async function resume(
  job: JobOf<'backup'>,
  address: BackupAddress,
  compression: Compression,
  attempt: Attempt,
  tools: Tools,
): Promise<BackupCheckpoint | undefined> {
  const { operation, log, signal } = attempt;
  if (!operation.checkpoint?.uploadId) return undefined;
  const checkpoint = await BackupCheckpoint.load(tools.checkpoints, operation, log);
  if (!checkpoint) return undefined;
  const { start, parts } = checkpoint;
  if (!start.made || !start.upload) return undefined;
  const upload = new ArchiveUpload(checkpoint, uploadOptions(job, address, compression, tools), attempt, tools);
  const object = await etagAt(tools.store, upload.key, signal);
  const whole = parts.at(-1)?.rawEnd === start.made.size;
  if (whole && object === upload.etag) return checkpoint;
  // An earlier attempt's completion arrived late, or somebody else was there: this upload cannot be completed.
  if (object !== upload.etag && object !== start.copied?.etag) return undefined;
  if (!(await lxdBackupExists(tools.lxd, operation, start.lxdBackup, signal))) return undefined;
  const sound =
    operation.checkpoint.uploadId === start.upload.uploadId && (await unlessMissing(() => upload.isSound(signal)));
  if (!sound) {
    // The earlier attempt may have ended during a renewal: the object exists, the next upload does not.
    if (object !== upload.etag) return undefined;
    await upload.reopen(upload.etag, signal);
  }
  log.info('resuming an earlier attempt', { parts: parts.length, rawStart: parts.at(-1)?.rawEnd ?? 0 });
  return checkpoint;
}

/** What an archive's object is made with. */
export function uploadOptions(
  { body }: JobOf<'backup'>,
  address: BackupAddress,
  compression: Compression,
  { config }: Tools,
): ArchiveUploadOptions {
  return {
    key: archiveKey(config.s3.prefix, address),
    tags: body.tags ?? {},
    contentType: contentTypes[compression],
  };
}

/** Lets LXD begin its copy. Follows LXD's progress until `listening` aborts. */
export async function begin(
  job: JobOf<'backup'>,
  address: BackupAddress,
  compression: Compression,
  attempt: Attempt,
  tools: Tools,
  listening: AbortSignal,
): Promise<{ checkpoint: BackupCheckpoint; writing: Writing; room: StagingRoom | undefined }> {
  const { lxd: client, store, config, checkpoints } = tools;
  const { signal, operation } = attempt;
  checkLock(job.body.object_lock, config.s3);
  const [instance, server] = await Promise.all([describeInstance(client, address, signal), readServer(client, signal)]);
  const lxd = describeServer(server);
  const room = await assertStagingRoom(address, job.body, server, attempt, tools);
  const lxdBackup = copyName(operation);
  const isFirst = operation.checkpoint?.lxdBackup === undefined;
  attempt.report({ stage: 'generating' });
  await attempt.checkpoint({ lxdBackup });
  const writing = await generate({ job, lxdBackup, server: lxd, room }, attempt, tools, listening);
  if (!isFirst) await abortUploads(archiveKey(config.s3.prefix, address), attempt, store);
  const lock = job.body.object_lock && lockFrom(job.body.object_lock, Date.now());
  const start: BackupStart = {
    ...{ lxdBackup, compression, instance, lxd },
    session: lxdBackup,
    ...(lock && { lock }),
  };
  return { writing, room, checkpoint: BackupCheckpoint.create(checkpoints, operation, start, attempt.log) };
}

/**
 * A name that no earlier attempt has used, although some do not count: LXD may still write an earlier copy, which cannot be cancelled. If that fails, LXD
 * deletes what has its name.
 */
function copyName({ id, attempt, checkpoint }: Operation): string {
  const last = Number(/-(\d+)$/.exec(checkpoint?.lxdBackup ?? '')?.[1] ?? 0);
  return `${mark}${id}-${Math.max(attempt, last + 1)}`;
}

/** Aborts uploads that earlier attempts opened but did not record before they were killed. Their key is this operation's alone. */
export async function abortUploads(
  key: string,
  { signal, log }: Pick<Attempt, 'signal' | 'log'>,
  store: Pick<ObjectStore, 'listUploads' | 'abortUpload'>,
): Promise<void> {
  try {
    for await (const upload of store.listUploads(key, signal))
      if (upload.key === key) await store.abortUpload(upload, signal);
  } catch (error) {
    signal.throwIfAborted();
    log.warn('uploads of earlier attempts are left to the janitor', { key, error });
  }
}

interface Generating {
  job: JobOf<'backup'>;
  lxdBackup: string;
  server: ManifestLxd;
  /** Undefined if this worker cannot see LXD's disk. */
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
  // No older server can restore LXD 6's own format.
  const metadataVersion = server.extensions?.includes('backup_metadata_version') ? 1 : undefined;
  const begun = performance.now();
  let movedAt = begun;
  let written = 0;
  const writing = await beginLxdBackup(
    lxd,
    job.address,
    { name, optimized, instanceOnly, metadataVersion, waitHours: config.worker.patienceHours },
    {
      signal,
      creating: lingering(signal),
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
