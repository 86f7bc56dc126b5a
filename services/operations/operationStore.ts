/** The operations' bucket. Every change is a compare-and-set. */
import type { KvEntry } from '@nats-io/kv';
import type { Operation } from '../contract/schemas.ts';
import { Bucket, parseRecord } from '../nats/bucket.ts';
import { operationKey } from '../nats/bucketKeys.ts';
import type { Nats } from '../nats/connection.ts';
import { natsFailure } from '../nats/failures.ts';
import { Feed, type Followed } from '../nats/feed.ts';
import { scan } from '../nats/scan.ts';
import { operationsBucket } from '../nats/streams.ts';
import { watchBucket } from '../nats/watchBucket.ts';
import type { Log } from '../telemetry/logger.ts';
import { isFinal } from './operation.ts';

export interface Stored {
  operation: Operation;
  revision: number;
}

export class OperationStore {
  readonly #nats: Nats;
  readonly #bucket: Bucket;
  readonly #keptMs: number;

  /** `keptHours`: how long a finished operation is kept. `patienceMs`: see Bucket. */
  constructor(nats: Nats, keptHours: number, patienceMs?: number) {
    this.#nats = nats;
    this.#bucket = new Bucket(nats, operationsBucket, patienceMs);
    this.#keptMs = keptHours * 3_600_000;
  }

  /** Writes a new operation; undefined when its id already exists. */
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

  /** Writes `operation` over the revision that it was made from; undefined when that is no longer the last. */
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

  /** Finds the operation with this id, by default on any remote. */
  async find(id: string, remote = '*'): Promise<Stored | undefined> {
    const { entry } = await this.#bucket.get(operationKey(remote, id));
    return entry && { operation: parseRecord<Operation>(entry.value), revision: entry.revision };
  }

  /** All operations in the bucket, unfinished and finished. */
  async list(): Promise<Operation[]> {
    this.#nats.assertConnected();
    try {
      const operations = new Map<string, Operation>();
      await scan(this.#nats, operationsBucket, (key, _, value) => {
        if (!value) return void operations.delete(key);
        const operation = this.#readOperation(key, value);
        if (operation) operations.set(key, operation);
      });
      return [...operations.values()];
    } catch (error) {
      throw natsFailure(error, 'listing operations');
    }
  }

  /** Undefined for a record that is none: it must not hide the others. */
  #readOperation(key: string, data: Uint8Array): Operation | undefined {
    try {
      return parseRecord<Operation>(data);
    } catch (error) {
      this.#nats.log.error('a record of an operation cannot be read', {
        subject: `$KV.${operationsBucket}.${key}`,
        error,
      });
      return undefined;
    }
  }

  /**
   * Calls `see` with each change from now on, once each and in the order of writing, until the signal aborts. NATS keeps only the last state
   * of an operation, so a state that is overwritten before NATS sends it is skipped. Resolves once the watch is open. A watch that breaks
   * resumes where it broke off; `onTrouble` gets the error.
   */
  async watch(
    see: (operation: Operation) => void,
    signal: AbortSignal,
    onTrouble: (error: unknown) => void,
  ): Promise<void> {
    const each = (entry: KvEntry) => see(entry.json<Operation>());
    return watchBucket(this.#nats, operationsBucket, '>', each, signal, onTrouble);
  }

  /** A feed of all operations, until the signal aborts. */
  feed(log: Log, signal: AbortSignal): Promise<Feed<Operation>> {
    const followed: Followed<Operation> = {
      what: 'operations',
      find: async (id) => (await this.find(id))?.operation,
      watch: (...options) => this.watch(...options),
      idOf: ({ id }) => id,
      hasEnded: isFinal,
    };
    return Feed.open(followed, log, signal);
  }
}
