/** One watch of the bucket for a gateway: passes each change of a run to requests, event sockets and the feeder. */
import { EventEmitter, once } from 'node:events';
import type { Run } from '../contract/schemas.ts';
import type { Log } from '../telemetry/logger.ts';
import { hasEnded } from './fold.ts';
import type { RunStore, StoredRun } from './runStore.ts';

/** How often a waiter reads the run itself, in case the watch missed a change during a reconnection. */
const lookAgainMs = 5000;
const every = Symbol('every run');

export class RunFeed {
  readonly #store: RunStore;
  readonly #changes = new EventEmitter();

  private constructor(store: RunStore) {
    this.#store = store;
    this.#changes.setMaxListeners(0);
  }

  static async open(store: RunStore, log: Log, signal: AbortSignal): Promise<RunFeed> {
    const feed = new RunFeed(store);
    const see = (stored: StoredRun) => {
      feed.#changes.emit(stored.run.id, stored.run);
      feed.#changes.emit(every, stored);
    };
    await store.watch(see, signal, (error) => log.warn('the watch of runs broke; opening it again', { error }));
    return feed;
  }

  /** Calls `see` with each change of each run. */
  onChange(see: (stored: StoredRun) => void): void {
    this.#changes.on(every, see);
  }

  /** Resolves when the run has ended, or with its state when `signal` aborts; undefined when no run has this id. */
  async untilEnded(id: string, signal: AbortSignal): Promise<Run | undefined> {
    for (;;) {
      const woken = AbortSignal.any([signal, AbortSignal.timeout(lookAgainMs)]);
      const changed = once(this.#changes, id, { signal: woken }).catch(() => undefined);
      const found = (await this.#store.find(id))?.run;
      if (signal.aborted || !found || hasEnded(found)) return found;
      await changed;
    }
  }
}
