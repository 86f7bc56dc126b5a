/** Which backups a rule keeps: restic's documented examples, what users of other tools reported, and properties. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { keptCalendar } from '../../services/cli/terminal/keptCalendar.ts';
import { check, type KeepRule } from '../../services/contract/schemas.ts';
import { instanceKeepOf, judgeFor, readKeys, ruleFor } from '../../services/retention/instanceKeys.ts';
import { type Candidate, checkRule, judge } from '../../services/retention/keep.ts';
import { simulate } from '../../services/retention/simulate.ts';

const backup = (created: string, more: Partial<Candidate> = {}): Candidate => ({
  ...{ name: `backup_${created}`, created, tags: {}, pinned: false, locked_until: null },
  ...more,
});
const at = (...times: string[]) => times.map((time) => backup(time.length === 10 ? `${time}T03:00:00Z` : time));
/** Later than all backups. */
const late = new Date('2100-01-01T00:00:00Z');
const kept = (backups: Candidate[], rule: KeepRule) =>
  judge(backups, rule, late)
    .filter(({ action }) => action === 'keep')
    .map(({ backup: { created } }) => created);
const days = (from: string, count: number, stepDays = 1) =>
  Array.from({ length: count }, (_, index) =>
    backup(new Date(Date.parse(`${from}T03:00:00Z`) + index * stepDays * 86_400_000).toISOString()),
  );
const reasonsOf = (backups: Candidate[], rule: KeepRule) =>
  judge(backups, rule, late).map(({ reasons }) => reasons.join(', '));

