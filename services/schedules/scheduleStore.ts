/** Schedules in their bucket. */

import type { Schedule } from '../contract/schemas.ts';
import { Bucket, parseRecord } from '../nats/bucket/bucket.ts';
import type { Nats } from '../nats/connection.ts';
import { schedulesBucket } from '../nats/streams.ts';

export interface StoredSchedule {
  schedule: Schedule;
  revision: number;
}

export class ScheduleStore {
  readonly #nats: Pick<Nats, 'servesSince'>;
  readonly #bucket: Bucket;
  /** The schedules that lists have read so far, by name. */
  readonly #known = new Map<string, StoredSchedule>();
  /** The revisions before this one have been read; 0: none has. */
  #next = 0;
  #created = '';
  #servesSince = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | undefined;

  constructor(nats: Nats) {
    this.#nats = nats;
    this.#bucket = new Bucket(nats, schedulesBucket);
  }

  async find(name: string): Promise<StoredSchedule | undefined> {
    const { entry } = await this.#bucket.get(name);
    return entry && { schedule: parseRecord<Schedule>(entry.value), revision: entry.revision };
  }

  /**
   * All schedules, sorted by name, as of some moment after the call. Reads only what has changed since the last list: markers of deleted schedules stay for ever, and
   * there may be many.
   */
  async list(): Promise<StoredSchedule[]> {
    // A read that is under way may have begun before the change that the caller wants to see.
    await this.#reading?.catch(() => undefined);
    this.#reading ??= this.#read().finally(() => {
      this.#reading = undefined;
    });
    await this.#reading;
    return [...this.#known.values()].sort((a, b) => (a.schedule.name < b.schedule.name ? -1 : 1));
  }

  async #read(): Promise<void> {
    const { servesSince } = this.#nats;
    const { revision: last, created } = await this.#bucket.last();
    // After a crash of NATS, revisions that it had lost may have been given again.
    const isOther = created !== this.#created || last + 1 < this.#next || servesSince !== this.#servesSince;
    if (this.#next === 0 || isOther) {
      const entries = await this.#bucket.entries('*');
      this.#known.clear();
      for (const { key, value, revision } of entries) this.#know(key, value, revision);
      this.#created = created;
      this.#servesSince = servesSince;
      this.#next = last + 1;
      return;
    }
    while (this.#next <= last) {
      const found = await this.#bucket.next(this.#next);
      if (found?.entry) this.#know(found.key, found.entry.value, found.revision);
      else if (found) this.#known.delete(found.key);
      this.#next = (found?.revision ?? last) + 1;
    }
  }

  #know(key: string, value: Uint8Array, revision: number): void {
    this.#known.set(key, { schedule: parseRecord<Schedule>(value), revision });
  }

  /** Whether there are at least this many. */
  async hasAtLeast(count: number): Promise<boolean> {
    return (await this.list()).length >= count;
  }

  /** Returns its revision; undefined when there is one of this name. */
  create(schedule: Schedule): Promise<number | undefined> {
    return this.#bucket.create(schedule.name, JSON.stringify(schedule));
  }

  /** Replaces this revision of the schedule; undefined if it has changed in the meantime. */
  update(schedule: Schedule, revision: number): Promise<number | undefined> {
    return this.#bucket.put(schedule.name, JSON.stringify(schedule), revision);
  }

  /** Removes the schedule; false if it has changed in the meantime. */
  async remove({ schedule, revision }: StoredSchedule): Promise<boolean> {
    return this.#bucket.remove(schedule.name, revision, { forGood: true });
  }
}
