/** FIFO queue of waiters for a scarce resource. */
export class WaiterQueue<T> {
  readonly #waiting: ((thing: T) => void)[] = [];

  /** Resolves with the next thing served. Rejects with the signal's reason. */
  async wait(signal: AbortSignal): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const giveUp = () => {
      // If the waiter is served and aborted in the same turn, it keeps the thing, and has already left the queue.
      const at = this.#waiting.indexOf(resolve);
      if (at >= 0) this.#waiting.splice(at, 1);
      reject(signal.reason);
    };
    this.#waiting.push(resolve);
    signal.addEventListener('abort', giveUp, { once: true });
    try {
      return await promise;
    } finally {
      signal.removeEventListener('abort', giveUp);
    }
  }

  /** Gives the thing to the first waiter; false if there is none. */
  serve(thing: T): boolean {
    const next = this.#waiting.shift();
    next?.(thing);
    return next !== undefined;
  }
}
