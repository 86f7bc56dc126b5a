/** Schedules: what is due is backed up once, whoever dies, and what is missed is said. On real parts, with the clock of the record turned back. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { loadConfig } from '../../services/contract/config.ts';
import type {
  InstanceStatus,
  PruneJob,
  Run,
  RunChild,
  Schedule,
  ScheduledAt,
  ShownRun,
  ShownRunChild,
  ShownSchedule,
} from '../../services/contract/schemas.ts';
import { FleetStore } from '../../services/fleet/fleetStore.ts';
import { uuid5 } from '../../services/jobs/jobs.ts';
import { connectNats, type Nats } from '../../services/nats/connection.ts';
import { newOperation } from '../../services/operations/operation.ts';
import { OperationStore } from '../../services/operations/operationStore.ts';
import { childId, plan } from '../../services/runs/plan.ts';
import { RunStore } from '../../services/runs/runStore.ts';
import { scheduledRunId } from '../../services/schedules/scheduler.ts';
import { ScheduleStore } from '../../services/schedules/scheduleStore.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { fingerprintOf } from '../../services/trust/certificates.ts';
import { type ScriptedS3, scriptedS3 } from '../fault/scriptedS3.ts';
import { type Certificate, makeCertificate } from '../lab/certificates.ts';
import { type Lxstow, lxstow, startLxstow } from '../lab/lxstow.ts';
import { type Receiver, startReceiver } from '../lab/receiver.ts';
import { attempt } from '../lab/run.ts';
import { onTerminal, openTerminal } from '../lab/terminal.ts';
import { assertError, idOf, openStack, type Stack, until } from './stack.ts';

const main = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));
const dayMs = 86_400_000;

describe('schedules', { timeout: 600_000 }, () => {
  let stack: Stack;
  let other: Lxstow;
  let nats: Nats;
  let schedules: ScheduleStore;
  let home: string;
  let s3: ScriptedS3;
  let receiver: Receiver;
  before(async () => {
    home = await mkdtemp(join(tmpdir(), 'lxstow-schedules-'));
    const config = {
      worker: { compression: 'none', graceMs: 0, inventoryEverySeconds: 2, leaseTtlMs: 4000, heartbeatMs: 1000 },
    };
    receiver = await startReceiver();
    const notify = { endpoints: [`${receiver.url}/all`], allowed: [`${receiver.url}/ping`] };
    stack = await openStack('schedules', { config: { ...config, notify }, workers: 0 });
    s3 = await scriptedS3(stack.s3.endpoint);
    await stack.stow.addWorker({ LXSTOW_S3_ENDPOINT: s3.endpoint });
    const { socket = '' } = stack.lab.lxd ?? stack.simulator ?? {};
    other = await startLxstow({
      ...{ name: 'schedules-other', log: () => undefined, natsUrl: stack.nats.url, s3: stack.s3, socket },
      ...{ workers: 0, config: { ...config, notify } },
    });
    const { nats: settings } = loadConfig({ file: stack.stow.configFile, env: {} });
    nats = await connectNats(settings, 'test', createLogger({ level: 'error', format: 'text' }, {}));
    schedules = new ScheduleStore(nats);
    for (const name of ['s1', 's2']) await stack.launch(name);
    const token = await lxstow(['-c', stack.stow.configFile, 'trust', 'token', 'tester']);
    await cli('remote', 'add', 'stow', token.trim());
  });
  after(async () => {
    await nats?.[Symbol.asyncDispose]();
    await other?.[Symbol.asyncDispose]();
    await stack?.[Symbol.asyncDispose]();
    await s3?.[Symbol.asyncDispose]();
    await receiver?.[Symbol.asyncDispose]();
    await rm(home, { recursive: true, force: true });
  });

  async function cli(...args: string[]): Promise<string> {
    const env = { ...process.env, XDG_CONFIG_HOME: home, TZ: 'Europe/Berlin' };
    const { status, stdout, stderr } = await attempt(process.execPath, [main, ...args], { env });
    assert.equal(status, 0, `${args.join(' ')}\n${stdout}${stderr}`);
    return stdout.toString();
  }
  const ask = async (method: string, path: string, body?: object, certificate?: Certificate) =>
    stack.stow.request(method, `/1.0/schedules${path}`, { ...(body && { body }), ...(certificate && { certificate }) });
  async function create(name: string, definition: object): Promise<void> {
    const answer = await ask('POST', '', { name, definition });
    assert.equal(answer.status, 201, answer.text);
  }
  const show = async (name: string) => (await ask('GET', `/${name}`)).body.metadata as ShownSchedule;
  /** As if nothing had looked at it since. */
  async function turnBack(name: string, ms: number): Promise<void> {
    const found = await schedules.find(name);
    assert.ok(found);
    const since = new Date(Date.now() - ms).toISOString();
    assert.ok(await schedules.update({ ...found.schedule, since }, found.revision));
  }
  /** The run of the schedule's last slot, when it has ended. */
  async function ended(name: string): Promise<ShownRun> {
    const { last } = await until(
      () => show(name),
      (shown) => shown.last !== undefined,
    );
    return endOf(last?.run ?? '');
  }
  async function endOf(run: string): Promise<ShownRun> {
    await stack.stow.request('GET', `/1.0/operations/${run}/wait?timeout=120`);
    return (await stack.stow.request('GET', `/1.0/runs/${run}`)).body.metadata;
  }
  const backups = async (instance: string) =>
    (await stack.stow.request('GET', `/1.0/instances/${instance}/backups`)).body.metadata.length as number;
  const set = (instance: string, config: Record<string, string>) =>
    stack.lxd.call({
      ...{ method: 'PATCH', path: `/1.0/instances/${instance}`, body: { config } },
      signal: AbortSignal.timeout(10_000),
    });
  const client = async (role: string, projects?: string[]) => {
    const certificate = await makeCertificate({ commonName: role });
    const body = {
      ...{ type: 'client', name: role, role, certificate: certificate.cert.replaceAll(/-----.*-----|\s/g, '') },
      ...(projects && { restricted: true, projects }),
    };
    assert.equal((await stack.stow.request('POST', '/1.0/certificates', { body })).status, 201);
    return { certificate, fingerprint: fingerprintOf(certificate.cert) };
  };

  it('back up what they select, and what names them, once each time, and delete what they do not keep', async () => {
    await set('s2', { 'user.lxstow.schedule': 'other, minutely' });
    const selector = { instances: ['s1'] };
    await create('minutely', { cron: '* * * * *', selector, keep: { keep_last: 1 }, tags: { by: 'schedule' } });
    assert.equal((await show('minutely')).last, undefined);
    for (const round of [1, 2]) {
      // So that one minute passes, not two, until the scheduler looks.
      await until(
        async () => new Date().getUTCSeconds(),
        (second) => second > 1 && second < 45,
      );
      await turnBack('minutely', 61_000);
      const before = (await show('minutely')).last?.run;
      const { last } = await until(
        () => show('minutely'),
        (shown) => shown.last !== undefined && shown.last.run !== before,
      );
      assert.equal(
        last?.run,
        scheduledRunId((await schedules.find('minutely'))?.schedule as Schedule, last?.slot ?? ''),
      );
      const run = await ended('minutely');
      assert.deepEqual(
        [run.status, run.class, run.schedule?.name, run.counts.success, run.counts.total],
        ['Success', 'scheduled', 'minutely', 2, 2],
        `round ${round}: ${JSON.stringify(run)}`,
      );
    }
    await ask('POST', '/minutely/pause', { reason: 'the test goes on' });
    for (const instance of ['s1', 's2'])
      await until(
        () => backups(instance),
        (count) => count === 1,
      );
    await ask('DELETE', '/minutely');
    assertError(await ask('GET', '/minutely'), 404, /schedule minutely does not exist/);
  });

  it('delete what they do not keep where a gateway died between the operation and its job', async () => {
    const runs = new RunStore(nats, 1);
    const operations = new OperationStore(nats, 1);
    const now = new Date();
    const address = { remote: 'local', project: 'default', instance: 's1' };
    const head: Omit<Run, 'plan' | 'chunks'> = {
      ...{ id: randomUUID(), status: 'Running', class: 'scheduled' },
      ...{ created_at: now.toISOString(), updated_at: now.toISOString() },
      request: { selector: { all: true }, keep: { keep_last: 1 } },
      schedule: { name: 'halfway', slot: 'then', starts_at: new Date(now.getTime() + 3000).toISOString() },
      ...{ places: {}, away: [], failures: [], excluded: 0 },
    };
    const run = await runs.create(head, plan([address]));
    assert.ok(run);
    const id = uuid5(`${childId(run, address)}|prune`);
    const body: PruneJob = { keep: { keep_last: 1 }, run: run.id };
    await operations.create(newOperation({ id, kind: 'prune', address, body }, now));
    await stack.stow.request('GET', `/1.0/operations/${run.id}/wait?timeout=60`);
    const { status } = await until(
      async () => (await operations.find(id, 'local'))?.operation ?? assert.fail(),
      ({ status: each }) => each !== 'Pending' && each !== 'Running',
    );
    assert.equal(status, 'Success');
  });

  it('are due once, with two gateways of which one is killed', async () => {
    await create('twice', { cron: '* * * * *', selector: { instances: ['s1'] } });
    await turnBack('twice', 61_000);
    await stack.stow.gateway.kill();
    await until(
      async () => (await schedules.find('twice'))?.schedule.last,
      (last) => last !== undefined,
    );
    await stack.stow.gateway.start();
    await ask('POST', '/twice/pause', {});
    const { last } = await show('twice');
    await turnBack('twice', 61_000);
    const runs = new RunStore(nats, 1);
    const made = (await runs.list()).filter(
      ({ run }) => run.schedule?.name === 'twice' && run.schedule.slot === last?.slot,
    );
    assert.equal(made.length, 1);
    await ask('DELETE', '/twice');
  });

  it('make up for a missed time once, and say what was missed', async () => {
    await create('missed', { cron: '@daily', selector: { instances: ['s1'] } });
    await turnBack('missed', 3.5 * dayMs);
    const run = await ended('missed');
    assert.deepEqual([run.status, run.class, run.counts.success], ['Success', 'catch-up', 1]);
    assert.match(run.note ?? '', /^[23] earlier times of schedule missed were missed$/);
    assert.deepEqual(run.failures, []);
    assert.ok(Date.parse((await show('missed')).next ?? '') > Date.now());
  });

  it('only record a missed time, where they are to, or their window is over', async () => {
    const ping = `${receiver.url}/ping/never`;
    await create('never', { cron: '@daily', selector: { instances: ['s1'] }, catch_up: 'never', ping });
    await turnBack('never', 1.2 * dayMs);
    const run = await ended('never');
    assert.deepEqual([run.status, run.counts.total], ['Failure', 0]);
    assert.match(
      run.failures[0]?.reason ?? '',
      /^missed \S+T00:00: no gateway was at work then, and catch_up is never$/,
    );
    const [pinged] = await receiver.until(`/ping/never/fail?rid=${run.id}`);
    assert.match(pinged?.body ?? '', /missed \S+T00:00: no gateway was at work then/);
    const told = async () => receiver.received.find(({ notice }) => notice.operation === run.id)?.notice;
    const notice = await until(told, (found) => found !== undefined);
    assert.deepEqual([notice?.opType, notice?.state], ['run', 'failed']);
    assert.match(String(notice?.error), /^missed /);

    const yesterday = new Date(Date.now() - 2 * 3_600_000).toISOString().slice(11, 16);
    const end = new Date(Date.now() - 3_600_000).toISOString().slice(11, 16);
    const [hour, minute] = yesterday.split(':');
    const window = `${yesterday}-${end}`;
    await create('closed', {
      cron: `${Number(minute)} ${Number(hour)} * * *`,
      selector: { instances: ['s1'] },
      window,
    });
    await turnBack('closed', 0.5 * dayMs);
    assert.match((await ended('closed')).failures[0]?.reason ?? '', new RegExp(`and the window ${window} is over`));
  });

  it('skip what has not begun when their window ends, and begin with that the next time', async () => {
    const runs = new RunStore(nats, 1);
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

  it('are paused with a reason, and go on without what was due meanwhile', async () => {
    await create('paused', { cron: '* * * * *', selector: { instances: ['s1'] } });
    const paused = (await ask('POST', '/paused/pause', { reason: 'move' })).body.metadata as ShownSchedule;
    assert.equal(paused.paused?.reason, 'move');
    assert.equal(paused.next, undefined);
    await turnBack('paused', 600_000);
    const resumed = (await ask('POST', '/paused/resume')).body.metadata as ShownSchedule;
    assert.equal(resumed.paused, undefined);
    assert.ok(Date.now() - Date.parse(resumed.since) < 60_000);
    assertError(
      await ask('POST', '/paused/pause', { until: '2026-01-01T00:00:00Z' }),
      400,
      /^until: 2026-01-01T00:00:00Z has passed$/,
    );
    const end = new Date(Date.now() + dayMs).toISOString();
    const later = (await ask('POST', '/paused/pause', { until: end })).body.metadata as ShownSchedule;
    assert.ok(Date.parse(later.next ?? '') > Date.parse(end));
    const [time]: ScheduledAt[] = JSON.parse(await cli('schedule', 'next', 'paused', '--format', 'json'));
    assert.ok(time && Date.parse(time.at) === Date.parse(later.next ?? ''));
    await cli('schedule', 'pause', 'paused', '--until', '2099-12-24T18:00');
    assert.equal((await show('paused')).paused?.until, '2099-12-24T18:00:00.000Z');
    await ask('DELETE', '/paused');
  });

  it('do nothing while they are paused, and nothing for the past when they are made or changed', async () => {
    const definition = { cron: '* * * * *', selector: { instances: ['none'] } };
    const made = Date.now();
    for (const name of ['waiting', 'fresh', 'beat']) await create(name, definition);
    await ask('POST', '/waiting/pause');
    await create('changed', { ...definition, cron: '@yearly' });
    for (const name of ['waiting', 'changed']) await turnBack(name, 600_000);
    const changed = (await ask('PUT', '/changed', definition)).body.metadata as ShownSchedule;
    assert.ok(Date.parse(changed.since) >= made);
    const fresh = await show('fresh');
    assert.ok(fresh.last !== undefined || fresh.since === fresh.created_at);
    await turnBack('beat', 61_000);
    await until(
      () => show('beat'),
      ({ last }) => last !== undefined,
    );
    assert.equal((await show('waiting')).last, undefined);
    for (const name of ['fresh', 'changed']) {
      const { last } = await show(name);
      assert.ok(last === undefined || Date.parse(last.at) > made, name);
    }
    for (const name of ['waiting', 'fresh', 'beat', 'changed']) await ask('DELETE', `/${name}`);
  });

  it('skip what their last run is still at, say since when, and back it up the next time', async () => {
    const { reached, release } = s3.hold(/\/s1\//);
    /** Due once, at the minute that is so long ago. */
    const dueBefore = async (minutes: number) => {
      const before = (await ask('GET', '/slow')).body.metadata?.last?.run;
      const at = new Date(Date.now() - minutes * 60_000);
      const definition = { cron: `${at.getUTCMinutes()} ${at.getUTCHours()} * * *`, selector: { instances: ['s1'] } };
      if (before === undefined) await create('slow', definition);
      else assert.equal((await ask('PUT', '/slow', definition)).status, 200);
      await turnBack('slow', (minutes + 1) * 60_000);
      const { last } = await until(
        () => show('slow'),
        (shown) => shown.last !== undefined && shown.last.run !== before,
      );
      return last?.run ?? '';
    };
    const child = async (run: string) =>
      (await stack.stow.request('GET', `/1.0/runs/${run}/children`)).body.metadata.children[0] as ShownRunChild;
    try {
      const first = await dueBefore(3);
      await reached;
      const second = await endOf(await dueBefore(2));
      assert.deepEqual([second.status, second.counts.skipped], ['Success', 1]);
      const { state, by, since } = await child(second.id);
      assert.equal(state, 'skipped');
      assert.ok(by === first || by === (await child(first)).operation.split('/').at(-1), by);
      assert.ok(Date.parse(since ?? '') <= Date.now());
      release();
      assert.deepEqual((await endOf(first)).counts.success, 1);
      assert.deepEqual((await endOf(await dueBefore(1))).counts.success, 1);
    } finally {
      release();
      await ask('DELETE', '/slow');
    }
  });

  it('are due once, whatever is killed at their minute: NATS, both gateways, the worker', async () => {
    const before = await backups('s2');
    const all = [stack.stow.gateway, other.gateway, ...stack.stow.workers];
    const minute = Math.ceil((Date.now() + 5000) / 60_000) * 60_000;
    const at = new Date(minute);
    const cron = `${at.getUTCMinutes()} ${at.getUTCHours()} * * *`;
    await create('minute', { cron, selector: { instances: ['s2'] } });
    await delay(minute - 300 - Date.now());
    await stack.nats.kill('SIGKILL');
    await delay(minute + 200 - Date.now());
    await stack.nats.start();
    await until(
      async () => (await show('minute').catch(() => undefined))?.last,
      (last) => last !== undefined,
    );
    await Promise.all(all.map((each) => each.kill('SIGKILL')));
    await Promise.all(all.map((each) => each.start()));
    const run = await ended('minute');
    assert.deepEqual([run.status, run.class, run.counts.success], ['Success', 'scheduled', 1]);
    await turnBack('minute', Date.now() - minute + 1000);
    await until(
      () => schedules.find('minute'),
      (found) => Date.parse(found?.schedule.since ?? '') === minute,
    );
    const runs = (await new RunStore(nats, 1).list()).filter(({ run: each }) => each.schedule?.name === 'minute');
    assert.equal(runs.length, 1);
    assert.equal(await backups('s2'), before + 1);
    await ask('DELETE', '/minute');
  });

  it('are due again when a clock that was ahead is put right', async () => {
    await create('ahead', { cron: '@yearly', selector: { instances: ['s1'] } });
    await turnBack('ahead', -300 * dayMs);
    await until(
      () => show('ahead'),
      ({ since }) => Date.parse(since) <= Date.now(),
    );
    assert.equal((await show('ahead')).last, undefined);
    await ask('DELETE', '/ahead');
  });

  it('say when they are due, in their zone, and when each instance begins: always the same', async () => {
    const definition = { cron: '0 3 * * *', zone: 'Europe/Berlin', selector: { all: true }, jitter: '30m' };
    await create('night', definition);
    const times: ScheduledAt[] = JSON.parse(await cli('schedule', 'next', 'night', '--format', 'json'));
    assert.equal(times.length, 5);
    for (const { at } of times) assert.match(at, /T03:00:00\+0[12]:00$/);
    const each = async () => JSON.parse(await cli('schedule', 'next', 'night', '--instances', '--format', 'json'));
    const first: ScheduledAt[] = await each();
    assert.deepEqual(first.map(({ instance }) => instance).sort(), ['s1', 's2']);
    assert.deepEqual(await each(), first);
    for (const { at } of first) {
      const late = Date.parse(at) - Date.parse(times[0]?.at ?? '');
      assert.ok(late >= 0 && late < 1_800_000, at);
    }
  });

  it('are made, shown, exported, changed and deleted by the command line', async () => {
    const made = await cli(
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
    assert.match(made, /^byhand is made, and is due next at \S+T03:00:00\+0[12]:00\n$/);
    const { definition } = await show('byhand');
    assert.deepEqual(definition, {
      ...{ cron: '0 3 * * *', zone: 'Europe/Berlin', selector: { match: ['user.backup=daily'] } },
      keep: { keep_daily: 7 },
    });
    const file = join(home, 'schedules.yaml');
    const exported = await cli('schedule', 'export', 'byhand');
    await writeFile(file, exported);
    assert.equal(await cli('schedule', 'apply', file), 'byhand: unchanged\n');
    await writeFile(
      file,
      exported.replace('0 3 * * *', '0 4 * * *').replace('byhand:', 'byhand:\n    description: by file'),
    );
    assert.match(await cli('schedule', 'apply', file), /^byhand: changed\n$/);
    assert.equal((await show('byhand')).definition.description, 'by file');
    assert.match(await cli('schedule', 'list'), /byhand +0 4 \* \* \* +Europe\/Berlin/);
    const applied = async (...definitions: string[]) => {
      const lines = definitions.map((text, index) => `  part${index + 1}: { cron: '@yearly', ${text} }\n`);
      await writeFile(file, `schedules:\n${lines.join('')}`);
      const { status, stdout, stderr } = await attempt(process.execPath, [main, 'schedule', 'apply', file], {
        env: { ...process.env, XDG_CONFIG_HOME: home },
      });
      return { status, stdout: stdout.toString(), stderr: stderr.toString() };
    };
    const refused = await applied('jitter: 5m', 'jitter: 5');
    assert.deepEqual([refused.status, refused.stdout], [64, '']);
    assert.match(refused.stderr, /part2: definition\.jitter: must be string/);
    const half = await applied('jitter: 5m', 'zone: Moon', 'jitter: 5m');
    assert.deepEqual([half.status, half.stdout], [64, 'part1: created\n']);
    assert.match(half.stderr, /part2: zone: "Moon" is not a time zone.*; the schedules before it are applied/);
    await cli('schedule', 'delete', 'part1');
    assert.equal(await cli('schedule', 'delete', 'byhand'), 'byhand is deleted\n');
  });

  it('are changed in an editor, which opens again until what it wrote is right', onTerminal, async () => {
    await create('edited', { cron: '0 3 * * *', zone: 'Europe/Berlin' });
    const editor = join(home, 'editor');
    /** Each time it is opened, it does the next of these to the file. */
    async function edit(...steps: string[]): Promise<{ status: number | null; shown: string }> {
      const cases = steps.map((step, index) => `${index + 1}) ${step} ;;`).join(' ');
      await writeFile(editor, `#!/bin/sh\necho x >>${home}/opened\ncase $(wc -l <${home}/opened) in ${cases} esac\n`);
      await chmod(editor, 0o755);
      await rm(join(home, 'opened'), { force: true });
      const words = [process.execPath, main, 'schedule', 'edit', 'edited'];
      const terminal = openTerminal(words, { ...process.env, XDG_CONFIG_HOME: home, VISUAL: '', EDITOR: editor });
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
    const { updated_at } = await show('edited');
    assert.match((await edit('true')).shown, /edited is as it was/);
    assert.equal((await show('edited')).updated_at, updated_at);
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
    assert.deepEqual((await show('edited')).definition, { cron: '0 4 * * *', zone: 'Europe/Oslo' });
    assert.match((await edit('exit 1')).shown, /the editor .* failed; nothing was changed/);
    const yaml = (text: string) =>
      attempt(process.execPath, [main, 'schedule', 'edit', 'edited'], {
        env: { ...process.env, XDG_CONFIG_HOME: home },
        input: text,
      });
    assert.equal((await yaml("cron: '@daily'\n")).status, 0);
    assert.deepEqual((await show('edited')).definition, { cron: '@daily' });
    assert.equal((await yaml('')).status, 64);
    await ask('DELETE', '/edited');
  });

  it('begin a run by hand', async () => {
    await create('hand', { cron: '@yearly', selector: { instances: ['s1'] } });
    const answer = await ask('POST', '/hand/run');
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
      const answer = await ask('POST', '', { name: 'wrong', definition });
      assert.ok(answer.status === 400 || answer.status === 404, answer.text);
      assert.match(answer.body.error, why);
    }
    await create('taken', { cron: '@yearly' });
    assertError(
      await ask('POST', '', { name: 'taken', definition: { cron: '@yearly' } }),
      409,
      /schedule taken already exists/,
    );
  });

  it('are for operators, in their projects', async () => {
    const { certificate: viewer } = await client('viewer');
    assertError(await ask('POST', '', { name: 'v', definition: { cron: '@yearly' } }, viewer), 403, /not authorized/);
    assert.equal((await ask('GET', '', undefined, viewer)).status, 200);
    const { certificate: operator } = await client('operator', [stack.project]);
    assertError(await ask('GET', '/taken', undefined, operator), 404, /does not exist/);
    assertError(await ask('DELETE', '/taken', undefined, operator), 404, /does not exist/);
    const wide = { cron: '@yearly', selector: { all: true, projects: ['default'] } };
    assertError(await ask('POST', '', { name: 'wide', definition: wide }, operator), 403, /not authorized/);
    assert.equal(
      (await ask('POST', '', { name: 'own', definition: { cron: '@yearly', selector: { all: true } } }, operator))
        .status,
      201,
    );
    assert.deepEqual((await show('own')).definition.selector?.projects, [stack.project]);
    assert.deepEqual((await ask('GET', '', undefined, operator)).body.metadata, ['/1.0/schedules/own']);
  });

  it('are what the states of the instances that they cover are judged by', async () => {
    const fleet = new FleetStore(nats);
    const address = { remote: 'local', project: 'default', instance: 's1' };
    const of = async (instance: string): Promise<InstanceStatus> => {
      const { body } = await stack.stow.request('GET', `/1.0/status?recursion=1&project=default`);
      return body.metadata.find((each: InstanceStatus) => each.instance === instance);
    };
    const metric = async (name: string) =>
      (await (await fetch(`${stack.stow.healthUrl.gateway}/metrics`)).text())
        .split('\n')
        .find((line) => line.startsWith(`lxstow_${name}{`));
    // Those of other tests cover it, too.
    for (const { name } of (await ask('GET', '?recursion=1')).body.metadata) await ask('DELETE', `/${name}`);
    const agoMs = 50 * 3_600_000;
    const ago = new Date(Date.now() - agoMs).toISOString();
    await fleet.change(address, ({ last: _, ...record }) => ({ ...record, good: { backup: 'b', at: ago, size: 1 } }));
    assert.match((await of('s1')).reason, /^its last backup is 50 h old$/);

    await set('s1', { 'user.backup': 'often' });
    await create('often', { cron: '0 0 * * *', zone: 'Europe/Berlin', selector: { match: ['user.backup=often'] } });
    const covered = await of('s1');
    assert.deepEqual([covered.state, covered.reason, covered.schedules], ['ok', '', ['often']]);
    assert.match((await metric('backup_expected_timestamp_seconds')) ?? '', /instance="s1"} 0$/);
    const { next = '' } = await show('often');
    assert.equal(await metric('schedule_due_timestamp_seconds'), due('often', next));

    // As if it had been made long ago.
    await ask('POST', '/often/pause', { reason: 'the NAS moves' });
    const found = await schedules.find('often');
    assert.ok(found);
    await schedules.update({ ...found.schedule, begun: new Date(Date.now() - agoMs).toISOString() }, found.revision);
    const paused = await until(
      () => of('s1'),
      ({ state }) => state === 'overdue',
    );
    const slot = '\\d{4}-\\d\\d-\\d\\d 00:00 Europe/Berlin';
    assert.match(
      paused.reason,
      new RegExp(`^schedule often was due ${slot} and is paused since .* UTC: the NAS moves$`),
    );
    assert.doesNotMatch((await metric('backup_expected_timestamp_seconds')) ?? '', / 0$/);
    assert.equal(await metric('schedule_due_timestamp_seconds'), undefined);
    const asked = await stack.stow.request('GET', `/1.0/status?recursion=1&project=default&older-than=90h`);
    assert.equal(asked.body.metadata.find((each: InstanceStatus) => each.instance === 's1').state, 'ok');
    await ask('POST', '/often/resume');
    assert.match((await of('s1')).reason, new RegExp(`^schedule often was due ${slot} while it was paused$`));
    assert.match(await cli('schedule', 'run', 'often', '--wait', '--quiet'), /1 of 1 backed up/);
    assert.deepEqual([(await of('s1')).state, (await of('s1')).reason], ['ok', '']);

    await create('named', { cron: '@daily' });
    await set('s2', { 'user.lxstow.schedule': 'named' });
    await until(
      () => of('s2'),
      ({ schedules: names }) => names?.join() === 'named',
    );
    const viewer = (await client('viewer', ['default'])).certificate;
    const restricted = await stack.stow.request('GET', `/1.0/status?recursion=1&project=default`, {
      certificate: viewer,
    });
    for (const { schedules: names } of restricted.body.metadata) assert.equal(names, undefined);
    for (const name of ['often', 'named']) await ask('DELETE', `/${name}`);
    await set('s2', { 'user.lxstow.schedule': '' });
    assert.equal((await of('s1')).schedules, undefined);
  });

  function due(name: string, at: string): string {
    return `lxstow_schedule_due_timestamp_seconds{schedule="${name}"} ${Date.parse(at) / 1000}`;
  }

  describe('whose owner is no longer trusted', () => {
    const listed = async (name: string) =>
      (await cli('schedule', 'list')).split('\n').find((line) => line.includes(name)) ?? '';
    const remove = async ({ fingerprint }: { fingerprint: string }) =>
      assert.equal((await stack.stow.request('DELETE', `/1.0/certificates/${fingerprint}`)).status, 200);
    const definition = { cron: '* * * * *', selector: { instances: ['none'] } };

    it('go on if it was not restricted, and say so', async () => {
      const owner = await client('operator');
      await ask('POST', '', { name: 'ownerless', definition }, owner.certificate);
      await remove(owner);
      const { owner_trouble, paused } = await until(
        () => show('ownerless'),
        ({ owner_trouble: trouble }) => trouble !== undefined,
      );
      assert.match(owner_trouble ?? '', /^its owner, client [0-9a-f]{12}, is no longer trusted$/);
      assert.equal(paused, undefined);
      assert.match(await listed('ownerless'), /active; its owner, client .* is no longer trusted/);
      await turnBack('ownerless', 61_000);
      await until(
        () => show('ownerless'),
        ({ last }) => last !== undefined,
      );
      await ask('DELETE', '/ownerless');
    });

    it('are paused if it was restricted, until somebody else resumes them', async () => {
      const owner = await client('operator', [stack.project]);
      await ask('POST', '', { name: 'orphan', definition }, owner.certificate);
      await remove(owner);
      const { paused } = await until(
        () => show('orphan'),
        (shown) => shown.paused !== undefined,
      );
      assert.match(paused?.reason ?? '', /^its owner, client [0-9a-f]{12}, is no longer trusted$/);
      await ask('POST', '/orphan/resume');
      await turnBack('orphan', 61_000);
      const { last, owner_trouble } = await until(
        () => show('orphan'),
        (shown) => shown.last !== undefined,
      );
      assert.ok(last);
      assert.equal(owner_trouble, undefined);
      await ask('DELETE', '/orphan');
    });

    it('are paused if it may no longer use a project of theirs, or only look', async () => {
      const owner = await client('operator', [stack.project]);
      const path = `/1.0/certificates/${owner.fingerprint}`;
      for (const [name, change, why] of [
        ['moved', { projects: ['default'] }, /its owner, operator, may no longer use project/],
        ['lowered', { projects: [stack.project], role: 'viewer' }, /its owner, operator, may only look/],
      ] as const) {
        assert.equal((await stack.stow.request('PATCH', path, { body: { projects: [stack.project] } })).status, 200);
        await ask('POST', '', { name, definition }, owner.certificate);
        assert.equal((await stack.stow.request('PATCH', path, { body: change })).status, 200);
        const { paused } = await until(
          () => show(name),
          (shown) => shown.paused !== undefined,
        );
        assert.match(paused?.reason ?? '', why);
        await ask('DELETE', `/${name}`);
      }
    });
  });
});
