/** Reserves a backup's name for one operation, from its request on: two requests never get the same name, even in the same second. */
import { type Address, backupName, type Compression } from '../contract/schemas.ts';
import type { Bucket } from '../nats/bucket.ts';
import { reservationKey, reservationKeys } from '../nats/bucketKeys.ts';

/** Longer than jobs queue. A reservation that is neither released nor renewed expires then. */
const reservedMs = 7 * 24 * 3_600_000;
/** What a timer takes at most is 24 days; this is often enough. */
const longestIntervalMs = 24 * 3_600_000;
const mostClashes = 1000;

export class Reservations {
  readonly #bucket: Bucket;
  readonly #ttlMs: number;

  constructor(bucket: Bucket, ttlMs = reservedMs) {
    this.#bucket = bucket;
    this.#ttlMs = ttlMs;
  }

  /** Reserves this name; false if another operation has it. */
  async take(address: Address, name: string, operation: string): Promise<boolean> {
    const revision = await this.#bucket.create(reservationKey(address, name), operation, { ttlMs: this.#ttlMs });
    return revision !== undefined || (await this.renew(address, name, operation));
  }

  /** Holds a name that is this operation's from now on again; false when it is another's, or nobody's. */
  async renew(address: Address, name: string, operation: string): Promise<boolean> {
    const key = reservationKey(address, name);
    const { entry } = await this.#bucket.get(key);
    if (entry?.value.toString() !== operation) return false;
    return (await this.#bucket.put(key, operation, entry.revision, { ttlMs: this.#ttlMs })) !== undefined;
  }

  /** Renews it in good time until disposed: an operation may last longer than a name is held. `onError` is told when it cannot be. */
  keep(address: Address, name: string, operation: string, onError: (error: unknown) => void): Disposable {
    const timer = setInterval(
      () => {
        this.renew(address, name, operation).catch(onError);
      },
      Math.min(this.#ttlMs / 3, longestIntervalMs),
    );
    timer.unref();
    return { [Symbol.dispose]: () => clearInterval(timer) };
  }

  /** Reserves the first free name for a backup begun at `time`; `inUse` says whether a stored backup has that name. */
  async takeNext(
    address: Address,
    time: Date,
    compression: Compression,
    operation: string,
    inUse: (name: string) => Promise<boolean>,
  ): Promise<string> {
    for (let clash = 1; clash < mostClashes; clash++) {
      const name = backupName(time, compression, clash);
      if (!(await this.take(address, name, operation))) continue;
      if (!(await inUse(name))) return name;
      await this.release(address, name, operation);
    }
    throw new Error(`${mostClashes} backups of ${address.instance} in one second`);
  }

  /** The operation that a name is reserved for. */
  async holder(address: Address, name: string): Promise<string | undefined> {
    const { entry } = await this.#bucket.get(reservationKey(address, name));
    return entry?.value.toString();
  }

  /** Releases every name of this instance that the operation has reserved. */
  async releaseAll(address: Address, operation: string): Promise<void> {
    for (const { key, value, revision } of await this.#bucket.entries(reservationKeys(address)))
      if (value.toString() === operation) await this.#bucket.remove(key, revision);
  }

  /** Releases a name if the operation has reserved it. */
  async release(address: Address, name: string, operation: string): Promise<void> {
    const { entry, revision } = await this.#bucket.get(reservationKey(address, name));
    if (entry?.value.toString() === operation) await this.#bucket.remove(reservationKey(address, name), revision);
  }
}
