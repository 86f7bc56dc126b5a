/** How bandwidth is written, and that no more goes through. */
import assert from 'node:assert/strict';
import { afterEach, describe, it } from 'node:test';
import fc from 'fast-check';
import { inPieces, paced } from '../../services/archive/pace.ts';
import { Bandwidth, type Clock } from '../../services/concurrency/rateLimit.ts';
import { loadConfig } from '../../services/contract/config.ts';
import { parseBandwidth, rateAt } from '../../services/contract/timetable.ts';
import { noFile } from '../lab/noFile.ts';

const off = Number.POSITIVE_INFINITY;
const mib = 2 ** 20;
const { signal: never } = new AbortController();

/** A clock that runs only while everybody sleeps. */
class Virtual implements Clock {
  #ms = 0;
  readonly #begin: Date;
  readonly #sleepers: { at: number; wake: () => void }[] = [];

  constructor(begin = new Date(2026, 1, 26)) {
    this.#begin = begin;
  }

  now() {
    return this.#ms;
  }

  date() {
    return new Date(this.#begin.getTime() + this.#ms);
  }

  sleep(ms: number) {
    return new Promise<void>((wake) => this.#sleepers.push({ at: this.#ms + ms, wake }));
  }

  /** Until all of these have ended. */
  async run(...all: Promise<unknown>[]): Promise<void> {
    let ended = false;
    const each = Promise.allSettled(all).then(() => {
      ended = true;
    });
    for (;;) {
      await new Promise((resolve) => setImmediate(resolve));
      if (ended) break;
      this.#sleepers.sort((a, b) => a.at - b.at);
      const next = this.#sleepers.shift();
      if (!next) break;
      this.#ms = Math.max(this.#ms, next.at);
      next.wake();
    }
    await each;
    await Promise.all(all);
  }
}

describe('a bandwidth', () => {
  const at = (text: string, date = new Date(2026, 1, 26, 12)) => rateAt(parseBandwidth(text), date);

  it('is written with a unit', () => {
    for (const [text, rate] of [
      ['20MiB', 20 * mib],
      ['20M', 20 * mib],
      ['20MB', 20e6],
      ['512KiB/s', 512 * 1024],
      ['1.5GiB', 1.5 * 2 ** 30],
      ['100kB', 100e3],
      [' 4096B ', 4096],
      ['off', off],
    ] as const)
      assert.equal(at(text), rate, text);
  });

  it('that cannot be meant is refused, and why', () => {
    for (const [text, why] of [
      ['', /"" is neither off nor a rate such as 20MiB; units: B, K, M/],
      ['20', /"20" is neither off nor a rate/],
      ['20Mbit', /"20Mbit" is neither/],
      ['-1MiB', /neither off nor a rate/],
      ['0MiB', /"0MiB" is less than 1KiB a second/],
      ['08:00', /"08:00" is neither off nor a rate/],
      ['08:00,1MiB 24:00,off', /"24:00,off" is not a time and a rate, such as 08:00,512KiB/],
      ['08:00,1MiB 8:60,off', /not a time and a rate/],
      ['08:00,1MiB 08:00,off', /"08:00,off": duplicate time/],
      ['Mon-08:00,1MiB 08:00,off', /duplicate time/],
      ['Funday-08:00,1MiB', /"Funday" is not one of Sun, Mon/],
      ['08:00,fast', /"fast" is neither off nor a rate/],
      ['20MiB off', /"20MiB" is not a time and a rate|is neither off/],
    ] as const)
      assert.throws(() => parseBandwidth(text), { code: 'bad-config', message: why }, text);
    const env = { ...noFile, LXSTOW_S3_ACCESS_KEY: 'a', LXSTOW_S3_SECRET_KEY: 'b', LXSTOW_WORKER_BANDWIDTH: '20' };
    assert.throws(() => loadConfig({ env }), {
      code: 'bad-config',
      message: /worker.bandwidth: "20" is neither off nor a rate/,
    });
    assert.equal(loadConfig({ env: { ...env, LXSTOW_WORKER_BANDWIDTH: '20MiB' } }).worker.bandwidth, '20MiB');
  });

  it('changes at the hours of its timetable; before the first, the last of the day before holds', () => {
    const text = '08:00,512KiB 19:00,10MiB 23:00,off';
    for (const [hour, minute, rate] of [
      [0, 0, off],
      [7, 59, off],
      [8, 0, 512 * 1024],
      [18, 59, 512 * 1024],
      [19, 0, 10 * mib],
      [22, 59, 10 * mib],
      [23, 0, off],
    ] as const)
      assert.equal(at(text, new Date(2026, 1, 26, hour, minute)), rate, `${hour}:${minute}`);
  });

  it('may be another on some days', () => {
    const text = 'Mon-08:00,1MiB Fri-18:30,off';
    // 2026-03-01 is a Sunday.
    assert.equal(at(text, new Date(2026, 2, 1, 12)), off);
    assert.equal(at(text, new Date(2026, 2, 2, 7, 59)), off);
    assert.equal(at(text, new Date(2026, 2, 2, 8)), mib);
    assert.equal(at(text, new Date(2026, 2, 6, 18, 29)), mib);
    assert.equal(at(text, new Date(2026, 2, 6, 18, 30)), off);
  });

  it('is that of the last entry that the week has passed, whatever the timetable', () => {
    const minuteOfWeek = fc.integer({ min: 0, max: 7 * 1440 - 1 });
    fc.assert(
      fc.property(fc.uniqueArray(minuteOfWeek, { minLength: 1, maxLength: 20 }), minuteOfWeek, (times, now) => {
        const names = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'];
        const two = (value: number) => String(value).padStart(2, '0');
        const written = (time: number) =>
          `${names[Math.floor(time / 1440)]}-${two(Math.floor(time / 60) % 24)}:${two(time % 60)}`;
        const text = times.map((time) => `${written(time)},${1024 + time}B`).join(' ');
        let expected = now;
        while (!times.includes(expected)) expected = (expected + 7 * 1440 - 1) % (7 * 1440);
        assert.equal(at(text, new Date(2026, 2, 1, 0, now)), 1024 + expected);
      }),
    );
  });

  describe('where the clocks are changed', () => {
    const before = process.env.TZ;
    afterEach(() => {
      if (before === undefined) delete process.env.TZ;
      else process.env.TZ = before;
    });

    it('an hour that is left out or comes twice neither loses nor repeats an entry', () => {
      process.env.TZ = 'Europe/Berlin';
      const text = '01:00,1MiB 02:30,2MiB 04:00,off';
      for (const [time, rate] of [
        // Spring: 01:59 is followed by 03:00.
        ['2026-03-29T00:59Z', mib],
        ['2026-03-29T01:00Z', 2 * mib],
        ['2026-03-29T02:00Z', off],
        // Autumn: 02:00 to 02:59 come twice.
        ['2026-10-25T00:29Z', mib],
        ['2026-10-25T00:30Z', 2 * mib],
        ['2026-10-25T01:29Z', mib],
        ['2026-10-25T01:30Z', 2 * mib],
        ['2026-10-25T03:00Z', off],
      ] as const)
        assert.equal(at(text, new Date(time)), rate, time);
    });
  });
});

describe('what is read', () => {
  const use = fc.record({ bytes: fc.integer({ min: 1, max: 8 * mib }), idleMs: fc.constantFrom(0, 0, 0, 1, 40, 3000) });
  const slots = fc.array(fc.array(use, { maxLength: 8 }), { minLength: 1, maxLength: 4 });
  const rates = fc.integer({ min: 1024, max: 2 ** 31 });

  it('is never more than rate × time + one burst, over all slots', async () => {
    await fc.assert(
      fc.asyncProperty(slots, rates, async (all, rate) => {
        const clock = new Virtual();
        const bandwidth = new Bandwidth(parseBandwidth(`${rate}B`), clock);
        const burst = bandwidth.piece;
        const taken: { at: number; bytes: number }[] = [];
        const slot = async (uses: typeof all extends (infer U)[] ? U : never) => {
          for (const { bytes, idleMs } of uses) {
            if (idleMs > 0) await clock.sleep(idleMs);
            const size = Math.min(bytes, burst);
            await bandwidth.take(size, { signal: never });
            taken.push({ at: clock.now(), bytes: size });
          }
        };
        await clock.run(...all.map(slot));
        assert.equal(taken.length, all.flat().length);
        for (let from = 0; from < taken.length; from++) {
          let sum = 0;
          for (let to = from; to < taken.length; to++) {
            sum += taken[to]?.bytes ?? 0;
            const elapsed = (taken[to]?.at ?? 0) - (taken[from]?.at ?? 0);
            assert.ok(sum <= (rate * elapsed) / 1000 + burst + 1, `${sum} bytes in ${elapsed} ms, burst ${burst}`);
          }
        }
      }),
    );
  });

  it('is as much as the rate allows, when there is always somebody who wants it', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 4 }), rates, async (count, rate) => {
        const clock = new Virtual();
        const bandwidth = new Bandwidth(parseBandwidth(`${rate}B`), clock);
        const [each, size] = [10, bandwidth.piece];
        const slot = async () => {
          for (let i = 0; i < each; i++) await bandwidth.take(size, { signal: never });
        };
        await clock.run(...Array.from({ length: count }, slot));
        const dueMs = ((count * each - 1) * size * 1000) / rate;
        assert.ok(clock.now() <= dueMs + count * each + 250, `${clock.now()} ms, not ${dueMs}`);
      }),
    );
  });

  it('is had in turn: no slot is passed over', async () => {
    const clock = new Virtual();
    const bandwidth = new Bandwidth(parseBandwidth('1MiB'), clock);
    const order: string[] = [];
    const slot = async (name: string) => {
      for (let i = 0; i < 5; i++) {
        await bandwidth.take(bandwidth.piece, { signal: never });
        order.push(name);
      }
    };
    await clock.run(slot('a'), slot('b'), slot('c'));
    assert.match(order.join(''), /^a?(?:abc|bca|cab){4}/);
  });

  it('is not held back while the limit is off, and is from the minute on at which it begins', async () => {
    const clock = new Virtual(new Date(2026, 1, 26, 7, 59));
    const bandwidth = new Bandwidth(parseBandwidth('08:00,1MiB 19:00,off'), clock);
    for (let i = 0; i < 1000; i++) await bandwidth.take(64 * mib, { signal: never });
    assert.equal(clock.now(), 0);
    assert.equal(bandwidth.piece, off);
    const hours = async () => {
      await clock.sleep(61_000);
      for (let i = 0; i < 40; i++) await bandwidth.take(bandwidth.piece, { signal: never });
    };
    await clock.run(hours());
    assert.ok(clock.now() >= 61_000 + 39 * 250 - 1, String(clock.now()));
  });

  it('that waits is told so, goes at once when it is aborted, and leaves its turn to the next', async () => {
    const clock = new Virtual();
    const bandwidth = new Bandwidth(parseBandwidth('64KiB'), clock);
    await bandwidth.take(bandwidth.piece, { signal: never });
    const stopped = new AbortController();
    let told = 0;
    const first = bandwidth.take(bandwidth.piece, { signal: stopped.signal, onWait: () => told++ });
    const second = bandwidth.take(bandwidth.piece, { signal: never });
    const stop = async () => {
      await clock.sleep(600);
      const at = clock.now();
      stopped.abort(new Error('stopped'));
      await assert.rejects(first, /stopped/);
      assert.equal(clock.now(), at);
    };
    await clock.run(stop(), second);
    assert.ok(told >= 2, String(told));
    assert.ok(clock.now() <= 1250, String(clock.now()));
    await assert.rejects(bandwidth.take(1, { signal: stopped.signal }), /stopped/);
  });

  it('comes in pieces of one burst, and all of it', async () => {
    const clock = new Virtual();
    const bandwidth = new Bandwidth(parseBandwidth('1MiB'), clock);
    const into = Buffer.alloc(3 * mib + 17);
    const pieces: number[] = [];
    const filling = inPieces(bandwidth, into, { signal: never }, async (piece, at) => {
      pieces.push(piece.length);
      piece.fill(at / (256 * 1024) + 1);
      return piece.length;
    });
    await clock.run(filling);
    assert.equal(await filling, into.length);
    assert.deepEqual(new Set(pieces), new Set([256 * 1024, 17]));
    assert.ok(!into.includes(0));
    const ended = inPieces(bandwidth, into, { signal: never }, async (_, at) => (at === 0 ? 256 * 1024 : 5));
    await clock.run(ended);
    assert.equal(await ended, 256 * 1024 + 5);
  });

  it('is not taken for idle while it may not be read', async () => {
    const clock = new Virtual();
    const bandwidth = new Bandwidth(parseBandwidth('1KiB'), clock);
    const source = paced({ fill: async (buffer) => buffer.length, destroy: () => undefined }, bandwidth);
    const [told, into] = [[0], Buffer.alloc(192 * 1024)];
    const filling = source.fill(into, { signal: never, onBytes: () => told.push(clock.now()) });
    await clock.run(filling);
    assert.equal(await filling, into.length);
    assert.ok(clock.now() >= 120_000, String(clock.now()));
    assert.ok(
      told.every((at, index) => at - (told[index - 1] ?? 0) <= 250),
      'a silence of more than 250 ms',
    );
  });
});
