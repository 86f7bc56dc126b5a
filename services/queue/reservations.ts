/** A backup's name belongs to one operation, from the request on: two requests in one second, or of one name, never meet. */
import { type Address, backupName, type Compression } from '../contract.ts';
import type { Bucket } from './bucket.ts';
import { reservationKey, reservationKeys } from './topology.ts';

/** Longer than jobs queue; what is not released ends then. */
const reservedMs = 7 * 24 * 3_600_000;
const mostClashes = 1000;

export class Reservations {
  readonly #bucket: Bucket;

  constructor(bucket: Bucket) {
    this.#bucket = bucket;
  }

  /** Reserves this name; false when it is another operation's. */
  async take(address: Address, name: string, operation: string): Promise<boolean> {
    const revision = await this.#bucket.create(reservationKey(address, name), operation, { ttlMs: reservedMs });
    return revision !== undefined || (await this.holder(address, name)) === operation;
  }

  /** Reserves the first free name for a backup begun at `time`; `inUse` tells of names that stored backups have. */
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

  /** Frees every name of this instance that is this operation's. */
  async releaseAll(address: Address, operation: string): Promise<void> {
    for (const { key, value, revision } of await this.#bucket.entries(reservationKeys(address)))
      if (value.toString() === operation) await this.#bucket.remove(key, revision);
  }

  /** Frees a name that is this operation's. */
  async release(address: Address, name: string, operation: string): Promise<void> {
    const { entry, revision } = await this.#bucket.get(reservationKey(address, name));
    if (entry?.value.toString() === operation) await this.#bucket.remove(reservationKey(address, name), revision);
  }
}
