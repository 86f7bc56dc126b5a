/** When schedules are due: cron's rules, and what clocks do to them in every time zone. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { JetStreamPublishOptions } from '@nats-io/jetstream';
import { headers, type MsgHdrs } from '@nats-io/transport-node';
import fc from 'fast-check';
import { Temporal } from 'temporal-polyfill';
import type { Requestor, Schedule, ScheduleBody } from '../../services/contract/schemas.ts';
import { checkSchedule, showSchedule } from '../../services/gateway/runs/scheduleView.ts';
import type { Nats } from '../../services/nats/connection.ts';
import { type Candidate, judge } from '../../services/retention/keep.ts';
import { lastSlot, nextSlot, parseCron, type Slot } from '../../services/schedules/cron.ts';
import { nextStep, wasTooEarly } from '../../services/schedules/nextStep.ts';
import { requestFor, runRequest, scheduledRunId } from '../../services/schedules/scheduler.ts';
import { ScheduleStore } from '../../services/schedules/scheduleStore.ts';
import { dueNext, dueSlot, windowEnd } from '../../services/schedules/slots.ts';

const after = (text: string, zone: string, from: string, count = 1) => {
  const cron = parseCron(text);
  const found = [];
  let at = new Date(from);
  for (let index = 0; index < count; index++) {
    const slot = nextSlot(cron, zone, at);
    assert.ok(slot);
    found.push(slot);
    at = new Date(slot.at);
  }
  return found;
};
const times = (text: string, zone: string, from: string, count = 1) =>
  after(text, zone, from, count).map(({ at }) => at);

describe('a cron rule', () => {
  it('takes lists, ranges, steps, names and words, as cron does', () => {
    const from = '2026-11-28T12:00:00Z';
    assert.deepEqual(times('0 3 * * *', 'UTC', from, 2), ['2026-11-29T03:00:00+00:00', '2026-11-30T03:00:00+00:00']);
    assert.deepEqual(times('*/20 1-2 * * sat,sun', 'UTC', from, 3), [
      '2026-11-29T01:00:00+00:00',
      '2026-11-29T01:20:00+00:00',
      '2026-11-29T01:40:00+00:00',
    ]);
    assert.deepEqual(times('5/25 0 1 JAN *', 'UTC', from, 3), [
      '2027-01-01T00:05:00+00:00',
      '2027-01-01T00:30:00+00:00',
      '2027-01-01T00:55:00+00:00',
    ]);
    assert.deepEqual(times('@weekly', 'UTC', from), ['2026-11-29T00:00:00+00:00']);
    assert.deepEqual(times('@daily', 'Europe/Berlin', from), ['2026-11-29T00:00:00+01:00']);
    assert.deepEqual(times('0 0 * * 7', 'UTC', from), times('0 0 * * 0', 'UTC', from));
    // A day that fits either, where both are given.
    assert.deepEqual(times('0 0 1 * mon', 'UTC', from, 2), ['2026-11-30T00:00:00+00:00', '2026-12-01T00:00:00+00:00']);
    assert.deepEqual(times('0 0 29 2 *', 'UTC', from), ['2028-02-29T00:00:00+00:00']);
  });

  it('is refused in words', () => {
    const wrong: [string, RegExp][] = [
      ['0 3 * *', /has 4 fields; give five/],
      ['@reboot', /has 1 fields/],
      ['constructor', /has 1 fields/],
      ['__proto__', /has 1 fields/],
      ['61 3 * * *', /"61" is not a minute from 0 to 59/],
      ['0 3 * * mo', /"mo" is not a weekday/],
      ['0 5-3 * * *', /"5-3" is not a hour/],
      ['0 0 31 2 *', /never due/],
      ['*/0 * * * *', /"\*\/0" is not a minute/],
      ['', /fields/],
    ];
    for (const [text, why] of wrong) assert.throws(() => parseCron(text), why);
  });

  it('is due once at a time that comes twice in autumn (kubernetes#121594)', () => {
    assert.deepEqual(after('30 2 * * *', 'Europe/Berlin', '2026-10-24T12:00:00Z', 2), [
      { at: '2026-10-25T02:30:00+02:00', wall: '2026-10-25T02:30' },
      { at: '2026-10-26T02:30:00+01:00', wall: '2026-10-26T02:30' },
    ]);
  });

  it('is due behind the gap at a time that spring skips, and at midnights that do not exist (agent-os#2472)', () => {
    assert.deepEqual(after('30 2 * * *', 'Europe/Berlin', '2026-03-28T12:00:00Z', 2), [
      { at: '2026-03-29T03:00:00+02:00', wall: '2026-03-29T02:30' },
      { at: '2026-03-30T02:30:00+02:00', wall: '2026-03-30T02:30' },
    ]);
    assert.deepEqual(after('@daily', 'America/Santiago', '2026-09-05T12:00:00Z'), [
      { at: '2026-09-06T01:00:00-03:00', wall: '2026-09-06T00:00' },
    ]);
    assert.deepEqual(times('15 2 * * *', 'Australia/Lord_Howe', '2026-10-03T12:00:00Z'), ['2026-10-04T02:30:00+11:00']);
  });

  it('of each hour is due in each hour that passes', () => {
    const autumn = after('0 * * * *', 'Europe/Berlin', '2026-10-24T23:30:00Z', 3);
    assert.deepEqual(
      autumn.map(({ wall }) => wall),
      ['2026-10-25T02:00+02:00', '2026-10-25T02:00+01:00', '2026-10-25T03:00+01:00'],
    );
    assert.deepEqual(times('30 * * * *', 'Europe/Berlin', '2026-03-29T00:45:00Z', 2), [
      '2026-03-29T03:30:00+02:00',
      '2026-03-29T04:30:00+02:00',
    ]);
  });

  it('of each night is due once for each date, in every zone, over ten years of transitions', () => {
    const cron = parseCron('30 2 * * *');
    for (const zone of Intl.supportedValuesOf('timeZone')) {
      let at: Temporal.ZonedDateTime | null = Temporal.ZonedDateTime.from(`2020-01-01T00:00[${zone}]`);
      for (;;) {
        at = at.getTimeZoneTransition('next');
        if (!at || at.year > 2029) break;
        let from = new Date(at.subtract({ hours: 60 }).epochMilliseconds);
        const dates = new Set<string>();
        for (let count = 0; count < 4; count++) {
          const slot = nextSlot(cron, zone, from);
          assert.ok(slot && new Date(slot.at) > from, `${zone} ${from.toISOString()}`);
          assert.ok(!dates.has(slot.wall), `${zone}: ${slot.wall} twice`);
          dates.add(slot.wall);
          from = new Date(slot.at);
          // Never before the time that is written, and never more than a gap behind it.
          const late = Temporal.PlainDateTime.from(slot.wall)
            .until(Temporal.Instant.from(slot.at).toZonedDateTimeISO(zone).toPlainDateTime())
            .total('minutes');
          assert.ok(late >= 0 && late <= 60, `${zone}: ${slot.wall} at ${slot.at}`);
        }
        const days = [...dates].map((wall) => Temporal.PlainDate.from(wall.slice(0, 10)));
        for (const [index, day] of days.slice(1).entries())
          assert.equal(days[index]?.until(day).days, 1, `${zone}: ${[...dates]}`);
      }
    }
  });

  it('gives the same slots wherever one begins to look', () => {
    const zones = fc.constantFrom(
      'UTC',
      'Europe/Berlin',
      'Australia/Lord_Howe',
      'America/Santiago',
      'Africa/Casablanca',
    );
    const rules = fc.constantFrom('30 2 * * *', '*/7 * * * *', '0 */6 * * *', '@monthly', '15 1,2,3 * * 1-5');
    const start = fc.integer({ min: Date.UTC(2024, 0), max: Date.UTC(2030, 0) });
    fc.assert(
      fc.property(zones, rules, start, fc.double({ min: 0, max: 0.999, noNaN: true }), (zone, rule, from, part) => {
        const cron = parseCron(rule);
        const slot = nextSlot(cron, zone, new Date(from));
        assert.ok(slot);
        const between = from + Math.floor((Date.parse(slot.at) - from) * part);
        assert.deepEqual(nextSlot(cron, zone, new Date(between)), slot);
      }),
      { numRuns: 60 },
    );
  });
});

