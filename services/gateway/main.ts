/** The gateway: HTTPS with client certificates in front, NATS and the object store behind. It keeps no state that other gateways lack. */
import { constants } from 'node:crypto';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import { hostname } from 'node:os';
import { Threads } from '../archive/compression/threads.ts';
import { Catalog } from '../backups/catalog.ts';
import { until } from '../concurrency/until.ts';
import { readText } from '../contract/config.ts';
import { asLxstowError, isCode, LxstowError } from '../contract/errors.ts';
import type { Config } from '../contract/schemas.ts';
import { Leases } from '../coordination/leases.ts';
import { Reservations } from '../coordination/reservations.ts';
import { FleetStore, FleetView } from '../fleet/fleetStore.ts';
import { Keeper } from '../fleet/keeper.ts';
import { Intake } from '../intake/intake.ts';
import { Submitter } from '../jobs/submit.ts';
import { Bucket } from '../nats/bucket.ts';
import { connectNats } from '../nats/connection.ts';
import { verifySetUp } from '../nats/setup.ts';
import { leasesBucket } from '../nats/streams.ts';
import { openNotices } from '../notices/openNotices.ts';
import { OperationStore } from '../operations/operationStore.ts';
import { Feeder } from '../runs/feeder.ts';
import { RunStore } from '../runs/runStore.ts';
import { serveSchedules } from '../schedules/scheduler.ts';
import { ScheduleStore } from '../schedules/scheduleStore.ts';
import { measured } from '../storage/measured.ts';
import { retrying } from '../storage/retrying.ts';
import { createS3Store } from '../storage/s3.ts';
import { serveHealth } from '../telemetry/health.ts';
import { type Log, onLine } from '../telemetry/logger.ts';
import { countJob, createGatewayMetrics } from '../telemetry/metrics.ts';
import { fingerprintOf } from '../trust/certificates.ts';
import { serverCertificate } from '../trust/serverCertificate.ts';
import { connectionLimits } from './access/connections.ts';
import { openTrust } from './access/openTrust.ts';
import { createApp } from './app.ts';
import { EventSockets } from './events/eventSockets.ts';
import { takeUpgrades } from './events/upgrade.ts';
import type { GatewayParts } from './gatewayParts.ts';
import { Gauges } from './gauges.ts';
import { Absences } from './http/absences.ts';
import { listShares } from './http/lines.ts';
import { serveOverNats } from './natsApi/service.ts';
import { Transfers } from './transfers.ts';
import { AwayWorkers } from './views/awayWorkers.ts';
import { cancelOperation } from './views/cancelOperation.ts';
import { ExpectedBackups } from './views/expectedBackups.ts';
import { MatchedInstances } from './views/matchedInstances.ts';
import { runTools } from './views/runView.ts';
import { ownerTrouble } from './views/scheduleOwner.ts';

export interface GatewayOptions {
  config: Config;
  /** Reads the configuration again, for credentials that were changed. */
  reread?: () => Config;
  env: NodeJS.ProcessEnv;
  log: Log;
  /** Aborts to stop: open requests are answered, no new ones taken. */
  stop: AbortSignal;
  /** Called once, when the gateway takes requests. */
  onListening?: (port: number) => void;
}

/** A person waits for the answer: after two quick tries S3 counts as away. Workers are more patient. */
const s3Attempts = 2;
const s3IdleTimeoutMs = 5000;
const startTimeoutMs = 10_000;
const lastAnswersMs = 5000;
const hourMs = 3_600_000;

