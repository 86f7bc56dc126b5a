/** Names of streams, buckets and consumers. */
import type { JobKind } from '../contract/schemas.ts';

export const jobsStream = 'LXSTOW_JOBS';
export const deadLetterStream = 'LXSTOW_DEAD';
/** Notices to be delivered: one message per endpoint. */
export const noticesStream = 'LXSTOW_NOTICES';
export const operationsBucket = 'lxstow_operations';
export const leasesBucket = 'lxstow_leases';
/** What running backups have stored. */
export const checkpointsBucket = 'lxstow_checkpoints';
/** The record of each instance (schemas/instance-record.json). */
export const instancesBucket = 'lxstow_instances';
/** Runs and their children. */
export const runsBucket = 'lxstow_runs';
/** Schedules: what people wrote, and the last time each was due. */
export const schedulesBucket = 'lxstow_schedules';
/** Trusted certificates, tokens, and gateways' addresses. */
export const trustBucket = 'lxstow_trust';

/**
 * A remote's jobs are in two lanes, each with a consumer. A deletion takes a moment and its client waits for it, so it must not queue behind
 * transfers that take hours.
 */
export const lanes = { transfer: ['backup', 'restore'], quick: ['delete', 'prune'] } as const satisfies Record<
  string,
  JobKind[]
>;
export type Lane = keyof typeof lanes;

/** Whether jobs of this kind only delete backups: they take no lease on the instance, ask no LXD, and cannot be cancelled. */
export function onlyDeletes(kind: string): kind is (typeof lanes.quick)[number] {
  return (lanes.quick as readonly string[]).includes(kind);
}

export function consumerName(remote: string, lane: Lane): string {
  return `${remote}_${lane}`;
}

/** Gateways share these consumers: one gateway gets each change of an operation or a run, and one gets each notice. */
export const changesConsumer = 'notices';
export const noticesConsumer = 'deliver';

/** NATS redelivers a message after this time without `working()`, so a worker calls it more often. */
export const ackWaitMs = 10_000;