describe('what is due', () => {
  const definition = { cron: '0 3 * * *', zone: 'Europe/Berlin' };
  it('is the last slot since; the others are counted', () => {
    const now = new Date('2026-11-28T02:00:30Z');
    const due = dueSlot(definition, new Date('2026-11-25T12:00:00Z'), now);
    assert.deepEqual(due, {
      due: { at: '2026-11-28T03:00:00+01:00', wall: '2026-11-28T03:00' },
      missed: 2,
      next: { at: '2026-11-29T03:00:00+01:00', wall: '2026-11-29T03:00' },
    });
    assert.equal(dueSlot(definition, new Date('2026-11-28T02:00:00Z'), now).due, undefined);
  });

  it('is found after a year of minutes, too', () => {
    const { due, missed } = dueSlot(
      { cron: '* * * * *' },
      new Date('2025-11-28T02:00:00Z'),
      new Date('2026-11-28T02:00:30Z'),
    );
    assert.deepEqual([due?.wall, missed], ['2026-11-28T02:00+00:00', 999]);
  });

  it('is the last one, whatever the rule and however long ago', () => {
    const rules = fc.constantFrom(
      '*/7 * * * *',
      '30 2 * * *',
      '15 */5 * * 1',
      '0 0 1 * *',
      '0 3 29 2 *',
      '5 4 31 12 5',
    );
    const zones = fc.constantFrom('UTC', 'Europe/Berlin', 'Australia/Lord_Howe');
    const [minute, within] = [fc.nat({ max: 600_000 }), fc.oneof(fc.nat({ max: 3000 }), fc.nat({ max: 600_000 }))];
    fc.assert(
      fc.property(rules, zones, minute, within, (rule, zone, from, minutes) => {
        const begin = new Date(Date.UTC(2026, 0, 1, 0, from));
        const until = new Date(begin.getTime() + Math.min(minutes, rule.startsWith('*') ? 3000 : minutes) * 60_000);
        const cron = parseCron(rule);
        let last: Slot | undefined;
        for (let at = begin; ; ) {
          const next = nextSlot(cron, zone, at);
          if (!next || Date.parse(next.at) > until.getTime()) break;
          [last, at] = [next, new Date(next.at)];
        }
        assert.deepEqual(lastSlot(cron, zone, begin, until), last);
      }),
    );
  });

  it('may begin until its window ends, over midnight too', () => {
    const slot = { at: '2026-11-28T23:30:00+01:00', wall: '2026-11-28T23:30' };
    const zone = 'Europe/Berlin';
    assert.equal(windowEnd({ window: '23:00-05:00', zone }, slot), '2026-11-29T04:00:00.000Z');
    assert.equal(windowEnd({ window: '23:00-23:45', zone }, slot), '2026-11-28T22:45:00.000Z');
    assert.equal(windowEnd({ zone }, slot), undefined);
  });

  it('has what was left of its window after the gap if clocks skip the rest of it', () => {
    const slot = { at: '2026-03-29T03:00:00+02:00', wall: '2026-03-29T02:30' };
    const zone = 'Europe/Berlin';
    for (const window of ['02:00-03:00', '01:00-03:00'])
      assert.equal(windowEnd({ window, zone }, slot), '2026-03-29T01:30:00.000Z');
    assert.equal(windowEnd({ window: '02:00-05:00', zone }, slot), '2026-03-29T03:00:00.000Z');
  });

  it('has a window that ends later than the slot, whatever clocks do', () => {
    const zones = ['Europe/Berlin', 'America/Santiago', 'Australia/Lord_Howe', 'Asia/Beirut'];
    const days = ['03-28', '03-29', '04-04', '04-05', '09-05', '09-06', '10-03', '10-04', '10-24', '10-25'];
    for (const zone of zones)
      for (const day of days)
        for (const from of ['00:00', '00:45', '14:45', '15:15'])
          for (const hour of ['*', '0', '1', '2']) {
            const [slot] = after(`30 ${hour} * * *`, zone, `2026-${day}T${from}:00Z`);
            for (const end of ['00:45', '01:00', '01:45', '02:00', '02:45', '03:00']) {
              const ends = slot && windowEnd({ window: `00:00-${end}`, zone }, slot);
              assert.ok(ends && Date.parse(ends) > Date.parse(slot.at), `${zone} ${slot?.at} ${end} ${ends}`);
            }
          }
  });
});

