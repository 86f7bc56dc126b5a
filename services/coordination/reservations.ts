/** Reserves a backup's name for one operation from its request on: two requests never get the same name, even in the same second. */

import { backupName } from '../contract/backupNames.ts';
import type { Address, Compression } from '../contract/schemas.ts';
import type { Bucket } from '../nats/bucket/bucket.ts';
import { reservationKey, reservationKeys } from '../nats/bucketKeys.ts';

/** TTL of a reservation; longer than jobs wait in the queue. */
const reservedMs = 7 * 24 * 3_600_000;
/** The longest interval of a Node timer is 24 days. */
const longestIntervalMs = 24 * 3_600_000;
const mostClashes = 1000;
/** How many of the last reservations are remembered, so that their release need not read the revision. */
export const mostRemembered = 1000;

export class Reservations {
  readonly #bucket: Bucket;
  readonly #ttlMs: number;
  /** The last reservations that this process has made, with operation and revision. Most reservations of a gateway are released by workers. */
  readonly #made = new Map<string, { operation: string; revision: number }>();

  constructor(bucket: Bucket, ttlMs = reservedMs) {
    this.#bucket = bucket;
    this.#ttlMs = ttlMs;
  }

  /** Reserves this name; false if another operation has it. */
  async take(address: Address, name: string, operation: string): Promise<boolean> {
    const key = reservationKey(address, name);
    const revision = await this.#bucket.create(key, operation, { ttlMs: this.#ttlMs });
    if (revision === undefined) return this.renew(address, name, operation);
    this.#made.set(key, { operation, revision });
    const [oldest] = this.#made.keys();
    if (this.#made.size > mostRemembered && oldest !== undefined) this.#made.delete(oldest);
    return true;
  }

  /** Renews this operation's reservation; false if another operation has the name, or none. */
  async renew(address: Address, name: string, operation: string): Promise<boolean> {
    const key = reservationKey(address, name);
    const { entry } = await this.#bucket.get(key);
    if (entry?.value.toString() !== operation) return false;
    return (await this.#bucket.put(key, operation, entry.revision, { ttlMs: this.#ttlMs })) !== undefined;
  }

  /** Renews the reservation regularly until disposed, because an operation may outlast the TTL. `onError` gets the error of a failed renewal. */
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

  /** The operation for which a name is reserved. */
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
    const key = reservationKey(address, name);
    const made = this.#made.get(key);
    if (made?.operation === operation) {
      this.#made.delete(key);
      if (await this.#bucket.remove(key, made.revision)) return;
    }
    const { entry, revision } = await this.#bucket.get(key);
    if (entry?.value.toString() === operation) await this.#bucket.remove(key, revision);
  }
}
