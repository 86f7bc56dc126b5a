import { BufferPool } from './bufferPool.ts';

/** Larger ones are for one enormous archive, and not kept for what needs less than half of them. */
const keptBytes = 64 * 1024 * 1024;

/** The large buffers of one slot, kept from job to job: fresh memory costs more than the copying into it (docs/s3.md). */
export class SlotMemory {
  readonly #pools = new Map<string, { pool: BufferPool; count: number }>();

  /**
   * `count` buffers of at least `size` bytes, or more of them, for one job at a time: all are free, also those that an earlier one, which failed, has not given
   * back. To make new ones after a failure would not do: nothing tells V8's collector how much memory the old ones hold, and it comes late.
   */
  pool(name: string, count: number, size: number): BufferPool {
    const kept = this.#pools.get(name);
    if (kept && kept.count >= count && kept.pool.size >= size && kept.pool.size <= Math.max(keptBytes, 2 * size)) {
      kept.pool.reclaim();
      return kept.pool;
    }
    const pool = new BufferPool(count, size);
    this.#pools.set(name, { pool, count });
    return pool;
  }
}
