import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { type OperationsScope, WatchedOperations } from '../../services/cli/client/following/watchedOperations.ts';
import type { Gateway, ShownOperation } from '../../services/cli/client/gatewayClient.ts';
import { distance, nearest } from '../../services/cli/client/nearest.ts';
import { natsConfigCommand } from '../../services/cli/commands/natsConfig.ts';
import { tableOf } from '../../services/cli/commands/operations.ts';
import { exitOf } from '../../services/cli/exit.ts';
import { parseTime } from '../../services/cli/terminal/dates.ts';
import { size } from '../../services/cli/terminal/output.ts';
import { clock } from '../../services/cli/terminal/progress.ts';
import { runOutcome, runProgress } from '../../services/cli/terminal/runWords.ts';
import { LxstowError } from '../../services/contract/errors.ts';
import type { ShownRun } from '../../services/contract/schemas.ts';
import { parseMatch } from '../../services/runs/selector.ts';

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

  it('takes no port in the name of a nats-server, from which an address would be made that nobody can reach', async () => {
    const given = { hosts: ['berlin'], out: '/nowhere', server: ['nats.example.net:4222'], port: 4222 };
    await assert.rejects(natsConfigCommand(given), /nats\.example\.net:4222: .*the port is given by --port/);
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
    const fits = (selector: string) => parseMatch(selector)(instance);
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
    assert.throws(() => parseMatch('=x'), /key=value/);
  });

  it('names the host of each operation where they are of several', () => {
    const of = (location: string) =>
      ({ id: 'ID', status: 'Success', description: 'Backing up', created_at: '', location }) as ShownOperation;
    assert.equal(tableOf([of('berlin'), of('berlin')]).heading[0], 'ID');
    const { heading, rows } = tableOf([of('berlin'), of('oslo')]);
    assert.deepEqual([heading[0], ...rows.map(([first]) => first)], ['HOST', 'berlin', 'oslo']);
  });

  it('says how a run is, and what became of it, in a line', () => {
    const counts = { total: 60, success: 57, failure: 1, skipped: 2, cancelled: 0, running: 0, pending: 0 };
    const run = { id: 'ID', status: 'Failure', counts, bytes: 2 ** 30, away: [], failures: [], excluded: 0 };
    const shown = (more: object = {}) => ({ ...run, ...more }) as unknown as ShownRun;
    const child = (instance: string, reason: string, remote = 'local') => ({
      ...{ instance, reason, remote, project: 'default', state: 'skipped' as const },
      ...{ operation: '' },
    });
    const failures = [child('web', 'no space')];
    const skipped = [child('a1', 'run X has it'), child('a2', 'run X has it')];
    assert.equal(
      runOutcome(shown({ failures, counts: { ...counts, skipped: 0 } }), []),
      '57 of 60 backed up, 1 failed: web: no space',
    );
    assert.equal(
      runOutcome(shown({ failures, excluded: 3 }), skipped),
      '57 of 60 backed up, 2 skipped, 1 failed, 3 excluded by user.lxstow.exclude:\n  web: no space\n  a1, a2: skipped: run X has it',
    );
    assert.equal(
      runOutcome(shown({ counts: { ...counts, failure: 0, skipped: 0 }, note: '2 earlier times were missed' }), []),
      '57 of 60 backed up, 2 earlier times were missed',
    );
    const other = [child('web', 'no space', 'oslo')];
    assert.match(
      runOutcome(shown({ failures: other }), skipped),
      /\n {2}web \(oslo, default\): no space\n {2}a1 \(local,/,
    );
    assert.match(runOutcome(shown({ failures, counts: { ...counts, failure: 9 } }), skipped), /lxstow run report ID$/);
    const [first, ...rest] = ['a', 'b', 'c', 'd', 'e', 'f', 'g'].map((name) => child(name, `of ${name}`));
    assert.match(
      runOutcome(shown({ failures: [first, ...rest] }), skipped),
      /e: of e\n {2}and more: lxstow run report/,
    );
    const whole = { remote: 'oslo', project: '', instance: '', reason: 'no worker of host oslo is up' };
    assert.match(runOutcome(shown({ failures: [whole] }), skipped), /\n {2}no worker of host oslo is up\n/);

    const away = [{ remote: 'oslo', since: '2026-11-24T03:00:00Z', reason: 'no worker', planned: true }];
    const going = { ...counts, success: 10, running: 2, pending: 45 };
    assert.equal(
      runProgress(shown({ status: 'Running', counts: going, seconds_left: 190, away })),
      'Running: 13 of 60 done, 1 failed, 2 skipped, 2 at work, 1.00GiB, 3:10 left, waits for host oslo since 2026-11-24 03:00:00 UTC: no worker',
    );
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

describe('operations that are watched', () => {
  const operation = (id: string, status_code: number, project = 'default', at = 1) =>
    ({
      ...{ id, status_code, created_at: `2026-11-23T13:45:4${id}Z`, updated_at: `2026-11-23T13:46:0${at}Z` },
      resources: { instances: [`/1.0/instances/c${id}?project=${project}`] },
    }) as unknown as ShownOperation;
  function watched(listed: ShownOperation[][], scope: OperationsScope = {}) {
    const sockets: EventEmitter[] = [];
    const asked: unknown[] = [];
    const gateway = {
      remote: {},
      async ask(_: string, __: string[], { query }: { query: object }) {
        asked.push(query);
        return { all: listed.shift() ?? [] };
      },
      async events() {
        const socket = Object.assign(new EventEmitter(), { terminate: () => undefined });
        setImmediate(() => socket.emit('open'));
        sockets.push(socket);
        return socket;
      },
    };
    const operations = new WatchedOperations(gateway as unknown as Gateway, scope);
    const ids = async () => (await operations.current()).map(({ id, status_code }) => `${id} ${status_code}`);
    const hear = (metadata: ShownOperation) => sockets.at(-1)?.emit('message', JSON.stringify({ metadata }));
    return { asked, sockets, ids, hear };
  }

  it('are listed once, and then followed by events; those that have ended are shown once', async () => {
    const { asked, ids, hear } = watched([[operation('2', 103), operation('1', 200)]]);
    assert.deepEqual(await ids(), ['1 200', '2 103']);
    assert.deepEqual(await ids(), ['2 103']);
    hear(operation('3', 105));
    hear(operation('2', 200, 'default', 2));
    assert.deepEqual(await ids(), ['2 200', '3 105']);
    assert.deepEqual(await ids(), ['3 105']);
    assert.equal(asked.length, 1);
  });

  it('are of the project that is meant', async () => {
    const one = watched([[]]);
    const every = watched([[]], { allProjects: true });
    for (const { ids, hear } of [one, every]) {
      await ids();
      for (const project of ['default', 'web']) hear(operation(project === 'web' ? '2' : '1', 103, project));
    }
    assert.deepEqual([await one.ids(), await every.ids()], [['1 103'], ['1 103', '2 103']]);
    assert.deepEqual(
      [one.asked, every.asked],
      [[{ recursion: '1', project: undefined }], [{ recursion: '1', 'all-projects': 'true' }]],
    );
  });

  it('are listed again when the events have been cut, and no older state is taken for a newer one', async () => {
    const { asked, sockets, ids, hear } = watched([[operation('1', 105)], [operation('1', 105), operation('2', 103)]]);
    await ids();
    hear(operation('1', 103, 'default', 3));
    sockets[0]?.emit('close');
    assert.deepEqual(await ids(), ['1 103', '2 103']);
    assert.equal(asked.length, 2);
  });
});
