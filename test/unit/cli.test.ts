import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { distance, nearest } from '../../services/cli/client/nearest.ts';
import { parseSelector } from '../../services/cli/commands/backup.ts';
import { exitOf } from '../../services/cli/exit.ts';
import { parseTime } from '../../services/cli/terminal/dates.ts';
import { size } from '../../services/cli/terminal/output.ts';
import { clock } from '../../services/cli/terminal/progress.ts';
import { LxstowError } from '../../services/contract/errors.ts';

describe('the words of the command line', () => {
  it('finds the near name, and none where none is', () => {
    assert.equal(nearest('wbe1', ['db1', 'web1', 'mail']), 'web1');
    assert.equal(nearest('WEB1', ['web1']), 'web1');
    assert.equal(nearest('postgres', ['web1', 'mail']), undefined);
    assert.equal(nearest('x', []), undefined);
  });

  it('counts edits as few as there are', () => {
    const word = fc.string({ maxLength: 12 });
    fc.assert(
      fc.property(word, word, fc.nat(11), (a, b, at) => {
        assert.equal(distance(a, b), distance(b, a));
        assert.equal(distance(a, a), 0);
        assert.ok(distance(a, b) <= Math.max(a.length, b.length));
        assert.ok(distance(a, a.slice(0, at) + a.slice(at + 1)) <= 1);
        const swapped = a.slice(0, at) + (a[at + 1] ?? '') + (a[at] ?? '') + a.slice(at + 2);
        assert.ok(distance(a, swapped) <= 1);
      }),
    );
  });

  it('selects by fields and by configuration', () => {
    const instance = {
      name: 'c1',
      status: 'Running',
      type: 'container',
      architecture: 'x86_64',
      location: 'local',
      config: { 'user.backup': 'daily' },
      expanded_config: { 'user.backup': 'profile', 'user.site': 'a=b' },
    };
    const fits = (selector: string) => parseSelector(selector)(instance);
    for (const selector of [
      'user.backup=daily',
      'status=running',
      'user.site=a=b',
      'user.backup!=weekly',
      'user.site',
      'user.x!=1',
    ])
      assert.ok(fits(selector), selector);
    for (const selector of ['user.backup=profile', 'status=stopped', 'user.x', 'user.backup=', 'user.backup!=daily'])
      assert.ok(!fits(selector), selector);
    assert.throws(() => parseSelector('=x'), /key=value/);
  });

  it('has exit statuses that tell', () => {
    assert.equal(exitOf(new LxstowError('bad-config', '')), 78);
    assert.equal(exitOf(new LxstowError('not-found', '')), 66);
    assert.equal(exitOf(new LxstowError('nats-unavailable', '')), 69);
    assert.equal(exitOf(new TypeError()), 70);
  });

  it('takes dates, times in UTC, and ages', () => {
    const now = Date.parse('2026-11-28T12:00:00Z');
    const iso = (text: string, end = false) => parseTime(text, '--at', end, now).toISOString().slice(0, 16);
    assert.equal(iso('2026-11-24'), '2026-11-24T00:00');
    assert.equal(iso('2026-11-24', true), '2026-11-25T00:00');
    for (const text of ['2026-11-24 03:00', '2026-11-24T03:00:00Z', '2026-11-24T04:00+01:00'])
      assert.equal(iso(text, true), '2026-11-24T03:00');
    assert.deepEqual([iso('14d'), iso('12h')], ['2026-11-14T12:00', '2026-11-28T00:00']);
    for (const text of ['tuesday', '2026-13-01', '24.11.2026', '2026-11-24T25:00', ''])
      assert.throws(() => iso(text), /--at .*: give a date/);
  });

  it('writes sizes and times for people', () => {
    assert.deepEqual([0, 1023, 1024, 77_164_527, 2 ** 40].map(size), ['0B', '1023B', '1.00KiB', '73.59MiB', '1.00TiB']);
    assert.deepEqual([0, 1.2, 61, 3700].map(clock), ['0:00', '0:02', '1:01', '1:01:40']);
  });
});
