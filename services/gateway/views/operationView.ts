/** An operation as clients see it, over HTTPS and NATS: LXD's fields, with more in the metadata. */
import type { BackupJob, Operation, OperationMetadata, RestoreJob } from '../../contract/schemas.ts';

/** The operation with LXD's fields. */
export function shownOperation(operation: Operation) {
  const { id, description, created_at, updated_at, status, status_code, resources, may_cancel, err, location } =
    operation;
  const code = operation.error_code;
  const run = operation.kind === 'backup' ? (operation.request as BackupJob | undefined)?.run : undefined;
  const metadata = {
    ...shownMetadata(operation),
    ...(code !== undefined && { code }),
    ...(run !== undefined && { run }),
    ...sourceOf(operation),
  };
  return {
    id,
    class: operation.class,
    description,
    created_at,
    updated_at,
    status,
    status_code,
    resources,
    metadata,
    may_cancel,
    err,
    location,
  };
}

/** Leaves out the stage of an operation that has ended. */
function shownMetadata({ metadata, status_code }: Operation): Omit<OperationMetadata, 'stage'> & { stage?: string } {
  if (status_code < 200) return metadata;
  const { stage, bytes_per_second, create_backup_progress, waiting_for, ...rest } = metadata;
  return rest;
}

/** The backup that a restore reads. */
function sourceOf({ kind, remote, project, instance, backup, request }: Operation): object {
  if (kind !== 'restore' || backup === undefined) return {};
  const { remote: location = remote, ...rest } = ((request ?? {}) as RestoreJob).source ?? {};
  return { source: { project, instance, ...rest, location, name: backup } };
}