describe('a keep rule', () => {
  it("keeps the last four Sundays by --keep-daily 4: days without backups do not count (restic's manual)", () => {
    const sundays = days('2019-09-01', 12, 7);
    assert.deepEqual(
      judge(sundays, { keep_daily: 4 }, late).map(({ action, reasons }) => [action, ...reasons]),
      [
        ...Array(8).fill(['delete']),
        ...['2019-10-27', '2019-11-03', '2019-11-10', '2019-11-17'].map((day) => ['keep', `daily ${day}`]),
      ],
    );
  });

  it("keeps 7 days, 4 more weeks, 12 or 11 more months and 75 years of a hundred years of days (restic's manual)", () => {
    const periods = ['daily', 'weekly', 'monthly', 'yearly'];
    // The manual's 7 days contain one week's end, as those do that end on a Sunday.
    for (const lastDay of ['2025-10-26', '2026-08-23', '2026-11-22', '2026-12-27']) {
      const count = 36_525;
      const first = new Date(Date.parse(lastDay) - (count - 1) * 86_400_000).toISOString().slice(0, 10);
      const rule = { keep_daily: 7, keep_weekly: 5, keep_monthly: 12, keep_yearly: 75 };
      const stay = judge(days(first, count), rule, late).filter(({ action }) => action === 'keep');
      const [daily, weekly, monthly, yearly] = periods.map(
        (word) => stay.filter(({ reasons }) => reasons[0]?.startsWith(word)).length,
      ) as [number, number, number, number];
      assert.deepEqual([daily, weekly], [7, 4], lastDay);
      assert.ok(monthly === 12 || monthly === 11, `${lastDay}: ${monthly}`);
      // Of the 75, this year's is the newest, and last year's may be a month's.
      assert.ok(yearly === 74 || yearly === 73, `${lastDay}: ${yearly}`);
      assert.equal(stay.length, daily + weekly + monthly + yearly);
    }
  });

  it("takes weeks from Monday 00:00 to Sunday 23:59, days, hours and months by their own bounds (restic's manual)", () => {
    const bounds = at('2026-11-29T23:59:59Z', '2026-11-30T00:00:00Z', '2026-11-30T23:59:59Z', '2026-12-01T00:00:00Z');
    const by = (rule: KeepRule) => kept(bounds, rule).map((created) => created.slice(5, 16));
    assert.deepEqual(by({ keep_weekly: 2 }), ['11-29T23:59', '12-01T00:00']);
    assert.deepEqual(by({ keep_daily: 2 }), ['11-30T23:59', '12-01T00:00']);
    assert.deepEqual(by({ keep_hourly: 3 }), ['11-30T00:00', '11-30T23:59', '12-01T00:00']);
    assert.deepEqual(by({ keep_monthly: 2 }), ['11-30T23:59', '12-01T00:00']);
  });

  it("keeps a backup that matches one option, for all that it matches (restic's manual)", () => {
    const sundays = at('2026-11-22T03:00:00Z', '2026-11-22T11:00:00Z');
    assert.deepEqual(reasonsOf(sundays, { keep_last: 1, keep_hourly: 1, keep_daily: 1, keep_weekly: 1 }), [
      '',
      'last 1, hourly 2026-11-22 11h +00:00, daily 2026-11-22, weekly 2026-W47',
    ]);
  });

  it("keeps all by unlimited, and for 2y5m7d3h before the newest (restic's manual)", () => {
    const years = days('2020-01-01', 2000);
    for (const rule of [{ keep_last: -1 }, { keep_daily: -1 }, { keep_hourly: -1 }])
      assert.equal(kept(years, rule).length, 2000);
    assert.equal(kept(years, { keep_yearly: -1 }).length, 7);
    const some = at('2024-06-23T23:59:59Z', '2024-06-24T00:00:01Z', '2026-12-01T03:00:00Z');
    assert.deepEqual(
      kept(some, { keep_within: '2y5m7d3h' }),
      some.slice(1).map(({ created }) => created),
    );
  });

  it('deletes one a night behind 14 nights without a host, not all of them (kopia#3758)', () => {
    const before = days('2026-11-01', 14);
    const after = [...before, backup('2026-11-29T03:00:00Z')];
    assert.deepEqual(
      kept(after, { keep_daily: 14 }),
      after.slice(1).map(({ created }) => created),
    );
  });

  it('keeps the last backup of a period, in its own zone (backrest#330, restic#2233)', () => {
    const night = at('2026-11-23T23:30:00Z', '2026-11-24T01:00:00Z', '2026-11-24T22:30:00Z', '2026-11-24T23:30:00Z');
    assert.deepEqual(reasonsOf(night, { keep_daily: 9, zone: 'UTC' }), [
      'daily 2026-11-23',
      '',
      '',
      'daily 2026-11-24',
    ]);
    assert.deepEqual(reasonsOf(night, { keep_daily: 9, zone: 'Europe/Berlin' }), [
      'oldest, daily',
      '',
      'daily 2026-11-24',
      'daily 2026-11-25',
    ]);
  });

  it('takes the hour that comes twice in autumn for two', () => {
    const twice = at('2026-10-25T00:30:00Z', '2026-10-25T01:30:00Z', '2026-10-25T02:30:00Z');
    assert.deepEqual(reasonsOf(twice, { keep_hourly: 3, zone: 'Europe/Berlin' }), [
      'hourly 2026-10-25 02h +02:00',
      'hourly 2026-10-25 02h +01:00',
      'hourly 2026-10-25 03h +01:00',
    ]);
  });

  it('keeps what is within a time of the newest backup, not of now (kopia#3758: off for 14 days)', () => {
    const old = at('2026-01-01', '2026-01-09', '2026-01-10', '2026-01-14');
    assert.deepEqual(
      kept(old, { keep_within: '5d' }),
      old.slice(2).map(({ created }) => created),
    );
    assert.deepEqual(kept(old, { keep_within: '1m' }).length, 4);
    assert.deepEqual(kept(old, { keep_within: '4d1h' }).length, 2);
  });

  it('neither counts nor deletes what a wrong clock dated into the future', () => {
    const now = new Date('2026-01-05T00:00:00Z');
    const some = at('2026-01-01', '2026-01-02', '2026-01-03', '2036-01-01');
    const reasons = (rule: KeepRule) => judge(some, rule, now).map((each) => each.reasons.join(', '));
    assert.deepEqual(reasons({ keep_within: '36h' }), ['', 'within 36h', 'within 36h', 'created in the future']);
    assert.deepEqual(reasons({ keep_last: 1 }), ['', '', 'last 1', 'created in the future']);
    assert.deepEqual(reasons({ keep_tags: ['keep'] }), ['', '', 'newest 1', 'created in the future']);
    const ahead = at('2026-01-01', '2026-01-05T00:01:00Z');
    assert.deepEqual(
      judge(ahead, { keep_last: 1 }, now).map((each) => each.reasons.join(', ')),
      ['', 'last 1'],
    );
  });

  it('keeps pinned ones, tags by key and by value, and the newest whatever else is said (velero#9061)', () => {
    const [first, second, third, fourth] = at('2026-01-01', '2026-01-02', '2026-01-03', '2026-01-04') as [
      Candidate,
      Candidate,
      Candidate,
      Candidate,
    ];
    const some = [
      { ...first, pinned: true },
      { ...second, tags: { keep: '' } },
      { ...third, tags: { keep: 'no', env: 'a' } },
      fourth,
    ];
    assert.deepEqual(reasonsOf(some, { keep_tags: ['keep'] }), ['pinned', 'tag keep', 'tag keep', 'newest 1']);
    assert.deepEqual(reasonsOf(some, { keep_tags: ['keep=no'], min_good: 3 }), [
      'pinned',
      'newest 3',
      'tag keep=no',
      'newest 3',
    ]);
    assert.deepEqual(reasonsOf([], { keep_last: 1 }), []);
  });

  it('keeps the oldest while a count is not used up, so that years can grow', () => {
    const few = at('2026-02-01', '2026-05-01', '2026-08-01');
    assert.deepEqual(reasonsOf(few, { keep_yearly: 5 }), ['oldest, yearly', '', 'yearly 2026']);
  });

  it('counts weeks from Monday, over the year', () => {
    const weeks = at('2026-12-27', '2026-12-28', '2027-01-03', '2027-01-04');
    assert.deepEqual(reasonsOf(weeks, { keep_weekly: 3 }), [
      'weekly 2026-W52',
      '',
      'weekly 2026-W53',
      'weekly 2027-W01',
    ]);
  });

  it('is refused where it keeps nothing, or names no zone (hypeman#139)', () => {
    for (const rule of [{}, { keep_daily: 0, keep_last: 0 }, { keep_within: '0d' }, { keep_tags: [] }, { min_good: 3 }])
      assert.throws(() => checkRule(rule), /the rule keeps nothing/);
    assert.throws(() => checkRule({ keep_last: 1, zone: 'Mars/Base' }), /"Mars\/Base" is not a time zone/);
    assert.doesNotThrow(() => checkRule({ keep_last: -1, zone: 'Australia/Lord_Howe' }));
    for (const wrong of [
      { keep_last: -2 },
      { keep_daily: 1.5 },
      { keep_within: '' },
      { keep_within: '3w' },
      { keep: 1 },
    ])
      assert.throws(() => check('keep-rule.json', wrong, 'keep'), /keep/);
  });
});

