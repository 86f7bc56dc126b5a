/** FIFO queue of those who wait for a scarce resource. */
export class Line<T> {
  readonly #waiting: ((thing: T) => void)[] = [];

  /** The next thing that is served. Rejects with the signal's reason. */
  async wait(signal: AbortSignal): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const giveUp = () => {
      // Served in the same turn as aborted: it has the thing, and stands in the queue no more.
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

  /** Gives the thing to the first; false when nobody waits. */
  serve(thing: T): boolean {
    const next = this.#waiting.shift();
    next?.(thing);
    return next !== undefined;
  }
}
