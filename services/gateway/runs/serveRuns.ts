/** Feeds the children of runs to the queues, and starts the runs of schedules. One gateway at a time does each of these. */

import { hostname } from 'node:os';
import { hourMs } from '../../contract/durations.ts';
import { Leases } from '../../coordination/leases.ts';
import type { Bucket } from '../../nats/bucket/bucket.ts';
import { Feeder } from '../../runs/feeder/feeder.ts';
import { serveSchedules } from '../../schedules/scheduler.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { cancelOperation } from '../views/cancelOperation.ts';
import { runTools } from './runView.ts';
import { ownerTrouble } from './scheduleOwner.ts';

/** Runs until the gateway stops. */
export async function serveRuns(parts: GatewayParts, leasesBucket: Bucket): Promise<void> {
  const { config, nats, operations, feed, runs, runFeed, schedules, log, stop } = parts;
  const { leaseTtlMs, heartbeatMs, patienceHours } = config.worker;
  const name = `gateway-${hostname()}-${process.pid}`;
  const holder = { leases: new Leases(leasesBucket, leaseTtlMs), name, heartbeatMs, log, stop };
  const feeder = new Feeder({
    ...{ ...holder, nats, runs, runFeed, operations, leasesBucket },
    changes: feed,
    cancel: (id, remote) => cancelOperation(parts, id, remote),
    inventoryTimeoutMs: config.gateway.inventoryTimeoutMs,
    patienceMs: patienceHours * hourMs,
  });
  const scheduling = serveSchedules({
    ...{ ...runTools(parts), ...holder, schedules, audit: parts.audit, remotes: Object.keys(config.remotes) },
    ownerTrouble: (schedule) => ownerTrouble(parts, schedule),
  });
  await Promise.all([feeder.run(), scheduling]);
}