describe('the next step with a schedule', () => {
  const zone = 'Europe/Berlin';
  const schedule = (definition: ScheduleBody, since: string): Schedule => ({
    ...{ name: 'nightly', definition, token: 'f'.repeat(32), since },
    ...{ created_at: since, updated_at: since },
  });
  const nightly = { cron: '0 1 * * *', zone, jitter: '3h', window: '01:00-04:30' };

  it('of a time that is made up for keeps jitter and window (backrest#8)', () => {
    const step = nextStep(schedule(nightly, '2026-11-27T12:00:00Z'), new Date('2026-11-28T02:00:00Z'));
    assert.ok(step.is === 'run');
    const { class: kind, schedule: of, missed } = step.occasion;
    assert.deepEqual([kind, of.starts_at, missed], ['catch-up', '2026-11-28T02:00:00.000Z', undefined]);
    assert.equal(of.window_ends, '2026-11-28T03:30:00.000Z');
    // What is left of the window.
    assert.equal(of.jitter_seconds, 5400);
  });

  it('of a time that nothing makes up for says what is known: it could not be started', () => {
    const now = new Date('2026-11-28T12:00:00Z');
    for (const [definition, reason] of [
      [{ ...nightly, catch_up: 'never' as const }, 'catch_up is never'],
      [nightly, 'the window 01:00-04:30 is over'],
    ] as const) {
      const step = nextStep(schedule(definition, '2026-11-27T12:00:00Z'), now);
      assert.ok(step.is === 'run');
      const said = `missed 2026-11-28T01:00: its run could not be started in time, and ${reason}`;
      assert.equal(step.occasion.missed, said);
    }
  });

  it('is a wait while it is paused, whatever was due, and none when that ends', () => {
    const paused = { since: '2026-11-20T00:00:00Z' };
    const long = schedule(nightly, '2026-11-01T00:00:00Z');
    const now = new Date('2026-11-28T12:00:00Z');
    assert.deepEqual(nextStep({ ...long, paused }, now), { is: 'wait', untilMs: Number.POSITIVE_INFINITY });
    const until = '2026-11-29T12:00:00.000Z';
    assert.deepEqual(nextStep({ ...long, paused: { ...paused, until } }, now), {
      is: 'wait',
      untilMs: Date.parse(until),
    });
    const over = nextStep({ ...long, paused: { ...paused, until: '2026-11-28T11:00:00.000Z' } }, now);
    assert.deepEqual(over, { is: 'change', to: { ...long, since: '2026-11-28T11:00:00.000Z' } });
    assert.ok(over.is === 'change');
    assert.equal(nextStep(over.to, now).is, 'wait');
  });

  it('is none for the time before it was edited during a pause, whose end is seen a little later', () => {
    const [end, edited, now] = ['2026-11-28T00:59:59.000Z', '2026-11-28T01:00:05.000Z', '2026-11-28T01:00:09.000Z'];
    const paused = { since: '2026-11-20T00:00:00Z', until: end };
    const step = nextStep({ ...schedule({ cron: '* * * * *' }, edited), paused }, new Date(now));
    assert.ok(step.is === 'change');
    assert.equal(step.to.since, edited);
    assert.deepEqual(nextStep(step.to, new Date(now)), { is: 'wait', untilMs: Date.parse('2026-11-28T01:01:00Z') });
  });

  it('makes a run again only if it was made before its time, by a clock that was ahead', () => {
    const slot = { wall: '2026-11-30T03:00', at: '2026-11-30T02:00:00.000Z' };
    const at = (text: string) => new Date(text);
    const [due, dayBefore, tomorrow] = [at('2026-11-30T02:00:01Z'), at('2026-11-29T11:10:00Z'), '2026-11-30T11:00:00Z'];
    assert.ok(wasTooEarly(tomorrow, dayBefore, slot, due), "NATS's clock was right");
    assert.ok(wasTooEarly(tomorrow, at('2026-11-30T11:10:00Z'), slot, due), "NATS's clock was ahead too");
    assert.ok(wasTooEarly(slot.at, dayBefore, slot, due), 'the clock was ahead until the time came');
    assert.ok(
      !wasTooEarly('2026-11-30T02:00:02.000Z', at('2026-11-30T01:59:00Z'), slot, due),
      'clocks differ a little',
    );
    assert.ok(!wasTooEarly('2026-11-30T05:00:00.000Z', at('2026-11-30T05:00:00Z'), slot, at('2026-11-30T09:00:00Z')));
  });

  it('is as it is shown, whichever offsets its times have', () => {
    const paused = { since: '2026-11-20T00:00:00Z', until: '2026-11-28T02:30:00.000Z' };
    const due = { ...schedule({ cron: '0 * * * *' }, '2026-11-28T07:00:00+05:00'), paused };
    assert.equal(dueNext(due)?.wall, '2026-11-28T03:00+00:00');
  });
});

