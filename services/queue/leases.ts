/** Leases: who works on an instance now. A lease that is not renewed ends by itself, and its holder knows before anybody else can take it. */
import { LxstowError } from '../errors.ts';
import type { Bucket } from './bucket.ts';
import { Stale } from './stale.ts';

/** What a lease says to those who find it taken. */
export interface LeaseHolder {
  worker: string;
  operation: string;
}

export class Leases {
  readonly #bucket: Bucket;
  readonly #ttlMs: number;
  readonly #onFree: (key: string) => void;
  readonly #stale: Stale;

  /** `onFree` is told of each lease that was given back. */
  constructor(
    bucket: Bucket,
    ttlMs: number,
    onFree: (key: string) => void = () => undefined,
    stale: Stale = new Stale(),
  ) {
    this.#stale = stale;
    this.#bucket = bucket;
    this.#ttlMs = ttlMs;
    this.#onFree = onFree;
  }

  /** Takes the lease; undefined when somebody has it. One that has outlived its holder is taken by who asks for it again and again. */
  async acquire(key: string, holder: LeaseHolder): Promise<Lease | undefined> {
    const begun = performance.now();
    const value = JSON.stringify(holder);
    const options = { ttlMs: this.#ttlMs };
    const revision = (await this.#bucket.create(key, value, options)) ?? (await this.#takeStale(key, value));
    if (revision === undefined) return undefined;
    return new Lease(this.#bucket, key, value, revision, this.#ttlMs, begun, this.#onFree);
  }

  /** Takes one of the leases `<keys>.1` to `<keys>.<count>`, which are alike; undefined when others have them all. */
  async acquireOneOf(keys: string, count: number, holder: LeaseHolder): Promise<Lease | undefined> {
    const living = (await this.#bucket.entries(`${keys}.*`)).filter((entry) => !this.#stale.is(entry));
    const taken = new Set(living.map(({ key }) => key));
    const free = Array.from({ length: count }, (_, index) => `${keys}.${index + 1}`).filter((key) => !taken.has(key));
    // Who begins elsewhere meets fewer others.
    const first = Math.floor(Math.random() * free.length);
    for (const key of [...free.slice(first), ...free.slice(0, first)]) {
      const lease = await this.acquire(key, holder);
      if (lease) return lease;
    }
    return undefined;
  }

  async #takeStale(key: string, value: string): Promise<number | undefined> {
    const { entry } = await this.#bucket.get(key);
    return entry && this.#stale.is(entry)
      ? this.#bucket.put(key, value, entry.revision, { ttlMs: this.#ttlMs })
      : undefined;
  }

  /** Who has it; undefined when it is free. */
  async holder(key: string): Promise<LeaseHolder | undefined> {
    const { entry } = await this.#bucket.get(key);
    return entry && (JSON.parse(entry.value.toString()) as LeaseHolder);
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
  /** Monotonic ms: when the last renewal that went through was sent. The server's clock for the TTL started after that. */
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

  /** Aborts, with lease-lost, when the lease is somebody else's or may be. */
  get lost(): AbortSignal {
    return this.#lost.signal;
  }

  /** Throws lease-lost unless the lease is surely still ours: by the clock, before every step that another holder might do too. */
  assertHeld(): void {
    if (!this.#lost.signal.aborted && performance.now() - this.#renewed >= this.#ttlMs)
      this.#lose('it was not renewed in time');
    this.#lost.signal.throwIfAborted();
    if (this.#released) throw this.#loss('it was given back');
  }

  /** To be called several times in a TTL; one at a time goes out. One that fails for want of NATS is no loss until the TTL is over. */
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

  /** Renews over a renewal whose answer was lost. What names us before the TTL is over is ours; later, it may be another attempt's. */
  async #writeOverOurs(): Promise<number | undefined> {
    const { entry } = await this.#bucket.get(this.key);
    const ours = entry?.value.toString() === this.#value && performance.now() - this.#renewed < this.#ttlMs;
    return ours ? this.#write(entry.revision) : undefined;
  }

  /** Gives the lease back at once. One that is lost already, or cannot be given back, ends by its TTL. */
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
