/** What a worker's jobs work with. Made once in main, handed in. */
import { BufferPool } from '../archive/bufferPool.ts';
import type { Hasher } from '../archive/hashing.ts';
import type { Config } from '../contract.ts';
import { LxstowError } from '../errors.ts';
import type { LxdClient } from '../lxd/client.ts';
import type { Bucket } from '../queue/bucket.ts';
import type { Leases } from '../queue/leases.ts';
import type { Reservations } from '../queue/reservations.ts';
import type { ObjectStore } from '../storage/objectStore.ts';

export interface Tools {
  config: Config;
  lxd: LxdClient;
  store: ObjectStore;
  hasher: Hasher;
  leases: Leases;
  leasesBucket: Bucket;
  checkpoints: Bucket;
  reservations: Reservations;
  /** This slot's memory. */
  memory: SlotMemory;
}

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

/** Ends a transfer when LXD keeps us waiting too long. While we keep LXD waiting, for a slow store say, no time runs. */
export class IdleWatch implements Disposable {
  readonly #controller = new AbortController();
  readonly #ms: number;
  readonly #what: string;
  #timer: NodeJS.Timeout | undefined;

  /** `what` names the transfer in the error, lxd-stalled. */
  constructor(ms: number, what: string) {
    this.#ms = ms;
    this.#what = what;
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** We wait for LXD from now on, or no longer. */
  watch(waiting: boolean): void {
    clearTimeout(this.#timer);
    if (!waiting) return;
    this.#timer = setTimeout(() => {
      this.#controller.abort(
        new LxstowError('lxd-stalled', `${this.#what} stood still for ${Math.round(this.#ms / 1000)} s`),
      );
    }, this.#ms);
  }

  /** A byte has moved. */
  touch(): void {
    this.#timer?.refresh();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }
}

const cleanupMs = 30_000;

/** For tidying up after an attempt whose own signal has ended. */
export function cleanupSignal(): AbortSignal {
  return AbortSignal.timeout(cleanupMs);
}