/** A gateway that is off now and then, backups that fail, clocks that jump: the scheduler and the rule through a year, with a clock of their own. */
describe('a year of a schedule', () => {
  const yearMs = 365 * 86_400_000;
  const begin = Date.UTC(2026, 0, 1, 12);
  const rule = { keep_last: 2, keep_daily: 7, keep_weekly: 4, keep_monthly: 6 };
  interface World {
    cron: string;
    zone: string;
    catch_up: 'once' | 'never';
    /** When no gateway is up, when S3 is away, and jumps of the gateway's clock: from, for how long, by how much. */
    outages: [from: number, length: number][];
    failing: [from: number, length: number][];
    jumps: [from: number, length: number, by: number][];
  }
  const at = fc.double({ min: 0, max: 1, noNaN: true }).map((part) => begin + part * yearMs);
  const length = fc.integer({ min: 60_000, max: 9 * 86_400_000 });
  const spans = fc.array(fc.tuple(at, length), { maxLength: 8 });
  const jump = fc.tuple(
    at,
    fc.integer({ min: 600_000, max: 4 * 3_600_000 }),
    fc.integer({ min: -5_400_000, max: 5_400_000 }),
  );
  const worlds: fc.Arbitrary<World> = fc.record({
    cron: fc.constantFrom('30 2 * * *', '0 3 * * 1-5', '15 */6 * * *', '0 0 1 * *'),
    zone: fc.constantFrom('Europe/Berlin', 'Australia/Lord_Howe', 'America/Santiago', 'UTC'),
    catch_up: fc.constantFrom('once' as const, 'never' as const),
    outages: spans,
    failing: spans,
    jumps: fc.array(jump, { maxLength: 3 }),
  });
  const isIn = (all: [from: number, length: number][], ms: number) =>
    all.some(([from, long]) => ms >= from && ms < from + long);

  interface Kept extends Candidate {
    slot: string;
  }
  function live({ cron, zone, catch_up, outages, failing, jumps }: World) {
    const since = new Date(begin).toISOString();
    const definition: ScheduleBody = { cron, zone, catch_up };
    let schedule: Schedule = {
      name: 's',
      definition,
      token: 'f'.repeat(32),
      created_at: since,
      updated_at: since,
      since,
    };
    const runs = new Map<string, { isMade: boolean; class: string }>();
    const good: Kept[] = [];
    let left: Kept[] = [];
    const end = begin + yearMs;
    for (let ms = begin; ms < end; ) {
      const out = outages.find((span) => isIn([span], ms));
      if (out) {
        ms = out[0] + out[1];
        continue;
      }
      const off = jumps.find(([from, long]) => isIn([[from, long]], ms))?.[2] ?? 0;
      const now = new Date(ms + off);
      const step = nextStep(schedule, now);
      if (step.is === 'change') schedule = step.to;
      if (step.is !== 'run') {
        // It sleeps until then, but wakes when the clock jumps.
        const jump = jumps.flatMap(([from, long]) => [from, from + long]).filter((time) => time > ms);
        ms = step.is === 'change' ? ms : Math.max(ms + 1000, Math.min(step.untilMs - off, end, ...jump));
        continue;
      }
      const { slot, occasion } = step;
      const id = scheduledRunId(schedule, slot.wall);
      if (!runs.has(id)) {
        const isMade = occasion.missed === undefined && !isIn(failing, ms);
        runs.set(id, { isMade, class: occasion.class });
        if (isMade) {
          const backup = {
            name: id,
            created: new Date(ms).toISOString(),
            tags: {},
            pinned: false,
            locked_until: null,
            slot: slot.wall,
          };
          good.push(backup);
          left = judge([...left, backup], { ...rule, zone }, new Date(ms)).flatMap(({ backup: each, action }) =>
            action === 'keep' ? [each] : [],
          );
        }
      }
      schedule = { ...schedule, since: slot.at, last: { slot: slot.wall, at: slot.at, run: id } };
    }
    return { runs, good, left };
  }

  it('leaves what the rule says of all that was made, and makes no slot twice', () => {
    fc.assert(
      fc.property(worlds, (world) => {
        const { good, left } = live(world);
        assert.equal(new Set(good.map(({ slot }) => slot)).size, good.length);
        const now = new Date(begin + yearMs);
        const said = judge(good, { ...rule, zone: world.zone }, now).filter(({ action }) => action === 'keep');
        assert.deepEqual(left.map(({ slot }) => slot).sort(), said.map(({ backup }) => backup.slot).sort());
        if (good.length > 0) assert.ok(left.some(({ name }) => name === good.at(-1)?.name));
      }),
      { numRuns: 6 },
    );
  });

  it('without outages has each slot, in time', () => {
    const { runs, good } = live({
      cron: '30 2 * * *',
      zone: 'Europe/Berlin',
      catch_up: 'once',
      outages: [],
      failing: [],
      jumps: [],
    });
    assert.deepEqual([runs.size, good.length], [365, 365]);
    for (const { class: kind } of runs.values()) assert.equal(kind, 'scheduled');
  });

  it('with a gateway that is off at each night makes each up once in the morning', () => {
    const nights = Array.from({ length: 365 }, (_, day): [number, number] => [
      begin + day * 86_400_000 + 12 * 3_600_000,
      7 * 3_600_000,
    ]);
    const { runs } = live({
      cron: '30 2 * * *',
      zone: 'UTC',
      catch_up: 'once',
      outages: nights,
      failing: [],
      jumps: [],
    });
    assert.equal(runs.size, 365);
    for (const { class: kind } of runs.values()) assert.equal(kind, 'catch-up');
  });
});

