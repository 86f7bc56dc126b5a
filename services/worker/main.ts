/** The worker: slots that take a host's jobs from NATS and run them beside its LXD. */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { Threads } from '../archive/compression/threads.ts';
import { SlotMemory } from '../archive/slotMemory.ts';
import { Catalog } from '../backups/catalog.ts';
import { listPrefix } from '../backups/keys.ts';
import { Bandwidth } from '../concurrency/rateLimit.ts';
import { isCode } from '../contract/errors.ts';
import type { Config } from '../contract/schemas.ts';
import { parseBandwidth } from '../contract/timetable.ts';
import { Leases, removeStaleRegularly } from '../coordination/leases.ts';
import { Nudges } from '../coordination/nudges.ts';
import { Reservations } from '../coordination/reservations.ts';
import { FleetStore } from '../fleet/fleetStore.ts';
import { Keeper } from '../fleet/keeper.ts';
import { takeInventoryRegularly } from '../fleet/takeInventory.ts';
import { Janitor, tidyRegularly } from '../janitor/janitor.ts';
import { Deliveries } from '../jobs/deliveries.ts';
import { WaitingRoom } from '../jobs/waitingRoom.ts';
import { LxdClient } from '../lxd/client.ts';
import { readServer } from '../lxd/instances.ts';
import { recordedInstances } from '../lxd/inventory.ts';
import { Bucket } from '../nats/bucket.ts';
import { leaseKind } from '../nats/bucketKeys.ts';
import { connectNats } from '../nats/connection.ts';
import { verifySetUp } from '../nats/setup.ts';
import { checkpointsBucket, consumerName, type Lane, leasesBucket } from '../nats/streams.ts';
import { OperationStore } from '../operations/operationStore.ts';
import { Outages } from '../outages/outages.ts';
import { probeOfLxd, probeOfS3 } from '../outages/probes.ts';
import { measured } from '../storage/measured.ts';
import { retrying } from '../storage/retrying.ts';
import { createS3Store } from '../storage/s3.ts';
import { serveHealth } from '../telemetry/health.ts';
import type { Log } from '../telemetry/logger.ts';
import { createWorkerMetrics } from '../telemetry/metrics.ts';
import { answerQuestions } from './answers.ts';
import { runBackup } from './backup/backup.ts';
import { undoBackup } from './backup/traces.ts';
import { runPrune } from './prune.ts';
import { runRemove } from './remove.ts';
import { runRestore, undoRestore } from './restore/restore.ts';
import type { Runners } from './runAttempt.ts';
import { runLoop } from './runLoop.ts';
import type { Tools } from './tools.ts';

export interface WorkerOptions {
  config: Config;
  /** Reads the configuration again, for changed credentials. */
  reread?: () => Config;
  env: NodeJS.ProcessEnv;
  log: Log;
  /** Aborts to stop: no new jobs, and what still runs after `worker.graceMs` is handed back. */
  stop: AbortSignal;
}

const startTimeoutMs = 10_000;
/** Deletions at a time, beside the slots. */
const quickSlots = 2;
const runners: Runners = {
  backup: { run: runBackup, undo: undoBackup },
  restore: { run: runRestore, undo: undoRestore },
  delete: { run: runRemove },
  prune: { run: runPrune },
};

