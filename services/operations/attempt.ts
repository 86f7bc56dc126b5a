/** One attempt at a job: its operation, its leases, and the signal that aborts it. */
import { asLxstowError, LxstowError } from '../contract/errors.ts';
import type { Checkpoint, Operation, OperationMetadata } from '../contract/schemas.ts';
import type { Lease, Leases } from '../coordination/leases.ts';
import type { Log } from '../telemetry/logger.ts';
import { amend, begin, carriedOver, isFinal, refuseCancels } from './operation.ts';
import { onlyMoved } from './operationProgress.ts';
import type { OperationStore, Stored } from './operationStore.ts';

const reportEveryMs = 1000;
/** Progress that was only published is recorded after this time, for gateways that start and for attempts that end with their worker. */
const recordEveryMs = 30_000;
const cleanupMs = 30_000;
const lingerMs = 5000;

/** Aborts after 30 s. For cleaning up after an attempt whose own signal has aborted. */
export function cleanupSignal(): AbortSignal {
  return AbortSignal.timeout(cleanupMs);
}

/** Aborts 5 s after `signal`. For requests that create something: if they were interrupted at once, they could leave something behind that lxstow does not know of. */
export function lingering(signal: AbortSignal): AbortSignal {
  signal.throwIfAborted();
  const late = new AbortController();
  signal.addEventListener('abort', () => setTimeout(() => late.abort(signal.reason), lingerMs).unref(), { once: true });
  return late.signal;
}

/** The average rate since `begun`, a time of performance.now(). */
export function bytesPerSecond(bytes: number, begun: number): number {
  return Math.round((bytes * 1000) / Math.max(1, performance.now() - begun));
}

interface AttemptOptions {
  store: OperationStore;
  leases: Leases;
  /** The lease on the instance; undefined for jobs that touch no instance. */
  lease: Lease | undefined;
  /** Further leases that it must hold while it runs: permits of the limits. */
  permits?: Lease[];
  worker: string;
  /** False if an outage interrupted the attempt that this one takes over: the attempt's number then stays the same. */
  counts?: boolean;
  log: Log;
}

type Facts = { backup?: string; checkpoint?: Checkpoint; metadata?: OperationMetadata };

export class Attempt {
  readonly log: Log;
  readonly #options: AttemptOptions;
  readonly #ended = new AbortController();
  readonly #lost = new AbortController();
  readonly #leases: Lease[] = [];
  #stored: Stored;
  /** Updates run one after another: each is made from the revision that the one before wrote. */
  #tail: Promise<void> = Promise.resolve();
  #metadata: OperationMetadata;
  /** Facts that the next write records. */
  #noted: Pick<Facts, 'backup'> = {};
  /** The progress that was written last, and when. */
  #written: OperationMetadata;
  #writtenAt = performance.now();
  /** The progress that was last published or written, and when. */
  #published: OperationMetadata;
  #publishedAt = performance.now();
  #timer: NodeJS.Timeout | undefined;

  private constructor(stored: Stored, options: AttemptOptions) {
    this.#stored = stored;
    this.#metadata = carriedOver(stored.operation.metadata);
    this.#written = this.#metadata;
    this.#published = this.#metadata;
    this.#options = options;
    this.log = options.log;
    for (const lease of [options.lease, ...(options.permits ?? [])]) if (lease) this.#hold(lease);
    this.#heed(stored.operation);
  }

  /** Moves the operation to Running, with this worker as its owner. Undefined when another process has changed it first. */
  static async begin(stored: Stored, options: AttemptOptions): Promise<Attempt | undefined> {
    const running = await options.store.update(
      begin(stored.operation, options.worker, new Date(), options.counts),
      stored.revision,
    );
    return running && new Attempt(running, options);
  }

  /** Aborts when the attempt must end: a lease is lost, the operation is cancelled, the worker stops. Its reason says why. */
  get signal(): AbortSignal {
    return this.#ended.signal;
  }

  /** Aborts only when a lease is lost: for steps that neither a cancel nor the worker's stop may leave half done. */
  get leaseLost(): AbortSignal {
    return this.#lost.signal;
  }

  get operation(): Operation {
    return this.#stored.operation;
  }

  abort(reason: LxstowError): void {
    this.#ended.abort(reason);
  }

  /** Throws when the attempt was aborted, or a lease may be lost. Call it before every irreversible step. */
  assertOwned(): void {
    this.assertHeld();
    this.signal.throwIfAborted();
  }

