/** Opens the gateway's parts: its connections to S3 and NATS, the stores on them, and the feeds that it follows. */

import { hostname } from 'node:os';
import { Threads } from '../archive/compression/threads.ts';
import { Catalog } from '../backups/catalog.ts';
import { hourMs } from '../contract/durations.ts';
import type { Config } from '../contract/schemas.ts';
import { Leases } from '../coordination/leases.ts';
import { Reservations } from '../coordination/reservations.ts';
import { FleetStore, FleetView } from '../fleet/fleetStore.ts';
import { Keeper } from '../fleet/keeper.ts';
import { Intake } from '../intake/intake.ts';
import { Submitter } from '../jobs/submit.ts';
import { Bucket } from '../nats/bucket/bucket.ts';
import { operationKey } from '../nats/bucketKeys.ts';
import { connectNats } from '../nats/connection.ts';
import { verifySetUp } from '../nats/setup.ts';
import { leasesBucket } from '../nats/streams.ts';
import { OperationStore } from '../operations/operationStore.ts';
import { ProgressFeed } from '../operations/progressFeed.ts';
import { probeAtStart } from '../outages/probes.ts';
import { RunStore } from '../runs/runStore.ts';
import { ScheduleStore } from '../schedules/scheduleStore.ts';
import { measured } from '../storage/measured.ts';
import { retrying } from '../storage/retrying.ts';
import { createS3Store } from '../storage/s3/s3.ts';
import { type Log, onLine } from '../telemetry/logger.ts';
import { countJob, createGatewayMetrics } from '../telemetry/metrics.ts';
import { serverCertificate } from '../trust/serverCertificate.ts';
import { openTrust } from './access/openTrust.ts';
import { EventSockets } from './events/eventSockets.ts';
import type { GatewayParts } from './gatewayParts.ts';
import { Absences } from './http/absences.ts';
import { listShares } from './http/lines.ts';
import { ExpectedBackups } from './runs/expectedBackups.ts';
import { MatchedInstances } from './runs/matchedInstances.ts';
import { Transfers } from './transfers.ts';
import { AwayWorkers } from './views/awayWorkers.ts';

export interface PartsOptions {
  config: Config;
  /** Reads the configuration again, for credentials that were changed. */
  reread?: () => Config;
  env: NodeJS.ProcessEnv;
  log: Log;
  stop: AbortSignal;
}

export interface OpenedParts {
  parts: GatewayParts;
  leasesBucket: Bucket;
  /** Throws while S3 is away. */
  probeS3(signal: AbortSignal): Promise<void>;
  /** Resolves when the records of all instances have been read. */
  fleetRead: Promise<void>;
  /** Stops following NATS. Call it when no request needs the feeds any more. */
  unfollow(): void;
}

/** Tries of each S3 request: few, because a person waits for the answer. Workers are more patient. */
const s3Attempts = 2;
const s3IdleTimeoutMs = 5000;

/** Opens everything; disposing of `stack` closes it. Throws if the configuration is wrong, or NATS or the object store is not set up. */
export async function openParts(options: PartsOptions, stack: AsyncDisposableStack): Promise<OpenedParts> {
  const { config, reread, env, log } = options;
  const { gateway } = config;
  const metrics = createGatewayMetrics();
  const certificate = await serverCertificate(config, env, log);
  const { s3, catalogStore, archives, archiveStore } = await openStores(options, metrics, stack);
  const threads = stack.use(new Threads({ gzipLibrary: config.gzip.library }));
  const nats = stack.use(
    await connectNats(config.nats, 'lxstow gateway', log, { reread: reread && (() => reread().nats) }),
  );
  const stop = AbortSignal.any([options.stop, nats.closed]);
  await verifySetUp(nats);

  const ended = new AbortController();
  const operations = new OperationStore(nats, config.nats.operationsKeptHours);
  const runs = new RunStore(nats, config.nats.runsKeptHours);
  const leases = new Bucket(nats, leasesBucket);
  const fleet = new FleetView(nats);
  const fleetRead = fleet.follow(ended.signal, (error) =>
    log.warn('the records of instances cannot be read', { error }),
  );
  const feed = await operations.feed(log, ended.signal);
  const runFeed = await runs.feed(log, ended.signal);
  const progress = stack.use(new ProgressFeed(nats, operations, feed));
  const eventSockets = stack.use(new EventSockets({ feed, progress, runFeed, log }));
  stack.use(onLine(log, (line) => eventSockets.line(line)));
  const trust = await openTrust(config, certificate, nats, log, ended.signal);
  const transfers = new Transfers({
    ...limitsOf(config),
    ...{ store: archiveStore, presigner: archives, threads, log },
    name: `gateway-${hostname()}-${process.pid}`,
    leases: new Leases(leases, config.worker.leaseTtlMs),
  });
  const { prefix } = config.s3;
  const catalog = new Catalog(catalogStore, prefix, log);
  const keeper = new Keeper({ fleet: new FleetStore(nats), store: catalogStore, prefix, log });
  const reservations = new Reservations(leases);
  const intake = new Intake({
    ...{ ...transfers.tools, prefix, operations, reservations, catalog, keeper },
    cancels: { on: ({ remote, id }, look) => feed.on(operationKey(remote, id), look) },
    onEnd: (operation, result) => countJob(metrics, operation, result),
  });
  const schedules = new ScheduleStore(nats);
  const { inventoryTimeoutMs: timeoutMs } = gateway;
  const matched = new MatchedInstances({ nats, log, remotes: Object.keys(config.remotes), timeoutMs });
  const expected = new ExpectedBackups({ schedules, runs, matched, patienceMs: gateway.backupMaxAgeHours * hourMs });
  const parts: GatewayParts = {
    ...{ config, log, metrics, nats, operations, feed, progress, runs, runFeed, eventSockets, reservations },
    ...{ schedules, catalog, fleet, expected, keeper, transfers, intake, certificate, stop, ...trust },
    submitter: new Submitter(nats, operations, log, ended.signal),
    lists: listShares(),
    absences: new Absences(leases, log),
    awayWorkers: new AwayWorkers({ nats, leases, operations, log }),
  };
  return {
    ...{ parts, leasesBucket: leases, fleetRead },
    probeS3: (signal) => s3.probe(signal),
    unfollow: () => ended.abort(),
  };
}

/** The limits of transfers through this gateway. */
function limitsOf({ gateway, worker }: Config) {
  return {
    most: gateway.transfers,
    mostPerClient: gateway.transfersPerClient ?? Math.ceil(gateway.transfers / 2),
    heartbeatMs: worker.heartbeatMs,
    clientIdleTimeoutMs: gateway.clientIdleTimeoutMs,
  };
}

/** Two connections to S3: archives have their own, with a longer timeout and more attempts. */
async function openStores(
  { config, reread, log }: PartsOptions,
  metrics: GatewayParts['metrics'],
  stack: AsyncDisposableStack,
) {
  const onRetry = (call: string) => metrics.s3Retries.inc({ call });
  const options = { reread: reread && (() => reread().s3) };
  const { attempts } = config.s3;
  const idleTimeoutMs = Math.min(config.s3.idleTimeoutMs, s3IdleTimeoutMs);
  const s3 = stack.use(createS3Store({ ...config.s3, idleTimeoutMs }, options));
  await probeAtStart(s3, log);
  const archives = stack.use(createS3Store(config.s3, options));
  return {
    s3,
    archives,
    catalogStore: retrying(measured(s3, metrics), { attempts: Math.min(attempts, s3Attempts), onRetry }),
    archiveStore: retrying(measured(archives, metrics), { attempts, onRetry }),
  };
}
