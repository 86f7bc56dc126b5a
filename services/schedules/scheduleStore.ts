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
  readonly #bucket: Bucket;

  constructor(nats: Nats) {
    this.#bucket = new Bucket(nats, schedulesBucket);
  }

  async find(name: string): Promise<StoredSchedule | undefined> {
    const { entry } = await this.#bucket.get(name);
    return entry && { schedule: parseRecord<Schedule>(entry.value), revision: entry.revision };
  }

  /** All schedules, sorted by name. */
  async list(): Promise<StoredSchedule[]> {
    const found = await this.#bucket.entries('*');
    return found
      .map(({ value, revision }) => ({ schedule: parseRecord<Schedule>(value), revision }))
      .sort((a, b) => (a.schedule.name < b.schedule.name ? -1 : 1));
  }

  /** Whether there are at least this many. Keys are counted first, which takes one request; they include those of deleted schedules. */
  async hasAtLeast(count: number): Promise<boolean> {
    return (await this.#bucket.names('*')).length >= count && (await this.list()).length >= count;
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
