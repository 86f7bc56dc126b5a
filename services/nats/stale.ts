/**
 * Entries whose time to live is over, and that are still there: a nats-server that was killed may forget when an entry is to end (docs/nats.md). By our own
 * clock, for the server's may be another.
 */
import type { Entry } from './bucket.ts';

/** Who renews an entry does so several times in its TTL; who could not knows after one. */
const ttlsToWait = 2;
/** More are not remembered: those that were seen first are seen anew. */
const mostKept = 10_000;

export class Stale {
  readonly #seen = new Map<string, { revision: number; since: number }>();
  readonly #now: () => number;

  /** `now`: monotonic ms. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** Whether the entry was seen twice, with more than two of its TTLs in between, and was not written meanwhile. To be asked again and again. */
  is({ key, revision, ttlMs }: Pick<Entry, 'key' | 'revision' | 'ttlMs'>): boolean {
    const now = this.#now();
    const seen = this.#seen.get(key);
    if (seen?.revision === revision) return ttlMs !== undefined && now - seen.since > ttlsToWait * ttlMs;
    const [oldest] = this.#seen.keys();
    if (this.#seen.size >= mostKept && oldest !== undefined) this.#seen.delete(oldest);
    this.#seen.set(key, { revision, since: now });
    return false;
  }
}
