/** The operation's state machine, in LXD's words and codes. Pure: time is an argument, no I/O. */

import type { LxstowError } from '../contract/errors.ts';
import type { Address, Operation, OperationKind, OperationMetadata, Requestor } from '../contract/schemas.ts';
import { onlyDeletes } from '../nats/streams.ts';

export type Status = Operation['status'];

const codes: Record<Status, Operation['status_code']> = {
  Pending: 105,
  Running: 103,
  Cancelling: 104,
  Success: 200,
  Failure: 400,
  Cancelled: 401,
};

const descriptions: Record<OperationKind, string> = {
  backup: 'Backing up instance',
  restore: 'Restoring backup',
  delete: 'Removing instance backup',
  prune: 'Pruning instance backups',
  upload: 'Uploading instance backup',
};

/** The states from which each state can be reached. Running → Running is a takeover; Running → Pending is a retry or a hand-over. */
const reachableFrom: Record<Status, Status[]> = {
  Pending: ['Running'],
  Running: ['Pending', 'Running'],
  Cancelling: ['Pending', 'Running'],
  Success: ['Running', 'Cancelling'],
  Failure: ['Pending', 'Running', 'Cancelling'],
  Cancelled: ['Pending', 'Running', 'Cancelling'],
};

export function isFinal({ status_code }: Pick<Operation, 'status_code'>): boolean {
  return status_code >= 200;
}

interface NewOperation {
  id: string;
  kind: OperationKind;
  address: Address;
  /** The job's message. */
  body?: { backup?: string; requestor?: Requestor };
  /** Id of the trace that it belongs to. */
  trace?: string;
}

/** Makes the operation of a job that waits for a worker. */
export function newOperation({ id, kind, address, body = {}, trace }: NewOperation, now: Date): Operation {
  const { requestor, ...request } = body;
  return {
    id,
    class: 'task',
    description: descriptions[kind],
    created_at: now.toISOString(),
    updated_at: now.toISOString(),
    status: 'Pending',
    status_code: codes.Pending,
    resources: resources(address, body.backup),
    metadata: {},
    may_cancel: !onlyDeletes(kind),
    err: '',
    location: address.remote,
    kind,
    ...address,
    ...(body.backup === undefined ? {} : { backup: body.backup }),
    ...(requestor === undefined ? {} : { requestor }),
    ...(trace === undefined ? {} : { trace }),
    request,
    attempt: 0,
  };
}

/** Moves to another state. Throws when the machine has no such transition: a final state never changes again. */
function move(operation: Operation, to: Status, now: Date): Operation {
  if (!reachableFrom[to].includes(operation.status))
    throw new Error(`operation ${operation.id} cannot go from ${operation.status} to ${to}`);
  return { ...operation, status: to, status_code: codes[to], updated_at: now.toISOString() };
}

/**
 * A worker begins an attempt, or takes one over. A Cancelling operation stays so: the worker only cleans it up. `counts`: false when the attempt
 * that is taken over was interrupted, and neither its job nor its worker was the cause.
 */
export function begin(operation: Operation, owner: string, now: Date, counts = true): Operation {
  const facts = { attempt: operation.attempt + (counts ? 1 : 0), owner };
  const taken = takenOver(operation);
  if (operation.status === 'Cancelling') return { ...taken, ...facts, updated_at: now.toISOString() };
  return { ...move(taken, 'Running', now), ...facts, metadata: carriedOver(operation.metadata) };
}

/** The operation after an attempt that may not have recorded its end. If it is a backup, that attempt may have sent the manifest, so this marks it as sent. */
export function takenOver(operation: Operation): Operation {
  const { kind, owner, checkpoint } = operation;
  if (kind !== 'backup' || owner === undefined || checkpoint === undefined) return operation;
  return { ...operation, checkpoint: { ...checkpoint, manifestSent: true } };
}

