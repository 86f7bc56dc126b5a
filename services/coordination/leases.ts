/**
 * Leases with a TTL: exclusive locks on instances, and permits. A lease is lost when no renewal that was sent within the last TTL has succeeded, by its
 * holder's clock, or when another's value is found. Another worker can acquire it when NATS has expired it, or after two TTLs without a renewal
 * (nats/bucket/stale.ts): always after its holder knows.
 */

import { sleep } from '../concurrency/sleep.ts';
import { asLxstowError, LxstowError } from '../contract/errors.ts';
import { type Bucket, parseRecord } from '../nats/bucket/bucket.ts';
import { StaleEntries } from '../nats/bucket/stale.ts';
import { parseLeaseKey } from '../nats/bucketKeys.ts';
import type { Log } from '../telemetry/logger.ts';

/** The value of a lease: who holds it. */
export interface LeaseHolder {
  worker: string;
  operation: string;
}

export class Leases {
  readonly #bucket: Bucket;
  readonly #ttlMs: number;
  readonly #onFree: (key: string) => void;
  readonly #stale: StaleEntries;

  /** `onFree` gets the key of each released lease. */
  constructor(
    bucket: Bucket,
    ttlMs: number,
    onFree: (key: string) => void = () => undefined,
    stale: StaleEntries = new StaleEntries(),
  ) {
    this.#stale = stale;
    this.#bucket = bucket;
    this.#ttlMs = ttlMs;
    this.#onFree = onFree;
  }

