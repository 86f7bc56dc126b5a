/**
 * A key-value bucket with CAS and a TTL per key, read from the stream's leader. The KV client's `update` takes no TTL, and none of its writes a message
 * id (docs/nats.md).
 */
import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import type { MsgRequest, StoredMsg } from '@nats-io/jetstream';
import { headers, type MsgHdrs } from '@nats-io/transport-node';
import type { Nats } from '../connection.ts';
import { isOfNats, isWrongSequence, natsFailure } from '../failures.ts';
import { leasesBucket, operationsBucket } from '../streams.ts';
import { isGone } from './scan.ts';

export interface Entry {
  key: string;
  value: Buffer;
  revision: number;
  /** By the server's clock. */
  written: Date;
  /** After which it expires; undefined if it does not. */
  ttlMs?: number;
}

/** Subjects without which no attempt at a job can continue. */
const vital = [operationsBucket, leasesBucket];
const readsInFlight = 64;
/** A leader election takes some seconds; a person who waits for an answer waits no longer than this. */
const usualPatienceMs = 5000;
const askAgainMs = 200;

export class Bucket {
  readonly name: string;
  readonly #nats: Nats;
  readonly #patienceMs: number;

  /** `patienceMs`: how long to retry while NATS is away or elects a leader. */
  constructor(nats: Nats, name: string, patienceMs = usualPatienceMs) {
    this.#nats = nats;
    this.name = name;
    this.#patienceMs = patienceMs;
  }

