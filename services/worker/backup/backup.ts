/** Backs up an instance: lets LXD write its copy, sends that to the object store, and writes the manifest last. */
import { blockSizeBytes } from '../../archive/compression/compression.ts';
import { manifestKey } from '../../backups/keys.ts';
import { attachedVolumes, formatManifest, manifestVersion, readManifest } from '../../backups/manifest.ts';
import { compressionNamed } from '../../contract/backupNames.ts';
import { isCode, unlessCode } from '../../contract/errors.ts';
import type { BackupAddress, Manifest } from '../../contract/schemas.ts';
import { version } from '../../contract/version.ts';
import type { JobOf } from '../../jobs/jobs.ts';
import type { Attempt } from '../../operations/attempt.ts';
import type { Tools } from '../tools.ts';
import { ArchiveUpload } from './archiveUpload.ts';
import { begin, resume, uploadOptions } from './begin.ts';
import type { BackupStart, SentPart } from './checkpoint.ts';
import { type Sent, sendArchive, storedBytes } from './sendArchive.ts';
import { assertNoLeftoverArchive, assertNotBeingDeleted, isDone, settleName } from './settleName.ts';
import { Filled } from './stagingRoom.ts';
import { inTime, removeTraces, tidy } from './traces.ts';
import { adviseOnZeros } from './zeros.ts';

export async function runBackup(job: JobOf<'backup'>, attempt: Attempt, tools: Tools): Promise<void> {
  // Use the compression that an earlier attempt chose: another worker's default may differ.
  const begun = attempt.operation.backup === undefined ? undefined : compressionNamed(attempt.operation.backup);
  const compression = job.body.compression ?? begun ?? tools.config.worker.compression;
  const { backup, isFree } = await settleName(job, compression, attempt, tools);
  const address: BackupAddress = { ...job.address, backup };
  using _kept = tools.reservations.keep(address, backup, attempt.operation.id, (error) =>
    attempt.log.warn('the name is not held for longer yet', { error }),
  );
  // For a name that is made from the operation's time, the store shows at the end whether the name is free.
  if (!isFree) {
    if (await isDone(address, attempt, tools)) return unlessFailed(removeTraces(job, attempt, tools), attempt);
    await assertNotBeingDeleted(address, attempt, tools);
    await assertNoLeftoverArchive(address, attempt, tools);
  }

  const found = await resume(job, address, compression, attempt, tools);
  if (!found) await removeTraces(job, attempt, tools);
  // Stop polling LXD's operation on every way out.
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
    const upload = new ArchiveUpload(checkpoint, uploadOptions(job, address, start.compression, tools), attempt, tools);
    const sent = await sendArchive(address, checkpoint, upload, attempt, tools, writing);
    adviseOnZeros(sent.parts, start, attempt);
    await writeManifest(address, describe(job, address, sent, upload.key, start, attempt), attempt, tools);
  } catch (error) {
    // The copy is bad, so nothing can be resumed from it; on a full disk, it takes space that other backups need.
    if (isCode(error, 'lxd-full') || isCode(error, 'archive-truncated')) await removeTraces(job, attempt, tools);
    if (error instanceof Filled && room) await attempt.checkpoint({ tooLittleBytes: room.free });
    throw error;
  }
  await tidy(start.lxdBackup, undefined, attempt, tools);
  await unlessFailed(checkpoint.remove(), attempt);
}

/** Waits for a cleanup. If it fails, the backup is complete all the same, and an attempt that failed might undo it; the janitor removes what is left. */
async function unlessFailed(cleanup: Promise<void>, attempt: Attempt): Promise<void> {
  await cleanup.catch((error) => attempt.log.error('left behind', { backup: attempt.operation.backup, error }));
}

function describe(
  job: JobOf<'backup'>,
  { backup, remote, project, instance }: BackupAddress,
  { parts, etag, made }: Sent,
  key: string,
  start: BackupStart,
  { operation }: Attempt,
): Manifest {
  return {
    version: manifestVersion,
    writer: `lxstow ${version}`,
    operation: operation.id,
    backup: {
      ...{ name: backup, remote, project, instance },
      created: new Date().toISOString(),
      tags: job.body.tags ?? {},
      ...(start.lock && { lock: start.lock }),
    },
    archive: {
      key,
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
}

/** The largest number of bytes of the tar that a part covers. */
function longestStretch(parts: SentPart[]): number {
  return parts.reduce((largest, { rawStart, rawEnd }) => Math.max(largest, rawEnd - rawStart), 0);
}

async function writeManifest(
  address: BackupAddress,
  manifest: Manifest,
  attempt: Attempt,
  tools: Tools,
): Promise<void> {
  const { store, config, keeper } = tools;
  const { tags, lock } = manifest.backup;
  const options = { tags, contentType: 'application/json', lock };
  const key = manifestKey(config.s3.prefix, address);
  const body = formatManifest(manifest);
  attempt.assertOwned();
  // Do not interrupt this write while the lease is held: it may still arrive after undoBackup() has looked for the manifest.
  await inTime(attempt, tools, (signal) =>
    store.create(key, body, options, signal).catch(async (refusal) => {
      if (!isCode(refusal, 'conflict')) throw refusal;
      // A request of an earlier attempt may have been stored late. Its manifest may name an archive that is gone, so write ours over it.
      const found = await unlessCode(['not-found', 'bad-manifest'], () =>
        readManifest(store, config.s3.prefix, address, signal),
      );
      if (found?.manifest.operation !== manifest.operation) throw refusal;
      // Check the lease after reading: if the manifest is of the next attempt, the lease was lost before.
      attempt.assertHeld();
      return store.replace(key, found.etag, body, options, signal);
    }),
  ).catch(async (error) => {
    await attempt
      .checkpoint({ manifestSent: true })
      .catch((left) => attempt.log.warn('not recorded that the manifest may be stored', { error: left }));
    throw error;
  });
  await keeper.made(address, manifest, { operation: attempt.operation.id });
}
