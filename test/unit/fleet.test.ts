/** The record of an instance: whoever writes it in which order, it ends the same, and says what is so. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { manifestKey } from '../../services/backups/keys.ts';
import { formatManifest } from '../../services/backups/manifest.ts';
import { backupName } from '../../services/contract/backupNames.ts';
import { LxstowError } from '../../services/contract/errors.ts';
import type { Address, InstanceRecord, Schedule } from '../../services/contract/schemas.ts';
import type { Leases } from '../../services/coordination/leases.ts';
import { expectationOf } from '../../services/fleet/expectations.ts';
import { FleetStore } from '../../services/fleet/fleetStore.ts';
import {
  mayBeDeleted,
  withGood,
  withLast,
  withRemoved,
  withSeen,
  withYoungest,
} from '../../services/fleet/instanceRecord.ts';
import { statusOf } from '../../services/fleet/judge.ts';
import { Keeper } from '../../services/fleet/keeper.ts';
import { compareInstances, sightings } from '../../services/fleet/rounds.ts';
import { takeInventoryRegularly } from '../../services/fleet/takeInventory.ts';
import { youngestBackups } from '../../services/fleet/youngest.ts';
import { ExpectedBackups } from '../../services/gateway/runs/expectedBackups.ts';
import type { MatchedInstances } from '../../services/gateway/runs/matchedInstances.ts';
import type { LxdInstance } from '../../services/lxd/inventory.ts';
import { instanceKey } from '../../services/nats/bucketKeys.ts';
import type { RunStore } from '../../services/runs/runStore.ts';
import type { ScheduleStore } from '../../services/schedules/scheduleStore.ts';
import type { ObjectStore } from '../../services/storage/objectStore.ts';
import { createLogger } from '../../services/telemetry/logger.ts';

const at = (minute: number) => new Date(Date.UTC(2026, 10, 1, 0, minute)).toISOString();
const c1: Address = { remote: 'local', project: 'default', instance: 'c1' };
const good = (minute: number) => ({ backup: `b${minute}`, at: at(minute), size: minute });
const uuid = '0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11';
const last = (minute: number, outcome: 'success' | 'failure' | 'cancelled', reason = 'why') => ({
  ...{ operation: uuid, at: at(minute), outcome },
  ...(outcome !== 'success' && { reason }),
});

const longAfter = new Date(at(10_000_000));

type Change = (record: InstanceRecord, now: Date) => InstanceRecord;

describe('the record of an instance', () => {
  it('is the same in whatever order it was written, and however often', () => {
    const minute = fc.integer({ min: 0, max: 5 });
    const outcome = fc.constantFrom('success' as const, 'failure' as const, 'cancelled' as const);
    const change: fc.Arbitrary<Change> = fc.oneof(
      minute.map((m) => (record: InstanceRecord, now: Date) => withGood(record, good(m), now)),
      fc.tuple(minute, outcome, fc.constantFrom('a', 'b')).map(
        ([m, how, why]) =>
          (record: InstanceRecord, now: Date) =>
            withLast(record, last(m, how, why), now),
      ),
      fc.tuple(minute, fc.boolean()).map(
        ([m, excluded]) =>
          (record: InstanceRecord, now: Date) =>
            withSeen(record, { at: at(m), excluded }, now),
      ),
    );
    fc.assert(
      fc.property(fc.array(change, { maxLength: 12 }), minute, fc.infiniteStream(fc.nat()), (changes, now, random) => {
        // Times from minute now + 1 on are ahead.
        const clock = new Date(at(now - 5));
        const fold = (all: Change[]) => all.reduce((record, each) => each(record, clock), {} as InstanceRecord);
        const shuffled = [...changes, ...changes]
          .map((each) => [random.next().value, each] as const)
          .sort(([a], [b]) => a - b)
          .map(([, each]) => each);
        assert.deepEqual(fold(shuffled), fold(changes));
      }),
    );
  });

  it('names the youngest backup of the store when all who make and delete some are through', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.scheduler(),
        fc.array(fc.boolean(), { minLength: 1, maxLength: 4 }),
        async (scheduler, doomed) => {
          const bucket = new Map<string, ReturnType<typeof good>>();
          const kept = { record: {} as InstanceRecord, revision: 0 };
          let clock = 10;
          const turn = () => scheduler.schedule(Promise.resolve());
          const youngest = () => [...bucket.values()].sort((a, b) => (a.at < b.at ? 1 : -1))[0];
          /** As FleetStore.change. */
          const change = async (make: (record: InstanceRecord) => Promise<InstanceRecord>) => {
            for (;;) {
              await turn();
              const { record, revision } = kept;
              const next = await make(record);
              await turn();
              if (kept.revision !== revision) continue;
              Object.assign(kept, { record: next, revision: revision + 1 });
              return;
            }
          };
          const lookUp = async (record: InstanceRecord) => {
            await turn();
            return withYoungest(record, youngest());
          };
          const made = async (backup: number) => {
            await turn();
            const own = { ...good(backup), at: at(clock++) };
            bucket.set(own.backup, own);
            await change(async (record) =>
              mayBeDeleted(record, own) ? lookUp(record) : withGood(record, own, longAfter),
            );
          };
          const deleted = async (name: string) => {
            while (!bucket.has(name)) await turn();
            bucket.delete(name);
            const removed = at(clock++);
            await change(async (record) => {
              const next = withRemoved(record, removed);
              return record.good && record.good.backup !== name ? next : lookUp(next);
            });
          };
          // Each is made once, and some are deleted, as soon as they are there.
          await scheduler.waitFor(
            Promise.all(doomed.flatMap((dies, backup) => [made(backup), ...(dies ? [deleted(`b${backup}`)] : [])])),
          );
          assert.deepEqual(kept.record.good, youngest());
        },
      ),
    );
  });

  it('is right again when it is held against the store, whatever it said', () => {
    assert.deepEqual(withYoungest({ good: good(9), last: last(1, 'success') }, good(3)).good, good(3));
    assert.equal(withYoungest({ good: good(9) }, undefined).good, undefined);
  });

  it('forgets what a clock that was ahead has dated, as soon as there is something else', () => {
    const now = new Date(at(10));
    const ahead = { good: good(999), last: last(999, 'success'), seen: { at: at(999), excluded: false } };
    const since = { good: good(9), last: last(9, 'failure'), seen: { at: at(9), excluded: true } };
    const changed = withSeen(withLast(withGood(ahead, since.good, now), since.last, now), since.seen, now);
    assert.deepEqual(changed, since);
    assert.deepEqual(withSeen(withLast(withGood(since, ahead.good, now), ahead.last, now), ahead.seen, now), since);
  });

  it('keeps what a later version has written into it', () => {
    const later = { good: good(1), seen: { at: at(1), excluded: false }, proof: { at: at(1) } } as InstanceRecord;
    const changed = [
      withGood(later, good(2), longAfter),
      withRemoved(later, at(2)),
      withYoungest(later, undefined),
      withLast(later, last(2, 'success'), longAfter),
      withSeen(later, { at: at(2), excluded: true }, longAfter),
    ];
    for (const record of changed) assert.ok('proof' in record, JSON.stringify(record));
  });
});

