/** The progress of a running operation: published for who listens now, and merged into the record when it is shown. Pure. */
import { isDeepStrictEqual } from 'node:util';
import type { Operation, OperationMetadata, Progress } from '../contract/schemas.ts';

/** These change all the time. What else changes is worth a record. */
const moving = [
  'bytes_done',
  'bytes_total',
  'bytes_stored',
  'bytes_per_second',
  'lxd_free_bytes',
  'create_backup_progress',
] as const satisfies (keyof OperationMetadata)[];

/** The moving fields, and the others. */
function split(metadata: OperationMetadata): [moving: Progress['metadata'], rest: OperationMetadata] {
  const rest: OperationMetadata = { ...metadata };
  const moved: Record<string, unknown> = {};
  for (const field of moving) {
    if (metadata[field] !== undefined) moved[field] = metadata[field];
    delete rest[field];
  }
  return [moved, rest];
}

/** Whether nothing but progress has changed. */
export function onlyMoved(before: OperationMetadata, after: OperationMetadata): boolean {
  return isDeepStrictEqual(split(before)[1], split(after)[1]);
}

/** The message that publishes an operation's progress, given its current `metadata`. */
export function progressOf({ owner = '', attempt }: Operation, metadata: OperationMetadata, now: Date): Progress {
  return { owner, attempt, at: now.toISOString(), metadata: split(metadata)[0] };
}

/** The operation with its published progress, if that belongs to the same attempt and is newer. */
export function withProgress(operation: Operation, progress: Progress | undefined): Operation {
  const { owner, attempt, updated_at } = operation;
  if (!progress || !isAtWork(operation)) return operation;
  if (progress.owner !== owner || progress.attempt !== attempt || progress.at <= updated_at) return operation;
  return { ...operation, updated_at: progress.at, metadata: { ...operation.metadata, ...progress.metadata } };
}

export function isAtWork({ status }: Pick<Operation, 'status'>): boolean {
  return status === 'Running' || status === 'Cancelling';
}
