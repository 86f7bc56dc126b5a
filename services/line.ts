/** Whoever waits for a thing of which there are a few, first come first. */
export class Line<T> {
  readonly #waiting: ((thing: T) => void)[] = [];

  /** The next thing that is served. Rejects with the signal's reason. */
  async wait(signal: AbortSignal): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const giveUp = () => {
      this.#waiting.splice(this.#waiting.indexOf(resolve), 1);
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
