/** The tools of a worker's jobs, made in openTools.ts. */
import type { Threads } from '../archive/compression/threads.ts';
import type { SlotMemory } from '../archive/slotMemory.ts';
import type { Catalog } from '../backups/catalog.ts';
import type { Bandwidth } from '../concurrency/rateLimit.ts';
import type { Config } from '../contract/schemas.ts';
import type { Leases } from '../coordination/leases.ts';
import type { Reservations } from '../coordination/reservations.ts';
import type { FleetStore } from '../fleet/fleetStore.ts';
import type { Keeper } from '../fleet/keeper.ts';
import type { LxdClient } from '../lxd/connection/client.ts';
import type { Bucket } from '../nats/bucket/bucket.ts';
import type { ObjectStore } from '../storage/objectStore.ts';
import type { Log } from '../telemetry/logger.ts';
import type { WorkerMetrics } from '../telemetry/metrics.ts';

export interface Tools {
  config: Config;
  metrics: WorkerMetrics;
  /** The audit log of deletions. */
  audit: Log;
  lxd: LxdClient;
  store: ObjectStore;
  threads: Threads;
  /** Limits how fast all slots together may read. */
  bandwidth: Bandwidth;
  leases: Leases;
  leasesBucket: Bucket;
  checkpoints: Bucket;
  reservations: Reservations;
  fleet: FleetStore;
  keeper: Keeper;
  catalog: Catalog;
  /** This slot's memory. */
  memory: SlotMemory;
}
