/** Which backups a rule keeps: restic's documented examples, what users of other tools reported, and properties. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { check, type KeepRule } from '../../services/contract/schemas.ts';
import { type Candidate, checkRule, judge } from '../../services/retention/keep.ts';

const backup = (created: string, more: Partial<Candidate> = {}): Candidate => ({
  ...{ name: `backup_${created}`, created, tags: {}, pinned: false },
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
    const sundays = days('2014-09-07', 12, 7);
    assert.deepEqual(
      kept(sundays, { keep_daily: 4 }),
      sundays.slice(-4).map(({ created }) => created),
    );
  });

  it("keeps 7 days, 5 weeks, 12 months and 75 years of a hundred years of days (restic's manual)", () => {
    const century = days('1926-01-01', 36_525);
    const verdicts = judge(century, { keep_daily: 7, keep_weekly: 5, keep_monthly: 12, keep_yearly: 75 }, late);
    const by = (word: string) => verdicts.filter(({ reasons }) => reasons.some((each) => each.startsWith(word))).length;
    assert.deepEqual([by('daily'), by('weekly'), by('monthly'), by('yearly')], [7, 5, 12, 75]);
    const all = verdicts.filter(({ action }) => action === 'keep').length;
    assert.ok(all >= 7 + 3 + 10 + 73 && all <= 7 + 4 + 12 + 75, String(all));
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
});
