/** Runs one attempt at a job, and records how it ended, in the operation and on the message. */

import { addAbortListener } from 'node:events';
import { jittered } from '../../concurrency/jitter.ts';
import { hourMs } from '../../contract/durations.ts';
import { asLxstowError, isCode, LxstowError } from '../../contract/errors.ts';
import type { JobKind, Operation } from '../../contract/schemas.ts';
import { bury } from '../../jobs/deadLetters.ts';
import type { Delivery } from '../../jobs/deliveries.ts';
import type { Job, JobOf } from '../../jobs/jobs.ts';
import { isLxdAway } from '../../lxd/connection/lxdOperation.ts';
import type { Attempt } from '../../operations/attempt.ts';
import { keepAlive } from '../../operations/heartbeat.ts';
import { cancelled, fail, requeue, requeueForOutage, succeed } from '../../operations/operation.ts';
import { describeMissing } from '../../outages/blame.ts';
import { describeOutage } from '../../outages/outage.ts';
import { countJob, type JobResult } from '../../telemetry/metrics.ts';
import type { OpenedWorker } from '../openTools.ts';
import type { Tools } from '../tools.ts';
import {
  type AfterFailure,
  attemptsOf,
  decideAfterFailure,
  delayAfter,
  firstDelayMs,
  waitingSinceOf,
} from './retryDecision.ts';

/** The work of one kind of job. */
interface Runner<K extends JobKind> {
  run(job: JobOf<K>, attempt: Attempt, tools: Tools): Promise<void>;
  /** Removes what the job's attempts have left, when no other attempt follows. */
  undo?(job: JobOf<K>, attempt: Attempt, tools: Tools): Promise<void>;
}
export type Runners = { [K in JobKind]: Runner<K> };

export interface AttemptTools extends Pick<OpenedWorker, 'nats' | 'nudges' | 'waitingRoom' | 'outages'> {
  tools: Tools;
  runners: Runners;
  /** Aborts when running jobs must be handed back. */
  handingBack: AbortSignal;
}

export class JobAttempt {
  readonly #job: Job;
  readonly #attempt: Attempt;
  readonly #message: Delivery;
  readonly #tools: AttemptTools;
  readonly #runner: Runner<JobKind>;

  constructor(job: Job, attempt: Attempt, message: Delivery, tools: AttemptTools) {
    this.#job = job;
    this.#attempt = attempt;
    this.#message = message;
    this.#tools = tools;
    this.#runner = tools.runners[job.kind] as Runner<JobKind>;
  }

  /** Runs the attempt. Resolves when it has ended, in success or failure, and the message is settled. */
  async run(): Promise<void> {
    const { nudges, tools, handingBack } = this.#tools;
    const { log, operation } = this.#attempt;
    const { kind } = this.#job;
    const stopped = new LxstowError('stopping', 'the worker was stopped');
    using _listener = addAbortListener(handingBack, () => this.#attempt.abort(stopped));
    using _alive = keepAlive(this.#attempt, nudges, tools.config.worker.heartbeatMs, () => this.#message.working());
    log.info('job begun', { attempt: operation.attempt });
    tools.metrics.running.inc({ kind });
    try {
      const begun = performance.now();
      const failure = await this.#failure();
      if (failure) await this.#endBadly(failure, begun);
      else await this.#endWell();
    } catch (error) {
      if (!isCode(error, 'lease-lost')) throw error;
      log.warn('attempt given up', { error });
    } finally {
      tools.metrics.running.dec({ kind });
      // If NATS is away or its bucket is full, the end of the attempt cannot be written. Give back its lease and permits all the same.
      await this.#attempt.release();
    }
  }

  /** Runs the job; returns why it failed. */
  async #failure(): Promise<LxstowError | undefined> {
    try {
      await this.#runner.run(this.#job, this.#attempt, this.#tools.tools);
      // Once the job is done, a cancel comes too late.
      return undefined;
    } catch (error) {
      const { signal } = this.#attempt;
      return asLxstowError(signal.aborted ? signal.reason : error);
    }
  }

  async #endWell(): Promise<void> {
    await this.#end((operation) => succeed(operation, new Date()), 'success');
    await this.#message.ackAck();
  }