describe('the state of an instance', () => {
  const now = new Date(Date.UTC(2026, 10, 2, 12));
  const judged = (record: InstanceRecord, hours = 26, mayName = true) => {
    const yardstick = { now, maxAgeMs: hours * 3_600_000, mayName: () => mayName };
    const { state, reason } = statusOf(c1, record, yardstick);
    return `${state}: ${reason}`;
  };
  const seen = { at: at(0), excluded: false };
  const young = { backup: 'y', at: '2026-11-02T02:00:00.000Z', size: 1 };
  const cases: [what: string, record: InstanceRecord, said: RegExp][] = [
    ['new', { seen }, /^never: it has no backup$/],
    ['backed up', { seen, good: young, last: last(5, 'success') }, /^ok: $/],
    ['backed up long ago', { seen, good: good(0) }, /^overdue: its last backup is 36 h old$/],
    [
      'failing, with a young backup',
      { seen, good: young, last: { ...last(0, 'failure'), at: '2026-11-02T03:00:00.000Z' } },
      /^failing: the last backup failed, 2026-11-02 03:00 UTC: why$/,
    ],
    [
      'failing since a backup of a clock that was ahead',
      { seen, good: { ...young, at: '2027-06-01T03:00:00.000Z' }, last: last(0, 'failure') },
      /^failing: the last backup failed, 2026-11-01 00:00 UTC/,
    ],
    [
      'backed up by a clock that was ahead',
      { seen, good: { ...young, at: '2027-06-01T03:00:00.000Z' } },
      /^overdue: its last backup is dated 2027-06-01 03:00 UTC, in the future$/,
    ],
    [
      'backed up by a clock that is ahead by an hour',
      { seen, good: { ...young, at: '2026-11-02T13:00:00.000Z' } },
      /^ok/,
    ],
    ['failing, without a backup', { seen, last: last(0, 'failure') }, /^failing: .*: why; it has no backup$/],
    ['failed, then uploaded', { seen, good: young, last: last(0, 'failure') }, /^ok/],
    ['cancelled', { seen, good: young, last: last(5, 'cancelled') }, /^ok/],
    ['excluded', { seen: { ...seen, excluded: true }, last: last(0, 'failure') }, /^excluded: user\.lxstow\.exclude/],
    ['gone', { seen: { ...seen, gone: at(7) }, good: good(0) }, /^gone: LXD does not have it, since 2026-11-01 00:07/],
    [
      'renamed',
      { seen: { ...seen, gone: at(7), renamed: { project: 'default', instance: 'c2' } } },
      /^gone: it is c2 now/,
    ],
    [
      'renamed, as it is now',
      { seen: { ...seen, was: { project: 'web', instance: 'c0' } } },
      /it was c0 of project web/,
    ],
    ['not seen by an inventory yet', { good: young }, /^ok/],
  ];
  for (const [what, record, said] of cases) it(what, () => assert.match(judged(record), said));
  it('names no project to who may not know of it', () => {
    const moved = { project: 'secret', instance: 'c1' };
    assert.equal(
      judged({ seen: { ...seen, gone: at(7), renamed: moved } }, 26, false),
      'gone: it is in another project now, since 2026-11-01 00:07 UTC or a little before',
    );
    assert.doesNotMatch(judged({ seen: { ...seen, was: moved } }, 26, false), /secret/);
  });
  it('depends on how old a backup may be', () => assert.match(judged({ seen, good: young }, 9), /^overdue/));
});