describe('a definition', () => {
  it('is refused where its runs could not be made', () => {
    assert.throws(
      () => checkSchedule({ cron: '@daily', selector: { all: true, instances: ['c1'] } }),
      /selector: give all or instances, not both/,
    );
    assert.doesNotThrow(() => checkSchedule({ cron: '@daily' }));
  });

  it('is refused where one of its times is not in its window', () => {
    for (const [cron, window, time] of [
      ['0 1,12 * * *', '01:00-05:00', '12:00'],
      ['30 0,3,23 * * *', '23:00-03:00', '03:30'],
      ['@hourly', '01:00-05:00', '00:00'],
    ] as const)
      assert.throws(
        () => checkSchedule({ cron, window }),
        new RegExp(`window: ${time}, when the schedule is due, is not in ${window}`),
      );
    for (const [cron, window] of [
      ['0 1-4 * * *', '01:00-05:00'],
      ['30 0,2,23 * * *', '23:00-03:00'],
      ['@hourly', '03:00-03:00'],
    ] as const)
      assert.doesNotThrow(() => checkSchedule({ cron, window }));
  });

  it('is refused where jitter puts instances behind the window', () => {
    for (const [jitter, window] of [
      ['3h', '01:00-05:00'],
      ['121m', '23:00-05:00'],
    ] as const)
      assert.throws(
        () => checkSchedule({ cron: '0 3 * * *', jitter, window }),
        new RegExp(`jitter: ${jitter} after 03:00 is outside the window ${window}`),
      );
    assert.doesNotThrow(() => checkSchedule({ cron: '0 3 * * *', jitter: '1h', window: '01:00-05:00' }));
    assert.doesNotThrow(() => checkSchedule({ cron: '0 23 * * *', jitter: '5h', window: '23:00-05:00' }));
  });
});

