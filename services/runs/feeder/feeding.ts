/** Puts a child on the queue: first its operation, then its job. So another gateway that repeats this finds what has already been done. */
import type { Address, BackupJob, Run, RunChild } from '../../contract/schemas.ts';
import { type Job, lastQueuedJob, publishJob, publishUnlessQueued, type Queued, uuid5 } from '../../jobs/jobs.ts';
import type { Nats } from '../../nats/connection.ts';
import { cancelled, isFinal, newOperation } from '../../operations/operation.ts';
import type { OperationStore } from '../../operations/operationStore.ts';
import { type Trace, traceOf } from '../../telemetry/trace.ts';
import { isBackupOf, type Outcome, outcomeFor, skippedCode } from '../fold.ts';
import { longestReason } from '../plan.ts';
import type { OpenChild } from './openRuns.ts';

interface FeedingTools {
  nats: Nats;
  operations: OperationStore;
}

/**
 * Queues a child's backup unless it is queued already. Returns the child's state; undefined when its job is new on the queue: the changes of its operation
 * tell how it goes. When it throws, the job may be queued or not. Any gateway may call it again for the same child: there is one backup.
 */
export async function feedChild(
  { nats, operations }: FeedingTools,
  { id, child, of }: OpenChild,
): Promise<Outcome | undefined> {
  const { remote, project, instance } = child;
  const address: Address = { remote, project, instance };
  const trace = traceOfRun(of.run);
  const body = bodyOf(of.run);
  const operation = newOperation({ id, kind: 'backup', address, body, trace: trace.id }, new Date());
  const before = await lastQueuedJob(nats, 'backup', address);
  const taken = before !== undefined && before.operation !== id && !(await isOver(operations, child, before));
  const made = taken ? undefined : await operations.create(operation);
  // The operation exists from an earlier try.
  const known = made ?? (await operations.find(id, remote));
  if (taken && !known) return await skipped(operations, remote, before);
  if (known && known !== made && (isFinal(known.operation) || !isBackupOf(child, known.operation)))
    return outcomeFor(child, known.operation);
  const job: Job = { kind: 'backup', address, body };
  const queued = await publishUnlessQueued(nats, id, job, trace);
  const isDead = queued && (await isOver(operations, child, queued));
  if (isDead) await publishJob(nats, id, job, trace);
  const other = isDead ? undefined : queued;
  if (!other && made) return undefined;
  const now = await operations.find(id, remote);
  if (!other) return now ? outcomeFor(child, now.operation) : { state: 'pending' };
  // Another job was faster, so the operation that was created for this child ends before it began.
  if (now && now.operation.status !== 'Pending') return outcomeFor(child, now.operation);
  const outcome = await skipped(operations, remote, other);
  const ended = { ...cancelled(now?.operation ?? operation, new Date()), err: outcome.reason ?? '' };
  if (now) await operations.update({ ...ended, error_code: skippedCode }, now.revision);
  return outcome;
}

/** Whether a queued message will not lead to a backup (any more). Such a message stays on the queue until a worker with a free slot acks it. */
async function isOver(operations: OperationStore, child: RunChild, { operation }: Queued): Promise<boolean> {
  const found = (await operations.find(operation, child.remote))?.operation;
  return found !== undefined && (isFinal(found) || found.status === 'Cancelling' || !isBackupOf(child, found));
}

async function skipped(operations: OperationStore, remote: string, { operation, since }: Queued): Promise<Outcome> {
  const found = (await operations.find(operation, remote))?.operation;
  const what = found?.status === 'Running' ? 'is at work on it' : 'is on the queue for it';
  const reason = `operation ${operation} ${what}, queued at ${since.toISOString()}`.slice(0, longestReason);
  return { state: 'skipped', reason, by: operation, since: since.toISOString() };
}

/** Queues the deletion of those backups of a child's instance that the run's rule does not keep. Repeated calls queue it only once. */
export async function pruneBehind({ nats, operations }: FeedingTools, { id, child, of }: OpenChild): Promise<void> {
  const { keep } = of.run.request;
  if (!keep) return;
  const { remote, project, instance } = child;
  const prune = uuid5(`${id}|prune`);
  const known = await operations.find(prune, remote);
  if (known && known.operation.status !== 'Pending') return;
  const address = { remote, project, instance };
  // A waiting child may have no job: a gateway may have died, or NATS may have gone away, before the job was queued.
  if (known && (await lastQueuedJob(nats, 'prune', address))?.operation === prune) return;
  const trace = traceOfRun(of.run);
  const { requestor } = of.run;
  const body = { keep, run: of.run.id, ...(requestor && { requestor }) };
  if (!known)
    await operations.create(newOperation({ id: prune, kind: 'prune', address, body, trace: trace.id }, new Date()));
  await publishJob(nats, prune, { kind: 'prune', address, body }, trace);
}

function bodyOf({ id, request, requestor }: Run): BackupJob {
  const { compression_algorithm, optimized_storage, instance_only, object_lock, tags } = request;
  return {
    ...(compression_algorithm && { compression: compression_algorithm }),
    ...(optimized_storage !== undefined && { optimized: optimized_storage }),
    ...(instance_only !== undefined && { instance_only }),
    ...(object_lock && { object_lock }),
    ...(tags && { tags }),
    run: id,
    ...(requestor && { requestor }),
  };
}

/** The children's log lines carry the trace of the run's request. */
function traceOfRun({ trace }: Run): Trace {
  return { ...traceOf(undefined), ...(trace !== undefined && { id: trace }) };
}