describe('the state of an instance that a schedule covers', () => {
  const zone = 'Europe/Berlin';
  const nightly: Schedule = {
    ...{ name: 'nightly', token: '', created_at: '2026-11-01T12:00:00.000Z', updated_at: '2026-11-01T12:00:00.000Z' },
    definition: { cron: '0 3 * * *', zone, selector: { all: true } },
    since: '2026-11-28T02:00:00.000Z',
    last: { slot: '2026-11-28T03:00', at: '2026-11-28T02:00:00.000Z', run: uuid },
  };
  const missed = { last: { slot: '2026-11-27T03:00', at: '2026-11-27T02:00:00.000Z', run: uuid } };
  const made = (time: string, more: InstanceRecord = {}): InstanceRecord => ({
    seen: { at: at(0), excluded: false },
    good: { backup: 'b', at: time, size: 1 },
    ...more,
  });
  const expected = (schedule: Schedule, now: string, { isOpen = false, matches = false } = {}) =>
    expectationOf(schedule, { now: new Date(now), isOpen, patienceMs: 26 * 3_600_000, matches: () => matches });
  interface Judging {
    maySee?: boolean;
    byAge?: boolean;
    isOpen?: boolean;
    matches?: boolean;
  }
  function judged(
    change: Partial<Schedule>,
    record: InstanceRecord,
    now = '2026-11-28T10:00:00Z',
    { maySee = true, byAge = false, ...options }: Judging = {},
  ): string {
    const expectations = [expected({ ...nightly, ...change }, now, options)];
    const yardstick = { now: new Date(now), maxAgeMs: 26 * 3_600_000, mayName: () => true, expectations, byAge };
    const { state, reason, schedules = [] } = statusOf(c1, record, { ...yardstick, maySee: () => maySee });
    return `${state} [${schedules}]: ${reason}`;
  }
  const definition = (more: Partial<Schedule['definition']>) => ({ definition: { ...nightly.definition, ...more } });
  const old = made('2026-11-27T02:05:00.000Z');
  const overdue = 'overdue [nightly]: schedule nightly was due 2026-11-28 03:00 Europe/Berlin';
  const pause = { paused: { since: '2026-11-27T12:00:00.000Z', reason: 'the NAS moves' } };

  const cases: [what: string, said: string, ...given: Parameters<typeof judged>][] = [
    ['is ok with a backup since', 'ok [nightly]: ', {}, made('2026-11-28T02:00:20.000Z')],
    ['did not run', `${overdue} and did not run`, { ...missed, since: missed.last.at }, old],
    ['ran without it', `${overdue} and its run made no backup of it: lxstow run show ${uuid} --children`, {}, old],
    ['is paused', `${overdue} and is paused since 2026-11-27 12:00 UTC: the NAS moves`, { ...missed, ...pause }, old],
    ['was paused', `${overdue} while it was paused`, { ...missed, since: '2026-11-28T09:00:00.000Z' }, old],
    [
      'is paused, with a backup since',
      'ok [nightly]: schedule nightly is paused since 2026-11-27 12:00 UTC: the NAS moves',
      pause,
      made('2026-11-28T02:05:00.000Z'),
    ],
    ['has its hour of grace', 'ok [nightly]: ', {}, old, '2026-11-28T02:59:00Z'],
    ['has no more than that', `${overdue} and did not run`, missed, old, '2026-11-28T03:00:00Z'],
    ['has its jitter', 'ok [nightly]: ', definition({ jitter: '3h' }), old, '2026-11-28T05:59:00Z'],
    ['has its window', 'ok [nightly]: ', definition({ window: '01:00-09:00' }), old, '2026-11-28T08:59:00Z'],
    ['has no more than its window', overdue, definition({ window: '01:00-09:00' }), old, '2026-11-28T09:00:00Z'],
    ['has until its run ends', 'ok [nightly]: ', {}, old, '2026-11-29T01:00:00Z', { isOpen: true }],
    ['has not for ever', overdue, definition({ cron: '0 3 * * 6' }), old, '2026-11-29T04:00:00Z', { isOpen: true }],
    [
      'is as old as its schedule is rare',
      'ok [nightly]: ',
      definition({ cron: '@monthly' }),
      made('2026-11-01T00:00:00Z'),
    ],
    [
      'has a backup of a clock that was ahead',
      'overdue [nightly]: its last backup is dated 2027-06-01 03:00 UTC, in the future',
      {},
      made('2027-06-01T03:00:00.000Z'),
    ],
    ['has never been due', 'ok [nightly]: ', { begun: '2026-11-28T03:00:00Z' }, made('2026-01-01T00:00:00.000Z')],
    [
      'is covered by what it names',
      overdue,
      definition({ selector: {} }),
      made('2026-11-27T02:05:00.000Z', { seen: { at: at(0), excluded: false, schedules: ['hourly', 'nightly'] } }),
    ],
    ['is not covered', 'overdue []: its last backup is 31 h old', definition({ selector: {} }), old],
    [
      'is left out',
      'overdue []: its last backup is 31 h old',
      definition({ selector: { all: true, exclude: ['c*'] } }),
      old,
    ],
    ['is of another host', 'overdue []: its last', definition({ selector: { all: true, remotes: ['oslo'] } }), old],
    ['is of another project', 'overdue []: its last', definition({ selector: { all: true, projects: ['web'] } }), old],
    [
      'matches, as its host said',
      overdue,
      definition({ selector: { match: ['a=b'] } }),
      old,
      undefined,
      { matches: true },
    ],
    ['does not match', 'overdue []: its last', definition({ selector: { match: ['a=b'] } }), old],
    [
      'is judged by its age if that is asked',
      'overdue [nightly]: its last backup is 31 h old',
      {},
      old,
      undefined,
      { byAge: true },
    ],
    [
      'is of a schedule that the client may not see',
      'overdue []: a schedule was due 2026-11-28 03:00 Europe/Berlin and is paused',
      { ...missed, ...pause },
      old,
      undefined,
      { maySee: false },
    ],
    [
      'has failed',
      'failing [nightly]: the last backup failed',
      {},
      { ...old, last: { ...last(0, 'failure'), at: '2026-11-28T02:10:00.000Z' } },
    ],
    ['has no backup', 'never [nightly]: it has no backup', {}, { seen: { at: at(0), excluded: false } }],
    ['is gone', 'gone []: ', {}, { ...old, seen: { at: at(0), excluded: false, gone: at(7) } }],
    ['is excluded', 'excluded []: ', {}, { ...old, seen: { at: at(0), excluded: true } }],
  ];
  for (const [what, said, ...given] of cases)
    it(what, () => {
      const judgement = judged(...given);
      assert.ok(judgement.startsWith(said), judgement);
      if (said === 'ok [nightly]: ') assert.equal(judgement, said);
    });

  it('is found at once, whatever the rule, in windows of any length', () => {
    for (const change of [
      { cron: '* * * * *', window: '03:00-03:00' },
      { cron: '0 3 29 2 1' },
      { cron: '*/5 22,23,0-4 * * *', window: '22:00-05:00' },
    ])
      for (let hour = 0; hour < 48; hour++) {
        const now = new Date(Date.UTC(2026, 9, 24, hour)).toISOString();
        const schedule = { ...nightly, ...definition(change), created_at: '2020-01-01T00:00:00.000Z' };
        const { owed } = expected(schedule, now);
        assert.ok(owed && owed.fromMs <= Date.parse(now) - 3_600_000, `${change.cron} ${now}`);
      }
  });

  it('is judged by all schedules without holding up what else there is to do', async () => {
    const schedules = Array.from({ length: 100 }, (_, index) => ({
      schedule: { ...nightly, name: `s${index}`, created_at: '2025-11-01T12:00:00.000Z' },
      revision: 1,
    }));
    const expected = new ExpectedBackups({
      schedules: { list: async () => schedules } as unknown as ScheduleStore,
      runs: { find: async () => undefined } as unknown as RunStore,
      matched: { current: async () => () => false } as unknown as MatchedInstances,
      patienceMs: 1,
    });
    let turns = 0;
    const count = () => {
      turns++;
      next = setImmediate(count);
    };
    let next = setImmediate(count);
    const { expectations } = await expected.current(new Date('2026-11-28T10:00:00Z'));
    clearImmediate(next);
    assert.deepEqual(
      expectations.map(({ schedule }) => schedule),
      schedules.map(({ schedule }) => schedule.name),
    );
    assert.ok(turns >= 50, `${turns} turns`);
  });

  it('costs 10 000 instances and 10 schedules less than half a second', () => {
    const now = new Date('2026-11-28T10:00:00Z');
    const expectations = Array.from({ length: 10 }, (_, index) =>
      expected(
        {
          ...nightly,
          name: `s${index}`,
          definition: { ...nightly.definition, selector: { instances: [`*${index}`] } },
        },
        now.toISOString(),
      ),
    );
    const yardstick = { now, maxAgeMs: 1, mayName: () => true, expectations };
    const before = process.cpuUsage();
    const count = Array.from({ length: 10_000 }, (_, index) =>
      statusOf({ ...c1, instance: `web-${index}` }, old, yardstick),
    ).filter(({ schedules = [] }, index) => schedules.length === 1 && schedules[0] === `s${index % 10}`).length;
    const { user, system } = process.cpuUsage(before);
    assert.equal(count, 10_000);
    assert.ok(user + system < 500_000, `${user + system} µs`);
  });
});