/** The part of an operation's metadata that is kept from one attempt to the next. */
export function carriedOver(metadata: OperationMetadata): OperationMetadata {
  const { warnings, backups_deleted, bytes_freed, bytes_in_old_versions } = metadata;
  return {
    ...(warnings && { warnings }),
    ...(backups_deleted !== undefined && { backups_deleted }),
    ...(bytes_freed !== undefined && { bytes_freed }),
    ...(bytes_in_old_versions !== undefined && { bytes_in_old_versions }),
  };
}

/** Records that the last steps have begun, which a cancel cannot undo. An operation that is Cancelling stays so. */
export function refuseCancels(operation: Operation, now: Date): Operation {
  return { ...amend(operation, {}, now), may_cancel: false };
}

/** Adds facts to an operation: what it works on, its progress. Throws for a final one. */
export function amend(
  operation: Operation,
  facts: Partial<Pick<Operation, 'backup' | 'checkpoint' | 'waiting_since'>> & { metadata?: OperationMetadata },
  now: Date,
): Operation {
  if (isFinal(operation)) throw new Error(`operation ${operation.id} is ${operation.status} and cannot change`);
  const amended = { ...operation, ...facts, updated_at: now.toISOString() };
  return facts.backup === undefined ? amended : { ...amended, resources: resources(operation, facts.backup) };
}

export function succeed(operation: Operation, now: Date): Operation {
  const { checkpoint: _, waiting_since: __, ...rest } = withoutOwner(move(operation, 'Success', now));
  return rest;
}

export function fail(operation: Operation, error: LxstowError, now: Date): Operation {
  return { ...withoutOwner(move(operation, 'Failure', now)), err: error.message, error_code: error.code };
}

/** Cancels the operation: at once if no work has begun, otherwise once a worker has cleaned up. */
export function cancel(operation: Operation, now: Date): Operation {
  if (operation.status === 'Pending' && operation.checkpoint === undefined) return cancelled(operation, now);
  return { ...move(operation, 'Cancelling', now), may_cancel: false };
}

/** Ends a cancelled operation after its cleanup. */
export function cancelled(operation: Operation, now: Date): Operation {
  return { ...withoutOwner(move(operation, 'Cancelled', now)), err: 'cancelled', error_code: 'cancelled' };
}

/**
 * Returns the operation to the queue for another attempt. `counts`: false when this attempt was only interrupted. An operation that is being cancelled
 * stays so, and a worker cleans up.
 */
export function requeue(operation: Operation, reason: string, now: Date, counts: boolean): Operation {
  if (operation.status === 'Cancelling') return { ...withoutOwner(operation), updated_at: now.toISOString() };
  const { owner: _, waiting_since: __, ...rest } = move(operation, 'Pending', now);
  const metadata = { ...carriedOver(operation.metadata), retry_reason: reason };
  return { ...rest, attempt: operation.attempt - (counts ? 0 : 1), metadata };
}

/**
 * Returns the operation to the queue until the dependency that it needs serves us again; the attempt does not count. `since`: when this wait
 * began. `waitingFor`: the dependency that is away, if known.
 */
export function requeueForOutage(
  operation: Operation,
  reason: string,
  since: Date,
  now: Date,
  waitingFor?: string,
): Operation {
  const back = requeue(operation, reason, now, false);
  if (back.status !== 'Pending') return back;
  const metadata = { ...back.metadata, ...(waitingFor !== undefined && { waiting_for: waitingFor }) };
  return { ...back, metadata, waiting_since: since.toISOString() };
}

/** Keeps the checkpoint: after a failure or a cancel, the janitor finds with it what could not be removed. */
function withoutOwner({ owner: _, ...operation }: Operation): Operation {
  return { ...operation, may_cancel: false };
}

/** The instance that the operation touches, and the backup under LXD's path, from which `lxc export` takes the backup's name. */
function resources({ project, instance }: Address, backup: string | undefined): Operation['resources'] {
  const query = project === 'default' ? '' : `?project=${encodeURIComponent(project)}`;
  const instances = [`/1.0/instances/${instance}${query}`];
  return backup === undefined ? { instances } : { instances, backups: [`/1.0/backups/${backup}`] };
}
