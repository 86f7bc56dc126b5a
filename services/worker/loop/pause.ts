/** Hands back a job that comes from the queue while a dependency is away. Its operation says what it waits for. */

import { hourMs } from '../../contract/durations.ts';
import { asErrorCode, LxstowError } from '../../contract/errors.ts';
import type { Operation } from '../../contract/schemas.ts';
import type { Delivery } from '../../jobs/deliveries.ts';
import { instanceLeaseKey } from '../../nats/bucketKeys.ts';
import type { Nats } from '../../nats/connection.ts';
import { onlyDeletes } from '../../nats/streams.ts';
import { amend, requeue, takenOver } from '../../operations/operation.ts';
import type { Stored } from '../../operations/operationStore.ts';
import { describeOutage } from '../../outages/outage.ts';
import type { Gate } from '../../outages/outages.ts';
import type { OpenedWorker } from '../openTools.ts';
import type { Tools } from '../tools.ts';

export type PauseTools = Pick<OpenedWorker, 'worker' | 'nats' | 'operations' | 'waitingRoom'> & {
  tools: Pick<Tools, 'leases'>;
};

/** Hands the job back until the dependency is back, and writes into its operation what it waits for, and since when. */
export async function pause(
  message: Delivery,
  { outage, permits }: Gate,
  { operation, revision }: Stored,
  tools: PauseTools,
): Promise<void> {
  const now = new Date();
  const waiting_for = describeOutage(outage);
  const waiting_since = operation.waiting_since ?? now.toISOString();
  if (operation.status === 'Pending' && operation.metadata.waiting_for !== waiting_for) {
    const metadata = { ...operation.metadata, waiting_for };
    await tools.operations.update(amend(operation, { metadata, waiting_since }, now), revision);
  } else if (operation.status === 'Running' && (await isAbandoned(operation, tools))) {
    // The worker of the last attempt has died, or could not record how the attempt ended. From now on, the job waits like all others.
    const why = 'the worker of the last attempt is gone';
    const back = requeue(takenOver(operation), why, now, !isCutByNats(operation, tools.nats));
    const metadata = { ...back.metadata, waiting_for };
    await tools.operations.update({ ...back, metadata, waiting_since }, revision);
  }
  if (permits) tools.waitingRoom.wait(message, permits, operation.id);
  // Another worker's LXD may be up; this worker takes no more of these jobs.
  else message.nak();
}

/** Whether nothing was written about an attempt since NATS last failed us. Then that failure ended it, or kept its worker from recording how it ended: it does not count. */
export function isCutByNats({ updated_at }: Operation, { servesSince }: Pick<Nats, 'servesSince'>): boolean {
  return Date.parse(updated_at) < servesSince;
}

/** The error of a job that has waited as long as it may for this outage; undefined while it may wait longer. A wait for an earlier outage does not count. */
export function overdueFor({ outage }: Gate, { waiting_since }: Operation, { config }: Tools): LxstowError | undefined {
  const { patienceHours } = config.worker;
  if (outage.allowed > 0 || !waiting_since) return undefined;
  const since = Math.max(Date.parse(waiting_since), Date.parse(outage.since));
  if (Date.now() - since < patienceHours * hourMs) return undefined;
  const why = `waited ${patienceHours} h for ${describeOutage(outage)}: ${outage.reason}`;
  return new LxstowError(asErrorCode(outage.code), why);
}

/** Whether no worker runs the operation. A worker that runs it holds the lease on the instance, except for deletions. */
async function isAbandoned(operation: Operation, { worker, tools: { leases } }: PauseTools): Promise<boolean> {
  if (onlyDeletes(operation.kind)) return operation.owner !== worker;
  const lease = await leases.acquire(instanceLeaseKey(operation), { worker, operation: operation.id });
  await lease?.release();
  return lease !== undefined;
}
