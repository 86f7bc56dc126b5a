/** Schedules: what is due is backed up, and what is missed is said. On real parts, with the clock of the record turned back. */
import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { chmod, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type {
  Run,
  RunChild,
  Schedule,
  ScheduledAt,
  ShownRun,
  ShownRunChild,
  ShownSchedule,
} from '../../services/contract/schemas.ts';
import { newOperation } from '../../services/operations/operation.ts';
import { OperationStore } from '../../services/operations/operationStore.ts';
import { tally } from '../../services/runs/fold.ts';
import { childId, plan } from '../../services/runs/plan.ts';
import { RunStore } from '../../services/runs/runStore.ts';
import { scheduledRunId } from '../../services/schedules/scheduler.ts';
import { attempt } from '../lab/run.ts';
import { onTerminal, openTerminal } from '../lab/terminal.ts';
import { cliFile, dayMs, openScheduleStack, type ScheduleStack } from './scheduleStack.ts';
import { assertError, idOf, type Stack, until } from './stack.ts';

describe('schedules', { timeout: 1_800_000 }, () => {
  let world: ScheduleStack;
  let stack: Stack;
  before(async () => {
    world = await openScheduleStack('schedules');
    ({ stack } = world);
  });
  after(() => world?.[Symbol.asyncDispose]());
  async function audited(part: 'gateway' | number) {
    // The last line may be on its way.
    const lines = (await stack.stow.logOf(part)).split('\n').slice(0, -1);
    return lines.filter((line) => line.includes('"audit":true')).map((line) => JSON.parse(line));
  }

  it('back up what they select, and what names them, once each time, and delete what they do not keep', async () => {
    await world.set('s2', { 'user.lxstow.schedule': 'other, minutely' });
    const selector = { instances: ['s1'] };
    await world.create('minutely', { cron: '* * * * *', selector, keep: { keep_last: 1 }, tags: { by: 'schedule' } });
    assert.equal((await world.show('minutely')).last, undefined);
    for (const round of [1, 2]) {
      // So that one minute passes, not two, until the scheduler looks.
      await until(
        async () => new Date().getUTCSeconds(),
        (second) => second > 1 && second < 35,
      );
      await world.turnBack('minutely', 61_000);
      const before = (await world.show('minutely')).last?.run;
      const { last } = await until(
        () => world.show('minutely'),
        (shown) => shown.last !== undefined && shown.last.run !== before,
      );
      assert.equal(
        last?.run,
        scheduledRunId((await world.schedules.find('minutely'))?.schedule as Schedule, last?.slot ?? ''),
      );
      const run = await world.ended('minutely');
      assert.deepEqual(
        [run.status, run.class, run.schedule?.name, run.counts.success, run.counts.total],
        ['Success', 'scheduled', 'minutely', 2, 2],
        `round ${round}: ${JSON.stringify(run)}`,
      );
    }
    await world.ask('POST', '/minutely/pause', { reason: 'the test goes on' });
    const due = await until(
      async () => (await audited('gateway')).filter(({ schedule }) => schedule === 'minutely'),
      ({ length }) => length >= 2,
    );
    const keep = { keep_last: 1, zone: 'UTC' };
    for (const line of due) assert.deepEqual([line.selector, line.keep], [{ ...selector, schedule: 'minutely' }, keep]);
    const deleted = await until(
      async () => (await audited(0)).filter(({ kind }) => kind === 'prune'),
      ({ length }) => length >= 2,
    );
    for (const line of deleted) {
      assert.deepEqual(line.keep, keep);
      assert.ok(due.some(({ run }) => run === line.run));
    }
    for (const instance of ['s1', 's2'])
      await until(
        () => world.backups(instance),
        (count) => count === 1,
      );
    await world.ask('DELETE', '/minutely');
    assertError(await world.ask('GET', '/minutely'), 404, /schedule minutely does not exist/);
  });

  // Most of their time they wait for the scheduler's next look.
  describe('of times that have passed', { concurrency: true }, () => {
    it('make up for a missed time once, and say what was missed', async () => {
      await world.create('missed', { cron: '@daily', selector: { instances: ['s1'] } });
      await world.turnBack('missed', 3.5 * dayMs);
      const run = await world.ended('missed');
      assert.deepEqual([run.status, run.class, run.counts.success], ['Success', 'catch-up', 1]);
      assert.match(run.note ?? '', /^[23] earlier times of schedule missed were missed$/);
      assert.deepEqual(run.failures, []);
      assert.ok(Date.parse((await world.show('missed')).next ?? '') > Date.now());
    });

    it('only record a missed time, where they are to', async () => {
      const ping = `${world.receiver.url}/ping/never`;
      await world.create('never', { cron: '@daily', selector: { instances: ['s1'] }, catch_up: 'never', ping });
      await world.turnBack('never', 1.2 * dayMs);
      const run = await world.ended('never');
      assert.deepEqual([run.status, run.counts.total], ['Failure', 0]);
      assert.match(
        run.failures[0]?.reason ?? '',
        /^missed \S+T00:00: its run could not be started in time, and catch_up is never$/,
      );
      const [pinged] = await world.receiver.until(`/ping/never/fail?rid=${run.id}`);
      assert.match(pinged?.body ?? '', /missed \S+T00:00: its run could not be started in time/);
      const told = async () => world.receiver.received.find(({ notice }) => notice.operation === run.id)?.notice;
      const notice = await until(told, (found) => found !== undefined);
      assert.deepEqual([notice?.opType, notice?.state], ['run', 'failed']);
      assert.match(String(notice?.error), /^missed /);
    });

    it('only record a missed time, where their window is over', async () => {
      const yesterday = new Date(Date.now() - 2 * 3_600_000).toISOString().slice(11, 16);
      const end = new Date(Date.now() - 3_600_000).toISOString().slice(11, 16);
      const [hour, minute] = yesterday.split(':');
      const window = `${yesterday}-${end}`;
      await world.create('closed', {
        cron: `${Number(minute)} ${Number(hour)} * * *`,
        selector: { instances: ['s1'] },
        window,
      });
      await world.turnBack('closed', 0.5 * dayMs);
      assert.match(
        (await world.ended('closed')).failures[0]?.reason ?? '',
        new RegExp(`and the window ${window} is over`),
      );
    });

    it('do nothing while they are paused, and nothing for the past when they are made or changed', async () => {
      const definition = { cron: '* * * * *', selector: { instances: ['none'] } };
      const made = Date.now();
      for (const name of ['waiting', 'fresh', 'beat']) await world.create(name, definition);
      await world.ask('POST', '/waiting/pause');
      await world.create('changed', { ...definition, cron: '@yearly' });
      for (const name of ['waiting', 'changed']) await world.turnBack(name, 600_000);
      const changed = (await world.ask('PUT', '/changed', definition)).body.metadata as ShownSchedule;
      assert.ok(Date.parse(changed.since) >= made);
      const fresh = await world.show('fresh');
      assert.ok(fresh.last !== undefined || fresh.since === fresh.created_at);
      await world.turnBack('beat', 61_000);
      await until(
        () => world.show('beat'),
        ({ last }) => last !== undefined,
      );
      assert.equal((await world.show('waiting')).last, undefined);
      for (const name of ['fresh', 'changed']) {
        const { last } = await world.show(name);
        assert.ok(last === undefined || Date.parse(last.at) > made, name);
      }
      for (const name of ['waiting', 'fresh', 'beat', 'changed']) await world.ask('DELETE', `/${name}`);
    });

    it('are made up for although the run before them can no longer be read', async () => {
      await world.create('unread', { cron: '@daily', selector: { instances: ['s2'] } });
      const at = new Date(Date.now() - dayMs).toISOString();
      const id = randomUUID();
      const head: Run = {
        // Its only chunk is gone.
        ...{ id, plan: 'deadbeef', chunks: 1, status: 'Success', class: 'scheduled', created_at: at, updated_at: at },
        ...{ request: { selector: { all: true } }, places: {}, away: [], failures: [], excluded: 0 },
      };
      assert.ok(await new RunStore(world.nats, 1).update(head, 0));
      const found = await world.schedules.find('unread');
      assert.ok(found);
      const last = { slot: 'then', at, run: id };
      assert.ok(await world.schedules.update({ ...found.schedule, last }, found.revision));
      await world.turnBack('unread', 1.2 * dayMs);
      await until(
        () => world.show('unread'),
        (shown) => shown.last?.run !== id,
      );
      const run = await world.ended('unread');
      // Skipped if the run of another test is backing it up.
      assert.deepEqual([run.status, run.counts.success + run.counts.skipped], ['Success', 1]);
    });

    it('are due again when a clock that was ahead is put right', async () => {
      await world.create('ahead', { cron: '@yearly', selector: { instances: ['s1'] } });
      await world.turnBack('ahead', -300 * dayMs);
      await until(
        () => world.show('ahead'),
        ({ since }) => Date.parse(since) <= Date.now(),
      );
      assert.equal((await world.show('ahead')).last, undefined);
      await world.ask('DELETE', '/ahead');
    });

    it('run at their time, though a clock that was ahead had it before', async () => {
      await world.create('early', { cron: '@daily', selector: { instances: ['s2'] } });
      const { schedule } = (await world.schedules.find('early')) ?? {};
      const slot = `${new Date().toISOString().slice(0, 10)}T00:00`;
      const id = scheduledRunId(schedule as Schedule, slot);
      const tomorrow = new Date(Date.now() + dayMs).toISOString();
      const times = { created_at: tomorrow, updated_at: tomorrow, ended_at: tomorrow };
      const head = { id, status: 'Success' as const, class: 'scheduled' as const, ...times };
      const rest = { request: { selector: { schedule: 'early' } }, places: {}, away: [], failures: [], excluded: 0 };
      assert.ok(await new RunStore(world.nats, 1).create({ ...head, ...rest }, []));
      await world.turnBack('early', dayMs);
      const run = await world.ended('early');
      assert.notEqual(run.id, id);
      // Skipped if the run of another test is backing it up.
      assert.deepEqual([run.schedule?.slot, run.status, run.counts.success + run.counts.skipped], [slot, 'Success', 1]);
      // And once only.
      await world.turnBack('early', dayMs);
      const { last } = await until(
        () => world.show('early'),
        (shown) => shown.since === shown.last?.at,
      );
      assert.equal(last?.run, run.id);
      await world.ask('DELETE', '/early');
    });
  });

  it('skip what has not begun when their window ends, and begin with that the next time', async () => {
    const runs = new RunStore(world.nats, 1);
    const now = new Date();
    const addresses = ['s1', 's2'].map((instance) => ({ remote: 'local', project: 'default', instance }));
    const children = plan(addresses);
    const id = randomUUID();
    const head: Omit<Run, 'plan' | 'chunks'> = {
      ...{ id, status: 'Running', class: 'scheduled', created_at: now.toISOString(), updated_at: now.toISOString() },
      request: { selector: { all: true } },
      schedule: {
        ...{ name: 'windowed', slot: 'then', starts_at: new Date(now.getTime() + dayMs).toISOString() },
        window_ends: new Date(now.getTime() + 1000).toISOString(),
      },
      ...{ places: {}, away: [], failures: [], excluded: 0 },
    };
    assert.ok(await runs.create(head, children));
    await stack.stow.request('GET', `/1.0/operations/${id}/wait?timeout=60`);
    const { children: left } = (await stack.stow.request('GET', `/1.0/runs/${id}/children`)).body.metadata;
    assert.deepEqual(
      left.map(({ state, error_code }: RunChild) => [state, error_code]),
      [
        ['skipped', 'window'],
        ['skipped', 'window'],
      ],
    );
    assert.match(left[0].reason, /had not begun when its schedule's window ended, at /);
    const order = plan(addresses, new Set(['local/default/s2']));
    assert.deepEqual(
      order.map(({ instance }) => instance),
      ['s2', 's1'],
    );
  });

  it('also skip what could not be queued before their window ended, and leave no operation waiting', async () => {
    const runs = new RunStore(world.nats, 1);
    const operations = new OperationStore(world.nats, 1);
    const now = new Date();
    const children = plan([{ remote: 'local', project: 'default', instance: 's1' }]);
    const [child] = children;
    assert.ok(child);
    const [id, token] = [randomUUID(), randomBytes(16).toString('hex')];
    // As a gateway leaves it that dies before it has queued the job.
    const left = childId({ id, plan: token }, child);
    await runs.writeChunk({ id, plan: token }, 0, children, 0);
    await operations.create(newOperation({ id: left, kind: 'backup', address: child }, now));
    const at = now.toISOString();
    const head: Run = {
      ...{ id, plan: token, chunks: 1, status: 'Running', class: 'scheduled', created_at: at, updated_at: at },
      request: { selector: { all: true } },
      schedule: { name: 'windowed', slot: 'then', starts_at: at, window_ends: at },
      ...{ places: tally(children), away: [], failures: [], excluded: 0 },
    };
    assert.ok(await runs.update(head, 0));
    const run = await world.endOf(id);
    assert.deepEqual([run.status, run.counts.skipped], ['Success', 1]);
    const [skipped] = (await runs.chunk(head, 0)).children;
    assert.equal(skipped?.error_code, 'window');
    assert.equal((await operations.find(left, '*'))?.operation.status, 'Cancelled');
  });

  it('skip what their last run is still at, say since when, and back it up the next time', async () => {
    const { reached, release } = world.s3.hold(/\/s1\//);
    /** Due once, at the minute that is so long ago. */
    const dueBefore = async (minutes: number) => {
      const before = (await world.ask('GET', '/slow')).body.metadata?.last?.run;
      const at = new Date(Date.now() - minutes * 60_000);
      const definition = { cron: `${at.getUTCMinutes()} ${at.getUTCHours()} * * *`, selector: { instances: ['s1'] } };
      if (before === undefined) await world.create('slow', definition);
      else assert.equal((await world.ask('PUT', '/slow', definition)).status, 200);
      await world.turnBack('slow', (minutes + 1) * 60_000);
      const { last } = await until(
        () => world.show('slow'),
        (shown) => shown.last !== undefined && shown.last.run !== before,
      );
      return last?.run ?? '';
    };
    const child = async (run: string) =>
      (await stack.stow.request('GET', `/1.0/runs/${run}/children`)).body.metadata.children[0] as ShownRunChild;
    try {
      const first = await dueBefore(3);
      await reached;
      const second = await world.endOf(await dueBefore(2));
      assert.deepEqual([second.status, second.counts.skipped], ['Success', 1]);
      const { state, by, since } = await child(second.id);
      assert.equal(state, 'skipped');
      assert.ok(by === first || by === (await child(first)).operation.split('/').at(-1), by);
      assert.ok(Date.parse(since ?? '') <= Date.now());
      release();
      assert.deepEqual((await world.endOf(first)).counts.success, 1);
      assert.deepEqual((await world.endOf(await dueBefore(1))).counts.success, 1);
    } finally {
      release();
      await world.ask('DELETE', '/slow');
    }
  });

  it('are paused with a reason, and go on without what was due meanwhile', async () => {
    await world.create('paused', { cron: '* * * * *', selector: { instances: ['s1'] } });
    const paused = (await world.ask('POST', '/paused/pause', { reason: 'move' })).body.metadata as ShownSchedule;
    assert.equal(paused.paused?.reason, 'move');
    assert.equal(paused.next, undefined);
    await world.turnBack('paused', 600_000);
    const resumed = (await world.ask('POST', '/paused/resume')).body.metadata as ShownSchedule;
    assert.equal(resumed.paused, undefined);
    assert.ok(Date.now() - Date.parse(resumed.since) < 60_000);
    assertError(
      await world.ask('POST', '/paused/pause', { until: '2026-01-01T00:00:00Z' }),
      400,
      /^until: 2026-01-01T00:00:00Z has passed$/,
    );
    const end = new Date(Date.now() + dayMs).toISOString();
    const later = (await world.ask('POST', '/paused/pause', { until: end })).body.metadata as ShownSchedule;
    assert.ok(Date.parse(later.next ?? '') > Date.parse(end));
    const [time]: ScheduledAt[] = JSON.parse(await world.cli('schedule', 'next', 'paused', '--format', 'json'));
    assert.ok(time && Date.parse(time.at) === Date.parse(later.next ?? ''));
    await world.cli('schedule', 'pause', 'paused', '--until', '2099-12-24T18:00');
    assert.equal((await world.show('paused')).paused?.until, '2099-12-24T18:00:00.000Z');
    await world.ask('DELETE', '/paused');
  });

  it('say when they are due, in their zone, and when each instance begins: always the same', async () => {
    const definition = { cron: '0 3 * * *', zone: 'Europe/Berlin', selector: { all: true }, jitter: '30m' };
    await world.create('night', definition);
    const times: ScheduledAt[] = JSON.parse(await world.cli('schedule', 'next', 'night', '--format', 'json'));
    assert.equal(times.length, 5);
    for (const { at } of times) assert.match(at, /T03:00:00\+0[12]:00$/);
    const each = async () =>
      JSON.parse(await world.cli('schedule', 'next', 'night', '--instances', '--format', 'json'));
    const first: ScheduledAt[] = await each();
    assert.deepEqual(first.map(({ instance }) => instance).sort(), ['s1', 's2']);
    assert.deepEqual(await each(), first);
    for (const { at } of first) {
      const late = Date.parse(at) - Date.parse(times[0]?.at ?? '');
      assert.ok(late >= 0 && late < 1_800_000, at);
    }
  });

  it('are made, shown, exported, changed and deleted by the command line', async () => {
    const made = await world.cli(
      'schedule',
      'create',
      'byhand',
      '--cron',
      '0 3 * * *',
      '--selector',
      'user.backup=daily',
      '--keep-daily',
      '7',
    );
    assert.match(made, /^byhand is created, and is due next at \S+T03:00:00\+0[12]:00\n$/);
    const { definition } = await world.show('byhand');
    assert.deepEqual(definition, {
      ...{ cron: '0 3 * * *', zone: 'Europe/Berlin', selector: { match: ['user.backup=daily'] } },
      keep: { keep_daily: 7 },
    });
    const file = join(world.home, 'schedules.yaml');
    const exported = await world.cli('schedule', 'export', 'byhand');
    await writeFile(file, exported);
    assert.equal(await world.cli('schedule', 'apply', file), 'byhand: unchanged\n');
    await writeFile(
      file,
      exported.replace('0 3 * * *', '0 4 * * *').replace('byhand:', 'byhand:\n    description: by file'),
    );
    assert.match(await world.cli('schedule', 'apply', file), /^byhand: changed\n$/);
    assert.equal((await world.show('byhand')).definition.description, 'by file');
    assert.match(await world.cli('schedule', 'list'), /byhand +0 4 \* \* \* +Europe\/Berlin/);
    const applied = async (...definitions: string[]) => {
      const lines = definitions.map((text, index) => `  part${index + 1}: { cron: '@yearly', ${text} }\n`);
      await writeFile(file, `schedules:\n${lines.join('')}`);
      const { status, stdout, stderr } = await attempt(process.execPath, [cliFile, 'schedule', 'apply', file], {
        env: { ...process.env, XDG_CONFIG_HOME: world.home },
      });
      return { status, stdout: stdout.toString(), stderr: stderr.toString() };
    };
    const refused = await applied('jitter: 5m', 'jitter: 5');
    assert.deepEqual([refused.status, refused.stdout], [64, '']);
    assert.match(refused.stderr, /part2: definition\.jitter: must be string/);
    const half = await applied('jitter: 5m', 'zone: Moon', 'jitter: 5m');
    assert.deepEqual([half.status, half.stdout], [64, 'part1: created\n']);
    assert.match(half.stderr, /part2: zone: "Moon" is not a time zone.*; the schedules before it are applied/);
    await world.cli('schedule', 'delete', 'part1');
    assert.equal(await world.cli('schedule', 'delete', 'byhand'), 'byhand is deleted\n');
  });

  it('are changed in an editor, which opens again until what it wrote is right', onTerminal, async () => {
    await world.create('edited', { cron: '0 3 * * *', zone: 'Europe/Berlin' });
    const editor = join(world.home, 'editor');
    /** Each time it is opened, it does the next of these to the file. */
    async function edit(...steps: string[]): Promise<{ status: number | null; shown: string }> {
      const cases = steps.map((step, index) => `${index + 1}) ${step} ;;`).join(' ');
      await writeFile(
        editor,
        `#!/bin/sh\necho x >>${world.home}/opened\ncase $(wc -l <${world.home}/opened) in ${cases} esac\n`,
      );
      await chmod(editor, 0o755);
      await rm(join(world.home, 'opened'), { force: true });
      const words = [process.execPath, cliFile, 'schedule', 'edit', 'edited'];
      const terminal = openTerminal(words, { ...process.env, XDG_CONFIG_HOME: world.home, VISUAL: '', EDITOR: editor });
      const asked = () => terminal.seen().split('Press Enter').length - 1;
      for (let count = 1; count < steps.length; count++) {
        await until(
          async () => asked(),
          (times) => times >= count,
        );
        terminal.child.stdin?.write('\r');
      }
      const status = await terminal.ended;
      return { status, shown: terminal.seen() };
    }
    const { updated_at } = await world.show('edited');
    assert.match((await edit('true')).shown, /edited is unchanged/);
    assert.equal((await world.show('edited')).updated_at, updated_at);
    const { shown, status } = await edit(
      "sed -i 's/^cron:.*/cron: [/' $1",
      "sed -i 's/^cron:.*/cron: 0 4 * * */; s/^zone/zoone/' $1",
      "sed -i 's/^zoone:.*/zone: Moon/' $1",
      "sed -i 's/^zone:.*/zone: Europe\\/Oslo/' $1",
    );
    assert.equal(status, 0, shown);
    const said = [
      /this is not YAML/,
      /zoone/,
      /"Moon" is not a time zone/,
      /edited is changed, .* next at \S+T04:00:00\+0[12]:00/,
    ];
    for (const words of said) assert.match(shown, words);
    assert.deepEqual((await world.show('edited')).definition, { cron: '0 4 * * *', zone: 'Europe/Oslo' });
    assert.match((await edit('exit 1')).shown, /the editor .* failed; nothing was changed/);
    const yaml = (text: string) =>
      attempt(process.execPath, [cliFile, 'schedule', 'edit', 'edited'], {
        env: { ...process.env, XDG_CONFIG_HOME: world.home },
        input: text,
      });
    assert.equal((await yaml("cron: '@daily'\n")).status, 0);
    assert.deepEqual((await world.show('edited')).definition, { cron: '@daily' });
    assert.equal((await yaml('')).status, 64);
    await world.ask('DELETE', '/edited');
  });

  it('begin a run by hand', async () => {
    await world.create('hand', { cron: '@yearly', selector: { instances: ['s1'] } });
    const answer = await world.ask('POST', '/hand/run');
    assert.equal(answer.status, 202, answer.text);
    await stack.stow.request('GET', `/1.0/operations/${idOf(answer)}/wait?timeout=60`);
    const run: ShownRun = (await stack.stow.request('GET', `/1.0/runs/${idOf(answer)}`)).body.metadata;
    assert.deepEqual([run.status, run.class, run.counts.success], ['Success', 'hand', 1]);
  });

  it('are refused in words', async () => {
    const wrong: [object, RegExp][] = [
      [{ cron: '0 25 * * *' }, /cron: "25" is not a hour from 0 to 23/],
      [{ cron: '0 0 31 2 *' }, /cron: 0 0 31 2 \* is never due/],
      [{ cron: '@daily', zone: 'Berlin' }, /zone: "Berlin" is not a time zone/],
      [{ cron: '0 3 * * *', window: '04:00-05:00' }, /window: 03:00, when the schedule is due, is not in 04:00-05:00/],
      [{ cron: '@daily', keep: {} }, /keep: the rule keeps nothing/],
      [{ cron: '@daily', selector: { remotes: ['moon'] } }, /moon/],
      [{ cron: '@daily', jitter: '30' }, /jitter/],
    ];
    for (const [definition, why] of wrong) {
      const answer = await world.ask('POST', '', { name: 'wrong', definition });
      assert.ok(answer.status === 400 || answer.status === 404, answer.text);
      assert.match(answer.body.error, why);
    }
    await world.create('taken', { cron: '@yearly' });
    assertError(
      await world.ask('POST', '', { name: 'taken', definition: { cron: '@yearly' } }),
      409,
      /schedule taken already exists/,
    );
  });
});