describe('the youngest backup in the store', () => {
  interface Stored {
    /** Minutes: when it was asked for, made, and when its tags were changed. */
    asked: number;
    made: number;
    changed: number;
    /** A name that somebody chose. */
    named: boolean;
  }
  const part = { number: 1, rawStart: 0, rawEnd: 1, size: 1, etag: 'e', sha256: 'a'.repeat(64), crc32: 'AA==' };
  const manifestOf = (name: string, created: string) =>
    formatManifest({
      ...{ version: 1, writer: 'test', operation: uuid },
      backup: { ...c1, name, created, tags: {} },
      archive: {
        ...{ key: 'k', etag: 'e', size: 1, rawSize: 1, blockSize: 1, parts: [part] },
        ...{ compression: 'none', optimized: false, instanceOnly: false },
      },
      instance: {
        ...{ config: {}, devices: {}, profiles: [], snapshots: [] },
        ...{ pool: 'p', driver: 'dir', architecture: 'x86_64', type: 'container' },
      },
      lxd: { version: '5.0.2' },
    });
  const storeOf = (backups: Stored[]) => {
    const objects = new Map(
      backups.map(({ asked, made, changed, named }, index) => {
        const name = named ? `mine-${index}.tar` : backupName(new Date(at(asked)), 'none', index + 1);
        const body = manifestOf(name, at(made));
        return [manifestKey('', { ...c1, backup: name }), { body, modified: at(changed) }] as const;
      }),
    );
    let reads = 0;
    const store = {
      async *list() {
        for (const [key, { body, modified }] of objects) yield { key, modified, etag: 'e', size: body.length };
      },
      async read(key: string) {
        reads++;
        return { body: objects.get(key)?.body, etag: 'e' };
      },
    } as unknown as ObjectStore;
    return { store, reads: () => reads };
  };
  const never = new AbortController().signal;
  const youngest = async (store: ObjectStore, now = longAfter) =>
    [...(await youngestBackups(store, '', c1, never, now)).values()][0]?.good.at;

  it('is found, whatever backups are called and whenever their tags were changed', async () => {
    const minute = fc.nat({ max: 300 });
    const backup = fc
      .record({ asked: minute, took: minute, later: fc.constantFrom(0, 0, 100, 1000), named: fc.boolean() })
      .map(({ asked, took, later, named }) => ({ asked, made: asked + took, changed: asked + took + later, named }));
    await fc.assert(
      fc.asyncProperty(fc.array(backup, { minLength: 1, maxLength: 12 }), minute, async (backups, now) => {
        const { store } = storeOf(backups);
        const made = backups.map(({ made }) => made);
        assert.equal(await youngest(store), at(Math.max(...made)));
        // A clock was ahead when those after minute now + 5 were made.
        const right = made.filter((minute) => minute <= now + 5);
        assert.equal(await youngest(store, new Date(at(now))), at(Math.max(...(right.length > 0 ? right : made))));
      }),
    );
  });

  it('of a thousand is found by reading one manifest', async () => {
    const backups = Array.from({ length: 1000 }, (_, day) => ({ asked: day * 1440, made: day * 1440 + 5 }));
    const { store, reads } = storeOf(backups.map((each) => ({ ...each, changed: each.made, named: false })));
    assert.equal(await youngest(store), at(999 * 1440 + 5));
    assert.equal(reads(), 1);
  });
});

