/** Turns a checked request into a durable job on the queue. */
import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { LxstowError } from '../contract/errors.ts';
import type { Operation, Requestor } from '../contract/schemas.ts';
import type { Nats } from '../nats/connection.ts';
import { fail, newOperation } from '../operations/operation.ts';
import type { OperationStore } from '../operations/operationStore.ts';
import type { Log } from '../telemetry/logger.ts';
import type { Trace } from '../telemetry/trace.ts';
import { type Job, publishJob, UncertainPublish } from './jobs.ts';

const undoEveryMs = 1000;
const undoTries = 600;
/** How long the client waits for an undo. */
const undoSoonMs = 1000;

export class Submitter {
  readonly #nats: Nats;
  readonly #operations: OperationStore;
  readonly #log: Log;
  readonly #stop: AbortSignal;

  constructor(nats: Nats, operations: OperationStore, log: Log, stop: AbortSignal) {
    this.#nats = nats;
    this.#operations = operations;
    this.#log = log;
    this.#stop = stop;
  }

  /** The id for a new operation. */
  newId(): string {
    return randomUUID();
  }

  /** Queues the job; returns its operation once the job is durable. If this throws, the job will not be done. */
  async submit(id: string, job: Job, requestor: Requestor, trace: Trace): Promise<Operation> {
    const body = { ...job.body, requestor };
    const operation = newOperation({ id, kind: job.kind, address: job.address, body, trace: trace.id }, new Date());
    try {
      await publishJob(this.#nats, id, { ...job, body } as Job, trace);
    } catch (error) {
      if (error instanceof UncertainPublish) this.#withdraw(operation, error);
      throw error;
    }
    try {
      const created = await this.#operations.create(operation);
      // Undefined if a worker created the operation first: that one is newer.
      return created?.operation ?? (await this.#operations.find(id, job.address.remote))?.operation ?? operation;
    } catch (error) {
      // The job is durable, and the worker that takes it creates the operation: the client's 202 is true.
      this.#log.warn('operation not written yet', { operation: id, trace: trace.id, error });
      return operation;
    }
  }

  /** Undoes what a refused request has done; if NATS does not answer, continues in the background. Resolves soon in either case. */
  async undo(operation: string, run: () => Promise<void>): Promise<void> {
    await Promise.race([this.#untilDone(operation, run), setTimeout(undoSoonMs, undefined, { ref: false })]);
  }

  /**
   * The client got an error, but NATS may have stored the job before it went away. Creates the operation as failed, which keeps workers from running
   * the job. A job that runs already continues, and can be seen.
   */
  #withdraw(operation: Operation, error: LxstowError): void {
    const failed = fail(operation, new LxstowError('nats-unavailable', error.message), new Date());
    void this.#untilDone(operation.id, async () => {
      const written = await this.#operations.create(failed);
      this.#log.warn(written ? 'unconfirmed job withdrawn' : 'unconfirmed job is running already', {
        operation: operation.id,
        trace: operation.trace,
      });
    });
  }

  async #untilDone(operation: string, run: () => Promise<void>): Promise<void> {
    for (let tries = 0; tries < undoTries && !this.#stop.aborted; tries++) {
      try {
        this.#nats.assertConnected();
        return await run();
      } catch (error) {
        this.#log.debug('a refused request is not undone yet', { operation, error });
      }
      await setTimeout(undoEveryMs, undefined, { ref: false });
    }
    this.#log.warn('a refused request was not undone; the janitor will remove what it left', { operation });
  }
}