describe('whatever the rule and the backups', () => {
  const zones = ['UTC', 'Europe/Berlin', 'Australia/Lord_Howe', 'Pacific/Apia', 'America/Sao_Paulo', 'Asia/Kathmandu'];
  const count = fc.option(fc.integer({ min: -1, max: 9 }), { nil: undefined });
  const rules: fc.Arbitrary<KeepRule> = fc
    .record({
      ...{ keep_last: count, keep_hourly: count, keep_daily: count, keep_weekly: count, keep_monthly: count },
      keep_yearly: count,
      keep_within: fc.option(fc.constantFrom('3h', '2d', '1m', '1y'), { nil: undefined }),
      keep_tags: fc.option(fc.constant(['keep']), { nil: undefined }),
      min_good: fc.option(fc.integer({ min: 1, max: 4 }), { nil: undefined }),
      zone: fc.constantFrom(...zones),
    })
    .map((rule) => Object.fromEntries(Object.entries(rule).filter(([, value]) => value !== undefined)));
  const backups = fc.uniqueArray(
    fc.record({
      hours: fc.integer({ min: 0, max: 30_000 }),
      pinned: fc.boolean(),
      keep: fc.integer({ min: 0, max: 9 }),
    }),
    { selector: ({ hours }) => hours, maxLength: 40 },
  );
  const made = (of: { hours: number; pinned: boolean; keep: number }[]) =>
    of.map(({ hours, pinned, keep }) =>
      backup(new Date(Date.UTC(2023, 0, 1) + hours * 3_600_000).toISOString(), {
        pinned: pinned && keep === 0,
        tags: keep === 1 ? { keep: '' } : {},
      }),
    );
  const always = (property: (backups: Candidate[], rule: KeepRule) => void) =>
    fc.assert(
      fc.property(backups, rules, (of, rule) => property(made(of), rule)),
      { numRuns: 300 },
    );

  it('the newest stay, and so do pinned ones', () => {
    always((all, rule) => {
      const stay = new Set(kept(all, rule));
      const newest = all.map(({ created }) => created).sort();
      for (const created of newest.slice(-(rule.min_good ?? 1))) assert.ok(stay.has(created));
      for (const { created, pinned } of all) if (pinned) assert.ok(stay.has(created));
    });
  });

  it('the order in which they are listed is nothing', () => {
    always((all, rule) => assert.deepEqual(judge(all.toReversed(), rule, late), judge(all, rule, late)));
  });

  it('what stays, stays when it is asked again', () => {
    always((all, rule) => {
      const stay = new Set(kept(all, rule));
      const left = all.filter(({ created }) => stay.has(created));
      assert.deepEqual(kept(left, rule), [...stay]);
    });
  });

  it('a longer rule keeps no less', () => {
    always((all, rule) => {
      const stay = new Set(kept(all, { ...rule, keep_daily: 9, keep_last: 9 }));
      const less = {
        ...rule,
        keep_daily: Math.min(rule.keep_daily ?? 0, 8),
        keep_last: Math.min(rule.keep_last ?? 0, 8),
      };
      if ((rule.keep_daily ?? 0) < 0 || (rule.keep_last ?? 0) < 0) return;
      for (const created of kept(all, less)) assert.ok(stay.has(created));
    });
  });

  it('a backup later, it keeps of what it kept before, and of nothing else: what is shown once holds night by night', () => {
    always((all, rule) => {
      const inOrder = all.toSorted((a, b) => a.created.localeCompare(b.created));
      let left: Candidate[] = [];
      for (const next of inOrder) {
        const stay = new Set(kept([...left, next], rule));
        left = [...left, next].filter(({ created }) => stay.has(created));
      }
      assert.deepEqual(
        left.map(({ created }) => created),
        kept(inOrder, rule),
      );
    });
  });
});

