import type { Catalog } from '../backups/catalog.ts';
import type { Config, Operation } from '../contract/schemas.ts';
import type { Reservations } from '../coordination/reservations.ts';
import type { FleetView } from '../fleet/fleetStore.ts';
import type { Keeper } from '../fleet/keeper.ts';
import type { Intake } from '../intake/intake.ts';
import type { Submitter } from '../jobs/submit.ts';
import type { Feed } from '../nats/bucket/feed.ts';
import type { Nats } from '../nats/connection.ts';
import type { OperationStore } from '../operations/operationStore.ts';
import type { ProgressFeed } from '../operations/progressFeed.ts';
import type { RunStore, StoredRun } from '../runs/runStore.ts';
import type { ScheduleStore } from '../schedules/scheduleStore.ts';
import type { Log } from '../telemetry/logger.ts';
import type { GatewayMetrics } from '../telemetry/metrics.ts';
import type { ServerCertificate } from '../trust/serverCertificate.ts';
import type { TrustParts } from './access/openTrust.ts';
import type { EventSockets } from './events/eventSockets.ts';
import type { Absences } from './http/absences.ts';
import type { Shares } from './http/shares.ts';
import type { ExpectedBackups } from './runs/expectedBackups.ts';
import type { Transfers } from './transfers.ts';
import type { AwayWorkers } from './views/awayWorkers.ts';

/** Made once in openParts.ts, and handed to every route and endpoint. */
export interface GatewayParts extends TrustParts {
  config: Config;
  log: Log;
  metrics: GatewayMetrics;
  nats: Nats;
  operations: OperationStore;
  feed: Feed<Operation>;
  progress: ProgressFeed;
  runs: RunStore;
  runFeed: Feed<StoredRun>;
  schedules: ScheduleStore;
  eventSockets: EventSockets;
  reservations: Reservations;
  catalog: Catalog;
  fleet: FleetView;
  expected: ExpectedBackups;
  keeper: Keeper;
  submitter: Submitter;
  transfers: Transfers;
  /** Lists that are being sent as NDJSON. */
  lists: Shares;
  /** Stores the archives that clients send. */
  intake: Intake;
  absences: Absences;
  awayWorkers: AwayWorkers;
  certificate: ServerCertificate;
  /** Aborts when the gateway stops; requests that wait are answered then. */
  stop: AbortSignal;
}
