/** Operations in their bucket: every change is a compare-and-set. */
import type { StoredMsg } from '@nats-io/jetstream';
import type { KvEntry } from '@nats-io/kv';
import type { Operation } from '../contract.ts';
import { Bucket } from '../queue/bucket.ts';
import { type Nats, natsFailure } from '../queue/connection.ts';
import { operationKey, operationsBucket } from '../queue/topology.ts';
import { watchBucket } from '../queue/watch.ts';
import { isFinal } from './operation.ts';

/** Entries of a listing come within milliseconds of each other. */
const stalledMs = 5000;
const batchSize = 1000;

export interface Stored {
  operation: Operation;
  revision: number;
}

export class OperationStore {
  readonly #nats: Nats;
  readonly #bucket: Bucket;
  readonly #keptMs: number;

  /** `keptHours`: how long a finished operation stays. `patienceMs`: see Bucket. */
  constructor(nats: Nats, keptHours: number, patienceMs?: number) {
    this.#nats = nats;
    this.#bucket = new Bucket(nats, operationsBucket, patienceMs);
    this.#keptMs = keptHours * 3_600_000;
  }

  /** Writes a new operation; undefined when there is one of this id already. */
  async create(operation: Operation): Promise<Stored | undefined> {
    const ttl = isFinal(operation) ? { ttlMs: this.#keptMs } : {};
    const revision = await this.#bucket.put(
      operationKey(operation.remote, operation.id),
      JSON.stringify(operation),
      0,
      ttl,
    );
    return revision === undefined ? undefined : { operation, revision };
  }

  /** Writes `operation` over the revision that it was made from; undefined when that has changed meanwhile. */
  async update(operation: Operation, revision: number): Promise<Stored | undefined> {
    const ttl = isFinal(operation) ? { ttlMs: this.#keptMs } : {};
    const next = await this.#bucket.put(
      operationKey(operation.remote, operation.id),
      JSON.stringify(operation),
      revision,
      ttl,
    );
    return next === undefined ? undefined : { operation, revision: next };
  }

  /** The operation of this id, on whichever remote. */
  async find(id: string, remote = '*'): Promise<Stored | undefined> {
    const { entry } = await this.#bucket.get(operationKey(remote, id));
    return entry && { operation: JSON.parse(entry.value.toString()) as Operation, revision: entry.revision };
  }

  /** All that are kept, unfinished and finished. */
  async list(): Promise<Operation[]> {
    this.#nats.assertConnected();
    try {
      // By subject: one that changes meanwhile comes once more, behind. A KV watch would miss it now and then.
      const operations = new Map<string, Operation>();
      let next = 1;
      let batch: StoredMsg[];
      do {
        batch = await this.#readFrom(next);
        for (const { subject, seq, header, data } of batch) {
          next = seq + 1;
          const gone = header.has('KV-Operation') || header.has('Nats-Marker-Reason');
          if (gone) operations.delete(subject);
          else operations.set(subject, JSON.parse(Buffer.from(data).toString()) as Operation);
        }
        // One that is not full came to the end: at that moment nothing was missing.
      } while (batch.length === batchSize);
      return [...operations.values()];
    } catch (error) {
      throw natsFailure(error, 'listing operations');
    }
  }

  /** The entries from this revision on, in their order, `batchSize` at most. */
  async #readFrom(seq: number): Promise<StoredMsg[]> {
    const { promise, resolve, reject } = Promise.withResolvers<StoredMsg[]>();
    const entries: StoredMsg[] = [];
    // Its iterator would keep the subscription; with a callback it ends it.
    const batch = await this.#nats.jsm.direct.getBatch(`KV_${operationsBucket}`, {
      seq,
      batch: batchSize,
      callback: (done, entry) => {
        stalled.refresh();
        if (!done) entries.push(entry);
        else if (done.err && !isNothingThere(done.err)) reject(done.err);
        else resolve(entries);
      },
    });
    const stalled = setTimeout(() => batch.stop(new Error(`no answer in ${stalledMs} ms`)), stalledMs);
    try {
      return await promise;
    } finally {
      clearTimeout(stalled);
    }
  }

  /** Calls `see` with each change from now on: see watchBucket. */
  async watch(
    see: (operation: Operation) => void,
    signal: AbortSignal,
    onTrouble: (error: unknown) => void,
  ): Promise<void> {
    const each = (entry: KvEntry) => see(entry.json<Operation>());
    return watchBucket(this.#nats, operationsBucket, '>', each, signal, onTrouble);
  }
}

function isNothingThere(error: Error): boolean {
  return error.name === 'JetStreamStatusError' && 'code' in error && error.code === 404;
}
