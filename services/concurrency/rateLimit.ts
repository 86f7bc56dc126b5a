/** Bandwidth limit: parses a rate or a timetable of rates, and enforces it with a token bucket. */
import { setTimeout } from 'node:timers/promises';
import { LxstowError } from '../contract/errors.ts';

/** From this minute of the week on (Sunday 00:00 is 0): bytes a second; Infinity is no limit. */
interface Entry {
  from: number;
  rate: number;
}

/** In the order of the week. */
export type Timetable = Entry[];

const days = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'];
const minutesADay = 24 * 60;
/** As in rclone and LXD: K and KiB are 1024, kB is 1000. */
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
 * Parses `20MiB`, `off`, or a timetable like rclone's: `08:00,512KiB 19:00,10MiB 23:00,off`, where a time may have a day: `Sat-08:00,off`. Throws
 * bad-config, naming the fault.
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

/** With less, no backup would end in useful time. */
const leastRate = 1024;

function wrong(why: string): LxstowError {
  return new LxstowError('bad-config', `configuration: worker.bandwidth: ${why}`);
}

/** Bytes a second at this local time; daylight saving time shifts the timetable with the clock. */
export function rateAt(timetable: Timetable, time: Date): number {
  const minute = time.getDay() * minutesADay + time.getHours() * 60 + time.getMinutes();
  const entry = timetable.findLast(({ from }) => from <= minute) ?? timetable.at(-1);
  return entry?.rate ?? Number.POSITIVE_INFINITY;
}

/** Time source of the bucket. */
export interface Clock {
  /** Monotonic, in ms. */
  now(): number;
  /** Local wall-clock time. */
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
  /** Called several times a second while the caller waits. */
  onWait?: () => void;
}

/** The burst: this share of a second's bytes, within the bounds below. */
const burstSeconds = 0.25;
const [leastBurst, mostBurst] = [64 * 2 ** 10, 4 * 2 ** 20];
/** How often waiters are called back, and the timetable is read again. */
const stepMs = 250;

/** Token bucket that all slots of a worker share. Over any period it grants at most the rate times the period, plus one burst. */
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

  /** The most bytes to take at once now: Infinity without a limit. */
  get piece(): number {
    return burstOf(this.#rate());
  }

  /** Resolves when this many bytes may be read, first come, first served. Rejects with the signal's reason as soon as it aborts. */
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

  /** Serves the waiters until none is left. */
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

  /** Takes the tokens if there are enough. A piece larger than a burst leaves a debt. */
  #spend(bytes: number): boolean {
    const now = this.#clock.now();
    const rate = this.#rate();
    const burst = burstOf(rate);
    const elapsed = now - this.#filledAt;
    // Infinity * 0 is NaN.
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
