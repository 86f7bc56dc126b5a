/** How many bytes a second may be read: a rate or a timetable of rates as people write it, and the token bucket that heeds it. */
import { setTimeout } from 'node:timers/promises';
import { LxstowError } from './errors.ts';

/** From this minute of the week on (Sunday 00:00 is 0), so many bytes a second; Infinity: as many as there are. */
interface Entry {
  from: number;
  rate: number;
}

/** In the order of the week. */
export type Timetable = Entry[];

const days = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'];
const minutesADay = 24 * 60;
/** As rclone and LXD have them: K and KiB are 1024, kB is 1000. */
const units: Record<string, number> = {
  B: 1,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  kB: 1e3,
  MB: 1e6,
  GB: 1e9,
};

/**
 * Reads `20MiB`, `off`, or a timetable like rclone's: `08:00,512KiB 19:00,10MiB 23:00,off`, where a time may have a day: `Sat-08:00,off`.
 * Throws bad-config, which says what is wrong.
 */
export function parseBandwidth(text: string): Timetable {
  const words = text.trim().split(/\s+/);
  if (words.length === 1 && !text.includes(',')) return [{ from: 0, rate: parseRate(text.trim()) }];
  const entries = new Map<number, number>();
  for (const word of words) {
    const [, day, hour, minute, rate] = /^(?:(\w+)-)?(\d\d?):(\d\d),(.+)$/.exec(word) ?? [];
    const on = day === undefined ? days.keys() : [days.findIndex((name) => name.toLowerCase() === day.toLowerCase())];
    const time = Number(hour) * 60 + Number(minute);
    if (rate === undefined || Number(hour) > 23 || Number(minute) > 59)
      throw wrong(`${JSON.stringify(word)} is not like 08:00,512KiB`);
    for (const index of on) {
      if (index < 0) throw wrong(`${JSON.stringify(day)} is none of ${days.join(', ')}`);
      const from = index * minutesADay + time;
      if (entries.has(from)) throw wrong(`${JSON.stringify(word)}: that time is there twice`);
      entries.set(from, parseRate(rate));
    }
  }
  return [...entries].map(([from, rate]) => ({ from, rate })).sort((a, b) => a.from - b.from);
}

function parseRate(text: string): number {
  if (text === 'off') return Number.POSITIVE_INFINITY;
  const [, amount, unit = ''] = /^(\d+(?:\.\d+)?)([A-Za-z]+)(?:\/s)?$/.exec(text) ?? [];
  const factor = units[unit];
  const rate = Number(amount) * (factor ?? Number.NaN);
  if (Number.isNaN(rate))
    throw wrong(`${JSON.stringify(text)} is not like 20MiB: ${Object.keys(units).join(', ')}, or off`);
  if (rate < leastRate) throw wrong(`${JSON.stringify(text)} is less than ${leastRate / 1024}KiB a second`);
  return rate;
}

/** With less, a backup would not end before what it is made for. */
const leastRate = 1024;

function wrong(why: string): LxstowError {
  return new LxstowError('bad-config', `configuration: worker.bandwidth: ${why}`);
}

/** Bytes a second at this time, as the clock on the wall here has it: the change to summer time moves it like anything else of the day. */
export function rateAt(timetable: Timetable, time: Date): number {
  const minute = time.getDay() * minutesADay + time.getHours() * 60 + time.getMinutes();
  const entry = timetable.findLast(({ from }) => from <= minute) ?? timetable.at(-1);
  return entry?.rate ?? Number.POSITIVE_INFINITY;
}

/** Time, as the bucket sees it. */
export interface Clock {
  /** Monotonic, in ms. */
  now(): number;
  /** What people call it here. */
  date(): Date;
  sleep(ms: number): Promise<unknown>;
}

const realClock: Clock = { now: () => performance.now(), date: () => new Date(), sleep: (ms) => setTimeout(ms) };

interface Waiting {
  bytes: number;
  grant(): void;
  onWait: () => void;
}

export interface TakeOptions {
  signal: AbortSignal;
  /** Told several times a second while it takes long. */
  onWait?: () => void;
}

/** A second's share that may be had at once, within bounds. */
const burstSeconds = 0.25;
const [leastBurst, mostBurst] = [64 * 2 ** 10, 4 * 2 ** 20];
/** So often those who wait are told, and the timetable is looked at. */
const stepMs = 250;

/** What all slots of a worker share. In any stretch of time no more goes through than the rate allows in it, and one burst. */
export class Bandwidth {
  readonly #timetable: Timetable;
  readonly #clock: Clock;
  readonly #waiting: Waiting[] = [];
  #tokens: number;
  #filledAt: number;
  #granting = false;

  constructor(timetable: Timetable, clock: Clock = realClock) {
    this.#timetable = timetable;
    this.#clock = clock;
    this.#tokens = this.piece;
    this.#filledAt = clock.now();
  }

  /** The most bytes that should be taken at once now: Infinity where there is no limit. */
  get piece(): number {
    return burstOf(this.#rate());
  }

  /** Resolves when so many bytes may be read, first come, first served. Rejects at once with the signal's reason. */
  async take(bytes: number, { signal, onWait = () => undefined }: TakeOptions): Promise<void> {
    signal.throwIfAborted();
    if (this.#waiting.length === 0 && this.#spend(bytes)) return;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const waiting = { bytes, grant: resolve, onWait };
    const abort = () => {
      const at = this.#waiting.indexOf(waiting);
      if (at >= 0) this.#waiting.splice(at, 1);
      reject(signal.reason);
    };
    signal.addEventListener('abort', abort, { once: true });
    this.#waiting.push(waiting);
    void this.#grant();
    try {
      await promise;
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }

  /** Serves who waits, until nobody does. */
  async #grant(): Promise<void> {
    if (this.#granting) return;
    this.#granting = true;
    while (this.#waiting.length > 0) {
      const [first] = this.#waiting;
      if (first && this.#spend(first.bytes)) {
        this.#waiting.shift();
        first.grant();
        continue;
      }
      await this.#clock.sleep(Math.min(stepMs, this.#msUntil(first?.bytes ?? 0)));
      for (const { onWait } of this.#waiting) onWait();
    }
    this.#granting = false;
  }

  /** Takes the bytes' tokens, if they are there. A piece that is larger than a burst is paid for afterwards. */
  #spend(bytes: number): boolean {
    const now = this.#clock.now();
    const rate = this.#rate();
    const burst = burstOf(rate);
    const elapsed = now - this.#filledAt;
    // No time at an infinite rate would be no number.
    const earned = elapsed > 0 ? (rate * elapsed) / 1000 : 0;
    this.#tokens = Math.min(burst, this.#tokens + earned);
    this.#filledAt = now;
    if (rate === Number.POSITIVE_INFINITY) return true;
    if (this.#tokens < Math.min(bytes, burst)) return false;
    this.#tokens -= bytes;
    return true;
  }

  #msUntil(bytes: number): number {
    const rate = this.#rate();
    return Math.max(1, Math.ceil(((Math.min(bytes, burstOf(rate)) - this.#tokens) / rate) * 1000));
  }

  #rate(): number {
    return rateAt(this.#timetable, this.#clock.date());
  }
}

function burstOf(rate: number): number {
  if (rate === Number.POSITIVE_INFINITY) return rate;
  return Math.min(mostBurst, Math.max(leastBurst, Math.floor(rate * burstSeconds)));
}