  /** Most bytes of a value: half of a message, which also has a subject and headers. */
  get largestValue(): number {
    return Math.floor((this.#nats.connection.info?.max_payload ?? 1024 * 1024) / 2);
  }

  /**
   * Returns the last entry whose key matches (`*` and `>` are wildcards). `revision` is set even if the value is gone, so that `put` can replace it.
   */
  async get(key: string): Promise<{ entry: Entry | undefined; revision: number }> {
    const message = await this.#patiently(`reading ${this.name}`, () => this.#last(key));
    return message ? this.#read(message) : { entry: undefined, revision: 0 };
  }

  /** Returns the first entry of all keys whose revision is `from` or later. `entry` is undefined if that is a deletion. */
  async next(from: number): Promise<{ key: string; entry: Entry | undefined; revision: number } | undefined> {
    // The client's type lacks this question, which NATS answers like the others.
    const question = { seq: from, next_by_subj: this.#subject('>') } as MsgRequest;
    const message = await this.#patiently(`reading ${this.name}`, () =>
      this.#nats.jsm.streams.getMessage(`KV_${this.name}`, question),
    );
    return message ? this.#read(message) : undefined;
  }

  /** Returns the revision of the last write to any key, and the time at which the bucket was created. */
  async last(): Promise<{ revision: number; created: string }> {
    const info = await this.#patiently(`reading ${this.name}`, () => this.#nats.jsm.streams.info(`KV_${this.name}`));
    return { revision: info.state.last_seq, created: info.created };
  }

  #read({ subject, header, data, seq, time }: StoredMsg): {
    key: string;
    entry: Entry | undefined;
    revision: number;
  } {
    const key = subject.slice(this.#subject('').length);
    const seconds = Number.parseInt(header.get('Nats-TTL'), 10);
    const found = {
      ...{ key, value: Buffer.from(data), revision: seq, written: time },
      ...(seconds > 0 && { ttlMs: seconds * 1000 }),
    };
    return { key, entry: isGone(header) ? undefined : found, revision: seq };
  }

  /** Writes if the key's last revision is `expected` (0: never written). Returns the new revision; undefined if the revision differs. */
  async put(
    key: string,
    value: Buffer | string,
    expected: number,
    options: { ttlMs?: number } = {},
  ): Promise<number | undefined> {
    return this.#publish(key, value, expected, options.ttlMs);
  }

  /** Writes if the key is free: never written, removed, or expired. Returns the revision; undefined if the key is taken. */
  async create(key: string, value: Buffer | string, options: { ttlMs?: number } = {}): Promise<number | undefined> {
    const fresh = await this.put(key, value, 0, options);
    if (fresh !== undefined) return fresh;
    const { entry, revision } = await this.get(key);
    return entry ? undefined : this.put(key, value, revision, options);
  }

  /**
   * Removes the key if its revision is `expected`; returns whether it did. Once the marker of that has expired, a nats-server that is killed restores
   * the last value (docs/nats.md). `forGood`: the marker never expires; for keys that must not come back.
   */
  async remove(key: string, expected: number, { forGood = false } = {}): Promise<boolean> {
    const purge = headers();
    purge.set('KV-Operation', 'PURGE');
    purge.set('Nats-Rollup', 'sub');
    return (await this.#publish(key, '', expected, forGood ? undefined : markerTtlMs, purge)) !== undefined;
  }

  /** Returns the matching keys that hold a value. */
  async keys(filter: string): Promise<string[]> {
    return (await this.entries(filter)).map(({ key }) => key);
  }

  /** Returns the matching keys without reading their values: keys that were deleted within the last minute are among them. */
  async names(filter: string): Promise<string[]> {
    const info = await this.#patiently(`reading ${this.name}`, () =>
      this.#nats.jsm.streams.info(`KV_${this.name}`, { subjects_filter: this.#subject(filter) }),
    );
    return Object.keys(info.state.subjects ?? {}).map((subject) => subject.slice(this.#subject('').length));
  }

  /** Returns NATS's clock, in ms: entries are `written` by it, and this host's clock may differ. */
  async clock(): Promise<() => number> {
    const info = await this.#patiently(`reading ${this.name}`, () => this.#nats.jsm.streams.info(`KV_${this.name}`));
    const asked = performance.now();
    // The client's type does not have it.
    const { ts } = info as { ts?: string };
    const then = ts === undefined ? Date.now() : Date.parse(ts);
    return () => then + performance.now() - asked;
  }

  /** Returns the matching entries that hold a value. */
  async entries(filter: string): Promise<Entry[]> {
    const keys = await this.names(filter);
    const found: Entry[] = [];
    for (let from = 0; from < keys.length; from += readsInFlight) {
      const read = await Promise.all(keys.slice(from, from + readsInFlight).map((key) => this.get(key)));
      found.push(...read.flatMap(({ entry }) => entry ?? []));
    }
    return found;
  }

  async #publish(
    key: string,
    value: Buffer | string,
    expected: number,
    ttlMs?: number,
    carried?: MsgHdrs,
  ): Promise<number | undefined> {
    // The message id makes the write idempotent: a repeat after a lost ack is not stored twice.
    const msgID = randomUUID();
    return this.#patiently(`writing ${this.name}`, async (again) => {
      try {
        const { seq } = await this.#nats.js.publish(this.#subject(key), value, {
          msgID,
          expect: { lastSubjectSequence: expected },
          ...(carried && { headers: carried }),
          ...(ttlMs !== undefined && { ttl: `${Math.ceil(ttlMs / 1000)}s` }),
        });
        return seq;
      } catch (error) {
        if (!isWrongSequence(error)) throw error;
        // A single server compares the sequence before the id: our own first try may have stored it.
        const last = again ? await this.#last(key) : undefined;
        return last?.header.get('Nats-Msg-Id') === msgID ? last.seq : undefined;
      }
    });
  }

  /** Asks the stream's leader; another replica may be behind. */
  #last(key: string): Promise<StoredMsg | null> {
    return this.#nats.jsm.streams.getMessage(`KV_${this.name}`, { last_by_subj: this.#subject(key) });
  }

  async #patiently<T>(what: string, ask: (again: boolean) => Promise<T>): Promise<T> {
    const until = performance.now() + this.#patienceMs;
    for (let again = false; ; again = true) {
      try {
        return await this.#nats.whileConnected(() => ask(again));
      } catch (error) {
        const failure = natsFailure(error, what);
        if (vital.includes(this.name) && isOfNats(failure.code)) this.#nats.noteFailure();
        if (failure.code !== 'nats-unavailable' || performance.now() >= until) throw failure;
      }
      await setTimeout(askAgainMs);
    }
  }

  #subject(key: string): string {
    return `$KV.${this.name}.${key}`;
  }
}

const markerTtlMs = 60_000;

/** The record in an entry's value, as it was written. Throws a SyntaxError. */
export function parseRecord<T>(value: Uint8Array): T {
  return JSON.parse(Buffer.from(value).toString()) as T;
}
