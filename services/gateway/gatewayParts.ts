/** What the gateway's APIs work with. */
import type { Catalog } from '../backups/catalog.ts';
import type { Config } from '../contract/schemas.ts';
import type { Reservations } from '../coordination/reservations.ts';
import type { FleetView } from '../fleet/fleetStore.ts';
import type { Keeper } from '../fleet/keeper.ts';
import type { Submitter } from '../jobs/submit.ts';
import type { Nats } from '../nats/connection.ts';
import type { OperationStore } from '../operations/operationStore.ts';
import type { RunFeed } from '../runs/runFeed.ts';
import type { RunStore } from '../runs/runStore.ts';
import type { ScheduleStore } from '../schedules/scheduleStore.ts';
import type { Log } from '../telemetry/logger.ts';
import type { GatewayMetrics } from '../telemetry/metrics.ts';
import type { ServerCertificate } from '../trust/serverCertificate.ts';
import type { TrustParts } from './access/openTrust.ts';
import type { EventSockets } from './events/eventSockets.ts';
import type { OperationFeed } from './events/feed.ts';
import type { Absences } from './http/absences.ts';
import type { Transfers } from './transfers.ts';
import type { AwayWorkers } from './views/awayWorkers.ts';

/** What the routes work with. Made once in main, handed in. */
export interface GatewayParts extends TrustParts {
  config: Config;
  log: Log;
  metrics: GatewayMetrics;
  nats: Nats;
  operations: OperationStore;
  feed: OperationFeed;
  runs: RunStore;
  runFeed: RunFeed;
  schedules: ScheduleStore;
  eventSockets: EventSockets;
  reservations: Reservations;
  catalog: Catalog;
  fleet: FleetView;
  keeper: Keeper;
  submitter: Submitter;
  transfers: Transfers;
  absences: Absences;
  awayWorkers: AwayWorkers;
  certificate: ServerCertificate;
  /** Aborts when the gateway stops: nobody is kept waiting. */
  stop: AbortSignal;
}
