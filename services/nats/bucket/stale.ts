/**
 * Finds entries that outlived their TTL: a nats-server that was killed may forget TTLs (docs/nats.md). Uses our own clock, because the server's may
 * differ.
 */
import type { Entry } from './bucket.ts';

/** A holder renews its entry several times per TTL, and knows after one TTL that it failed to. */
const ttlsToWait = 2;
/** Beyond this many, the entries seen first are forgotten, and their time starts again. */
const mostKept = 10_000;

export class StaleEntries {
  readonly #seen = new Map<string, { revision: number; since: number }>();
  readonly #now: () => number;

  /** `now`: monotonic ms. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** True if the entry was seen before with the same revision, more than two of its TTLs ago. Call it repeatedly. */
  seenTooLong({ key, revision, ttlMs }: Pick<Entry, 'key' | 'revision' | 'ttlMs'>): boolean {
    const now = this.#now();
    const seen = this.#seen.get(key);
    if (seen?.revision === revision) return ttlMs !== undefined && now - seen.since > ttlsToWait * ttlMs;
    const [oldest] = this.#seen.keys();
    if (this.#seen.size >= mostKept && oldest !== undefined) this.#seen.delete(oldest);
    this.#seen.set(key, { revision, since: now });
    return false;
  }
}
