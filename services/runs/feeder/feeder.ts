/**
 * Puts the children of all runs on the queue, a few at a time, and records how each ends. One gateway does it, the holder of a lease; when it
 * dies, another gateway reads the children's operations and continues (docs/adr/0034-runs.md).
 */
import { setTimeout as delay } from 'node:timers/promises';
import { forEach } from '../../concurrency/orderedMap.ts';
import { asLxstowError, isCode } from '../../contract/errors.ts';
import type { Operation } from '../../contract/schemas.ts';
import type { Lease } from '../../coordination/leases.ts';
import { type LeaseTools, serveUnderLease } from '../../coordination/serveUnderLease.ts';
import { lastQueuedJob } from '../../jobs/jobs.ts';
import type { Feed } from '../../nats/bucket/feed.ts';
import { feederLeaseKey } from '../../nats/bucketKeys.ts';
import type { OperationStore } from '../../operations/operationStore.ts';
import { countsOf, hasEnded, isOpen, tally, windowCode, withFailure } from '../fold.ts';
import type { RunStore, StoredRun } from '../runStore.ts';
import { feedChild, pruneBehind } from './feeding.ts';
import { Fleet, type OpenChild, type OpenRun } from './openRuns.ts';
import { Records } from './runRecords.ts';
import { SilentHosts, type SilentHostsOptions } from './silentHosts.ts';

interface FeederOptions extends LeaseTools, SilentHostsOptions {
  runs: RunStore;
  runFeed: Pick<Feed<StoredRun>, 'onChange'>;
  operations: OperationStore;
  /** The changes of every operation. */
  changes: Pick<Feed<Operation>, 'onChange'>;
  /** Asks an operation to end. */
  cancel: (operation: string, remote: string) => Promise<unknown>;
}

/** How often a head, and each chunk of its children, is written at most. */
const foldEveryMs = 1000;
/** Changes that come within this time are handled together. */
const gatherMs = 50;
const lookEveryMs = 5000;
const feedsAtOnce = 64;
const cancelsAtOnce = 32;
const orphanMs = 600_000;

export class Feeder {
  readonly #options: FeederOptions;
  #term: Term | undefined;

