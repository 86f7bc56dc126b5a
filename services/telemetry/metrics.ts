/** The metrics: their names and meaning. Created in main and passed in; docs/observability.md says how to use them. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Operation } from '../contract/schemas.ts';

/** Seconds of a request. */
const requestBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];
/** Seconds of a job: from one second to a day. */
const jobBuckets = [1, 5, 15, 60, 300, 900, 3600, 10_800, 21_600, 43_200, 86_400];
/** Gauges named like counters, which Prometheus's own lint refuses. The same numbers exist by type, without `_total`. */
const misnamed = ['nodejs_active_handles_total', 'nodejs_active_requests_total', 'nodejs_active_resources_total'];

/** How often the lag of the event loop is measured. The usual 10 ms would cost an idle process 5 ms of CPU a second. */
const lagEveryMs = 100;
const lags = ['min', 'max', 'mean', 'p50', 'p90', 'p99'].map((of) => `nodejs_eventloop_lag_${of}_seconds`);

interface LagGauge {
  set(labels: object, seconds: number): void;
}

/** Node.js counts the interval itself as lag. */
function lessInterval(gauge: LagGauge): void {
  const set = gauge.set.bind(gauge);
  gauge.set = (labels, seconds) => set(labels, Math.max(0, seconds - lagEveryMs / 1000));
}

const results = ['success', 'failure', 'cancelled'] as const;
export type JobResult = (typeof results)[number];

export type WorkerMetrics = ReturnType<typeof createWorkerMetrics>;
export type GatewayMetrics = ReturnType<typeof createGatewayMetrics>;
type CommonMetrics = ReturnType<typeof createCommonMetrics>;
export type StoreMetrics = Pick<
  ReturnType<typeof createCommonMetrics>,
  's3Requests' | 's3Retries' | 'received' | 'sent'
>;

/** Metrics of gateway and worker alike: the process, jobs, bytes, S3. */
function createCommonMetrics() {
  const registry = new Registry();
  const registers = [registry];
  // CPU, memory, garbage collection, and the event loop's lag: nodejs_eventloop_lag_p99_seconds.
  collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: lagEveryMs });
  for (const name of lags) lessInterval(registry.getSingleMetric(name) as unknown as LagGauge);
  for (const name of misnamed) registry.removeSingleMetric(name);
  return {
    registry,
    jobs: new Counter({
      name: 'lxstow_jobs_total',
      help: 'Jobs that ended here, by result; refused: a message that is not a valid job.',
      labelNames: ['kind', 'result'],
      registers,
    }),
    jobDuration: new Histogram({
      name: 'lxstow_job_duration_seconds',
      help: 'Time from the request to the end of a job, including waiting and retries.',
      labelNames: ['kind', 'result'],
      buckets: jobBuckets,
      registers,
    }),
    received: new Counter({
      name: 'lxstow_received_bytes_total',
      help: 'Bytes of archives and manifests that came in from lxd, s3 or a client.',
      labelNames: ['peer'],
      registers,
    }),
    sent: new Counter({
      name: 'lxstow_sent_bytes_total',
      help: 'Bytes of archives and manifests that went out to lxd, s3 or a client.',
      labelNames: ['peer'],
      registers,
    }),
    s3Requests: new Histogram({
      name: 'lxstow_s3_request_duration_seconds',
      help: "Calls to the object store, each try; result is ok, or the error's code.",
      labelNames: ['call', 'result'],
      buckets: requestBuckets,
      registers,
    }),
    s3Retries: new Counter({
      name: 'lxstow_s3_retries_total',
      help: 'Failed calls to the object store that were retried.',
      labelNames: ['call'],
      registers,
    }),
  };
}

export function createWorkerMetrics() {
  const common = createCommonMetrics();
  const registers = [common.registry];
  const metrics = {
    ...common,
    running: new Gauge({
      name: 'lxstow_jobs_running',
      help: 'Jobs that this worker runs.',
      labelNames: ['kind'],
      registers,
    }),
    waiting: new Gauge({
      name: 'lxstow_jobs_waiting',
      help: 'Jobs that this worker handed back because another job has their instance, the storage pool or remote is at its limit, or S3 is away.',
      labelNames: ['for'],
      registers,
    }),
    retries: new Counter({
      name: 'lxstow_job_retries_total',
      help: 'Failed attempts that another one follows.',
      labelNames: ['kind'],
      registers,
    }),
    takeovers: new Counter({
      name: 'lxstow_lease_takeovers_total',
      help: 'Jobs taken over from a worker that died or lost its lease.',
      labelNames: ['kind'],
      registers,
    }),
    stagingFree: new Gauge({
      name: 'lxstow_lxd_staging_free_bytes',
      help: 'Free space on the disk where LXD writes its copies, at the last backup; absent if this worker cannot read it.',
      registers,
    }),
    diskFull: new Counter({
      name: 'lxstow_lxd_disk_full_total',
      help: "Attempts that ended because LXD's disk had no room for its copy.",
      registers,
    }),
    lxdRequests: new Histogram({
      name: 'lxstow_lxd_request_duration_seconds',
      help: 'Time from a request to LXD until its answer begins; result is the HTTP status or the error code.',
      labelNames: ['method', 'endpoint', 'result'],
      buckets: requestBuckets,
      registers,
    }),
  };
  // Start each series at 0: Prometheus sees no increase in one that starts at 1.
  for (const kind of ['backup', 'restore', 'delete', 'prune']) {
    for (const result of results) metrics.jobs.inc({ kind, result }, 0);
    metrics.retries.inc({ kind }, 0);
    metrics.takeovers.inc({ kind }, 0);
  }
  metrics.stagingFree.remove();
  metrics.jobs.inc({ kind: 'unknown', result: 'refused' }, 0);
  for (const what of ['instance', 'pool', 'remote', 'dependency']) metrics.waiting.set({ for: what }, 0);
  return metrics;
}