/** Runs until `stop`. Throws at the start when the configuration is wrong, or NATS or the object store is not set up. */
export async function runGateway(options: GatewayOptions): Promise<void> {
  const { config, reread, env, onListening } = options;
  const log = options.log.child({ service: 'gateway' });
  const { gateway } = config;
  const metrics = createGatewayMetrics();
  const onRetry = (call: string) => metrics.s3Retries.inc({ call });
  const certificate = await serverCertificate(config, env, log);

  const s3Options = { reread: reread && (() => reread().s3) };
  const idleTimeoutMs = Math.min(config.s3.idleTimeoutMs, s3IdleTimeoutMs);
  using s3 = createS3Store({ ...config.s3, idleTimeoutMs }, s3Options);
  await s3.probe(AbortSignal.timeout(startTimeoutMs)).catch((error) => {
    if (!isCode(error, 's3-unavailable') && (error as Error).name !== 'TimeoutError') throw error;
    log.warn('the object store does not answer yet', { error });
  });
  // Archives have their own connections, with a longer timeout.
  using archives = createS3Store(config.s3, s3Options);
  await using threads = new Threads({ gzipLibrary: config.gzip.library });
  await using nats = await connectNats(config.nats, 'lxstow gateway', log, { reread: reread && (() => reread().nats) });
  const stop = AbortSignal.any([options.stop, nats.closed]);
  await verifySetUp(nats);

  const operations = new OperationStore(nats, config.nats.operationsKeptHours);
  const ended = new AbortController();
  const leases = new Bucket(nats, leasesBucket);
  const fleet = new FleetView(nats);
  const fleetRead = fleet.follow(ended.signal, (error) =>
    log.warn('the records of instances cannot be read', { error }),
  );
  const feed = await operations.feed(log, ended.signal);
  const runs = new RunStore(nats, config.nats.runsKeptHours);
  const schedules = new ScheduleStore(nats);
  const runFeed = await runs.feed(log, ended.signal);
  await using eventSockets = new EventSockets(feed, runFeed, log);
  using _lines = onLine(log, (line) => eventSockets.line(line));
  const trust = await openTrust(config, certificate, nats, log, ended.signal);
  const { leaseTtlMs, heartbeatMs } = config.worker;
  const name = `gateway-${hostname()}-${process.pid}`;
  const transfers = new Transfers({
    most: gateway.transfers,
    mostPerClient: gateway.transfersPerClient ?? Math.ceil(gateway.transfers / 2),
    name,
    store: retrying(measured(archives, metrics), { attempts: config.s3.attempts, onRetry }),
    presigner: archives,
    threads,
    leases: new Leases(leases, leaseTtlMs),
    heartbeatMs,
    clientIdleTimeoutMs: gateway.clientIdleTimeoutMs,
    log,
  });
  const catalogStore = retrying(measured(s3, metrics), { attempts: Math.min(config.s3.attempts, s3Attempts), onRetry });
  const catalog = new Catalog(catalogStore, config.s3.prefix, log);
  const keeper = new Keeper({ fleet: new FleetStore(nats), store: catalogStore, prefix: config.s3.prefix, log });
  const remotes = Object.keys(config.remotes);
  const patienceMs = gateway.backupMaxAgeHours * hourMs;
  const matched = new MatchedInstances({ nats, remotes, timeoutMs: gateway.inventoryTimeoutMs, log });
  const expected = new ExpectedBackups({ schedules, runs, matched, patienceMs });
  const gauges = new Gauges({ nats, leases, config, fleet, expected, metrics, log });
  const reservations = new Reservations(leases);
  const intake = new Intake({
    ...transfers.tools,
    prefix: config.s3.prefix,
    cancels: feed,
    operations,
    reservations,
    catalog,
    keeper,
    onEnd: (operation, result) => countJob(metrics, operation, result),
  });
  const parts: GatewayParts = {
    config,
    log,
    nats,
    operations,
    feed,
    runs,
    runFeed,
    schedules,
    eventSockets,
    reservations,
    catalog,
    fleet,
    expected,
    keeper,
    metrics,
    submitter: new Submitter(nats, operations, log, ended.signal),
    transfers,
    lists: listShares(),
    intake,
    absences: new Absences(leases, log),
    awayWorkers: new AwayWorkers({ nats, leases, operations, log }),
    ...trust,
    certificate,
    stop,
  };
  const app = createApp(parts);
  const holder = { leases: new Leases(leases, leaseTtlMs), name, heartbeatMs, log, stop };
  const feeder = new Feeder({
    nats,
    runs,
    runFeed,
    operations,
    changes: feed,
    leasesBucket: leases,
    cancel: (id) => cancelOperation(parts, id),
    inventoryTimeoutMs: gateway.inventoryTimeoutMs,
    patienceMs: config.worker.patienceHours * hourMs,
    ...holder,
  });
  const notices = await openNotices({ nats, config: config.notify, metrics, log, stop });

  const server = https.createServer(
    {
      ...certificate,
      minVersion: 'TLSv1.2',
      // Clients that are not trusted get an error envelope, not a failed handshake.
      requestCert: true,
      ...connectionLimits,
      rejectUnauthorized: false,
      ...(gateway.trustCa ? { ca: readText(gateway.trustCa, 'gateway.trustCa') } : {}),
      // A resumed session would not show the client's certificate again, and would outlive its trust.
      // By renegotiation a client could change its certificate within a connection.
      secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
    },
    app,
  );
  takeUpgrades(server, app);
  server.on('secureConnection', (socket) => trust.connections.add(socket));
  // So that the first question about states is answered from memory.
  await until(AbortSignal.timeout(startTimeoutMs), fleetRead).catch(() =>
    log.warn('the records of instances are still being read'),
  );
  const port = await listen(server, gateway.address, gateway.port);
  await using health = await serveHealth(
    gateway.healthAddress,
    gateway.healthPort,
    { nats: async () => nats.assertConnected() },
    { registry: metrics.registry, refresh: (signal) => gauges.refresh(signal) },
    // It takes jobs without it.
    {
      s3: (signal) =>
        s3.probe(signal).catch(async (error) => {
          throw await parts.absences.explain(asLxstowError(error), false);
        }),
    },
  );
  const service = await serveOverNats(parts);
  log.info('gateway ready', {
    address: gateway.address,
    port,
    health: health.port,
    fingerprint: fingerprintOf(certificate.cert),
  });
  const feeding = feeder.run();
  const scheduling = serveSchedules({
    ...{ ...runTools(parts), ...holder, schedules, remotes },
    ownerTrouble: (schedule) => ownerTrouble(parts, schedule),
  });
  trust.announce(port);
  onListening?.(port);

  await new Promise<void>((resolve) => {
    if (stop.aborted) resolve();
    stop.addEventListener('abort', () => resolve(), { once: true });
  });
  log.info('stopping');
  const closed = new Promise((resolve) => server.close(resolve));
  server.closeIdleConnections();
  await eventSockets[Symbol.asyncDispose]();
  const timer = setTimeout(() => server.closeAllConnections(), lastAnswersMs);
  await Promise.all([closed, service.drain(lastAnswersMs), notices.drain(lastAnswersMs), feeding, scheduling]);
  clearTimeout(timer);
  await transfers.idle(AbortSignal.timeout(lastAnswersMs));
  ended.abort();
  log.info('gateway stopped');
  // Ends with a failure, so that systemd restarts the gateway (packaging/systemd).
  nats.closed.throwIfAborted();
}

async function listen(server: https.Server, address: string, port: number): Promise<number> {
  try {
    await new Promise<void>((resolve, reject) => server.once('error', reject).listen(port, address, resolve));
  } catch (cause) {
    throw new LxstowError('bad-config', `cannot listen on ${address} port ${port}: ${(cause as Error).message}`, {
      cause,
    });
  }
  return (server.address() as AddressInfo).port;
}