  constructor(options: FeederOptions) {
    this.#options = options;
    options.changes.onChange((operation) => this.#term?.see(operation));
    options.runFeed.onChange((stored) => this.#term?.seeRun(stored));
  }

  /** Until `stop`. */
  async run(): Promise<void> {
    const what = 'the feeding of runs failed; trying again';
    await serveUnderLease({ ...this.#options, key: feederLeaseKey, what }, async (_, lease) => {
      this.#term = new Term(this.#options, lease);
      try {
        await this.#term.serve();
      } finally {
        this.#term = undefined;
      }
    });
  }
}

/** The work of a gateway while it holds the lease. */
class Term {
  readonly #options: FeederOptions;
  readonly #lease: Lease;
  readonly #fleet = new Fleet();
  readonly #records: Records;
  readonly #silent: SilentHosts;
  /** Runs whose plan has not been read yet. */
  readonly #fresh = new Map<string, StoredRun>();
  /** When an operation of each remote changed last, by performance.now(). */
  readonly #moved = new Map<string, number>();
  /** Children that were asked to end. */
  readonly #cancelled = new WeakSet<OpenChild>();
  #woken = Promise.withResolvers<void>();
  #foldedAt = 0;
  #lookedAt = performance.now();

  constructor(options: FeederOptions, lease: Lease) {
    this.#options = options;
    this.#lease = lease;
    this.#records = new Records(options.runs, options.log);
    this.#silent = new SilentHosts(options, this.#fleet, this.#records, () => this.#woken.resolve());
  }

  see(operation: Operation): void {
    if (!this.#fleet.see(operation)) return;
    this.#moved.set(operation.remote, performance.now());
    this.#woken.resolve();
  }

  seeRun(stored: StoredRun): void {
    const { run } = stored;
    const known = this.#fleet.get(run.id);
    if (known && run.status === 'Cancelling') known.run.status = 'Cancelling';
    if (!known && !hasEnded(run)) this.#fresh.set(run.id, stored);
    if (!known || run.status === 'Cancelling') this.#woken.resolve();
  }

  async serve(): Promise<void> {
    const { runs, log, stop } = this.#options;
    for (const stored of (await runs.list()).reverse()) this.seeRun(stored);
    const removed = await runs.removeUnplanned(orphanMs);
    log.info('feeding runs to the queue', { open: this.#fresh.size, ...(removed > 0 && { orphans: removed }) });
    const wake = () => this.#woken.resolve();
    AbortSignal.any([stop, this.#lease.lost]).addEventListener('abort', wake, { once: true });
    const timer = setInterval(wake, foldEveryMs);
    try {
      await this.#rounds();
    } finally {
      clearInterval(timer);
    }
    await this.#fold();
  }

  /** Until `stop`: a round for each change, and one a second. */
  async #rounds(): Promise<void> {
    const { stop } = this.#options;
    while (!stop.aborted) {
      this.#lease.assertHeld();
      this.#woken = Promise.withResolvers();
      await this.#takeOn();
      await this.#cancelChildren();
      await this.#closeWindows();
      await this.#topUp();
      await this.#prune();
      if (performance.now() - this.#lookedAt >= lookEveryMs) await this.#look();
      await this.#silent.act();
      if (performance.now() - this.#foldedAt >= foldEveryMs) await this.#fold();
      await this.#woken.promise;
      await delay(gatherMs);
    }
  }

  /** Reads the plans of new runs, and the state of their children. */
  async #takeOn(): Promise<void> {
    for (const [id] of this.#fresh) {
      try {
        await this.#takeOnOne(id);
      } catch (error) {
        // One damaged run must not stop the others.
        if (!isCode(asLxstowError(error), 'internal')) throw error;
        this.#options.log.error('a run cannot be read', { run: id, error });
      }
      this.#fresh.delete(id);
    }
  }

  async #takeOnOne(id: string): Promise<void> {
    const { runs, operations } = this.#options;
    const stored = await runs.find(id);
    if (!stored || hasEnded(stored.run) || this.#fleet.get(id)) return;
    const { run, revision } = stored;
    const indexes = Array.from({ length: run.chunks }, (_, index) => index);
    const chunks = await Promise.all(indexes.map((index) => runs.findChunk(run, index)));
    const children = chunks.map((chunk) => chunk.children ?? []);
    // Chunks may be younger than the head, which has the counts.
    run.places = tally(children.flat());
    const open = this.#fleet.add(run, children);
    const revisions = chunks.map((chunk) => chunk.revision);
    this.#records.read(open, revision, revisions);
    for (const index of indexes.filter((each) => !chunks[each]?.children)) await this.#noteLost(open, index);
    // Children that are queued already count against their host's bound.
    await forEach(this.#fleet.open(open), feedsAtOnce, async (each) => {
      const found = await operations.find(each.id, each.child.remote);
      if (found) this.#fleet.see(found.operation);
    });
  }

  /** Records that a chunk is gone: the run goes on without its children, and ends as Failure. */
  async #noteLost(of: OpenRun, index: number): Promise<void> {
    const { run } = of;
    const reason = `part ${index + 1} of its plan is lost: the backups in it are not made, or no longer counted`;
    if (run.failures.some((each) => each.reason === reason)) return;
    this.#options.log.error('a chunk of a run is gone', { run: run.id, chunk: index });
    const failure = { remote: '', project: '', instance: '', reason, error_code: 'internal' };
    run.failures = withFailure(run.failures, failure);
    // The end of the run writes the chunk again, without children. The failure is in the head before that.
    await this.#records.write(of, false);
  }

  async #topUp(): Promise<void> {
    const children = this.#fleet.next();
    let failure: unknown;
    await forEach(children, feedsAtOnce, async (each) => {
      try {
        this.#lease.assertHeld();
        const outcome = await feedChild(this.#options, each);
        if (outcome) this.#fleet.settle(each, outcome);
      } catch (error) {
        failure ??= error;
        this.#fleet.unmarkFed(each);
      }
    });
    if (failure) this.#options.log.warn('children of runs are not queued yet', { error: asLxstowError(failure) });
    else if (children.some(({ child }) => !isOpen(child))) this.#woken.resolve();
  }

  /** Children that have not begun when their schedule's window ends are skipped. */
  async #closeWindows(): Promise<void> {
    for (const of of this.#fleet.runs) {
      const { schedule, away, status } = of.run;
      if (status !== 'Running' || !schedule?.window_ends || Date.parse(schedule.window_ends) > Date.now()) continue;
      for (const { remote, reason, since } of away.filter(({ planned }) => !planned))
        of.run.failures = withFailure(of.run.failures, {
          ...{ remote, project: '', instance: '', error_code: windowCode },
          reason: `host ${remote} has not listed its instances since ${since}, and the window is over: ${reason}`,
        });
      of.run.away = away.filter(({ planned }) => planned);
      const reason = `had not begun when its schedule's window ended, at ${schedule.window_ends}`;
      const waiting = this.#fleet.open(of).filter(({ fed }) => !fed);
      await forEach(waiting, cancelsAtOnce, async (each) => {
        if (each.tried) await this.#lookAt(each);
        if (each.fed) return;
        this.#fleet.settle(each, { state: 'skipped', reason, error_code: windowCode });
        if (each.tried) await this.#cancelOperation(each);
      });
    }
  }

  /** After successful backups, queues the deletion of what the rules of their runs do not keep. */
  async #prune(): Promise<void> {
    const children = this.#fleet.takeBackedUp();
    await forEach(children, feedsAtOnce, async (each) => {
      try {
        await pruneBehind(this.#options, each);
      } catch (error) {
        this.#fleet.backedUp.push(each);
        this.#options.log.warn('a prune is not queued yet', { operation: each.id, error: asLxstowError(error) });
      }
    });
  }

  async #cancelChildren(): Promise<void> {
    for (const of of this.#fleet.runs.filter(({ run }) => run.status === 'Cancelling')) {
      // Hosts that have not answered yet are no longer waited for.
      of.run.away = of.run.away.filter(({ planned }) => planned);
      const open = this.#fleet.open(of).filter((each) => !each.fed || !this.#cancelled.has(each));
      await forEach(open, cancelsAtOnce, async (each) => {
        // If there is no operation, or no job by which a worker would end it, the run must not wait for that.
        const isAwaited =
          each.tried &&
          (await this.#cancelOperation(each)) &&
          (each.fed || (await lastQueuedJob(this.#options.nats, 'backup', each.child)));
        if (!isAwaited) return this.#fleet.settle(each, { state: 'cancelled', reason: 'the run was cancelled' });
        // `#look` reads how it ended if the watch misses the change.
        this.#fleet.markFed(each);
        this.#cancelled.add(each);
      });
    }
  }

  /** Asks the operation of a child to end. Returns false if there is none. */
  async #cancelOperation({ id, child }: OpenChild): Promise<boolean> {
    try {
      await this.#options.cancel(id, child.remote);
    } catch (error) {
      if (isCode(error, 'not-found')) return false;
      // A refusal means that it has ended, or can no longer be cancelled.
      if (!isCode(error, 'bad-request')) throw error;
    }
    return true;
  }

  /** For hosts without a recent change: reads the operations of their children, because the watch may have missed a change, and asks the hosts. */
  async #look(): Promise<void> {
    const before = performance.now() - lookEveryMs;
    this.#lookedAt = performance.now();
    const still = this.#fleet.fed().filter(({ child }) => (this.#moved.get(child.remote) ?? 0) < before);
    await forEach(still, feedsAtOnce, (each) => this.#lookAt(each));
    this.#silent.ask([...new Map(still.map(({ child }) => [child.remote, child])).values()]);
  }

  /** Reads a child's operation; the child is fed if its job is on the queue or at work. */
  async #lookAt(each: OpenChild): Promise<void> {
    const found = await this.#options.operations.find(each.id, each.child.remote);
    if (found) this.#fleet.see(found.operation);
    if (!found || (await this.#isLost(each, found.revision))) this.#fleet.unmarkFed(each);
  }

  /** Whether the job of a waiting child is not on the queue: NATS drops it as a duplicate if another message had its id. */
  async #isLost({ id, child }: OpenChild, revision: number): Promise<boolean> {
    if (child.state !== 'pending') return false;
    if (await lastQueuedJob(this.#options.nats, 'backup', child)) return false;
    return (await this.#options.operations.find(id, child.remote))?.revision === revision;
  }

  async #fold(): Promise<void> {
    this.#foldedAt = performance.now();
    for (const of of this.#fleet.runs) {
      const { running, pending } = countsOf(Object.values(of.run.places));
      const waits = this.#fleet.backedUp.some((each) => each.of === of);
      const over = running + pending === 0 && of.run.away.every(({ planned }) => planned) && !waits;
      if (!over && !of.changed && of.dirty.size === 0) continue;
      this.#lease.assertHeld();
      await this.#records.write(of, over);
      if (over) this.#fleet.remove(of);
    }
  }
}