  /** Acquires the lease; undefined if it is held. A lease that outlived its holder is taken over. */
  async acquire(key: string, holder: LeaseHolder): Promise<Lease | undefined> {
    const begun = performance.now();
    const value = JSON.stringify(holder);
    const options = { ttlMs: this.#ttlMs };
    const revision = (await this.#bucket.create(key, value, options)) ?? (await this.#takeStale(key, value));
    if (revision === undefined) return undefined;
    return new Lease(this.#bucket, key, value, revision, this.#ttlMs, begun, this.#onFree);
  }

  /** Acquires any of the leases `<keys>.1` to `<keys>.<count>`, a counting semaphore; undefined if all are held. */
  async acquireOneOf(keys: string, count: number, holder: LeaseHolder): Promise<Lease | undefined> {
    const living = (await this.#bucket.entries(`${keys}.*`)).filter((entry) => !this.#stale.seenTooLong(entry));
    const taken = new Set(living.map(({ key }) => key));
    const free = Array.from({ length: count }, (_, index) => `${keys}.${index + 1}`).filter((key) => !taken.has(key));
    // A random start collides with fewer other workers.
    const first = Math.floor(Math.random() * free.length);
    for (const key of [...free.slice(first), ...free.slice(0, first)]) {
      const lease = await this.acquire(key, holder);
      if (lease) return lease;
    }
    return undefined;
  }

  async #takeStale(key: string, value: string): Promise<number | undefined> {
    const { entry } = await this.#bucket.get(key);
    return entry && this.#stale.seenTooLong(entry)
      ? this.#bucket.put(key, value, entry.revision, { ttlMs: this.#ttlMs })
      : undefined;
  }

  /**
   * Removes the host's leases, claims and permits that outlived their holders; returns their keys. A lease counts as stale if two calls, more than two of
   * its TTLs apart, found it not renewed, so call this regularly. Reserved names of backups stay, because they are reserved for days.
   */
  async removeStale(remote: string): Promise<string[]> {
    const keys = await this.#bucket.names(`${remote}.>`);
    const removed: string[] = [];
    for (const key of keys.filter((each) => parseLeaseKey(each)?.kind !== 'reservation')) {
      const { entry } = await this.#bucket.get(key);
      if (!entry || !this.#stale.seenTooLong(entry) || !(await this.#bucket.remove(key, entry.revision))) continue;
      this.#onFree(key);
      removed.push(key);
    }
    return removed;
  }

  /** Returns the holder; undefined if the lease is free. */
  async holder(key: string): Promise<LeaseHolder | undefined> {
    const { entry } = await this.#bucket.get(key);
    return entry && parseRecord<LeaseHolder>(entry.value);
  }
}

export class Lease {
  readonly key: string;
  readonly #bucket: Bucket;
  readonly #value: string;
  readonly #ttlMs: number;
  readonly #onFree: (key: string) => void;
  readonly #lost = new AbortController();
  #revision: number;
  /** When the last successful renewal was sent, in monotonic ms. The server's TTL started after that. */
  #renewed: number;
  #renewing: Promise<void> | undefined;
  #released = false;

  constructor(
    bucket: Bucket,
    key: string,
    value: string,
    revision: number,
    ttlMs: number,
    begun: number,
    onFree: (key: string) => void,
  ) {
    this.#bucket = bucket;
    this.#onFree = onFree;
    this.key = key;
    this.#value = value;
    this.#revision = revision;
    this.#ttlMs = ttlMs;
    this.#renewed = begun;
  }

  /** Aborts with lease-lost when another holder has the lease, or may have it. */
  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  /** Throws lease-lost unless the lease is certainly still ours by our clock. Call it before every step that another holder might take too. */
  assertHeld(): void {
    if (!this.#lost.signal.aborted && performance.now() - this.#renewed >= this.#ttlMs)
      this.#lose('it was not renewed in time');
    this.#lost.signal.throwIfAborted();
    if (this.#released) throw this.#loss('it was given back');
  }

  /**
   * Renews the lease. Call it several times per TTL; concurrent calls share one renewal. A renewal that fails because NATS is away loses the lease
   * only when the TTL is over.
   */
  renew(): Promise<void> {
    if (!this.#lost.signal.aborted && performance.now() - this.#renewed >= this.#ttlMs)
      this.#lose('it was not renewed in time');
    this.#renewing ??= this.#renew().finally(() => {
      this.#renewing = undefined;
    });
    return this.#renewing;
  }

  async #renew(): Promise<void> {
    if (this.#lost.signal.aborted || this.#released) return;
    const begun = performance.now();
    try {
      const revision = (await this.#write(this.#revision)) ?? (await this.#writeOverOurs());
      if (revision === undefined) return this.#lose('another worker has taken it');
      this.#revision = revision;
      this.#renewed = begun;
    } catch (error) {
      if (performance.now() - this.#renewed >= this.#ttlMs) this.#lose((error as Error).message);
    }
  }

  #write(over: number): Promise<number | undefined> {
    return this.#bucket.put(this.key, this.#value, over, { ttlMs: this.#ttlMs });
  }

  /** Renews after a renewal whose ack was lost. An entry with our value is ours until the TTL is over; later, it may be another attempt's. */
  async #writeOverOurs(): Promise<number | undefined> {
    const { entry } = await this.#bucket.get(this.key);
    const ours = entry?.value.toString() === this.#value && performance.now() - this.#renewed < this.#ttlMs;
    return ours ? this.#write(entry.revision) : undefined;
  }

  /** Releases the lease at once. A lease that is lost already, or cannot be released, expires by its TTL. */
  async release(): Promise<void> {
    if (this.#lost.signal.aborted || this.#released) return;
    this.#released = true;
    await this.#renewing;
    if (await this.#bucket.remove(this.key, this.#revision)) this.#onFree(this.key);
  }

  #lose(why: string): void {
    if (!this.#released) this.#lost.abort(this.#loss(why));
  }

  #loss(why: string): LxstowError {
    return new LxstowError('lease-lost', `the lease ${this.key} is lost: ${why}`);
  }
}

const removeStaleEveryMs = 30_000;
/** How many removed leases the log names. */
const mostNamed = 10;

/**
 * Removes stale leases of a host regularly until `stop`. A stale lease is taken over by a process that wants it. A claim is never taken over, but its existence blocks others
 * (a dead reader's claim blocks a deletion), so it must be removed.
 */
export async function removeStaleRegularly(
  leases: Leases,
  { remote, log, stop }: { remote: string; log: Log; stop: AbortSignal },
): Promise<void> {
  for (;;) {
    await sleep(removeStaleEveryMs, stop);
    if (stop.aborted) return;
    try {
      const removed = await leases.removeStale(remote);
      // After nats-server was killed, there may be hundreds, including those that it has restored.
      if (removed.length > 0)
        log.warn('leases removed that NATS has not ended, or has restored', {
          count: removed.length,
          leases: removed.slice(0, mostNamed),
        });
    } catch (error) {
      if (!stop.aborted) log.warn('stale leases could not be looked for', { error: asLxstowError(error) });
    }
  }
}