describe("an instance's own keys", () => {
  const config = (keys: Record<string, string>) =>
    Object.fromEntries(Object.entries(keys).map(([key, value]) => [`user.lxstow.${key}`, value]));
  const ruleOf = (rule: KeepRule, keys: Record<string, string>) => ruleFor(rule, instanceKeepOf(config(keys)));

  it('lengthen a rule, option by option', () => {
    const rule: KeepRule = {
      keep_daily: 14,
      keep_weekly: -1,
      keep_within: '45d',
      keep_tags: ['a'],
      zone: 'Europe/Oslo',
    };
    assert.deepEqual(
      ruleOf(rule, { 'keep-daily': '30', 'keep-monthly': '12', 'keep-within': '2m', 'keep-tag': 'a, b=1' }),
      {
        ...rule,
        ...{ keep_daily: 30, keep_monthly: 12, keep_within: '2m', keep_tags: ['a', 'b=1'] },
      },
    );
    assert.deepEqual(ruleOf(rule, { 'keep-daily': '7', 'keep-weekly': '5', 'keep-within': '1m' }), rule);
    assert.equal(ruleOf(rule, { 'keep-daily': 'unlimited' }).keep_daily, -1);
    // In the middle of March, a month is 28 days.
    const march = at('2026-02-13', '2026-02-14', '2026-02-16', '2026-03-15');
    for (const [own, key] of [
      ['30d', '1m'],
      ['1m', '30d'],
    ])
      assert.deepEqual(
        judgeFor(march, { keep_within: own }, { 'keep-within': key }, late).map(({ action }) => action),
        ['delete', 'keep', 'keep', 'keep'],
      );
  });

  it('replace options where the rule says so, and never leave nothing', () => {
    const rule: KeepRule = { keep_daily: 14, keep_monthly: 12, instance_keys: 'replace' };
    assert.deepEqual(ruleOf(rule, { 'keep-daily': '3' }), { ...rule, keep_daily: 3 });
    assert.deepEqual(ruleOf(rule, { 'keep-daily': '0', 'keep-monthly': '0' }), rule);
    assert.deepEqual(ruleOf({ ...rule, instance_keys: 'ignore' }, { 'keep-daily': '99' }).keep_daily, 14);
  });

  it('count for nothing where they are not understood, and are named', () => {
    const keys = instanceKeepOf(
      config({ 'keep-daily': 'many', 'keep-last': '-5', 'keep-within': '3w', 'keep-hourly': '2' }),
    );
    assert.ok(keys);
    assert.deepEqual(readKeys(keys), {
      keep: { keep_hourly: 2 },
      faults: [
        'user.lxstow.keep-last=-5 is not valid, and is ignored',
        'user.lxstow.keep-daily=many is not valid, and is ignored',
        'user.lxstow.keep-within=3w is not valid, and is ignored',
      ],
    });
    assert.match(readKeys({ 'keep-daily': '"\r\nx' }).faults[0] ?? '', /=\?\?\?x is/);
    assert.equal(instanceKeepOf({ 'user.lxstow.keep': '3', 'user.other': '1' }), undefined);
  });

  it('are named in the reasons that the rule alone does not give', () => {
    const verdicts = judgeFor(days('2026-11-01', 4), { keep_daily: 2 }, { 'keep-daily': '3' }, late);
    assert.deepEqual(
      verdicts.map(({ reasons }) => reasons),
      [[], ['daily 2026-11-02 (user.lxstow.keep-daily=3)'], ['daily 2026-11-03'], ['daily 2026-11-04']],
    );
  });

  it('delete nothing that the rule keeps, whatever somebody writes into them', () => {
    const spans = ['1d', '28d', '30d', '1m', '59d', '60d', '2m', '365d', '12m', '1y'];
    const value = fc.oneof(
      fc.integer({ min: -9, max: 99 }).map(String),
      fc.constantFrom('unlimited', '1h', 'a', '', '0', ...spans),
    );
    const names = ['last', 'hourly', 'daily', 'weekly', 'monthly', 'yearly', 'within', 'tag'];
    const some = fc.dictionary(fc.constantFrom(...names.map((name) => `keep-${name}`)), value);
    const keys = fc.tuple(some, fc.constantFrom(...spans)).map(([some, span]) => ({ 'keep-within': span, ...some }));
    const rule = fc.record({
      keep_daily: fc.integer({ min: 1, max: 9 }),
      keep_monthly: fc.integer({ min: -1, max: 4 }),
      keep_within: fc.constantFrom(...spans),
      instance_keys: fc.constantFrom('lengthen', 'ignore', undefined),
    });
    const newest = fc.integer({ min: 0, max: 1500 });
    fc.assert(
      fc.property(keys, rule, newest, (found, { instance_keys, ...by }, day) => {
        const meant: KeepRule = { ...by, ...(instance_keys && { instance_keys }) };
        const all = [0, 1, 2, 5, 27, 28, 29, 30, 31, 58, 59, 60, 61, 100, 364, 365, 366].map((age) =>
          backup(new Date(Date.UTC(2026, 0, 1 + day - age)).toISOString()),
        );
        const stay = judgeFor(all, meant, instanceKeepOf(config(found)), late);
        const gone = new Set(stay.filter(({ action }) => action === 'delete').map(({ backup }) => backup.created));
        assert.deepEqual(
          kept(all, meant).filter((created) => gone.has(created)),
          [],
        );
      }),
      { numRuns: 300 },
    );
  });
});

