/** A backup as clients see it, for both APIs: stored, or in progress. */
import { attachedVolumes } from '../../backups/manifest.ts';
import { type Summary, summarise } from '../../backups/summaries.ts';
import { isCode, LxstowError, unlessCode } from '../../contract/errors.ts';
import type { Address, BackupAddress, BackupJob, Compression, Manifest, Operation } from '../../contract/schemas.ts';
import { askLookUp, type LookUpAnswer, type LookUpQuestion } from '../../hosts/lookUp.ts';
import { isFinal } from '../../operations/operation.ts';
import { isS3Away } from '../../outages/blame.ts';
import type { Trace } from '../../telemetry/trace.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { operationPath } from '../http/respond.ts';

/** The backup with its tags, or, while it is being made, with its progress. Throws not-found. */
export async function showBackup(parts: GatewayParts, address: BackupAddress, signal: AbortSignal): Promise<object> {
  return (await findBackup(parts, address, signal)).backup;
}

/** The same, with the ETag if the backup is stored. */
export async function findBackup(
  parts: GatewayParts,
  address: BackupAddress,
  signal: AbortSignal,
): Promise<{ backup: object; etag?: string }> {
  try {
    const { manifest, etag } = await parts.catalog.stored(address, signal);
    return { backup: showStored(manifest), etag };
  } catch (error) {
    const running = isCode(error, 'not-found') ? await unfinishedBackup(parts, address) : undefined;
    if (!running) throw error;
    return { backup: showUnfinished(running, address, parts.config.worker.compression) };
  }
}

/** Asks a worker what its LXD has; undefined if no worker answers. */
export function lookUp(
  { nats, config }: Pick<GatewayParts, 'nats' | 'config'>,
  remote: string,
  question: LookUpQuestion,
  trace: Trace,
): Promise<LookUpAnswer | undefined> {
  return unlessCode(['no-worker'], () => askLookUp(nats, remote, question, config.gateway.askTimeoutMs, trace));
}

/** For an instance without backups: throws not-found when the instance does not exist either. */
export async function assertInstance(
  parts: Pick<GatewayParts, 'nats' | 'config'>,
  { remote, project, instance }: Address,
  trace: Trace,
): Promise<void> {
  if ((await lookUp(parts, remote, { project, instance }, trace))?.instance === false)
    throw new LxstowError('not-found', `instance ${instance} does not exist, and has no backups`);
}

/** The store's answer, or `otherwise` while S3 is away. The worker checks again when it runs the job. */
export async function unlessAway<T>(
  { log }: Pick<GatewayParts, 'log'>,
  ask: () => Promise<T>,
  otherwise: T,
): Promise<T> {
  try {
    return await ask();
  } catch (error) {
    if (!isS3Away(error)) throw error;
    log.warn('S3 is away: the request was accepted without a look into the bucket', { error });
    return otherwise;
  }
}

/** LXD's value for a time that is not set. */
const never = '0001-01-01T00:00:00Z' as const;

/** A backup in lists: our fields, LXD's fields, and the instance that it belongs to. */
export function showListed({ address, backup }: Summary) {
  const { remote: location, project, instance } = address;
  const { instance_only, ...rest } = backup;
  return {
    ...rest,
    created_at: backup.created,
    expires_at: never,
    instance_only,
    container_only: instance_only,
    optimized_storage: backup.optimized,
    ...{ instance, project, location },
  };
}

/** One backup, with all fields of its manifest that interest users. */
export function showStored(manifest: Manifest): object {
  const { backup, archive, instance, lxd, writer } = manifest;
  const { name, notes, ...address } = backup;
  const excluded = attachedVolumes(instance).map(({ pool, volume }) => `${pool}/${volume}`);
  return {
    ...showListed({ address: { ...address, backup: name }, backup: summarise(manifest) }),
    ...(notes ? { notes } : {}),
    ...(excluded.length > 0 ? { excluded_volumes: excluded } : {}),
    raw_size: archive.rawSize,
    compression_algorithm: archive.compression,
    type: instance.type,
    architecture: instance.architecture,
    pool: instance.pool,
    driver: instance.driver,
    profiles: instance.profiles.map((profile) => profile.name),
    snapshots: instance.snapshots,
    server_version: lxd.version,
    writer,
  };
}

/** The operation that is making this backup. */
export async function unfinishedBackup(
  { reservations, operations, progress }: Pick<GatewayParts, 'reservations' | 'operations' | 'progress'>,
  address: BackupAddress,
): Promise<Operation | undefined> {
  const id = await reservations.holder(address, address.backup);
  const operation = id === undefined ? undefined : (await operations.find(id, address.remote))?.operation;
  return operation && !isFinal(operation) ? progress.latest(operation) : undefined;
}

/** A backup that is being made: its fields as far as they are known, and its progress. */
function showUnfinished(operation: Operation, { backup, ...address }: BackupAddress, usual: Compression): object {
  const { metadata, status, created_at, id } = operation;
  const request = (operation.request ?? {}) as BackupJob;
  const { optimized = false, compression = usual, instance_only = false, tags = {} } = request;
  const { stage, bytes_done = 0, bytes_total, bytes_stored = 0, bytes_per_second } = metadata;
  return {
    ...showListed({
      address: { ...address, backup },
      backup: {
        ...{ name: backup, created: created_at, size: bytes_stored, optimized, instance_only, tags, pinned: false },
        ...{ held: false, locked_until: null },
        compressed: compression !== 'none',
      },
    }),
    compression_algorithm: compression,
    status,
    stage: stage ?? status.toLowerCase(),
    bytes_done,
    bytes_total,
    bytes_per_second,
    progress: bytes_total ? Math.floor((bytes_done * 100) / bytes_total) : 0,
    operation: operationPath(id),
  };
}
