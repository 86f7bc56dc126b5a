/** The worker's one loop: takes a message, finds its operation, and runs an attempt at the job when the job may begin. */

import { jittered } from '../../concurrency/jitter.ts';
import { sleep } from '../../concurrency/sleep.ts';
import { asLxstowError, LxstowError } from '../../contract/errors.ts';
import type { Lease } from '../../coordination/leases.ts';
import type { Deliveries, Delivery } from '../../jobs/deliveries.ts';
import { isRequestOf, type Job, operationIdOf, parseJob } from '../../jobs/jobs.ts';
import { returningPermits, waitKey } from '../../nats/bucketKeys.ts';
import { headersOf } from '../../nats/messageHeaders.ts';
import { Attempt } from '../../operations/attempt.ts';
import { amend, isFinal, newOperation } from '../../operations/operation.ts';
import type { Stored } from '../../operations/operationStore.ts';
import { type Trace, traceHeader, traceOf } from '../../telemetry/trace.ts';
import type { OpenedWorker } from '../openTools.ts';
import { admit, type Wait } from './admission.ts';
import { type AttemptTools, freeName, JobAttempt } from './jobAttempt.ts';
import { isCutByNats, overdueFor, pause } from './pause.ts';
import { discard, isOf, refuse } from './refuse.ts';
import { attemptsOf } from './retryDecision.ts';

export interface LoopOptions extends Omit<OpenedWorker, 'tools'>, AttemptTools {
  deliveries: Deliveries;
  /** Resolves when this slot may take a job from the queue. */
  ready?: () => Promise<void>;
}

const pauseAfterFaultMs = 1000;
/** Delay of a job whose operation another process has just changed. */
const busyDelayMs = 3000;

/** Runs one job at a time until `stop`; resolves when the last one has ended. */
export async function runLoop(options: LoopOptions): Promise<void> {
  const { deliveries, stop, log } = options;
  while (!stop.aborted) {
    try {
      await options.ready?.();
      const message = await deliveries.next();
      if (message) await handle(message, options);
    } catch (error) {
      // NATS is away, or the consumer is gone. If a job was taken, NATS delivers it again.
      log.warn('no job could be taken', { error: asLxstowError(error) });
      await sleep(pauseAfterFaultMs, stop);
    }
  }
}

async function handle(message: Delivery, options: LoopOptions): Promise<void> {
  options.waitingRoom.arrived(message.seq);
  const { headers, fault } = headersOf(message);
  const id = operationIdOf({ messageId: headers?.get('Nats-Msg-Id'), sequence: message.seq });
  const trace = traceOf(headers?.get(traceHeader));
  const log = options.log.child({ operation: id, trace: trace.id });
  let job: Job;
  try {
    if (fault) throw fault;
    job = parseJob(message);
  } catch (error) {
    return refuse(message, id, asLxstowError(error), log, options);
  }
  const stored = await settleOperation(id, job, message, trace, options);
  const { request } = stored.operation;
  if (!isOf(stored.operation, { kind: job.kind, ...job.address }) || (request && !isRequestOf(job, request))) {
    const error = new LxstowError(
      'bad-message',
      `operation ${id} belongs to another job: publish this one with a new Nats-Msg-Id`,
    );
    return discard(message, error, log, options);
  }
  if (isFinal(stored.operation)) {
    await freeName(job, stored.operation, options.tools);
    return void (await message.ackAck());
  }
  const { remote, project, instance } = job.address;
  await attemptJob(job, stored, message, { ...options, log: log.child({ remote, project, instance, kind: job.kind }) });
}

/** Finds the operation, or creates it if the message was published without a gateway, or arrived before the gateway created it. */
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
  if (!settled) throw new LxstowError('nats-unavailable', `the record of operation ${id} cannot be written`);
  return settled;
}

/** Takes the leases and permits that the job needs, and runs an attempt; if it cannot get them, hands the job back to wait. */
async function attemptJob(job: Job, stored: Stored, message: Delivery, options: LoopOptions): Promise<void> {
  const { tools, worker, waitingRoom, log } = options;
  const { operation } = stored;
  // A restore that has prepared its instance needs nothing but LXD. Its old instance may be renamed away: it skips the limits, and does not wait for S3.
  const movesBytes = operation.status !== 'Cancelling' && !operation.checkpoint?.prepared;
  const gate = movesBytes ? await options.outages.gate(job.kind) : undefined;
  const overdue = gate && overdueFor(gate, operation, tools);
  if (gate?.outage.allowed === 0 && !overdue) return pause(message, gate, stored, options);
  const admission = await admit(job, { worker, operation: operation.id }, tools, {
    isBehind: (lease) => waitingRoom.isBehind(lease, message),
    movesBytes,
    // The first attempt looks by itself, and reserves the name.
    reserved: job.kind === 'backup' && movesBytes && operation.attempt > 0 ? operation.backup : undefined,
    ...(gate && { returning: gate }),
  });
  if ('reason' in admission) return wait(message, admission, stored, options);
  const { lease, permits, fault } = admission;
  // Another permit may be free, so let the next waiting job try.
  for (const { key } of permits) waitingRoom.callFirst(waitKey(key));
  // S3 is not away, or not any more, so jobs that wait for it may begin.
  if (!gate) waitingRoom.callFirst(returningPermits(job.address.remote, 's3'));
  const attempt = await Attempt.begin(stored, {
    store: options.operations,
    leases: tools.leases,
    lease,
    permits,
    worker,
    counts: operation.owner === undefined || !isCutByNats(operation, options.nats),
    log,
  }).catch(async (error) => {
    await releaseAll([lease, ...permits]).catch((left) => log.warn('leases not given back', { error: left }));
    throw error;
  });
  if (!attempt) {
    await releaseAll([lease, ...permits]);
    return message.nak(jittered(busyDelayMs));
  }
  const failure = overdue ?? fault;
  // The attempt begins all the same, because only an attempt can undo the job and write how it ended.
  if (failure) attempt.abort(failure);
  if (operation.owner !== undefined) tools.metrics.takeovers.inc({ kind: job.kind });
  const { attempts } = tools.config.worker;
  if (attempt.operation.attempt > attemptsOf(attempt.operation, attempts))
    // Every attempt so far ended because its worker died, so the job itself may be what kills workers.
    attempt.abort(new LxstowError('attempts-exhausted', `${attempts} attempts ended because their worker died`));
  await new JobAttempt(job, attempt, message, options).run();
}

async function releaseAll(leases: (Lease | undefined)[]): Promise<void> {
  for (const each of leases) await each?.release();
}

/** Hands the job back to wait for what another job holds, and records in its operation what that is. */
async function wait(message: Delivery, { lease, reason }: Wait, stored: Stored, options: LoopOptions): Promise<void> {
  const { operation, revision } = stored;
  if (operation.status === 'Pending' && operation.metadata.waiting_for !== reason) {
    const metadata = { ...operation.metadata, waiting_for: reason };
    // If another process was faster, its record is newer, and stays.
    await options.operations.update(amend(operation, { metadata }, new Date()), revision);
  }
  options.waitingRoom.wait(message, lease, operation.id);
}
