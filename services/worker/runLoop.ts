/** The worker's one loop: take a message, run its job, decide how it ended. Nobody else decides about retries. */
import { setTimeout } from 'node:timers/promises';
import { asLxstowError, LxstowError } from '../contract/errors.ts';
import type { JobKind, Operation } from '../contract/schemas.ts';
import type { Lease } from '../coordination/leases.ts';
import type { Nudges } from '../coordination/nudges.ts';
import { bury } from '../jobs/deadLetters.ts';
import type { Deliveries, Delivery } from '../jobs/deliveries.ts';
import { isJobKind, type Job, type JobOf, operationIdOf, parseJob } from '../jobs/jobs.ts';
import type { WaitingRoom } from '../jobs/waitingRoom.ts';
import { isLxdAway } from '../lxd/client.ts';
import type { Nats } from '../nats/connection.ts';
import { parseJobSubject, returningPermits, waitedFor } from '../nats/topology.ts';
import { Attempt } from '../operations/attempt.ts';
import { keepAlive } from '../operations/heartbeat.ts';
import { amend, cancelled, fail, handBack, isFinal, newOperation, putOff, succeed } from '../operations/operation.ts';
import type { OperationStore, Stored } from '../operations/operationStore.ts';
import { waitedForAfter } from '../outages/blame.ts';
import { waitingFor } from '../outages/outage.ts';
import type { Outages } from '../outages/outages.ts';
import type { Log } from '../telemetry/logger.ts';
import { countJob } from '../telemetry/metrics.ts';
import { type Trace, traceHeader, traceOf } from '../telemetry/trace.ts';
import { admit, type Wait } from './admission.ts';
import { endingOf, firstDelayMs, longestDelayMs } from './ending.ts';
import { overdueFor, pause as pauseJob } from './pause.ts';
import type { Tools } from './tools.ts';

/** What is done for a kind of job. */
export interface Runner<K extends JobKind> {
  run(job: JobOf<K>, attempt: Attempt, tools: Tools): Promise<void>;
  /** Removes what its attempts have left, when no other follows. */
  undo?(job: JobOf<K>, attempt: Attempt, tools: Tools): Promise<void>;
}
export type Runners = { [K in JobKind]: Runner<K> };

export interface LoopOptions {
  /** This worker's name: who owns a running operation. */
  worker: string;
  nats: Nats;
  deliveries: Deliveries;
  nudges: Nudges;
  operations: OperationStore;
  tools: Tools;
  runners: Runners;
  waitingRoom: WaitingRoom;
  outages: Outages;
  /** Resolves when a job may be taken from the queue. */
  ready?: () => Promise<void>;
  log: Log;
  /** Aborts when no new job may begin. */
  stopping: AbortSignal;
  /** Aborts when running jobs must be handed back. */
  handingBack: AbortSignal;
}

const hourMs = 3_600_000;
const pauseAfterFaultMs = 1000;
/** A job whose operation somebody else has changed comes again after this; jittered, so that such jobs do not march in step. */
const busyDelayMs = 3000;
/** A takeover so soon after NATS was away is of an attempt that this has cut: it does not count. */
const afterNatsMs = 60_000;

/** Runs one job at a time until `stopping`; resolves when the last one has ended. */
export async function runLoop(options: LoopOptions): Promise<void> {
  const { deliveries, stopping, log } = options;
  while (!stopping.aborted) {
    try {
      await options.ready?.();
      const message = await deliveries.next();
      if (message) await handle(message, options);
    } catch (error) {
      // NATS is away, or the consumer is gone: the job, if there was one, comes again by itself.
      log.warn('the loop stumbled', { error: asLxstowError(error) });
      await pause(pauseAfterFaultMs, stopping);
    }
  }
}