  async #endBadly(error: LxstowError, begun: number): Promise<void> {
    const { log, operation } = this.#attempt;
    const { outages, tools } = this.#tools;
    const { attempts, patienceHours } = tools.config.worker;
    const { gate, cut } = await outages.examine(error, this.#job.kind, begun);
    const cutsByLxd = cut ? (operation.cut_by_lxd ?? 0) + 1 : 0;
    const clock = { now: Date.now(), ranMs: performance.now() - begun, cut };
    const waitingSince = waitingSinceOf(operation.waiting_since, clock);
    const ending = decideAfterFailure(error, {
      attempt: operation.attempt,
      attempts: attemptsOf(operation, attempts),
      isDependencyAway: gate !== undefined || cut,
      cutsByLxd,
      // A wait for an earlier outage does not count.
      waitedMs: clock.now - Math.max(waitingSince, gate ? Date.parse(gate.outage.since) : 0),
      patienceMs: patienceHours * hourMs,
    });
    switch (ending.kind) {
      case 'give-up':
        // The message belongs to the next holder of the lease, now or soon, so this worker may write nothing.
        throw error;
      case 'cancel':
        log.info('job cancelled');
        return this.#endForGood(error, 'cancelled', (current) => cancelled(current, new Date()));
      case 'wait': {
        const often = cutsByLxd > 1 ? `LXD, which stopped during ${cutsByLxd} attempts of this job` : undefined;
        const away = often ?? (gate ? describeOutage(gate.outage) : describeMissing(error.code));
        log.warn('attempt ended by an outage', { error, away });
        await this.#attempt.finish((current) => {
          const known = cut ? { ...current, cut_by_lxd: cutsByLxd } : current;
          return requeueForOutage(known, error.message, new Date(waitingSince), new Date(), away);
        });
        tools.metrics.retries.inc({ kind: this.#job.kind });
        await this.#attempt.release();
        if (gate?.permits) return this.#tools.waitingRoom.wait(this.#message, gate.permits, operation.id);
        return this.#message.nak(jittered(ending.delayMs));
      }
      case 'hand-back':
      case 'retry':
        return this.#endForNow(error, ending);
      case 'fail':
        log.error('job failed', { error });
        return this.#endForGood(error, 'failure', (current) => fail(current, error, new Date()), ending.deadLetter);
    }
  }

  /** Puts the job back on the queue. */
  async #endForNow(error: LxstowError, ending: Extract<AfterFailure, { kind: 'hand-back' | 'retry' }>): Promise<void> {
    const counts = ending.kind === 'retry';
    const delayMs = counts ? jittered(ending.delayMs) : 0;
    this.#attempt.log.warn(counts ? 'attempt failed, another follows' : 'job handed back', { error, delayMs });
    await this.#attempt.finish((current) => requeue(current, error.message, new Date(), counts));
    if (counts) this.#tools.tools.metrics.retries.inc({ kind: this.#job.kind });
    await this.#attempt.release();
    this.#message.nak(delayMs);
  }

  /** Undoes the job, then ends its operation: as `change` writes it. `deadLetter`: a dead letter keeps the job. */
  async #endForGood(
    error: LxstowError,
    result: 'failure' | 'cancelled',
    change: (operation: Operation) => Operation,
    deadLetter = false,
  ): Promise<void> {
    if (!(await this.#undo())) return this.#undoLater(error);
    // Otherwise the job, its dead letter and the instance's record belong to the next holder of the lease.
    this.#attempt.assertHeld();
    if (deadLetter) await bury(this.#tools.nats, this.#message, error);
    if (result === 'failure') await this.#noteFailure(error);
    await this.#end(change, result);
    this.#message.term(error.code);
  }

  async #end(change: (operation: Operation) => Operation, result: JobResult): Promise<void> {
    const { tools } = this.#tools;
    await this.#attempt.finish(change);
    const { operation, log } = this.#attempt;
    const seconds = countJob(tools.metrics, operation, result);
    if (result === 'success') log.info('job done', { seconds, backup: operation.backup });
    await this.#attempt.release();
    await freeName(this.#job, operation, tools);
  }

  /**
   * Undoes as much as it can. What remains is logged, and the janitor removes it. False if that is not enough, and LXD or S3 is away, so that the job must be
   * undone later: the restored instance may still have a temporary name, or the backup a manifest, and would be listed. `again`: a second time, because
   * S3 came back during the first.
   */
  async #undo(again = false): Promise<boolean> {
    const { tools, outages } = this.#tools;
    try {
      await this.#runner.undo?.(this.#job, this.#attempt, tools);
    } catch (thrown) {
      const error = asLxstowError(thrown);
      if (error.code === 'lease-lost') throw error;
      const { kind } = this.#job;
      const { checkpoint } = this.#attempt.operation;
      if (kind === 'restore' || checkpoint?.manifestSent) {
        if (isLxdAway(error) || (await outages.examine(error, kind, performance.now())).gate) return false;
        if (kind === 'backup' && !again) return this.#undo(true);
      }
      this.#attempt.log.error('left behind', { checkpoint, error });
    }
    return true;
  }

  /** Puts the job back on the queue, to be undone. */
  async #undoLater(reason: LxstowError): Promise<void> {
    this.#attempt.log.warn('not undone yet', { error: reason });
    await this.#attempt.finish((current) =>
      current.status === 'Cancelling' ? current : requeue(current, reason.message, new Date(), false),
    );
    await this.#attempt.release();
    // A restore may have stopped an instance, so it is undone as soon as possible.
    const delayMs = this.#job.kind === 'restore' ? firstDelayMs : delayAfter(this.#attempt.operation.attempt);
    this.#message.nak(jittered(delayMs));
  }

  /** Writes the failure into the record of the instance, before clients can see it in the operation. */
  async #noteFailure(error: LxstowError): Promise<void> {
    if (this.#job.kind !== 'backup') return;
    const { id: operation } = this.#attempt.operation;
    const last = { operation, at: new Date().toISOString(), outcome: 'failure' as const, reason: error.message };
    await this.#tools.tools.keeper.failed(this.#job.address, last, error);
  }
}

/** Releases the reservation of the backup's name: the backup now exists, or the name is free again. If NATS does not answer, the message is delivered again, and the next attempt does this. */
export async function freeName(job: Job, { backup, id }: Operation, { reservations }: Tools): Promise<void> {
  if (job.kind === 'backup' && backup !== undefined) await reservations.release(job.address, backup, id);
}
