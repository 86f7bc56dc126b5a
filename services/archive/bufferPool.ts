/** A fixed set of buffers: what bounds a slot's memory, whatever the size of the instance. */
export class BufferPool {
  /** Bytes of each buffer. */
  readonly size: number;
  readonly #free: Buffer[] = [];
  readonly #waiting: ((buffer: Buffer) => void)[] = [];

  /** `count` buffers of `size` bytes, in memory that the threads can work on without a copy. */
  constructor(count: number, size: number) {
    this.size = size;
    for (let i = 0; i < count; i++) this.#free.push(Buffer.from(new SharedArrayBuffer(size)));
  }

  /** The next free buffer; waits for one to be given back. Rejects with the signal's reason. */
  async take(signal: AbortSignal): Promise<Buffer> {
    signal.throwIfAborted();
    const free = this.#free.pop();
    if (free) return free;
    const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
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

  /** Gives a buffer back, whole: nobody may look at it any more. */
  give(buffer: Buffer): void {
    const next = this.#waiting.shift();
    if (next) next(buffer);
    else this.#free.push(buffer);
  }
}