async function handle(message: Delivery, options: LoopOptions): Promise<void> {
  const { operations, tools, worker, waitingRoom } = options;
  waitingRoom.arrived(message.seq);
  const raw = {
    subject: message.subject,
    data: message.data,
    messageId: message.headers?.get('Nats-Msg-Id') || undefined,
    sequence: message.seq,
  };
  const id = operationIdOf(raw);
  const trace = traceOf(message.headers?.get(traceHeader));
  const about = { operation: id, trace: trace.id };

  let job: Job;
  try {
    job = parseJob(raw);
  } catch (error) {
    return refuse(message, id, asLxstowError(error), options.log.child(about), options);
  }
  const { address } = job;
  const stored = await settleOperation(id, job, message, trace, options);
  if (!isOf(stored.operation, { kind: job.kind, ...address })) {
    const error = new LxstowError('bad-message', `operation ${id} is another job's`);
    return discard(message, error, options.log.child(about), options);
  }
  if (isFinal(stored.operation)) {
    await freeName(job, stored.operation, tools);
    return void (await message.ackAck());
  }

  const attemptLog = options.log.child({
    ...about,
    remote: address.remote,
    project: address.project,
    instance: address.instance,
    kind: job.kind,
  });
  // What has come so far needs LXD alone: with an instance aside, it does not wait for others.
  const limited = stored.operation.status !== 'Cancelling' && !stored.operation.checkpoint?.prepared;
  const gate = limited ? await options.outages.gate(job.kind) : undefined;
  const overdue = gate && overdueFor(gate, stored.operation, tools);
  if (gate?.outage.allowed === 0 && !overdue) return pauseJob(message, gate, stored, options);
  const admission = await admit(job, { worker, operation: id }, tools, {
    isBehind: (lease) => waitingRoom.isBehind(lease, message),
    limited,
    ...(gate && { returning: gate }),
  });
  if ('reason' in admission) return wait(message, admission, stored, options);
  const { lease, permits, fault } = admission;
  // Another permit may be free: the next one is to look.
  for (const { key } of permits) waitingRoom.callFirst(waitedFor(key));
  if (!gate) waitingRoom.callFirst(returningPermits(address.remote, 's3'));
  const attempt = await Attempt.begin(stored, {
    store: operations,
    leases: tools.leases,
    lease,
    permits,
    worker,
    counts: stored.operation.owner === undefined || performance.now() - options.nats.backSince > afterNatsMs,
    log: attemptLog,
  }).catch(async (error) => {
    await releaseAll([lease, ...permits]).catch((left) => attemptLog.warn('leases not given back', { error: left }));
    throw error;
  });
  if (!attempt) {
    await releaseAll([lease, ...permits]);
    return message.nak(jittered(busyDelayMs));
  }
  if (overdue ?? fault) attempt.abort((overdue ?? fault) as LxstowError);
  if (stored.operation.owner !== undefined) tools.metrics.takeovers.inc({ kind: job.kind });
  if (attempt.operation.attempt > tools.config.worker.attempts && !attempt.operation.checkpoint?.swapped) {
    // Each attempt so far ended with its worker: the job itself may be what kills them.
    attempt.abort(
      new LxstowError(
        'attempts-exhausted',
        `${tools.config.worker.attempts} attempts ended with the death of their worker`,
      ),
    );
  }
  await runAttempt(job, attempt, message, options);
}

async function releaseAll(leases: (Lease | undefined)[]): Promise<void> {
  for (const each of leases) await each?.release();
}

/** Hands the job back until it can have what another has, and says in its operation what that is. */
async function wait(message: Delivery, { lease, reason }: Wait, stored: Stored, options: LoopOptions): Promise<void> {
  const { operation, revision } = stored;
  if (operation.status === 'Pending' && operation.metadata.waiting_for !== reason) {
    const metadata = { ...operation.metadata, waiting_for: reason };
    // Who was faster has something newer to say.
    await options.operations.update(amend(operation, { metadata }, new Date()), revision);
  }
  options.waitingRoom.wait(message, lease, operation.id);
}

/** Finds the operation, or makes it: for a message that came without the gateway, or faster than it. */
async function settleOperation(
  id: string,
  job: Job,
  message: Delivery,
  trace: Trace,
  { operations }: LoopOptions,
): Promise<Stored> {
  const { kind, address, body } = job;
  const found = await operations.find(id, address.remote);
  if (found) return found;
  const begun = new Date(message.time);
  const made = await operations.create(newOperation({ id, kind, address, body, trace: trace.id }, begun));
  const settled = made ?? (await operations.find(id, address.remote));
  if (!settled) throw new LxstowError('nats-unavailable', `operation ${id} cannot be kept`);
  return settled;
}