describe('a schedule with a rule that deletes backups', () => {
  it('deletes nothing on behalf of a publisher, who has resumed it', () => {
    const request = runRequest('nightly', { cron: '@daily', keep: { keep_last: 1 } }, 'id');
    assert.equal(requestFor({ protocol: 'nats', username: 'publisher' }, request).keep, undefined);
    for (const owner of [{ protocol: 'tls', username: 'f' }, undefined])
      assert.equal(requestFor(owner, request).keep?.keep_last, 1);
  });

  it('says so', async () => {
    const shown = async (keep: object, requestor?: Requestor) => {
      const definition = { cron: '@daily', ...keep };
      const times = { created_at: '', updated_at: '', since: '', begun: '' };
      const schedule: Schedule = { name: 'nightly', token: '', definition, ...times, ...(requestor && { requestor }) };
      return (await showSchedule({} as never, { schedule, revision: 1 }, { mayChange: true })).owner_trouble;
    };
    const publisher: Requestor = { protocol: 'nats', username: 'publisher' };
    const keep = { keep: { keep_last: 1 } };
    assert.match((await shown(keep, publisher)) ?? '', /its rule deletes no backups.*resume it over HTTPS/);
    for (const trouble of [await shown({}, publisher), await shown(keep)]) assert.equal(trouble, undefined);
  });
});