  /** Throws when a lease may be lost. Call it before irreversible steps that a cancel must not end. */
  assertHeld(): void {
    for (const lease of this.#leases) lease.assertHeld();
    this.leaseLost.throwIfAborted();
  }

  /**
   * Takes one more lease, until it is disposed of or the attempt ends. Throws instance-busy, with the message `refusal`, when it is held already.
   */
  async claim(key: string, refusal: string): Promise<AsyncDisposable> {
    const lease = await this.#options.leases.acquire(key, {
      worker: this.#options.worker,
      operation: this.operation.id,
    });
    if (!lease) throw new LxstowError('instance-busy', refusal);
    this.#hold(lease);
    return {
      [Symbol.asyncDispose]: async () => {
        this.#leases.splice(this.#leases.indexOf(lease), 1);
        await this.#giveBack(lease);
      },
    };
  }

  /** Renews every lease. Call it several times per TTL. */
  async renew(): Promise<void> {
    await Promise.all(this.#leases.map((lease) => lease.renew()));
  }

  /**
   * Publishes progress, at most once a second. A change of another kind, such as of the stage, is written to the record instead. The next write of the operation has
   * all of the progress. A failed write does not end the attempt.
   */
  report(metadata: OperationMetadata): void {
    this.#metadata = { ...this.#metadata, ...metadata };
    if (this.#timer || this.signal.aborted) return;
    const due = Math.max(0, this.#publishedAt + reportEveryMs - performance.now());
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      if (this.#metadata !== this.#published) this.#publish();
    }, due);
  }

  #publish(): void {
    const metadata = this.#metadata;
    const isRecent = performance.now() - this.#writtenAt < recordEveryMs;
    const published =
      isRecent && onlyMoved(this.#written, metadata) && this.#options.store.publishProgress(this.operation, metadata);
    if (published) [this.#published, this.#publishedAt] = [metadata, performance.now()];
    else this.record({}).catch((error) => this.log.debug('progress not written', { error }));
  }

  /** Adds facts to the operation, which its next write records. */
  note(facts: Pick<Facts, 'backup'>): void {
    this.#noted = { ...this.#noted, ...facts };
  }

  /** Writes facts that must be stored before the next step. Throws lease-lost when the operation is no longer ours. */
  record(facts: Facts): Promise<void> {
    this.#metadata = { ...this.#metadata, ...facts.metadata };
    return this.#update((operation) => amend(operation, { ...facts, metadata: this.#metadata }, new Date()));
  }

  /** Writes further fields of the checkpoint. */
  checkpoint(facts: Checkpoint): Promise<void> {
    return this.#update((operation) =>
      amend(operation, { checkpoint: { ...operation.checkpoint, ...facts }, metadata: this.#metadata }, new Date()),
    );
  }

  /** From here on, cancels are refused. Throws `cancelled` when one came before. */
  async commit(): Promise<void> {
    await this.#update((operation) => refuseCancels({ ...operation, metadata: this.#metadata }, new Date()));
    if (this.operation.status === 'Cancelling') throw new LxstowError('cancelled', 'cancelled');
  }

  /** Adds a warning to the operation, unless it has it already. Warnings stay through further attempts. */
  warn(text: string): void {
    const { warnings = [] } = this.#metadata;
    if (warnings.includes(text)) return;
    this.log.warn('warning', { text });
    this.report({ warnings: [...warnings, text] });
  }

  /** Writes the attempt's last state, with its last progress. */
  async finish(change: (operation: Operation) => Operation): Promise<void> {
    this.#stopReporting();
    await this.#update((operation) => change({ ...operation, metadata: { ...operation.metadata, ...this.#metadata } }));
  }

  /** Releases every lease. */
  async release(): Promise<void> {
    this.#stopReporting();
    for (const lease of this.#leases) await this.#giveBack(lease);
  }

  async #giveBack(lease: Lease): Promise<void> {
    try {
      await lease.release();
    } catch (error) {
      this.log.warn('lease not released; it will expire', { lease: lease.key, error });
    }
  }

  /** Checks whether a cancel was requested. Call it every few seconds. */
  async lookForCancel(): Promise<void> {
    const found = await this.#options.store.find(this.operation.id, this.operation.remote);
    if (found) this.#heed(found.operation);
  }

  #heed({ status }: Operation): void {
    if (status === 'Cancelling') this.abort(new LxstowError('cancelled', 'cancelled'));
  }

  #hold(lease: Lease): void {
    this.#leases.push(lease);
    lease.lost.addEventListener('abort', () => this.#lose(asLxstowError(lease.lost.reason)), { once: true });
  }

  #lose(reason: LxstowError): void {
    this.#lost.abort(reason);
    this.abort(reason);
  }

  #stopReporting(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #update(change: (operation: Operation) => Operation): Promise<void> {
    const run = async () => {
      for (const lease of this.#leases) lease.assertHeld();
      const metadata = this.#metadata;
      const noted = this.#noted.backup === undefined ? this.operation : amend(this.operation, this.#noted, new Date());
      const written = await this.#options.store.update(change(noted), this.#stored.revision);
      if (written) {
        this.#stored = written;
        [this.#written, this.#writtenAt] = [metadata, performance.now()];
        [this.#published, this.#publishedAt] = [metadata, this.#writtenAt];
        return;
      }
      const found = await this.#options.store.find(this.operation.id, this.operation.remote);
      const ours =
        found && found.operation.owner === this.operation.owner && found.operation.attempt === this.operation.attempt;
      if (!found || !ours || isFinal(found.operation)) {
        const lost = new LxstowError('lease-lost', `operation ${this.operation.id} was taken over`);
        this.#lose(lost);
        throw lost;
      }
      // The newer revision is an earlier write of this attempt whose answer was lost, or a request to cancel: write over it.
      this.#stored = found;
      this.#heed(found.operation);
      await run();
    };
    const next = this.#tail.then(run);
    this.#tail = next.then(
      () => undefined,
      () => undefined,
    );
    return next;
  }
}