async function runAttempt(job: Job, attempt: Attempt, message: Delivery, options: LoopOptions): Promise<void> {
  const { nudges, tools, handingBack } = options;
  const { log, operation } = attempt;
  const handBackNow = () => attempt.abort(new LxstowError('stopping', 'the worker was stopped'));
  handingBack.addEventListener('abort', handBackNow, { once: true });
  if (handingBack.aborted) handBackNow();
  using _alive = keepAlive(attempt, nudges, tools.config.worker.heartbeatMs, () => message.working());
  log.info('job begun', { attempt: operation.attempt });
  tools.metrics.running.inc({ kind: job.kind });
  try {
    const begun = performance.now();
    const failure = await outcome(job, attempt, options);
    if (failure) await endBadly(failure, performance.now() - begun, job, attempt, message, options);
    else await endWell(job, attempt, message, tools);
  } finally {
    tools.metrics.running.dec({ kind: job.kind });
    handingBack.removeEventListener('abort', handBackNow);
  }
}

/** Runs the job; returns why it failed. */
async function outcome(job: Job, attempt: Attempt, { runners, tools }: LoopOptions): Promise<LxstowError | undefined> {
  try {
    await runnerOf(job, runners).run(job, attempt, tools);
    // Done is done, whoever asked to cancel meanwhile.
    return undefined;
  } catch (error) {
    return asLxstowError(attempt.signal.aborted ? attempt.signal.reason : error);
  }
}

async function endWell(job: Job, attempt: Attempt, message: Delivery, tools: Tools): Promise<void> {
  await attempt.finish((operation) => succeed(operation, new Date()));
  const { backup } = attempt.operation;
  attempt.log.info('job done', { seconds: countJob(tools.metrics, attempt.operation, 'success'), backup });
  await attempt.release();
  await freeName(job, attempt.operation, tools);
  await message.ackAck();
}

function runnerOf(job: Job, runners: Runners): Runner<JobKind> {
  return runners[job.kind] as Runner<JobKind>;
}

/** As far as it can be: what stays is logged, and the janitor's. False where a restore must be undone when LXD is back: an instance may be aside. */
async function undo(job: Job, attempt: Attempt, { runners, tools, outages }: LoopOptions): Promise<boolean> {
  try {
    await runnerOf(job, runners).undo?.(job, attempt, tools);
  } catch (thrown) {
    const error = asLxstowError(thrown);
    if (job.kind === 'restore' && (isLxdAway(error) || (await outages.examine(error, job.kind)).gate)) return false;
    attempt.log.error('left behind', { checkpoint: attempt.operation.checkpoint, error });
  }
  return true;
}

/** The job comes again, to be undone. */
async function undoLater(reason: LxstowError, attempt: Attempt, message: Delivery): Promise<void> {
  attempt.log.warn('not undone yet', { error: reason });
  await attempt.finish((current) =>
    current.status === 'Cancelling' ? current : handBack(current, reason.message, new Date(), false),
  );
  await attempt.release();
  message.nak(jittered(firstDelayMs));
}

