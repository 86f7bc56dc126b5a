import { WaiterQueue } from './waiterQueue.ts';

/** Counting semaphore, first come first served. */
export class Semaphore {
  #free: number;
  readonly #waiters = new WaiterQueue<void>();

  constructor(most: number) {
    this.#free = most;
  }

  /** Acquires a place; dispose of the result to release it. Rejects with the signal's reason. */
  async take(signal: AbortSignal): Promise<Disposable> {
    signal.throwIfAborted();
    if (this.#free > 0) this.#free--;
    else await this.#waiters.wait(signal);
    return {
      [Symbol.dispose]: () => {
        if (!this.#waiters.serve()) this.#free++;
      },
    };
  }
}
