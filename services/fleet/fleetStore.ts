/** The records of all instances in their bucket. Each change is a compare-and-set. */
import { isDeepStrictEqual } from 'node:util';
import type { Address, InstanceRecord } from '../contract/schemas.ts';
import { Bucket } from '../nats/bucket/bucket.ts';
import { scan } from '../nats/bucket/scan.ts';
import { instanceKey, inventoryKey, parseInstanceKey } from '../nats/bucketKeys.ts';
import type { Nats } from '../nats/connection.ts';
import { instancesBucket } from '../nats/streams.ts';
import { type Inventory, readInventory, readRecord } from './storedRecord.ts';

const stream = `KV_${instancesBucket}`;

/** A record and its revision; the revision is 0 if there never was a record. */
export interface ReadRecord {
  record: InstanceRecord;
  revision: number;
}

export interface StoredRecord extends ReadRecord {
  address: Address;
}

export class FleetStore {
  readonly #nats: Nats;
  readonly #bucket: Bucket;

  constructor(nats: Nats) {
    this.#nats = nats;
    this.#bucket = new Bucket(nats, instancesBucket);
  }

  /**
   * Writes what `change` returns for the record, {} if there is none. Calls it again if another process changes the record first. Writes nothing if it
   * returns undefined or an equal record. `known`: the record as it was read before, which is tried first.
   */
  async change(
    address: Address,
    change: (record: InstanceRecord) => InstanceRecord | undefined | Promise<InstanceRecord | undefined>,
    known?: ReadRecord,
  ): Promise<void> {
    const key = instanceKey(address);
    for (let read = known; ; read = undefined) {
      const { record, revision } = read ?? (await this.read(address));
      const next = await change(record);
      const isSame = next === undefined || isDeepStrictEqual(next, record);
      if (isSame && read) continue;
      if (isSame) return;
      if ((await this.#bucket.put(key, JSON.stringify(next), revision)) !== undefined) return;
    }
  }

  /** The record of an instance; {} if there is none, or its value is none: the next change replaces it. */
  async read(address: Address): Promise<ReadRecord> {
    const { entry, revision } = await this.#bucket.get(instanceKey(address));
    return { record: (entry && readRecord(entry.value)) ?? {}, revision };
  }

  /** Writes the record over this revision; false if it is no longer the last. */
  async replace({ address, revision }: Omit<StoredRecord, 'record'>, record: InstanceRecord): Promise<boolean> {
    return (await this.#bucket.put(instanceKey(address), JSON.stringify(record), revision)) !== undefined;
  }

  /** Removes the record if this revision is still the last. */
  async forget({ address, revision }: Omit<StoredRecord, 'record'>): Promise<void> {
    await this.#bucket.remove(instanceKey(address), revision);
  }

  /** All records of a remote by key, read by one scan. */
  async recordsOf(remote: string): Promise<Map<string, StoredRecord>> {
    const found = new Map<string, StoredRecord>();
    const see = (key: string, revision: number, value: Uint8Array | undefined) => {
      const address = parseInstanceKey(key);
      if (!address || value === undefined) found.delete(key);
      else found.set(key, { address, revision, record: readRecord(value) ?? {} });
    };
    await scan(this.#nats, instancesBucket, see, { keys: `${remote}.*.*` });
    return found;
  }

  /** The last inventory of a remote, and its revision; 0 if there was none. */
  async inventory(remote: string): Promise<{ inventory: Inventory | undefined; revision: number }> {
    const { entry, revision } = await this.#bucket.get(inventoryKey(remote));
    return { inventory: entry && readInventory(entry.value), revision };
  }

  /**
   * Lets the worker that takes the next inventory compare the records with the store, as if that had never been done. Writes the note even if it says
   * so already: a worker that is comparing may have read past the change, and must not note that it has compared.
   */
  async askToCompare(remote: string): Promise<void> {
    for (;;) {
      const { inventory, revision } = await this.inventory(remote);
      if (inventory === undefined) return;
      if ((await this.noteInventory(remote, { at: inventory.at }, revision)) !== undefined) return;
    }
  }

  /** Records an inventory; returns the revision, undefined if another worker recorded one first. */
  noteInventory(remote: string, inventory: Inventory, over: number): Promise<number | undefined> {
    return this.#bucket.put(inventoryKey(remote), JSON.stringify(inventory), over);
  }
}

/** An instance as a gateway keeps it in memory. */
interface KnownInstance {
  address: Address;
  /** Where it is in lists: `remote/project/instance`. */
  cursor: string;
  record: InstanceRecord;
}

const followEveryMs = 20_000;
/** After this time a removal's marker may have expired unseen, and everything is read again. Markers live for a minute. */
const staleMs = 50_000;

/** All records in a gateway's memory, some 1 kB each. Changes are read at each request, and regularly in between. */
export class FleetView {
  readonly #nats: Nats;
  readonly #known = new Map<string, KnownInstance>();
  /** Never emptied, because callers hold a reference to it. */
  #inventories = new Map<string, Inventory>();
  /** Sorted by cursor; undefined after an instance was added or removed. */
  #sorted: KnownInstance[] | undefined;
  #next = 1;
  #created = '';
  #readAt = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | undefined;

  constructor(nats: Nats) {
    this.#nats = nats;
  }

  /** Keeps the view up to date until the signal aborts, so that a question need not wait for all records. Resolves after the first read. */
  async follow(signal: AbortSignal, onTrouble: (error: unknown) => void): Promise<void> {
    const read = () => this.current().then(() => undefined, onTrouble);
    const timer = setInterval(() => void read(), followEveryMs);
    signal.addEventListener('abort', () => clearInterval(timer), { once: true });
    await read();
  }

  /** All instances, sorted by cursor, and each remote's last inventory, as of some moment after the call. Throws nats-unavailable. */
  async current(): Promise<{ instances: readonly KnownInstance[]; inventories: ReadonlyMap<string, Inventory> }> {
    // A read that is under way may have begun before the change that the caller wants to see.
    await this.#reading?.catch(() => undefined);
    this.#reading ??= this.#read().finally(() => {
      this.#reading = undefined;
    });
    await this.#reading;
    this.#sorted ??= [...this.#known.values()].sort((a, b) => (a.cursor < b.cursor ? -1 : 1));
    return { instances: this.#sorted, inventories: this.#inventories };
  }

  async #read(): Promise<void> {
    await this.#nats.ask('reading the records of instances', async () => {
      const { created, state } = await this.#nats.jsm.streams.info(stream);
      const now = performance.now();
      if (created !== this.#created || state.last_seq + 1 < this.#next || now - this.#readAt > staleMs) this.#clear();
      if (state.last_seq >= this.#next)
        await scan(this.#nats, instancesBucket, (...entry) => this.#take(...entry), { from: this.#next });
      this.#created = created;
      this.#readAt = now;
    });
  }

  #take(key: string, revision: number, value: Uint8Array | undefined): void {
    this.#next = revision + 1;
    const address = parseInstanceKey(key);
    if (!address) {
      const inventory = value && readInventory(value);
      if (inventory) this.#inventories.set(key.split('.')[0] ?? '', inventory);
      return;
    }
    const record = value && readRecord(value);
    if (value && !record) this.#nats.log.error('the record of an instance cannot be read', { ...address });
    const known = this.#known.get(key);
    if (record && known) known.record = record;
    else if (record) {
      const cursor = `${address.remote}/${address.project}/${address.instance}`;
      this.#known.set(key, { address, cursor, record });
      this.#sorted = undefined;
    } else if (this.#known.delete(key)) this.#sorted = undefined;
  }

  #clear(): void {
    this.#known.clear();
    this.#inventories = new Map();
    this.#sorted = undefined;
    this.#next = 1;
    this.#readAt = Number.NEGATIVE_INFINITY;
  }
}
