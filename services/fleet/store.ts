/** The records of all instances in their bucket. Each change is a compare-and-set; a list is one scan, and later what has changed since. */
import { isDeepStrictEqual } from 'node:util';
import type { Address, InstanceRecord } from '../contract.ts';
import { Bucket } from '../queue/bucket.ts';
import { type Nats, natsFailure } from '../queue/connection.ts';
import { batchOf, isGone } from '../queue/stream.ts';
import { instanceKey, instancesBucket, inventoryKey, parseInstanceKey } from '../queue/topology.ts';

const stream = `KV_${instancesBucket}`;
const subjectPrefix = `$KV.${instancesBucket}.`;

/** The last inventory of a remote. */
export interface Inventory {
  /** When it was taken. */
  at: string;
  /** When the records were last held against the bucket in S3; absent: never. */
  compared?: string;
}

export interface StoredRecord {
  address: Address;
  record: InstanceRecord;
  revision: number;
}

export class FleetStore {
  readonly #nats: Nats;
  readonly #bucket: Bucket;

  constructor(nats: Nats) {
    this.#nats = nats;
    this.#bucket = new Bucket(nats, instancesBucket);
  }

  /**
   * Writes what `change` makes of the record ({} where there is none). It is asked anew, with the record as it is then, when others change it
   * meanwhile; what it returns unchanged, or undefined, is not written.
   */
  async change(
    address: Address,
    change: (record: InstanceRecord) => InstanceRecord | undefined | Promise<InstanceRecord | undefined>,
  ): Promise<void> {
    const key = instanceKey(address);
    for (;;) {
      const { entry, revision } = await this.#bucket.get(key);
      const record = entry ? (JSON.parse(entry.value.toString()) as InstanceRecord) : {};
      const next = await change(record);
      if (next === undefined || isDeepStrictEqual(next, record)) return;
      if ((await this.#bucket.put(key, JSON.stringify(next), revision)) !== undefined) return;
    }
  }

  /** Writes the record in the place of this revision; false when it has changed meanwhile. */
  async replace({ address, revision }: Omit<StoredRecord, 'record'>, record: InstanceRecord): Promise<boolean> {
    return (await this.#bucket.put(instanceKey(address), JSON.stringify(record), revision)) !== undefined;
  }

  /** Removes the record of this revision; one that has changed meanwhile stays. */
  async forget({ address, revision }: Omit<StoredRecord, 'record'>): Promise<void> {
    await this.#bucket.remove(instanceKey(address), revision);
  }

  /** All records of a remote, as one scan finds them, by key. */
  async recordsOf(remote: string): Promise<Map<string, StoredRecord>> {
    const found = new Map<string, StoredRecord>();
    await scan(this.#nats, 1, `${subjectPrefix}${remote}.*.*`, (key, revision, value) => {
      const address = parseInstanceKey(key);
      if (!address || value === undefined) found.delete(key);
      else found.set(key, { address, revision, record: JSON.parse(value) as InstanceRecord });
    });
    return found;
  }

  /** The last inventory of a remote, and its revision: 0 where there was none. */
  async inventory(remote: string): Promise<{ inventory: Inventory | undefined; revision: number }> {
    const { entry, revision } = await this.#bucket.get(inventoryKey(remote));
    return { inventory: entry && (JSON.parse(entry.value.toString()) as Inventory), revision };
  }

  /** Says that an inventory was taken; returns the revision. Undefined when another worker was faster: its word stands. */
  noteInventory(remote: string, inventory: Inventory, over: number): Promise<number | undefined> {
    return this.#bucket.put(inventoryKey(remote), JSON.stringify(inventory), over);
  }
}

/** Longer than this ago, a removal's marker may have expired unseen: everything is read again. Markers live a minute. */
const staleMs = 30_000;

/** All records in a gateway's memory: some 1 kB each. They are brought up to date when somebody asks. */
export class FleetView {
  readonly #nats: Nats;
  readonly #records = new Map<string, { address: Address; record: InstanceRecord }>();
  readonly #inventories = new Map<string, Inventory>();
  #next = 1;
  #created = '';
  #readAt = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | undefined;

  constructor(nats: Nats) {
    this.#nats = nats;
  }

  /** Every record, and each remote's last inventory, as they were at some moment after the call. Throws nats-unavailable. */
  async current(): Promise<{
    records: { address: Address; record: InstanceRecord }[];
    inventories: ReadonlyMap<string, Inventory>;
  }> {
    // One that is under way may have begun before the change that its asker wants to see.
    await this.#reading?.catch(() => undefined);
    this.#reading ??= this.#read().finally(() => {
      this.#reading = undefined;
    });
    await this.#reading;
    return { records: [...this.#records.values()], inventories: this.#inventories };
  }

  async #read(): Promise<void> {
    this.#nats.assertConnected();
    try {
      const { created, state } = await this.#nats.jsm.streams.info(stream);
      const now = performance.now();
      if (created !== this.#created || state.last_seq + 1 < this.#next || now - this.#readAt > staleMs) this.#clear();
      if (state.last_seq >= this.#next)
        await scan(this.#nats, this.#next, undefined, (...entry) => this.#take(...entry));
      this.#created = created;
      this.#readAt = now;
    } catch (error) {
      this.#clear();
      throw natsFailure(error, 'reading the records of instances');
    }
  }

  #take(key: string, revision: number, value: string | undefined): void {
    this.#next = revision + 1;
    const address = parseInstanceKey(key);
    if (address && value !== undefined) this.#records.set(key, { address, record: JSON.parse(value) });
    else if (address) this.#records.delete(key);
    else if (value !== undefined) this.#inventories.set(key.split('.')[0] ?? '', JSON.parse(value));
  }

  #clear(): void {
    this.#records.clear();
    this.#inventories.clear();
    this.#next = 1;
    this.#readAt = Number.NEGATIVE_INFINITY;
  }
}

/** Calls `see` with each entry from this revision on, in the order of revisions; a removed one has no value. */
async function scan(
  nats: Nats,
  from: number,
  subject: string | undefined,
  see: (key: string, revision: number, value: string | undefined) => void,
): Promise<void> {
  let next = from;
  let full: boolean;
  do {
    const batch = await batchOf(nats, stream, next, subject);
    ({ full } = batch);
    for (const { subject, seq, header, data } of batch.messages) {
      next = seq + 1;
      see(subject.slice(subjectPrefix.length), seq, isGone(header) ? undefined : Buffer.from(data).toString());
    }
  } while (full);
}
