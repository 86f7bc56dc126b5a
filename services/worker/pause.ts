/** A job that comes from the queue while what it needs is away: handed back, and its operation says for what it waits. */
import { asErrorCode, LxstowError } from '../contract/errors.ts';
import type { Operation } from '../contract/schemas.ts';
import type { Delivery } from '../jobs/deliveries.ts';
import type { WaitingRoom } from '../jobs/waitingRoom.ts';
import { instanceLeaseKey, isQuick } from '../nats/topology.ts';
import { amend, handBack } from '../operations/operation.ts';
import type { OperationStore, Stored } from '../operations/operationStore.ts';
import { waitingFor } from '../outages/outage.ts';
import type { Gate } from '../outages/outages.ts';
import type { Tools } from './tools.ts';

export interface PauseTools {
  worker: string;
  operations: OperationStore;
  waitingRoom: WaitingRoom;
  tools: Pick<Tools, 'leases'>;
}

const hourMs = 3_600_000;

/** Hands the job back until what it needs is there, and says in its operation what that is, and since when. */
export async function pause(
  message: Delivery,
  { outage, permits }: Gate,
  { operation, revision }: Stored,
  tools: PauseTools,
): Promise<void> {
  const now = new Date();
  const waiting_for = waitingFor(outage);
  const waiting_since = operation.waiting_since ?? now.toISOString();
  if (operation.status === 'Pending' && operation.metadata.waiting_for !== waiting_for) {
    const metadata = { ...operation.metadata, waiting_for };
    await tools.operations.update(amend(operation, { metadata, waiting_since }, now), revision);
  } else if (operation.status === 'Running' && (await isAbandoned(operation, tools))) {
    // Its worker has died: that attempt counts, and from now on the job waits as all others do.
    const back = handBack(operation, 'the worker of the last attempt is gone', now, true);
    const metadata = { ...back.metadata, waiting_for };
    await tools.operations.update({ ...back, metadata, waiting_since }, revision);
  }
  if (permits) tools.waitingRoom.wait(message, permits, operation.id);
  // Another worker's LXD may be there; this worker takes no more of these.
  else message.nak();
}

/** Why the job waits no longer for what is away, where it has waited for as long as it may. */
export function overdueFor({ outage }: Gate, { waiting_since }: Operation, { config }: Tools): LxstowError | undefined {
  const { patienceHours } = config.worker;
  if (outage.allowed > 0 || !waiting_since || Date.now() - Date.parse(waiting_since) < patienceHours * hourMs)
    return undefined;
  const why = `waited ${patienceHours} h for ${waitingFor(outage)}: ${outage.reason}`;
  return new LxstowError(asErrorCode(outage.code), why);
}

/** Whether nobody is at work on it: a worker that is has the lease on the instance, or on none what a deletion is. */
async function isAbandoned(operation: Operation, { worker, tools: { leases } }: PauseTools): Promise<boolean> {
  if (isQuick(operation.kind)) return operation.owner !== worker;
  const lease = await leases.acquire(instanceLeaseKey(operation), { worker, operation: operation.id });
  await lease?.release();
  return lease !== undefined;
}
