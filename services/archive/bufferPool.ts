import { Line } from '../line.ts';

/** A fixed set of buffers: what bounds a slot's memory, whatever the size of the instance. */
export class BufferPool {
  /** Bytes of each buffer. */
  readonly size: number;
  readonly #all: readonly Buffer[];
  #free: Buffer[];
  readonly #line = new Line<Buffer>();

  /** `count` buffers of `size` bytes, in memory that the threads can work on without a copy. */
  constructor(count: number, size: number) {
    this.size = size;
    this.#all = Array.from({ length: count }, () => Buffer.from(new SharedArrayBuffer(size)));
    this.#free = [...this.#all];
  }

  /** The next free buffer; waits for one to be given back. Rejects with the signal's reason. */
  async take(signal: AbortSignal): Promise<Buffer> {
    signal.throwIfAborted();
    return this.#free.pop() ?? this.#line.wait(signal);
  }

  /** Gives a buffer back, whole: nobody may look at it any more. */
  give(buffer: Buffer): void {
    if (!this.#line.serve(buffer)) this.#free.push(buffer);
  }

  /** All buffers are free again, given back or not: when everything that had one has ended. */
  reclaim(): void {
    this.#free = [...this.#all];
  }
}