describe('a record that cannot be written', () => {
  const log = createLogger({ level: 'error', format: 'json' }, {});
  const away = () => Promise.reject(new LxstowError('nats-unavailable', 'away'));

  it('fails nothing, and its host is asked once to compare, as soon as NATS is back', async () => {
    const asked: string[] = [];
    const answers = [away, async (remote: string) => void asked.push(remote)];
    const askToCompare = (remote: string) => (answers.shift() ?? assert.fail)(remote);
    const fleet = { change: away, askToCompare } as unknown as FleetStore;
    const keeper = new Keeper({ fleet, store: {} as ObjectStore, prefix: '', log });
    await keeper.failed(c1, last(1, 'failure'));
    await keeper.removed({ ...c1, backup: 'b1' });
    for (const expected of [[], ['local'], ['local']]) {
      await keeper.askToCompare();
      assert.deepEqual(asked, expected);
    }
  });

  it('is corrected although another worker of the host takes the inventory', async () => {
    const [over, corrected] = [new AbortController(), Promise.withResolvers<void>()];
    const record: InstanceRecord = { seen: { at: at(0), excluded: false }, good: good(1) };
    let [note, revision] = [{ at: at(0), compared: new Date().toISOString() }, 1];
    const fleet = Object.assign(Object.create(FleetStore.prototype) as FleetStore, {
      change: away,
      inventory: async () => ({ inventory: note, revision }),
      noteInventory: async (_: string, next: typeof note, from: number) => {
        if (from !== revision) return undefined;
        note = next;
        return ++revision;
      },
      recordsOf: async () => new Map([[instanceKey(c1), { address: c1, record, revision: 1 }]]),
      replace: async (_: object, next: InstanceRecord) => {
        assert.equal(next.good, undefined);
        corrected.resolve();
        return true;
      },
    });
    const store = { list: async function* () {} } as unknown as ObjectStore;
    const keepers = [0, 1].map(() => new Keeper({ fleet, store, prefix: '', log }));
    const list = async () => [{ name: 'c1', project: 'default', config: {} }] as unknown as LxdInstance[];
    const take = (keeper: Keeper, everySeconds: number) =>
      takeInventoryRegularly(
        { ...{ remote: 'local', fleet, keeper, store, prefix: '', list, log }, leases: {} as Leases },
        { everySeconds, stop: over.signal },
      );
    const [often, seldom] = keepers;
    assert.ok(often && seldom);
    const taking = [take(often, 0.001), take(seldom, 0.002)];
    await seldom.removed({ ...c1, backup: 'b1' });
    await corrected.promise;
    over.abort();
    await Promise.all(taking);
  });
});

