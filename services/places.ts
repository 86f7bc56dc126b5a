import { Line } from './line.ts';

/** A few may do it at a time, the others wait, first come first. */
export class Places {
  #free: number;
  readonly #line = new Line<void>();

  constructor(most: number) {
    this.#free = most;
  }

  /** Dispose of it to give the place back. Rejects with the signal's reason. */
  async take(signal: AbortSignal): Promise<Disposable> {
    signal.throwIfAborted();
    if (this.#free > 0) this.#free--;
    else await this.#line.wait(signal);
    return {
      [Symbol.dispose]: () => {
        if (!this.#line.serve()) this.#free++;
      },
    };
  }
}
