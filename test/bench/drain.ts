/** How fast the run loop is by itself: queued jobs that do nothing, with all that is written and read for a real one. */
import { Threads } from '../../services/archive/compression/threads.ts';
import { SlotMemory } from '../../services/archive/slotMemory.ts';
import { Catalog } from '../../services/backups/catalog.ts';
import { Bandwidth } from '../../services/concurrency/rateLimit.ts';
import { loadConfig } from '../../services/contract/config.ts';
import { parseBandwidth } from '../../services/contract/timetable.ts';
import { Leases } from '../../services/coordination/leases.ts';
import { Nudges } from '../../services/coordination/nudges.ts';
import { Reservations } from '../../services/coordination/reservations.ts';
import { FleetStore } from '../../services/fleet/fleetStore.ts';
import { Keeper } from '../../services/fleet/keeper.ts';
import { Deliveries } from '../../services/jobs/deliveries.ts';
import { Submitter } from '../../services/jobs/submit.ts';
import { WaitingRoom } from '../../services/jobs/waitingRoom.ts';
import { LxdClient } from '../../services/lxd/connection/client.ts';
import { Bucket } from '../../services/nats/bucket/bucket.ts';
import { connectNats } from '../../services/nats/connection.ts';
import { setUp } from '../../services/nats/setup.ts';
import { checkpointsBucket, consumerName, jobsStream, leasesBucket } from '../../services/nats/streams.ts';
import { OperationStore } from '../../services/operations/operationStore.ts';
import { Outages } from '../../services/outages/outages.ts';
import { createS3Store } from '../../services/storage/s3/s3.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { createWorkerMetrics } from '../../services/telemetry/metrics.ts';
import { traceOf } from '../../services/telemetry/trace.ts';
import type { Runners } from '../../services/worker/loop/jobAttempt.ts';
import { runLoop } from '../../services/worker/loop/runLoop.ts';
import { startNats } from '../lab/nats.ts';
import type { Log } from '../lab/run.ts';
import { median } from './measure.ts';
import type { Table } from './report.ts';

const submittedAtOnce = 64;

interface DrainOptions {
  jobs: number;
  slots: number;
  rounds: number;
  /** Whether NATS syncs each write to disk, as a single server must, or leaves it to replicas. */
  sync: boolean;
}

/** Backups of as many instances, submitted as the gateway does it, then drained by one process. Log lines are made, and thrown away. */
export async function measureDrain({ jobs, slots, rounds, sync }: DrainOptions, log: Log): Promise<Table> {
  const times: number[] = [];
  const cpu: number[] = [];
  for (let round = 0; round <= rounds; round++) {
    await using nats = await startNats({ log: () => undefined, name: 'drain', sync });
    const drained = await drain(nats.url, jobs, slots);
    log(`${round === 0 ? 'warm-up' : `round ${round} of ${rounds}`}: ${jobs} jobs in ${drained.seconds.toFixed(2)} s`);
    if (round === 0) continue;
    times.push(drained.seconds);
    cpu.push(drained.cpuSeconds);
  }
  const perSecond = jobs / median(times);
  const how = sync ? 'each write synced' : "NATS's default sync";
  return {
    title: `Draining ${jobs} queued jobs that do nothing, ${slots} slots, ${how}`,
    bytes: 0,
    rounds,
    lines: [
      { name: 'all', wallS: median(times) },
      { name: "of that, the worker's CPU", wallS: median(cpu) },
    ],
    bars: [{ text: '≥ 1 000 jobs a second', value: perSecond, holds: perSecond >= 1000 }],
  };
}

async function drain(url: string, jobs: number, slots: number): Promise<{ seconds: number; cpuSeconds: number }> {
  const nowhere = 'http://127.0.0.1:1';
  const config = loadConfig({
    env: {
      LXSTOW_NATS_SERVERS: url,
      ...{ LXSTOW_S3_ENDPOINT: nowhere, LXSTOW_S3_BUCKET: 'none' },
      ...{ LXSTOW_S3_ACCESS_KEY: 'none', LXSTOW_S3_SECRET_KEY: 'none' },
    },
  });
  const log = createLogger({ level: 'info', format: 'json' }, { worker: 'drain' });
  for (const transport of log.transports) transport.silent = true;
  await using nats = await connectNats(config.nats, 'drain', log);
  await setUp(nats, config);
  const bucket = new Bucket(nats, leasesBucket);
  const operations = new OperationStore(nats, config.nats.operationsKeptHours);
  const ended = new AbortController();
  const submitter = new Submitter(nats, operations, log, ended.signal);
  const requestor = { username: 'bench', protocol: 'tls', address: '' };
  let submitted = 0;
  const submit = async () => {
    while (submitted < jobs) {
      const address = { remote: 'local', project: 'default', instance: `c${submitted++}` };
      await submitter.submit(submitter.newId(), { kind: 'backup', address, body: {} }, requestor, traceOf(undefined));
    }
  };
  await Promise.all(Array.from({ length: submittedAtOnce }, submit));

  using store = createS3Store(config.s3);
  using lxd = new LxdClient('local', { socket: '/nonexistent' }, {});
  await using threads = new Threads();
  using nudges = new Nudges(nats, 'local');
  using waitingRoom = new WaitingRoom({ nats, remote: 'local' });
  const stopping = new AbortController();
  let done = 0;
  const nothing = async () => {
    if (++done === jobs) stopping.abort();
  };
  const serves = async () => undefined;
  const runners: Runners = {
    backup: { run: nothing },
    restore: { run: nothing },
    delete: { run: nothing },
    prune: { run: nothing },
  };
  const fleet = new FleetStore(nats);
  const shared = {
    ...{ config, metrics: createWorkerMetrics(), lxd, store, threads, bandwidth: new Bandwidth(parseBandwidth('off')) },
    ...{ leases: new Leases(bucket, config.worker.leaseTtlMs, (key) => waitingRoom.freed(key)), leasesBucket: bucket },
    ...{ checkpoints: new Bucket(nats, checkpointsBucket), reservations: new Reservations(bucket) },
    ...{ fleet, audit: log },
    keeper: new Keeper({ fleet, store, prefix: config.s3.prefix, log }),
    catalog: new Catalog(store, config.s3.prefix, log),
  };
  await using outages = new Outages({
    ...{ remote: 'local', worker: 'drain', bucket, log, stopping: stopping.signal },
    ...{ onFree: (permit: string) => waitingRoom.freed(permit), probes: { s3: serves, lxd: serves } },
  });
  const loop = async () => {
    const deliveries = await Deliveries.open(nats, consumerName('local', 'transfer'), stopping.signal);
    await runLoop({
      ...{ worker: 'drain', nats, deliveries, nudges, operations, runners, waitingRoom, outages, log },
      ...{ tools: { ...shared, memory: new SlotMemory() }, stop: stopping.signal, handingBack: ended.signal },
    });
  };
  const [begun, cpu] = [performance.now(), process.cpuUsage()];
  await Promise.all(Array.from({ length: slots }, loop));
  const seconds = (performance.now() - begun) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  const left = (await nats.jsm.streams.info(jobsStream)).state.messages;
  const succeeded = (await operations.list()).filter(({ status }) => status === 'Success').length;
  if (left > 0 || succeeded !== jobs) throw new Error(`${left} jobs are left, ${succeeded} of ${jobs} succeeded`);
  return { seconds, cpuSeconds: (user + system) / 1_000_000 };
}