describe('a simulation', () => {
  const now = new Date('2026-11-28T12:00:00Z');

  it('has the backups of a year by a cron rule, in the zone of the rule, and what is kept of them', () => {
    const rule = { keep_daily: 3, keep_monthly: 12, zone: 'Europe/Berlin' };
    const found = simulate({ cron: '30 2 * * *' }, rule, '1y', now);
    assert.equal(found.length, 365);
    assert.equal(found[0]?.created, '2025-11-29T02:30:00+01:00');
    const gap = found.find(({ created }) => created.startsWith('2026-03-29'));
    assert.equal(gap?.created, '2026-03-29T03:00:00+02:00');
    const stay = found.filter(({ action }) => action === 'keep');
    assert.deepEqual(
      stay.slice(-4).map(({ created, reasons }) => [created.slice(0, 10), ...reasons]),
      [
        ['2026-10-31', 'monthly 2026-10'],
        ['2026-11-26', 'daily 2026-11-26'],
        ['2026-11-27', 'daily 2026-11-27'],
        ['2026-11-28', 'daily 2026-11-28', 'monthly 2026-11'],
      ],
    );
    assert.equal(stay.length, 14);
  });

  it('takes a time between backups, and other spans', () => {
    assert.equal(simulate({ every: '6h' }, { keep_last: 1 }, '90d', now).length, 360);
    assert.equal(simulate({ every: '2w' }, { keep_last: 1 }, '1m', now).length, 2);
    assert.throws(() => simulate({ every: 'soon' }, { keep_last: 1 }, '1y', now), /every soon: give it as 30m/);
    assert.throws(() => simulate({ cron: '@daily' }, { keep_last: 1 }, 'tomorrow', now), /tomorrow: how long\?/);
    assert.throws(() => simulate({ every: '1m' }, { keep_last: 1 }, '2y', now), /simulate a shorter time/);
    assert.throws(() => simulate({ cron: '@daily' }, {}, '1y', now), /the rule keeps nothing/);
  });

  it('is drawn as a calendar', () => {
    const found = simulate({ every: '12h' }, { keep_daily: 2, keep_last: 3, keep_monthly: 2 }, '35d', now);
    assert.equal(
      keptCalendar(found),
      [
        '         1         11        21        31',
        '2026-10                          ......m',
        '2026-11  ..........................dM',
        '',
        'm monthly, d daily, l last, . deleted; a capital: several of that day',
        '4 of 70 backups are kept: 2 monthly, 2 daily, 3 last',
        '',
      ].join('\n'),
    );
  });
});
