/** The operation's state machine, in LXD's words and codes. Pure: time comes in, nothing goes out. */
import type { Address, Operation, OperationKind, OperationMetadata, Requestor } from '../contract.ts';
import type { LxstowError } from '../errors.ts';

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
  upload: 'Uploading instance backup',
};

/** From where each state may be reached. Running → Running is a takeover; Running → Pending is a retry or a hand-over. */
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

export interface NewOperation {
  id: string;
  kind: OperationKind;
  address: Address;
  /** The job's message. */
  body?: { backup?: string; requestor?: Requestor };
  /** The id of the trace that it belongs to. */
  trace?: string;
}

/** A job that waits for a worker. */
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
    may_cancel: kind !== 'delete',
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

/** A new state. Throws where the machine has no such step: a final state never changes again. */
function move(operation: Operation, to: Status, now: Date): Operation {
  if (!reachableFrom[to].includes(operation.status))
    throw new Error(`operation ${operation.id} cannot go from ${operation.status} to ${to}`);
  return { ...operation, status: to, status_code: codes[to], updated_at: now.toISOString() };
}

/**
 * A worker begins, or takes over; one that is being cancelled stays so: it is taken over to be cleaned up. `counts`: false when the attempt that is
 * taken over was cut through no fault of its own or of its worker's.
 */
export function begin(operation: Operation, owner: string, now: Date, counts = true): Operation {
  const attempt = operation.attempt + (counts ? 1 : 0);
  if (operation.status === 'Cancelling') return { ...operation, attempt, owner, updated_at: now.toISOString() };
  return { ...move(operation, 'Running', now), attempt, owner, metadata: warningsOf(operation.metadata) };
}

/** What is kept of an operation's metadata from one attempt to the next. */
export function warningsOf({ warnings }: OperationMetadata): OperationMetadata {
  return warnings === undefined ? {} : { warnings };
}

/** Its last steps have begun, which a cancel does not undo. One that is being cancelled stays so. */
export function refuseCancels(operation: Operation, now: Date): Operation {
  return { ...amend(operation, {}, now), may_cancel: false };
}

/** New facts about a running operation: what it works on, how far it is. */
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

/** Asked to end: at once where nothing was begun, else as soon as a worker has cleaned up what was. */
export function cancel(operation: Operation, now: Date): Operation {
  if (operation.status === 'Pending' && operation.checkpoint === undefined) return cancelled(operation, now);
  return { ...move(operation, 'Cancelling', now), may_cancel: false };
}

/** Ended as asked, and cleaned up. */
export function cancelled(operation: Operation, now: Date): Operation {
  return { ...withoutOwner(move(operation, 'Cancelled', now)), err: 'cancelled', error_code: 'cancelled' };
}

/** Back to the queue: another attempt is due. One that was only interrupted does not count. One that is being cancelled stays so, for a worker to clean up. */
export function handBack(operation: Operation, reason: string, now: Date, counts: boolean): Operation {
  if (operation.status === 'Cancelling') return { ...withoutOwner(operation), updated_at: now.toISOString() };
  const { owner: _, waiting_since: __, ...rest } = move(operation, 'Pending', now);
  const metadata = { ...warningsOf(operation.metadata), retry_reason: reason };
  return { ...rest, attempt: operation.attempt - (counts ? 0 : 1), metadata };
}

/**
 * Back to the queue until what it needs serves us again; the attempt does not count. `since`: the beginning of this waiting. `waitingFor`: what is
 * away, where that is known.
 */
export function putOff(operation: Operation, reason: string, since: Date, now: Date, waitingFor?: string): Operation {
  const back = handBack(operation, reason, now, false);
  if (back.status !== 'Pending') return back;
  const metadata = { ...back.metadata, ...(waitingFor !== undefined && { waiting_for: waitingFor }) };
  return { ...back, metadata, waiting_since: since.toISOString() };
}

/** What ended badly keeps its checkpoint: the janitor finds by it what could not be removed. */
function withoutOwner({ owner: _, ...operation }: Operation): Operation {
  return { ...operation, may_cancel: false };
}

/** The instance that is touched, and the backup under the path that LXD gives it, which `lxc export` takes its name from. */
function resources({ project, instance }: Address, backup: string | undefined): Operation['resources'] {
  const query = project === 'default' ? '' : `?project=${encodeURIComponent(project)}`;
  const instances = [`/1.0/instances/${instance}${query}`];
  return backup === undefined ? { instances } : { instances, backups: [`/1.0/backups/${backup}`] };
}