describe('a comparison with the store', () => {
  for (const before of [undefined, { at: at(0) }])
    it(`is made again if that was asked for meanwhile, ${before ? 'also for the second time' : 'at the first inventory'}`, async () => {
      const [over, comparing] = [new AbortController(), Promise.withResolvers<void>()];
      const [asked, noted] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
      let [note, revision] = [before as { at: string; compared?: string } | undefined, before ? 1 : 0];
      const fleet = Object.assign(Object.create(FleetStore.prototype) as FleetStore, {
        inventory: async () => ({ inventory: note, revision }),
        noteInventory: async (_: string, next: { at: string; compared?: string }, from: number) => {
          if (next.compared) noted.resolve();
          if (from !== revision) return undefined;
          note = next;
          return ++revision;
        },
        recordsOf: async () => new Map(),
      });
      const store = {
        list: async function* () {
          comparing.resolve();
          await asked.promise;
          yield* [];
        },
      } as unknown as ObjectStore;
      const log = createLogger({ level: 'error', format: 'json' }, {});
      const keeper = new Keeper({ fleet, store, prefix: '', log });
      const tools = { ...{ remote: 'local', fleet, keeper, store, prefix: '', log }, leases: {} as Leases };
      const taking = takeInventoryRegularly(
        { ...tools, list: async () => [] },
        { everySeconds: 3600, stop: over.signal },
      );
      await comparing.promise;
      await fleet.askToCompare('local');
      asked.resolve();
      await noted.promise;
      over.abort();
      await taking;
      assert.ok(note && !note.compared);
    });
});