describe('a list of schedules', () => {
  it('reads what has changed since the last one, and not again each that was deleted', async () => {
    let [revision, asked] = [0, 0];
    const stored = new Map<string, { subject: string; seq: number; header: MsgHdrs; data: Uint8Array; time: Date }>();
    const state = { servesSince: 0 };
    const publish = async (subject: string, value: string, options: Partial<JetStreamPublishOptions>) => {
      const seq = ++revision;
      const header = options.headers ?? headers();
      stored.set(subject, { subject, seq, header, data: Buffer.from(value), time: new Date(0) });
      return { seq };
    };
    const info = async () => {
      asked++;
      const subjects = Object.fromEntries([...stored.keys()].map((subject) => [subject, 1]));
      return { created: 'then', state: { last_seq: revision, subjects } };
    };
    const getMessage = async (_: string, query: { last_by_subj?: string; seq?: number }) => {
      asked++;
      if (query.last_by_subj !== undefined) return stored.get(query.last_by_subj) ?? null;
      const behind = [...stored.values()].filter(({ seq }) => seq >= (query.seq ?? 0));
      return behind.sort((a, b) => a.seq - b.seq)[0] ?? null;
    };
    const nats = Object.assign(state, {
      ...{ whileConnected: (use: () => unknown) => use(), js: { publish }, jsm: { streams: { info, getMessage } } },
    });
    const [writer, reader] = [0, 1].map(() => new ScheduleStore(nats as unknown as Nats));
    assert.ok(writer && reader);
    const create = (name: string) => writer.create({ name } as Schedule);
    const remove = async (name: string) => {
      const found = await writer.find(name);
      assert.ok(found && (await writer.remove(found)));
    };
    const listed = async () => {
      asked = 0;
      return (await reader.list()).map(({ schedule, revision }) => [schedule.name, revision]);
    };
    await create('kept');
    for (let count = 0; count < 300; count++) {
      await create(`gone-${count}`);
      await remove(`gone-${count}`);
    }
    assert.deepEqual(await listed(), [['kept', 1]]);
    await create('new');
    const found = await writer.find('kept');
    const changed = await writer.update(found?.schedule as Schedule, found?.revision ?? 0);
    await create('short');
    await remove('short');
    assert.deepEqual(await listed(), [
      ['kept', changed],
      ['new', revision - 3],
    ]);
    assert.ok(asked <= 5, `${asked} requests`);
    await remove('new');
    assert.deepEqual(await listed(), [['kept', changed]]);
    assert.deepEqual(await listed(), [['kept', changed]]);
    assert.equal(asked, 1);
    // NATS has come back, and has lost the last revisions and given them again.
    stored.delete('$KV.lxstow_schedules.kept');
    state.servesSince = 1;
    assert.deepEqual(await listed(), []);
  });
});