/** Runs until `stop`. Throws at the start if the configuration, NATS or the object store is unfit. */
export async function runWorker(options: WorkerOptions): Promise<void> {
  const { config, reread, env } = options;
  const { remote, slots, graceMs } = config.worker;
  const worker = `${hostname()}-${process.pid}-${randomBytes(3).toString('hex')}`;
  const log = options.log.child({ worker, remote });

  const metrics = createWorkerMetrics();
  using s3 = createS3Store(config.s3, { reread: reread && (() => reread().s3) });
  const store = retrying(measured(s3, metrics), {
    attempts: config.s3.attempts,
    onRetry: (call, error) => {
      metrics.s3Retries.inc({ call });
      log.warn('the object store is tried again', { call, error });
    },
  });
  await s3.probe(AbortSignal.timeout(startTimeoutMs)).catch((error) => {
    // A store that is not up yet may come; one that refuses us will not change its mind.
    if (!isCode(error, 's3-unavailable') && (error as Error).name !== 'TimeoutError') throw error;
    log.warn('the object store does not answer yet', { error });
  });
  using lxd = new LxdClient(remote, config.remotes[remote] ?? {}, env, ({ seconds, ...labels }) =>
    metrics.lxdRequests.observe(labels, seconds),
  );
  await readServer(lxd, AbortSignal.timeout(startTimeoutMs)).then(
    ({ environment: { server_version: version } }) => log.info('LXD found', { version }),
    (error) =>
      log.warn(isCode(error, 'lxd-refused') ? 'LXD refuses this worker' : 'LXD does not answer yet', { error }),
  );
  await using threads = new Threads({ gzipLibrary: config.gzip.library });
  await using nats = await connectNats(config.nats, `lxstow worker ${worker}`, log, {
    reread: reread && (() => reread().nats),
  });
  const stop = AbortSignal.any([options.stop, nats.closed]);
  await verifySetUp(nats, remote);

  // A NATS that is away for less than a lease's life costs no attempt.
  const patienceMs = config.worker.leaseTtlMs;
  const bucket = new Bucket(nats, leasesBucket, patienceMs);
  const operations = new OperationStore(nats, config.nats.operationsKeptHours, patienceMs);
  using nudges = new Nudges(nats, remote);
  using waitingRoom = new WaitingRoom({
    nats,
    remote,
    onChange: (lease, by) => metrics.waiting.inc({ for: leaseKind(lease) }, by),
  });
  const { prefix } = config.s3;
  const fleet = new FleetStore(nats);
  const keeper = new Keeper({ fleet, store, prefix, log });
  const shared: Omit<Tools, 'memory'> = {
    config,
    metrics,
    lxd,
    store,
    threads,
    bandwidth: new Bandwidth(parseBandwidth(config.worker.bandwidth)),
    leases: new Leases(bucket, config.worker.leaseTtlMs, (key) => waitingRoom.freed(key)),
    leasesBucket: bucket,
    checkpoints: new Bucket(nats, checkpointsBucket, patienceMs),
    reservations: new Reservations(bucket),
    keeper,
    catalog: new Catalog(store, prefix, log),
  };
  await using outages = new Outages({
    ...{ remote, worker, bucket, log, stopping: stop },
    onFree: (permit) => waitingRoom.freed(permit),
    probes: { s3: probeOfS3(s3, `${listPrefix(config.s3.prefix, { remote })}.probe-${worker}`), lxd: probeOfLxd(lxd) },
  });
  await using health = await serveHealth(
    config.worker.healthAddress,
    config.worker.healthPort,
    {
      nats: async () => nats.assertConnected(),
      s3: (signal) => outages.check('s3', signal),
      lxd: (signal) => outages.check('lxd', signal),
    },
    metrics,
  );
  const ended = new AbortController();
  answerQuestions(nats, lxd, log, ended.signal);

  const handingBack = new AbortController();
  let graceTimer: NodeJS.Timeout | undefined;
  const stopping = () => {
    log.info('stopping', { graceMs });
    graceTimer = setTimeout(() => handingBack.abort(), graceMs);
    waitingRoom[Symbol.dispose]();
  };
  if (stop.aborted) stopping();
  stop.addEventListener('abort', stopping, { once: true });

  const loop = async (lane: Lane) => {
    const deliveries = await Deliveries.open(nats, consumerName(remote, lane), stop);
    const tools = { ...shared, memory: new SlotMemory() };
    await runLoop({
      ...{ worker, nats, deliveries, nudges, operations, tools, runners, waitingRoom, outages, log },
      ...(lane === 'transfer' && { ready: () => outages.ready() }),
      ...{ stopping: stop, handingBack: handingBack.signal },
    });
  };
  const lanes: Lane[] = [...Array<Lane>(slots).fill('transfer'), ...Array<Lane>(quickSlots).fill('quick')];
  const everyMinutes = config.worker.janitorEveryMinutes;
  const tidying = tidyRegularly(new Janitor({ ...shared, nats, worker, log }), { everyMinutes, log, stop });
  const list = (signal: AbortSignal) => recordedInstances(lxd, signal);
  const counting = takeInventoryRegularly(
    { remote, fleet, keeper, store, prefix, leases: shared.leases, list, log },
    { everySeconds: config.worker.inventoryEverySeconds, stop },
  );
  const expiring = removeStaleRegularly(shared.leases, { remote, log, stop });
  log.info('worker ready', { slots, health: health.port });
  try {
    await Promise.all([...lanes.map(loop), tidying, counting, expiring]);
  } finally {
    clearTimeout(graceTimer);
    ended.abort();
  }
  log.info('worker stopped');
  // systemd restarts a worker that has failed (packaging/systemd).
  nats.closed.throwIfAborted();
}