describe('an inventory', () => {
  const address = (instance: string) => ({ ...c1, instance });
  const present = (...all: [name: string, uuid: string][]) =>
    new Map(
      all.map(([name, uuid]) => [
        instanceKey(address(name)),
        { address: address(name), seen: { at: at(1), excluded: false, uuid } },
      ]),
    );
  /** Records after inventories at minutes 1, 2, … */
  const after = (
    ...rounds: Map<string, { address: Address; seen: { at: string; excluded: boolean; uuid: string } }>[]
  ) => {
    const records = new Map<string, { address: Address; record: InstanceRecord }>();
    const written: number[] = [];
    for (const [index, round] of rounds.entries()) {
      const time = at(index + 1);
      const found = new Map([...round].map(([key, each]) => [key, { ...each, seen: { ...each.seen, at: time } }]));
      const changes = sightings(records, found, time);
      written.push(changes.length);
      for (const { address, seen } of changes) {
        const key = instanceKey(address);
        records.set(key, { address, record: withSeen(records.get(key)?.record ?? {}, seen, longAfter) });
      }
    }
    return { written, of: (name: string) => records.get(instanceKey(address(name)))?.record.seen };
  };

  it('writes only what is new', () => {
    const same = present(['c1', 'u1'], ['c2', 'u2']);
    assert.deepEqual(after(same, same, present(['c1', 'u1'])).written, [2, 0, 1]);
  });

  it('knows a renamed instance again, and goes on to', () => {
    const now = present(['new', 'u1']);
    const { of, written } = after(present(['old', 'u1']), now, now);
    assert.deepEqual(written, [1, 2, 0]);
    assert.deepEqual(of('old')?.renamed, { project: 'default', instance: 'new' });
    assert.equal(of('old')?.gone, at(2));
    assert.deepEqual(of('new')?.was, { project: 'default', instance: 'old' });
  });

  it('takes none for gone that a job is at work on', async () => {
    const known = { address: c1, revision: 1, record: { seen: { at: at(0), excluded: false } } };
    const changed: Address[] = [];
    const fleet = {
      recordsOf: async () => new Map([[instanceKey(c1), known]]),
      change: async (address: Address) => void changed.push(address),
    } as unknown as FleetStore;
    const none = async () => [];
    assert.equal(await compareInstances(fleet, 'local', none, async () => true), 0);
    assert.deepEqual(changed, []);
    assert.equal(await compareInstances(fleet, 'local', none, async () => false), 1);
    assert.deepEqual(changed, [c1]);
  });

  it('takes an instance that comes back for what it is', () => {
    const { of } = after(present(['c1', 'u1']), present(), present(['c1', 'u1']));
    assert.equal(of('c1')?.gone, undefined);
    const { of: other } = after(present(['c1', 'u1']), present(['c2', 'u1']), present(['c1', 'u3'], ['c2', 'u1']));
    assert.equal(other('c1')?.gone, undefined);
    assert.equal(other('c1')?.was, undefined);
    assert.deepEqual(other('c2')?.was, { project: 'default', instance: 'c1' });
  });
});
