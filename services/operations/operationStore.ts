/** The operations' bucket. Every change is a compare-and-set. */
import type { KvEntry } from '@nats-io/kv';
import { LxstowError } from '../contract/errors.ts';
import type { Operation, OperationMetadata } from '../contract/schemas.ts';
import { Bucket, type Entry } from '../nats/bucket/bucket.ts';
import { Feed, type Followed } from '../nats/bucket/feed.ts';
import { type ScanOptions, scan } from '../nats/bucket/scan.ts';
import { has, isObject, isText, validRecord } from '../nats/bucket/validRecord.ts';
import { watchBucket } from '../nats/bucket/watchBucket.ts';
import { operationKey } from '../nats/bucketKeys.ts';
import type { Nats } from '../nats/connection.ts';
import { operationsBucket } from '../nats/streams.ts';
import { progressSubject } from '../nats/subjects.ts';
import type { Log } from '../telemetry/logger.ts';
import { isFinal } from './operation.ts';
import { progressOf } from './operationProgress.ts';

export interface Stored {
  operation: Operation;
  revision: number;
}

/** Operations that are read at a time. */
const batchLength = 1000;

/** What lists of operations rely on. */
const isOperation = has({
  ...{ id: isText, kind: isText, remote: isText, project: isText, instance: isText, status: isText },
  ...{ created_at: isText, updated_at: isText, metadata: isObject },
});

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

  /** Writes a new operation; undefined if its id already exists. */
  async create(operation: Operation): Promise<Stored | undefined> {
    const ttl = isFinal(operation) ? { ttlMs: this.#keptMs } : {};
    const revision = await this.#bucket.put(keyOf(operation), JSON.stringify(operation), 0, ttl);
    return revision === undefined ? undefined : { operation, revision };
  }

  /** Writes `operation` over the revision that it was made from; undefined when that is no longer the last. */
  async update(operation: Operation, revision: number): Promise<Stored | undefined> {
    const ttl = isFinal(operation) ? { ttlMs: this.#keptMs } : {};
    const next = await this.#bucket.put(keyOf(operation), JSON.stringify(operation), revision, ttl);
    return next === undefined ? undefined : { operation, revision: next };
  }

  /**
   * Publishes the progress of a running operation. Returns false if a record must be written instead: the connection was lost since the last record, which would look as
   * if the attempt had ended with it.
   */
  publishProgress(operation: Operation, metadata: OperationMetadata): boolean {
    const { id, remote, updated_at } = operation;
    if (!this.#nats.connected || Date.parse(updated_at) < this.#nats.servesSince) return false;
    const progress = progressOf(operation, metadata, new Date());
    this.#nats.connection.publish(progressSubject(remote, id), JSON.stringify(progress));
    return true;
  }

  /** Finds the operation with this id on a remote. */
  async find(id: string, remote: string): Promise<Stored | undefined> {
    const { entry } = await this.#bucket.get(operationKey(remote, id));
    return entry && this.#storedIn(entry);
  }

  /**
   * Finds the operation with this id on any remote. Publishers choose ids, so several remotes may have operations of one id: returns the first one among
   * those that `wants` accepts, because an id can be copied only once its operation exists. Records that are not valid are left out.
   */
  async findAnywhere(id: string, wants: (operation: Operation) => boolean): Promise<Stored | undefined> {
    const entries = await this.#bucket.entries(operationKey('*', id));
    const wanted = entries.flatMap(({ key, value, revision }) => {
      const operation = this.#readOperation(key, value);
      return operation && wants(operation) ? [{ operation, revision }] : [];
    });
    return wanted.sort((a, b) => Date.parse(a.operation.created_at) - Date.parse(b.operation.created_at))[0];
  }

  /** All operations of a remote, by default of all: unfinished and finished. */
  async list(remote = '*'): Promise<Operation[]> {
    const operations = new Map<string, Operation>();
    for await (const batch of this.batches(remote))
      for (const { operation } of batch) operations.set(keyOf(operation), operation);
    return [...operations.values()];
  }

  /** The same in batches, those with the oldest last change first. An operation that changes in the meantime comes again, in its new state; none is missed. */
  async *batches(remote = '*'): AsyncGenerator<Stored[]> {
    for (let next = 1, full = true; full; ) {
      const batch: Stored[] = [];
      let seen = 0;
      const keys = remote !== '*' && { keys: `${remote}.*` };
      await this.#scan({ from: next, atOnce: batchLength, ...keys }, (found, revision) => {
        next = revision + 1;
        if (found) batch.push(found);
        return ++seen < batchLength;
      });
      full = seen === batchLength;
      yield batch;
    }
  }

  /**
   * A page of the matching operations, those with the latest change first: `limit` of them, changed before the revision `before`. An operation that changes between
   * two pages is on neither; it moves to the first page. `next` is the `before` of the next page.
   */
  async page(
    wanted: (operation: Operation) => boolean,
    { limit, before = Number.POSITIVE_INFINITY }: { limit: number; before?: number | undefined },
  ): Promise<{ operations: Operation[]; next?: number }> {
    const { first, last, length } = await this.#extent();
    const found = new Map<string, Stored>();
    let end = Math.min(before, last + 1);
    // Revisions have gaps, where an operation has changed since.
    let width = Math.ceil(((limit + 1) * (last - first + 1)) / Math.max(1, length));
    for (let upTo = before; end > first && found.size <= limit; upTo = end) {
      const from = Math.max(first, end - width);
      const part: Stored[] = [];
      await this.#scan({ from, atOnce: Math.min(end - from, batchLength) }, (each, revision) => {
        if (revision >= upTo) return false;
        if (each && wanted(each.operation) && !found.has(keyOf(each.operation))) part.push(each);
        return true;
      });
      for (const each of part.reverse()) if (!found.has(keyOf(each.operation))) found.set(keyOf(each.operation), each);
      end = from;
      width *= 2;
    }
    const page = [...found.values()].slice(0, limit);
    const more = found.size > limit ? page.at(-1)?.revision : undefined;
    return { operations: page.map(({ operation }) => operation), ...(more !== undefined && { next: more }) };
  }

  /** The first and last sequence of the bucket's stream, and the number of messages in between. */
  async #extent(): Promise<{ first: number; last: number; length: number }> {
    const ask = () => this.#nats.jsm.streams.info(`KV_${operationsBucket}`);
    const { state } = await this.#nats.ask('listing operations', ask);
    // A stream that never had a message reports 0, which is not a valid sequence.
    return { first: Math.max(1, state.first_seq), last: state.last_seq, length: state.messages };
  }

  /** Calls `see` with each operation until it returns false; with undefined for one that is gone or cannot be read. */
  #scan(options: ScanOptions, see: (found: Stored | undefined, revision: number) => boolean): Promise<void> {
    const each = (key: string, revision: number, value: Uint8Array | undefined) => {
      const operation = value && this.#readOperation(key, value);
      return see(operation && { operation, revision }, revision);
    };
    return this.#nats.ask('listing operations', () => scan(this.#nats, operationsBucket, each, options));
  }

  /**
   * Undefined for a record that is not valid: it must not hide the others. NATS lets a worker write only keys of its own host, so a record that names another
   * host is not valid either.
   */
  #readOperation(key: string, data: Uint8Array): Operation | undefined {
    const operation = validRecord<Operation>(data, (value) => isOperation(value) && keyOf(value as Operation) === key);
    const subject = `$KV.${operationsBucket}.${key}`;
    if (!operation) this.#nats.log.error('a record of an operation cannot be read', { subject });
    return operation;
  }

  /** Throws if the record is not valid: its operation may be unfinished. */
  #storedIn({ key, value, revision }: Entry): Stored {
    const operation = this.#readOperation(key, value);
    if (!operation) throw new LxstowError('internal', `the record of operation ${key} cannot be read`);
    return { operation, revision };
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
    const each = ({ key, value }: KvEntry) => {
      const operation = this.#readOperation(key, value);
      if (operation) see(operation);
    };
    return watchBucket(this.#nats, operationsBucket, '>', each, signal, onTrouble);
  }

  /** A feed of all operations by their keys (`operationKey`), until the signal aborts. */
  feed(log: Log, signal: AbortSignal): Promise<Feed<Operation>> {
    const followed: Followed<Operation> = {
      what: 'operations',
      find: async (key) => {
        const { entry } = await this.#bucket.get(key);
        return entry && this.#storedIn(entry).operation;
      },
      watch: (...options) => this.watch(...options),
      idOf: keyOf,
      hasEnded: isFinal,
    };
    return Feed.open(followed, log, signal);
  }
}

/** The key of its record. */
export function keyOf({ remote, id }: Pick<Operation, 'remote' | 'id'>): string {
  return operationKey(remote, id);
}
