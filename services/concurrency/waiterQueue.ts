import { addAbortListener } from 'node:events';

/** FIFO queue of waiters for a scarce resource. */
export class WaiterQueue<T> {
  readonly #waiting: ((thing: T) => void)[] = [];

  /** Resolves with the next thing served. Rejects with the signal's reason. */
  async wait(signal: AbortSignal): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    this.#waiting.push(resolve);
    using _listener = addAbortListener(signal, () => {
      // If the waiter is served and aborted in the same turn, it keeps the thing, and has already left the queue.
      const at = this.#waiting.indexOf(resolve);
      if (at >= 0) this.#waiting.splice(at, 1);
      reject(signal.reason);
    });
    return await promise;
  }

  /** Gives the resource to the first waiter; false if nobody waits. */
  serve(thing: T): boolean {
    const next = this.#waiting.shift();
    next?.(thing);
    return next !== undefined;
  }
}
