/** Every change of every operation, from one watch of the bucket, for all requests of this gateway that wait. */
import { EventEmitter, once } from 'node:events';
import type { Operation } from '../contract.ts';
import { isFinal } from '../operations/operation.ts';
import type { OperationStore } from '../operations/store.ts';

/** A change that the watch missed, over a reconnection, is found by looking after so long. */
const lookAgainMs = 5000;

export class OperationFeed {
  readonly #store: OperationStore;
  readonly #changes = new EventEmitter();

  private constructor(store: OperationStore) {
    this.#store = store;
    this.#changes.setMaxListeners(0);
  }

  static async open(store: OperationStore, signal: AbortSignal): Promise<OperationFeed> {
    const feed = new OperationFeed(store);
    await store.watch((operation) => feed.#changes.emit(operation.id, operation), signal);
    return feed;
  }

  /** The operation when it has ended, or as it is when `signal` aborts; undefined when there is none of this id. */
  async untilFinal(id: string, signal: AbortSignal): Promise<Operation | undefined> {
    for (;;) {
      const woken = AbortSignal.any([signal, AbortSignal.timeout(lookAgainMs)]);
      const changed = once(this.#changes, id, { signal: woken }).then(
        ([operation]) => operation as Operation,
        () => undefined,
      );
      const found = (await this.#store.find(id))?.operation;
      if (!found || isFinal(found) || signal.aborted) return found;
      const next = await changed;
      if (next && isFinal(next)) return next;
    }
  }
}
