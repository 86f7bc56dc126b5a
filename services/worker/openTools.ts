/** Opens what a worker works with: its connections to S3, LXD and NATS, and the tools of its jobs. */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { Threads } from '../archive/compression/threads.ts';
import { Catalog } from '../backups/catalog.ts';
import { listPrefix } from '../backups/keys.ts';
import { Bandwidth } from '../concurrency/rateLimit.ts';
import { isCode } from '../contract/errors.ts';
import type { Config } from '../contract/schemas.ts';
import { parseBandwidth } from '../contract/timetable.ts';
import { Leases } from '../coordination/leases.ts';
import { Nudges } from '../coordination/nudges.ts';
import { Reservations } from '../coordination/reservations.ts';
import { FleetStore } from '../fleet/fleetStore.ts';
import { Keeper } from '../fleet/keeper.ts';
import { WaitingRoom } from '../jobs/waitingRoom.ts';
import { LxdClient } from '../lxd/connection/client.ts';
import { readServer } from '../lxd/instances.ts';
import { Bucket } from '../nats/bucket/bucket.ts';
import { leaseKind } from '../nats/bucketKeys.ts';
import { connectNats, type Nats } from '../nats/connection.ts';
import { verifySetUp } from '../nats/setup.ts';
import { checkpointsBucket, leasesBucket } from '../nats/streams.ts';
import { OperationStore } from '../operations/operationStore.ts';
import { Outages } from '../outages/outages.ts';
import { probeAtStart, probeOfLxd, probeOfS3 } from '../outages/probes.ts';
import { measured } from '../storage/measured.ts';
import { retrying } from '../storage/retrying.ts';
import { createS3Store } from '../storage/s3/s3.ts';
import { auditLog, type Log } from '../telemetry/logger.ts';
import { createWorkerMetrics, type WorkerMetrics } from '../telemetry/metrics.ts';
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

export interface OpenedWorker {
  /** This worker's name. */
  worker: string;
  nats: Nats;
  operations: OperationStore;
  nudges: Nudges;
  waitingRoom: WaitingRoom;
  outages: Outages;
  /** What all slots share. */
  tools: Omit<Tools, 'memory'>;
  log: Log;
  /** Also aborts when the connection to NATS has ended for good. */
  stop: AbortSignal;
}

const startTimeoutMs = 10_000;

/** Opens everything that a worker needs; disposing of `stack` closes it. */
export async function openTools(options: WorkerOptions, stack: AsyncDisposableStack): Promise<OpenedWorker> {
  const { config, reread } = options;
  const { remote, leaseTtlMs } = config.worker;
  const worker = `${hostname()}-${process.pid}-${randomBytes(3).toString('hex')}`;
  const log = options.log.child({ worker, remote });
  const metrics = createWorkerMetrics();
  const { s3, store } = await openStore(config, reread, metrics, log, stack);
  const lxd = await openLxd(options, metrics, log, stack);
  const threads = stack.use(new Threads({ gzipLibrary: config.gzip.library }));
  const nats = stack.use(
    await connectNats(config.nats, `lxstow worker ${worker}`, log, { reread: reread && (() => reread().nats) }),
  );
  const stop = AbortSignal.any([options.stop, nats.closed]);
  await verifySetUp(nats, remote);

  // If NATS is away for less than a lease's TTL, no attempt is lost.
  const patienceMs = leaseTtlMs;
  const bucket = new Bucket(nats, leasesBucket, patienceMs);
  const operations = new OperationStore(nats, config.nats.operationsKeptHours, patienceMs);
  const nudges = stack.use(new Nudges(nats, remote));
  const waitingRoom = stack.use(
    new WaitingRoom({
      nats,
      remote,
      onChange: (lease, by) => metrics.waiting.inc({ for: leaseKind(lease) }, by),
    }),
  );
  const { prefix } = config.s3;
  const fleet = new FleetStore(nats);
  const tools = {
    ...{ config, metrics, lxd, store, threads, fleet },
    audit: auditLog(config.log, 'worker'),
    bandwidth: new Bandwidth(parseBandwidth(config.worker.bandwidth)),
    leases: new Leases(bucket, leaseTtlMs, (key) => waitingRoom.freed(key)),
    leasesBucket: bucket,
    checkpoints: new Bucket(nats, checkpointsBucket, patienceMs),
    reservations: new Reservations(bucket),
    keeper: new Keeper({ fleet, store, prefix, log }),
    catalog: new Catalog(store, prefix, log),
  };
  const outages = stack.use(
    new Outages({
      ...{ remote, worker, bucket, log, stopping: stop },
      onFree: (permit) => waitingRoom.freed(permit),
      probes: { s3: probeOfS3(s3, `${listPrefix(prefix, { remote })}.probe-${worker}`), lxd: probeOfLxd(lxd) },
    }),
  );
  return { worker, nats, operations, nudges, waitingRoom, outages, tools, log, stop };
}

async function openStore(
  config: Config,
  reread: WorkerOptions['reread'],
  metrics: WorkerMetrics,
  log: Log,
  stack: AsyncDisposableStack,
) {
  const s3 = stack.use(createS3Store(config.s3, { reread: reread && (() => reread().s3) }));
  const store = retrying(measured(s3, metrics), {
    attempts: config.s3.attempts,
    onRetry: (call, error) => {
      metrics.s3Retries.inc({ call });
      log.warn('the object store is tried again', { call, error });
    },
  });
  await probeAtStart(s3, log);
  return { s3, store };
}

async function openLxd(
  { config, env }: WorkerOptions,
  metrics: WorkerMetrics,
  log: Log,
  stack: AsyncDisposableStack,
): Promise<LxdClient> {
  const { remote } = config.worker;
  const lxd = stack.use(
    new LxdClient(remote, config.remotes[remote] ?? {}, env, ({ seconds, ...labels }) =>
      metrics.lxdRequests.observe(labels, seconds),
    ),
  );
  await readServer(lxd, AbortSignal.timeout(startTimeoutMs)).then(
    ({ environment: { server_version: version } }) => log.info('LXD found', { version }),
    (error) =>
      log.warn(isCode(error, 'lxd-refused') ? 'LXD refuses this worker' : 'LXD does not answer yet', { error }),
  );
  return lxd;
}
