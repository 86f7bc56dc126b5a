/** One watch of the bucket for a gateway: passes each change of an operation to requests and event sockets. */
import { EventEmitter, once } from 'node:events';
import type { Operation } from '../../contract/schemas.ts';
import { isFinal } from '../../operations/operation.ts';
import type { OperationStore } from '../../operations/operationStore.ts';
import type { Log } from '../../telemetry/logger.ts';

/** How often a waiter reads the operation itself, in case the watch missed a change during a reconnection. */
const lookAgainMs = 5000;
const every = Symbol('every operation');

export class OperationFeed {
  readonly #store: OperationStore;
  readonly #changes = new EventEmitter();

  private constructor(store: OperationStore) {
    this.#store = store;
    this.#changes.setMaxListeners(0);
  }

  static async open(store: OperationStore, log: Log, signal: AbortSignal): Promise<OperationFeed> {
    const feed = new OperationFeed(store);
    const see = (operation: Operation) => {
      feed.#changes.emit(operation.id, operation);
      feed.#changes.emit(every, operation);
    };
    await store.watch(see, signal, (error) => log.warn('operations are not watched for a moment', { error }));
    return feed;
  }

  /** Calls `see` with each change, as OperationStore.watch does. */
  onChange(see: (operation: Operation) => void): void {
    this.#changes.on(every, see);
  }

  /** Calls `look` with each change of this operation, until disposed. */
  on(operation: string, look: () => void): Disposable {
    this.#changes.on(operation, look);
    return { [Symbol.dispose]: () => void this.#changes.off(operation, look) };
  }

  /**
   * The operation when it has ended, or as it is when `signal` aborts; undefined when there is none of this id, at once unless it `mayCome`.
   */
  async untilFinal(
    id: string,
    signal: AbortSignal,
    { mayCome = false }: { mayCome?: boolean } = {},
  ): Promise<Operation | undefined> {
    for (;;) {
      const woken = AbortSignal.any([signal, AbortSignal.timeout(lookAgainMs)]);
      const changed = once(this.#changes, id, { signal: woken }).then(
        ([operation]) => operation as Operation,
        () => undefined,
      );
      const found = (await this.#store.find(id))?.operation;
      if (signal.aborted || (found ? isFinal(found) : !mayCome)) return found;
      const next = await changed;
      if (next && isFinal(next)) return next;
    }
  }
}
