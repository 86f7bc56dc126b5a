import { BufferPool } from './bufferPool.ts';

/** The large buffers of one slot, kept from job to job: fresh memory costs more than the copying into it (docs/s3.md). */
export class SlotMemory {
  readonly #pools = new Map<string, { pool: BufferPool; count: number }>();

  /** `count` buffers of at least `size` bytes, or more of them. One job at a time may use a pool. */
  pool(name: string, count: number, size: number): BufferPool {
    const kept = this.#pools.get(name);
    if (kept && kept.count >= count && kept.pool.size >= size && kept.pool.size <= 2 * size) return kept.pool;
    const pool = new BufferPool(count, size);
    this.#pools.set(name, { pool, count });
    return pool;
  }

  /** Forgets all buffers: after a failure some may still be in somebody's hands. */
  reset(): void {
    this.#pools.clear();
  }
}
