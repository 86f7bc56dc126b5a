import { BufferPool } from './bufferPool.ts';

/** Buffers above this size serve one enormous archive. A job that needs less than half of their size replaces them. */
const keptBytes = 64 * 1024 * 1024;

/** The large buffers of one slot, reused from job to job: fresh memory costs more than copying into it (docs/s3.md). */
export class SlotMemory {
  readonly #pools = new Map<string, { pool: BufferPool; count: number }>();

  /**
   * Returns at least `count` buffers of at least `size` bytes, for one job at a time. All are free, even those that an earlier, failed job did not
   * return. New buffers after a failure would cost memory: V8's collector does not see how much the old ones hold, and frees them late.
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
