/** What a worker's jobs work with. Made once in main, handed in. */

import type { SlotMemory } from '../archive/slotMemory.ts';
import type { Threads } from '../archive/threads.ts';
import type { Bandwidth } from '../bandwidth.ts';
import type { Config } from '../contract.ts';
import type { Keeper } from '../fleet/keeper.ts';
import type { LxdClient } from '../lxd/client.ts';
import type { WorkerMetrics } from '../metrics.ts';
import type { Bucket } from '../queue/bucket.ts';
import type { Leases } from '../queue/leases.ts';
import type { Reservations } from '../queue/reservations.ts';
import type { ObjectStore } from '../storage/objectStore.ts';

export interface Tools {
  config: Config;
  metrics: WorkerMetrics;
  lxd: LxdClient;
  store: ObjectStore;
  threads: Threads;
  /** What all slots together may read. */
  bandwidth: Bandwidth;
  leases: Leases;
  leasesBucket: Bucket;
  checkpoints: Bucket;
  reservations: Reservations;
  keeper: Keeper;
  /** This slot's memory. */
  memory: SlotMemory;
}
