/** The part of `lxstow rebuild` that brings back backups that were deleted by other means than lxstow, if the bucket keeps old versions. */
import { type DeletedBackup, deletedBackups } from '../../backups/deletedBackups.ts';
import { asLxstowError, isCode, LxstowError } from '../../contract/errors.ts';
import type { Config } from '../../contract/schemas.ts';
import { Bucket } from '../../nats/bucket/bucket.ts';
import { claimKey } from '../../nats/bucketKeys.ts';
import type { Nats } from '../../nats/connection.ts';
import { leasesBucket } from '../../nats/streams.ts';
import type { ObjectStore } from '../../storage/objectStore.ts';
import { S3Connection } from '../../storage/s3/s3Connection.ts';
import { liftMarker } from '../../storage/s3/versions.ts';

interface LiftOptions {
  config: Config;
  store: ObjectStore;
  nats: Nats;
  /** Whether to remove the delete markers; otherwise, only lists the backups. */
  yes: boolean;
  /** Also bring back what lxstow itself may have deleted since then. */
  since: Date | undefined;
  stop: AbortSignal;
}

/** A deleted backup as it is shown. */
export interface ShownDeleted {
  host: string;
  project: string;
  instance: string;
  backup: string;
  deleted: string;
  size: number;
  why: string;
  lifted: boolean;
}

interface Lifted {
  shown: ShownDeleted[];
  /** Backups that lxstow may have deleted itself, and that are still there as old versions. */
  others: number;
}

/** Throws s3-denied if the credentials do not allow to list old versions, or to remove markers. */
export async function liftMarkers({ config, store, nats, yes, since, stop }: LiftOptions): Promise<Lifted> {
  using s3 = new S3Connection(config.s3);
  const found = await deletedBackups({ s3, store, prefix: config.s3.prefix }, stop);
  const leases = new Bucket(nats, leasesBucket);
  const isMeant = ({ foreign, deleted }: DeletedBackup) =>
    foreign !== undefined || (since !== undefined && Date.parse(deleted) >= since.getTime());
  const shown: ShownDeleted[] = [];
  for (const each of found.filter(isMeant)) {
    const { remote: host, backup, ...place } = each.address;
    // A worker may be deleting or reading it right now.
    const isClaimed = (await leases.keys(claimKey(each.address, backup, '*'))).length > 0;
    if (yes && !isClaimed) for (const object of each.objects) await liftMarker(s3, object, stop).catch(explainRight);
    const why = each.foreign ?? `deleted since ${since?.toISOString().slice(0, 16)}`;
    shown.push({
      ...{ host, project: place.project, instance: place.instance, backup, deleted: each.deleted, size: each.size },
      ...{ why, lifted: yes && !isClaimed },
    });
  }
  return { shown, others: found.length - shown.length };
}

function explainRight(error: unknown): never {
  if (!isCode(error, 's3-denied')) throw error;
  const { message } = asLxstowError(error);
  throw new LxstowError('s3-denied', `${message}; to lift delete markers, s3:DeleteObjectVersion is needed`, {
    cause: error,
  });
}
