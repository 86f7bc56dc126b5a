/** Bandwidth limit: parses a rate or a timetable of rates, and enforces it with a token bucket. */
import { addAbortListener } from 'node:events';
import { setTimeout } from 'node:timers/promises';
import { rateAt, type Timetable } from '../contract/timetable.ts';

/** Time source of the bucket. */
export interface Clock {
  /** Monotonic, in ms. */
  now(): number;
  /** Local wall-clock time. */
  date(): Date;
  sleep(ms: number): Promise<unknown>;
}

const realClock: Clock = { now: () => performance.now(), date: () => new Date(), sleep: (ms) => setTimeout(ms) };

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
  readonly #waiting: { bytes: number; grant(): void; onWait: () => void }[] = [];
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
    using _listener = addAbortListener(signal, () => {
      const at = this.#waiting.indexOf(waiting);
      if (at >= 0) this.#waiting.splice(at, 1);
      reject(signal.reason);
    });
    this.#waiting.push(waiting);
    void this.#grant();
    await promise;
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