export function createGatewayMetrics() {
  const common = createCommonMetrics();
  const registers = [common.registry];
  for (const result of results) common.jobs.inc({ kind: 'upload', result }, 0);
  const notices = new Counter({
    name: 'lxstow_notices_total',
    help: 'Attempts to deliver a notice: delivered, retried (another attempt follows), given-up.',
    labelNames: ['result'],
    registers,
  });
  for (const result of ['delivered', 'retried', 'given-up']) notices.inc({ result }, 0);
  return {
    ...common,
    notices,
    noticesQueued: new Gauge({
      name: 'lxstow_notices_queued',
      help: 'Notices that no webhook has accepted yet.',
      labelNames: ['stream'],
      registers,
    }),
    ...queueGauges(registers),
    ...fleetGauges(registers),
  };
}

/** What NATS holds. */
function queueGauges(registers: Registry[]) {
  return {
    natsUp: new Gauge({
      name: 'lxstow_nats_up',
      help: "1 if NATS reported the state of the queue in time; 0 if not, and then the queue's metrics are absent.",
      registers,
    }),
    queued: new Gauge({
      name: 'lxstow_queue_jobs',
      help: 'Jobs in the queue: waiting for a worker, or taken by one.',
      labelNames: ['remote', 'lane', 'state'],
      registers,
    }),
    oldest: new Gauge({
      name: 'lxstow_queue_oldest_seconds',
      help: 'Age of the oldest job that no worker has taken yet; 0 if there is none.',
      labelNames: ['remote', 'lane'],
      registers,
    }),
    deadLetters: new Gauge({
      name: 'lxstow_dead_letters',
      help: 'Dead letters that were neither retried nor discarded.',
      // Without a label prom-client would export 0 while the number is unknown.
      labelNames: ['stream'],
      registers,
    }),
  };
}

/** The state of remotes and their instances. */
function fleetGauges(registers: Registry[]) {
  return {
    outage: new Gauge({
      name: 'lxstow_outage_seconds',
      help: "How long a dependency of a remote's jobs has been away, as its workers recorded it; absent if none is.",
      labelNames: ['remote', 'dependency'],
      registers,
    }),
    lastSuccess: new Gauge({
      name: 'lxstow_last_success_timestamp_seconds',
      help: 'Time of the newest backup of an instance that LXD has and that is not excluded; 0 if it has none.',
      labelNames: ['remote', 'project', 'instance'],
      registers,
    }),
    backupMaxAge: new Gauge({
      name: 'lxstow_backup_max_age_seconds',
      help: 'How old the newest backup of an instance may be: gateway.backupMaxAgeHours.',
      registers,
    }),
    backupExpected: new Gauge({
      name: 'lxstow_backup_expected_timestamp_seconds',
      help: 'The newest backup of an instance that schedules cover should not be older than this; 0: none is due yet.',
      labelNames: ['remote', 'project', 'instance'],
      registers,
    }),
    scheduleDue: new Gauge({
      name: 'lxstow_schedule_due_timestamp_seconds',
      help: 'When a schedule is due next; in the past, if no gateway has made its run yet. Absent while it is paused without an end.',
      labelNames: ['schedule'],
      registers,
    }),
    instances: new Gauge({
      name: 'lxstow_instances',
      help: 'Instances in each state, as `lxstow status` shows them.',
      labelNames: ['remote', 'state'],
      registers,
    }),
    inventory: new Gauge({
      name: 'lxstow_inventory_timestamp_seconds',
      help: "When a remote's workers last listed LXD's instances; 0: never.",
      labelNames: ['remote'],
      registers,
    }),
  };
}

/** Counts a job that has ended; returns the seconds since its request. */
export function countJob(
  { jobs, jobDuration }: Pick<CommonMetrics, 'jobs' | 'jobDuration'>,
  { kind, created_at, updated_at }: Pick<Operation, 'kind' | 'created_at' | 'updated_at'>,
  result: JobResult,
): number {
  const seconds = (Date.parse(updated_at) - Date.parse(created_at)) / 1000;
  jobs.inc({ kind, result });
  jobDuration.observe({ kind, result }, seconds);
  return seconds;
}