async function endBadly(
  error: LxstowError,
  ranMs: number,
  job: Job,
  attempt: Attempt,
  message: Delivery,
  options: LoopOptions,
): Promise<void> {
  const { log, operation } = attempt;
  const { attempts, patienceHours } = options.tools.config.worker;
  const { gate, restarted } = await options.outages.examine(error, job.kind);
  const waitingSince =
    operation.waiting_since && ranMs < longestDelayMs ? Date.parse(operation.waiting_since) : Date.now();
  const ending = endingOf(error, {
    attempt: operation.attempt,
    // What is in service already is not given up.
    attempts: operation.checkpoint?.swapped ? Number.POSITIVE_INFINITY : attempts,
    confirmed: gate !== undefined || restarted,
    waitedMs: Date.now() - waitingSince,
    patienceMs: patienceHours * hourMs,
  });
  if (ending.kind === 'give-up') {
    // Whoever holds the lease now has the message too, or will: nothing here is ours to write.
    log.warn('attempt given up', { error });
    return attempt.release();
  }
  if (ending.kind === 'cancel') {
    log.info('job cancelled');
    if (!(await undo(job, attempt, options))) return undoLater(error, attempt, message);
    await noteEnd(job, attempt, options.tools, 'cancelled', error);
    await attempt.finish((current) => cancelled(current, new Date()));
    countJob(options.tools.metrics, attempt.operation, 'cancelled');
    await attempt.release();
    await freeName(job, attempt.operation, options.tools);
    return message.term(error.code);
  }
  if (ending.kind === 'wait') {
    const away = gate ? waitingFor(gate.outage) : waitedForAfter(error.code);
    log.warn('attempt ended by an outage', { error, away });
    await attempt.finish((current) => putOff(current, error.message, new Date(waitingSince), new Date(), away));
    options.tools.metrics.retries.inc({ kind: job.kind });
    await attempt.release();
    if (gate?.permits) return options.waitingRoom.wait(message, gate.permits, operation.id);
    return message.nak(gate ? 0 : jittered(ending.delayMs));
  }
  if (ending.kind === 'hand-back' || ending.kind === 'retry') {
    const counts = ending.kind === 'retry';
    const delayMs = counts ? jittered(ending.delayMs) : 0;
    log.warn(counts ? 'attempt failed, another follows' : 'job handed back', { error, delayMs });
    await attempt.finish((current) => handBack(current, error.message, new Date(), counts));
    if (counts) options.tools.metrics.retries.inc({ kind: job.kind });
    await attempt.release();
    return message.nak(delayMs);
  }
  log.error('job failed', { error });
  if (!(await undo(job, attempt, options))) return undoLater(error, attempt, message);
  if (ending.letter) await bury(options.nats, message, error);
  await noteEnd(job, attempt, options.tools, 'failure', error);
  await attempt.finish((current) => fail(current, error, new Date()));
  countJob(options.tools.metrics, attempt.operation, 'failure');
  await attempt.release();
  await freeName(job, attempt.operation, options.tools);
  message.term(error.code);
}

/** In the record of the instance, before anybody learns of the end from the operation. */
async function noteEnd(
  { kind, address }: Job,
  { operation }: Attempt,
  { keeper }: Tools,
  outcome: 'failure' | 'cancelled',
  error: LxstowError,
): Promise<void> {
  if (kind !== 'backup') return;
  const last = { operation: operation.id, at: new Date().toISOString(), outcome, reason: error.message };
  await keeper.ended(address, last, error);
}

/** A message that no worker can do anything with: a failed operation, a dead letter, and the queue goes on. */
async function refuse(
  message: Delivery,
  id: string,
  error: LxstowError,
  log: Log,
  options: LoopOptions,
): Promise<void> {
  const { operations } = options;
  const now = new Date();
  const named = parseJobSubject(message.subject);
  const failed = named && failedOperation(id, named, error, now);
  if (failed && !(await operations.create(failed))) {
    const found = await operations.find(id, failed.remote);
    // Whoever knows an id may name it: only the message's own operation ends with it.
    if (found && isOf(found.operation, failed) && !isFinal(found.operation))
      await operations.update(fail(found.operation, error, now), found.revision);
  }
  await discard(message, error, log, options);
}

function isOf(
  { kind, project, instance }: Operation,
  named: Pick<Operation, 'kind' | 'project' | 'instance'>,
): boolean {
  return kind === named.kind && project === named.project && instance === named.instance;
}

async function discard(message: Delivery, error: LxstowError, log: Log, options: LoopOptions): Promise<void> {
  log.error('message refused', { subject: message.subject, error });
  options.tools.metrics.jobs.inc({ kind: 'unknown', result: 'refused' });
  await bury(options.nats, message, error);
  message.term(error.code);
}

function failedOperation(
  id: string,
  { kind, ...address }: { kind: string; remote: string; project: string; instance: string },
  error: LxstowError,
  now: Date,
): Operation | undefined {
  if (!isJobKind(kind)) return undefined;
  return fail(newOperation({ id, kind, address }, now), error, now);
}

/** The name is taken by the backup itself now, or free again. Where NATS does not hear of it, the message comes again and it is done then. */
async function freeName(job: Job, { backup, id }: Operation, { reservations }: Tools): Promise<void> {
  if (job.kind === 'backup' && backup !== undefined) await reservations.release(job.address, backup, id);
}

function jittered(ms: number): number {
  return Math.round(ms * (0.75 + Math.random() / 2));
}

/** Ends early, without an error, when the signal aborts. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await setTimeout(ms, undefined, { signal }).catch((error) => {
    if (!signal.aborted) throw error;
  });
}
