import { WaiterQueue } from '../concurrency/waiterQueue.ts';

/** A fixed set of buffers. It bounds a slot's memory, whatever the size of the instance. */
export class BufferPool {
  /** Bytes per buffer. */
  readonly size: number;
  readonly #all: readonly Buffer[];
  #free: Buffer[];
  readonly #waiters = new WaiterQueue<Buffer>();

  /** `count` buffers of `size` bytes, in shared memory: the threads work on it without a copy. */
  constructor(count: number, size: number) {
    this.size = size;
    this.#all = Array.from({ length: count }, () => Buffer.from(new SharedArrayBuffer(size)));
    this.#free = [...this.#all];
  }

  /** Takes a free buffer; waits for one, first come, first served. Rejects with the signal's reason. */
  async take(signal: AbortSignal): Promise<Buffer> {
    signal.throwIfAborted();
    return this.#free.pop() ?? this.#waiters.wait(signal);
  }

  /** Returns a whole buffer to the pool. The caller must not use it afterwards. */
  give(buffer: Buffer): void {
    if (!this.#waiters.serve(buffer)) this.#free.push(buffer);
  }

  /** Marks all buffers as free, returned or not. Call it only when no task uses one any more. */
  reclaim(): void {
    this.#free = [...this.#all];
  }
}
