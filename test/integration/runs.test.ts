/** Runs: many backups as one thing, on real parts. */

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { after, afterEach, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { connect } from '@nats-io/transport-node';
import { WebSocket } from 'ws';
import { forEach } from '../../services/concurrency/orderedMap.ts';
import { loadConfig } from '../../services/contract/config.ts';
import {
  check,
  type Operation,
  type Run,
  type RunChild,
  type ShownRun,
  type ShownRunChild,
} from '../../services/contract/schemas.ts';
import { countQueuedJobs, type Job, publishUnlessQueued } from '../../services/jobs/jobs.ts';
import { connectNats } from '../../services/nats/connection.ts';
import { jobsStream } from '../../services/nats/streams.ts';
import { tally } from '../../services/runs/fold.ts';
import { plan } from '../../services/runs/plan.ts';
import { RunStore } from '../../services/runs/runStore.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { type ScriptedS3, scriptedS3 } from '../fault/scriptedS3.ts';
import { type Certificate, makeCertificate } from '../lab/certificates.ts';
import { type LabFolder, openFolder } from '../lab/folder.ts';
import { type Lxstow, lxstow, startLxstow } from '../lab/lxstow.ts';
import { type Receiver, startReceiver } from '../lab/receiver.ts';
import { onTerminal, openTerminal } from '../lab/terminal.ts';
import { assertError, idOf, openStack, type Stack, until } from './stack.ts';

describe('runs', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  let s3: ScriptedS3;
  let other: Lxstow;
  let receiver: Receiver;
  before(async () => {
    receiver = await startReceiver();
    const config = {
      // A gateway that is killed is replaced sooner.
      worker: { slots: 2, graceMs: 0, compression: 'none', leaseTtlMs: 4000, heartbeatMs: 1000 },
      notify: { endpoints: [`${receiver.url}/all`] },
    };
    stack = await openStack('runs', { workers: 0, config });
    s3 = await scriptedS3(stack.s3.endpoint);
    const { socket = '' } = stack.lab.lxd ?? stack.simulator ?? {};
    const starting = [
      startLxstow({
        ...{ name: 'runs-other', log: () => undefined, natsUrl: stack.nats.url, s3: stack.s3, socket },
        ...{ workers: 0, config: { ...config, remotes: { later: {} } } },
      }),
      stack.stow.addWorker({
        LXSTOW_S3_ENDPOINT: s3.endpoint,
        LXSTOW_S3_IDLE_TIMEOUT_MS: '600000',
        LXSTOW_REMOTES: JSON.stringify({ local: { socket, transfers: 1 } }),
      }),
    ] as const;
    await Promise.allSettled(starting);
    other = await starting[0];
    await starting[1];
    for (const name of ['a1', 'a2', 'a3', 'busy']) await stack.launch(name);
    await stack.launch('b1', { project: stack.project });
    await stack.launch('x1', { project: stack.project });
    await configure('x1', { 'user.lxstow.exclude': 'true' }, stack.project);
    await configure('a2', { 'user.backup': 'daily' });
  });
  after(async () => {
    await stack?.[Symbol.asyncDispose]();
    await other?.[Symbol.asyncDispose]();
    await s3?.[Symbol.asyncDispose]();
    await receiver?.[Symbol.asyncDispose]();
  });

  let releaseLast: () => void = () => undefined;
  afterEach(() => releaseLast());

  async function configure(name: string, config: Record<string, string>, project = 'default'): Promise<void> {
    await stack.lxd.call({
      method: 'PATCH',
      path: `/1.0/instances/${name}`,
      query: { project },
      body: { config },
      signal: AbortSignal.timeout(60_000),
    });
  }
  async function client({ role, projects }: { role: string; projects?: string[] }): Promise<Certificate> {
    const certificate = await makeCertificate({ commonName: role });
    const body = {
      ...{ type: 'client', name: role, role, certificate: certificate.cert.replaceAll(/-----.*-----|\s/g, '') },
      ...(projects && { restricted: true, projects }),
    };
    const answer = await stack.stow.request('POST', '/1.0/certificates', { body });
    assert.equal(answer.status, 201, answer.text);
    return certificate;
  }
  const create = (body: object, stow: Lxstow = stack.stow) => stow.request('POST', '/1.0/runs', { body });
  const show = async (id: string, stow: Lxstow = stack.stow) =>
    (await stow.request('GET', `/1.0/runs/${id}`)).body.metadata as ShownRun;
  const children = async (id: string, query = '') =>
    (await stack.stow.request('GET', `/1.0/runs/${id}/children${query}`)).body.metadata.children as ShownRunChild[];
  const ended = async (id: string, stow: Lxstow = stack.stow) => {
    const { body } = await stow.request('GET', `/1.0/operations/${id}/wait?timeout=120`);
    assert.ok(body.metadata.status_code >= 200, JSON.stringify(body));
    return show(id, stow);
  };
  const states = (of: Pick<RunChild, 'instance' | 'state'>[]) =>
    Object.fromEntries(of.map(({ instance, state }) => [instance, state]));
  /** A backup by hand that does not end, and that nothing else gets past: until it is released. */
  async function occupy() {
    const { reached, release } = s3.hold(/\/busy\//);
    releaseLast = release;
    const answer = await stack.stow.request('POST', '/1.0/instances/busy/backups');
    await reached;
    return { answer, release };
  }

  it('back up what the selector means; what fails says why, what is at work already is skipped, and who excludes itself is left out', async () => {
    const { answer, release } = await occupy();
    const made = await create({ selector: { all: true }, tags: { by: 'run' } });
    assert.equal(made.status, 202, made.text);
    const id = idOf(made);
    await until(
      () => children(id),
      (found) => found.find(({ instance }) => instance === 'busy')?.state === 'skipped',
    );
    await stack.remove('a3');
    release();
    const run = await ended(id);
    assert.deepEqual(
      { status: run.status, counts: run.counts, excluded: run.excluded },
      {
        status: 'Failure',
        counts: { total: 5, success: 3, failure: 1, skipped: 1, cancelled: 0, running: 0, pending: 0 },
        excluded: 1,
      },
    );
    assert.deepEqual(run.failures, [
      {
        remote: 'local',
        project: 'default',
        instance: 'a3',
        reason: 'instance a3 does not exist',
        error_code: 'not-found',
      },
    ]);
    const all = await children(id);
    assert.deepEqual(states(all), { a1: 'success', a2: 'success', a3: 'failure', b1: 'success', busy: 'skipped' });
    const skipped = all.find(({ instance }) => instance === 'busy');
    assert.equal(skipped?.by, idOf(answer));
    assert.match(String(skipped?.reason), /is at work on it/);
    assert.ok(run.bytes > 0);
    const backup = all.find(({ instance }) => instance === 'a1')?.backup;
    const stored = (await stack.stow.request('GET', `/1.0/instances/a1/backups/${backup}`)).body.metadata;
    assert.deepEqual(stored.tags, { by: 'run' });
    assert.equal((await stack.stow.finished(answer)).status, 'Success');

    const operation = (await stack.stow.request('GET', `/1.0/operations/${id}`)).body.metadata as Operation;
    assert.deepEqual([operation.status, operation.err], ['Failure', '1 of 5 failed']);
    const [told] = await until(
      async () => receiver.received.filter(({ notice }) => notice.operation === id),
      ({ length }) => length > 0,
    );
    assert.equal(told?.notice.state, 'failed');
  });

  it('go on without an instance that was named and is not there, and end as Failure', async () => {
    const run = await ended(idOf(await create({ selector: { instances: ['a1', 'mial', 'x1', 'z*'] } })));
    assert.deepEqual(
      [run.status, run.counts.success, run.failures.map(({ reason }) => reason)],
      ['Failure', 1, ['there is no instance mial']],
    );
    const operation = (await stack.stow.request('GET', `/1.0/operations/${run.id}`)).body.metadata as Operation;
    assert.equal(operation.err, 'there is no instance mial');
  });

  it('are repeated for what failed only', async () => {
    const { runs } = (await stack.stow.request('GET', '/1.0/runs?limit=2')).body.metadata as { runs: ShownRun[] };
    const failed = runs.find(({ counts }) => counts.failure > 0);
    assert.equal(failed?.status, 'Failure');
    await stack.launch('a3');
    const answer = await stack.stow.request('POST', `/1.0/runs/${failed?.id}/retry`);
    assert.equal(answer.status, 202, answer.text);
    const run = await ended(idOf(answer));
    assert.deepEqual([run.status, run.retry_of, run.counts.total, run.counts.success], ['Success', failed?.id, 1, 1]);
    assert.deepEqual(states(await children(run.id)), { a3: 'success' });
    assertError(await stack.stow.request('POST', `/1.0/runs/${run.id}/retry`), 409, /no backup has failed in run/);
  });

  it('are chosen by name, pattern, project, status and configuration', async () => {
    const chosen = async (selector: object) => {
      const answer = await create({ selector, instance_only: true });
      assert.equal(answer.status, 202, answer.text);
      const id = idOf(answer);
      const found = (await children(id)).map(({ project, instance }) => `${project}/${instance}`).sort();
      assert.equal((await ended(id)).status, 'Success');
      return found;
    };
    assert.deepEqual(await chosen({ instances: ['a?'], exclude: ['a3'] }), ['default/a1', 'default/a2']);
    assert.deepEqual(await chosen({ all: true, projects: [stack.project] }), [`${stack.project}/b1`]);
    assert.deepEqual(await chosen({ match: ['user.backup=daily', 'status=running'] }), ['default/a2']);
    for (const [selector, error] of [
      [{}, /selector: give all, instances or match/],
      [{ all: true, instances: ['a1'] }, /all or instances, not both/],
      [{ match: ['=x'] }, /give it as key=value/],
      [{ instances: ['a/1'] }, /is not allowed/],
      [{ everything: true }, /unknown field "everything"/],
    ] as const)
      assertError(await create({ selector }), 400, error);
    assertError(await create({ selector: { instances: ['nobody'] } }), 404, /no instance fits/);
    assertError(await create({ selector: { all: true, remotes: ['mars'] } }), 404, /host mars does not exist/);
  });

  it('are one, however often they are asked for under one id', async () => {
    const body = { id: randomUUID(), selector: { instances: ['a1'], remotes: ['local'] } };
    const [one, two] = await Promise.all([create(body), create(body, other)]);
    assert.deepEqual([one.status, two.status, idOf(one), idOf(two)], [202, 202, body.id, body.id]);
    assert.deepEqual((await ended(body.id)).counts.total, 1);
    assert.equal((await create(body)).status, 202);
    assertError(await create({ ...body, selector: { instances: ['a2'] } }), 409, /there is another run with the id/);
  });

  it('end when they are cancelled, with all their children; what another has planned is skipped', async () => {
    const { answer, release } = await occupy();
    const [first, second] = [
      await create({ selector: { all: true } }),
      await create({ selector: { instances: ['a*'] } }),
    ];
    await until(
      () => show(idOf(second)),
      ({ counts }) => counts.skipped === 3,
    );
    const [skipped] = await children(idOf(second));
    assert.equal(skipped?.by, idOf(first));
    assert.equal((await ended(idOf(second))).status, 'Success');
    assert.equal((await stack.stow.request('DELETE', first.body.operation)).status, 200);
    const run = await ended(idOf(first));
    assert.deepEqual(
      [run.status, run.counts.cancelled, run.counts.skipped, run.counts.success],
      ['Cancelled', 4, 1, 0],
    );
    assertError(await stack.stow.request('DELETE', first.body.operation), 400, /Only running operations/);
    release();
    assert.equal((await stack.stow.finished(answer)).status, 'Success');
  });

  it('go on by another gateway when the one that feeds them is killed', async () => {
    const { release } = await occupy();
    const answer = await create({ selector: { all: true } });
    await until(
      () => children(idOf(answer)),
      (found) => states(found).busy === 'skipped',
    );
    await stack.stow.gateway.kill('SIGKILL');
    release();
    const run = await ended(idOf(answer), other);
    assert.deepEqual([run.status, run.counts.success, run.counts.skipped], ['Success', 4, 1]);
    await stack.stow.gateway.start();
    for (const name of ['a1', 'a2', 'a3']) {
      const of = (await children(run.id)).find(({ instance }) => instance === name);
      assert.equal(of?.state, 'success');
    }
  });

  describe('on the command line', () => {
    let folder: LabFolder;
    let env: NodeJS.ProcessEnv;
    before(async () => {
      folder = await openFolder('runs-cli', () => undefined);
      env = { XDG_CONFIG_HOME: folder.path };
      const token = await lxstow(['-c', stack.stow.configFile, 'trust', 'token', 'runs']);
      await lxstow(['remote', 'add', 'stow', token.trim()], env);
    });
    after(() => folder?.[Symbol.asyncDispose]());
    const json = async (...args: string[]) => JSON.parse(await lxstow([...args, '--format', 'json'], env));

    it('begin, are waited for, and say how they ended', async () => {
      const run = await json('run', '--all', '--exclude', 'busy', '--tag', 'by=cli', '--wait', '--quiet');
      const { total, success, failure, skipped, cancelled } = run.counts;
      assert.deepEqual(
        [run.status, { total, success, failure, skipped, cancelled }],
        ['Success', { total: 4, success: 4, failure: 0, skipped: 0, cancelled: 0 }],
      );
      assert.deepEqual(run.options, { tags: { by: 'cli' } });
      const [newest] = await json('run', 'list', 'stow:');
      assert.equal(newest.id, run.id);
      assert.deepEqual((await json('run', 'show', run.id)).counts, run.counts);
      const shown = await lxstow(['run', 'show', `stow:${run.id}`, '--state', 'success', '-f', 'csv'], env);
      assert.equal(shown.trim().split('\n').length, 4);
      assert.match(await lxstow(['run', 'report', run.id], env), /^# Backups: Success, 4 of 4\n/);
      await assert.rejects(lxstow(['run', 'retry', run.id], env), /no backup has failed in run/);
      await assert.rejects(lxstow(['run'], env), /which instances\?/);
    });

    it('are watched, cancelled and repeated', async () => {
      const { release } = await occupy();
      const { id, status } = await json('run', 'a?', '--project', 'default');
      assert.equal(status, 'Running');
      const watching = lxstow(['run', 'watch', id, '-f', 'json', '-q'], env).then(
        () => assert.fail('a cancelled run is no success'),
        (error: Error) => error.message,
      );
      await lxstow(['run', 'cancel', id], env);
      await watching;
      assert.equal((await json('run', 'show', id)).status, 'Cancelled');
      release();
    });

    it('of lxstow backup --all show each child on a terminal; Ctrl-C cancels them', onTerminal, async () => {
      const { release } = await occupy();
      const cli = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));
      const { child, seen, ended } = openTerminal([process.execPath, cli, 'backup', '--all'], {
        ...{ ...process.env, NO_COLOR: '1' },
        ...env,
      });
      await until(
        async () => seen(),
        (text) => /run \S+ +Running: 1 of 4 done, 1 skipped/.test(text) && /a1 +(waiting|Pending)/.test(text),
      );
      child.stdin?.write('\x03');
      assert.equal(await ended, 130, seen());
      assert.match(seen(), /Asking the gateway to cancel/);
      assert.match(
        seen(),
        /lxstow: 0 of 4 backed up, 1 skipped, 3 cancelled: busy: skipped: operation \S+ is (at work|on the queue)/,
      );
      const [{ status }] = await json('run', 'list');
      assert.equal(status, 'Cancelled');
      release();
    });
  });

  it('are of a restricted client for its projects only, and a viewer looks', async () => {
    const [operator, viewer] = await Promise.all([
      client({ role: 'operator', projects: [stack.project] }),
      client({ role: 'viewer' }),
    ]);
    const as = (certificate: Certificate, method: string, path: string, body?: object) =>
      stack.stow.request(method, path, { certificate, ...(body && { body }) });
    const mixed = idOf(await create({ selector: { instances: ['a1', 'b1'] } }));
    await ended(mixed);
    const own = await as(operator, 'POST', '/1.0/runs', { selector: { all: true } });
    assert.equal(own.status, 202, own.text);
    await ended(idOf(own));
    assert.deepEqual(states(await children(idOf(own))), { b1: 'success' });
    const seen = await as(operator, 'GET', `/1.0/runs/${mixed}`);
    assert.equal(seen.body.metadata.counts.total, 1);
    const listed = (await as(operator, 'GET', '/1.0/runs')).body.metadata.runs as ShownRun[];
    assert.ok(listed.every(({ failures }) => failures.every(({ project }) => project === stack.project)));
    const part = await as(operator, 'GET', `/1.0/runs/${mixed}/children`);
    assert.deepEqual(
      part.body.metadata.children.map(({ instance }: ShownRunChild) => instance),
      ['b1'],
    );
    assert.equal((await as(operator, 'GET', `/1.0/operations/${mixed}`)).body.metadata.metadata.counts.total, 1);
    const beyond = { selector: { all: true, projects: ['default'] } };
    assertError(await as(operator, 'POST', '/1.0/runs', beyond), 403, /not authorized/);
    for (const path of [`/1.0/runs/${mixed}`, `/1.0/operations/${mixed}`])
      assertError(await as(operator, 'DELETE', path), 403, /also has instances of other hosts or projects/);
    assertError(
      await as(operator, 'POST', `/1.0/runs/${mixed}/retry`),
      403,
      /also has instances of other hosts or projects/,
    );
    const others = idOf(await create({ selector: { instances: ['a1'] } }));
    for (const [method, path] of [
      ['GET', `/1.0/runs/${others}`],
      ['GET', `/1.0/runs/${others}/children`],
      ['DELETE', `/1.0/runs/${others}`],
      ['POST', `/1.0/runs/${others}/retry`],
      ['GET', `/1.0/operations/${others}`],
      ['GET', `/1.0/operations/${others}/wait`],
    ] as const)
      assertError(await as(operator, method, path), 404, /does not exist/);
    assert.equal((await as(viewer, 'GET', `/1.0/runs/${mixed}`)).body.metadata.counts.total, 2);
    assertError(await as(viewer, 'POST', '/1.0/runs', { selector: { all: true } }), 403, /not authorized/);
    assertError(await as(viewer, 'DELETE', `/1.0/runs/${mixed}`), 403, /not authorized/);
    assertError(await as(viewer, 'POST', `/1.0/runs/${mixed}/retry`), 403, /not authorized/);
    await ended(others);
  });

  it('are told to who listens to events', async () => {
    const events: { type: string; metadata: { id: string; status: string } }[] = [];
    const { cert, key } = stack.stow.client;
    const socket = new WebSocket(`${stack.stow.url}/1.0/events?type=operation&all-projects=true`, {
      ...{ cert, key, rejectUnauthorized: false },
    });
    socket.on('message', (data) => events.push(JSON.parse(String(data))));
    await once(socket, 'open');
    const id = idOf(await create({ selector: { instances: ['b1'] } }));
    await until(
      async () => events.filter(({ metadata }) => metadata.id === id).at(-1)?.metadata.status,
      (status) => status === 'Success',
    );
    socket.terminate();
  });

  it('go by NATS too, within the place that the subject names', async () => {
    const nats = await connect({ servers: stack.nats.url });
    const ask = async (subject: string, body: object) => {
      const answer = await nats.request(`lxstow.api.runs.${subject}`, JSON.stringify(body), { timeout: 20_000 });
      // biome-ignore lint/suspicious/noExplicitAny: each question has an answer of its own
      return answer.json<any>();
    };
    try {
      const all = await ask('create.=all.=all', { selector: { instances: ['a1', 'b1'] } });
      assert.equal(all.counts.total, 2);
      await ended(all.id);
      const [place, elsewhere] = [`local.${stack.project}`, 'local.default'];
      assert.equal((await ask(`show.${place}`, { id: all.id })).counts.total, 1);
      const page = await ask(`children.${place}`, { id: all.id });
      assert.deepEqual(states(page.children), { b1: 'success' });
      const own = await ask(`create.${place}`, { selector: { all: true } });
      assert.equal(own.counts.total, 1);
      assert.equal((await ask(`show.${elsewhere}`, { id: own.id })).code, 'not-found');
      assert.equal((await ask(`cancel.${place}`, { id: all.id })).code, 'forbidden');
      const beyond = await ask(`create.${place}`, { selector: { all: true, projects: ['default'] } });
      assert.equal(beyond.code, 'forbidden');
      assert.ok((await ask(`list.${elsewhere}`, {})).runs.every(({ id }: ShownRun) => id !== own.id));
      assert.equal((await ask('list.=all.=all', { limit: 1 })).runs[0].id, own.id);
      assert.equal((await ended(own.id)).status, 'Success');
      assert.equal((await ask(`retry.${place}`, { id: own.id })).code, 'conflict');
      const again = await ask('retry.local.default', { id: await failedRun({ keep: { keep_last: 1 } }) });
      assert.deepEqual([again.counts.total, again.options], [1, {}], 'a run over NATS deletes nothing');
      await ended(again.id);
      const unknown = await ask('create.=all.=all', { selector: { all: true, remotes: ['mars'] } });
      assert.deepEqual([unknown.code, unknown.id], ['not-found', undefined]);
      const named = await ask('create.=all.=all', { selector: { instances: ['a1*'], remotes: ['local'] } });
      assert.deepEqual([named.counts.total, named.away], [1, []], 'a host that was not named is not waited for');
      await ended(named.id);
      const backups = await nats.request('lxstow.api.backups.list.=all.default', '{}');
      assert.equal(backups.json<{ code: string }>().code, 'bad-request');
    } finally {
      await nats.close();
    }
  });

  /** A run of `a1` that has failed, as a client asked for it. */
  async function failedRun(options: object): Promise<string> {
    const config = loadConfig({ file: stack.stow.configFile, env: {} });
    await using nats = await connectNats(
      config.nats,
      'runs-test',
      createLogger({ level: 'error', format: 'json' }, {}),
    );
    const children = plan([{ remote: 'local', project: 'default', instance: 'a1' }]).map((child) => ({
      ...child,
      state: 'failure' as const,
    }));
    const at = new Date().toISOString();
    const times = { created_at: at, updated_at: at, ended_at: at };
    const request = { selector: { instances: ['a1'] }, ...options };
    const head = { id: randomUUID(), status: 'Failure' as const, class: 'hand' as const, ...times, request };
    const rest = { places: tally(children), away: [], failures: [], excluded: 0 };
    const run = await new RunStore(nats, 1).create({ ...head, ...rest }, children);
    return run?.id ?? '';
  }

  it('of a remote that is away when they are made take in what it has when it is back', async () => {
    const id = idOf(await create({ selector: { instances: ['a1*'] } }, other));
    const { away, counts } = await until(
      () => show(id, other),
      (run) => run.counts.success === 1,
    );
    assert.deepEqual(
      [away.map(({ remote, reason, planned }) => [remote, reason, planned]), counts.total],
      [[['later', 'no worker of host later is up', false]], 1],
    );
    const { socket = '' } = stack.lab.lxd ?? stack.simulator ?? {};
    const worker = await other.addWorker({
      LXSTOW_WORKER_REMOTE: 'later',
      LXSTOW_REMOTES: JSON.stringify({ local: {}, later: { socket } }),
    });
    const run = await ended(id, other);
    assert.deepEqual([run.status, run.counts.total, run.counts.success, run.away], ['Success', 2, 2, []]);
    await worker.stop();
  });

  it('of a remote that is away fail for what no host has, once it is back', async () => {
    const ids: string[] = [];
    for (const selector of [{ instances: ['a1', 'mial', 'x1'] }, { match: ['user.backup=never'] }]) {
      const answer = await create({ selector }, other);
      assert.equal(answer.status, 202, answer.text);
      ids.push(idOf(answer));
    }
    const { socket = '' } = stack.lab.lxd ?? stack.simulator ?? {};
    const worker = await other.addWorker({
      LXSTOW_WORKER_REMOTE: 'later',
      LXSTOW_REMOTES: JSON.stringify({ local: {}, later: { socket } }),
    });
    const [named, none] = await Promise.all(ids.map((id) => ended(id, other)));
    assert.deepEqual(
      [named?.status, named?.counts.success, named?.failures.map(({ reason }) => reason)],
      ['Failure', 2, ['there is no instance mial']],
    );
    assert.deepEqual(
      [none?.status, none?.counts.total, none?.failures.map(({ reason }) => reason)],
      ['Failure', 0, ['no instance fits the selector']],
    );
    await worker.stop();
  });

  it('are planned by the records of a remote that is away; when it is back, what it lacks is skipped, and what is new is added', async () => {
    const { socket = '' } = stack.lab.lxd ?? stack.simulator ?? {};
    const worker = await other.addWorker({
      LXSTOW_WORKER_REMOTE: 'later',
      LXSTOW_REMOTES: JSON.stringify({ local: {}, later: { socket } }),
    });
    await stack.launch('old');
    await until(
      async () => (await other.request('GET', '/1.0/status?target=later&recursion=1')).body.metadata as object[],
      (found) => found.some((each) => 'instance' in each && each.instance === 'old'),
    );
    await worker.stop();
    await stack.remove('old');
    await stack.launch('fresh');
    const id = idOf(await create({ selector: { instances: ['old*', 'fresh*'] } }, other));
    const { away, counts } = await until(
      () => show(id, other),
      (run) => run.counts.success === 1,
    );
    assert.deepEqual(
      away.map(({ remote, planned, planned_from }) => [remote, planned, planned_from]),
      [['later', false, 'records']],
    );
    assert.deepEqual([counts.total, counts.pending], [2, 1]);
    const waiting = (await children(id)).find(({ remote }) => remote === 'later');
    assert.deepEqual([waiting?.instance, waiting?.state], ['old', 'pending']);
    await worker.start();
    const run = await ended(id, other);
    assert.deepEqual([run.status, run.counts.success, run.counts.skipped, run.away], ['Success', 2, 1, []]);
    const skipped = (await children(id)).find(({ state }) => state === 'skipped');
    assert.match(skipped?.reason ?? '', /^planned from the records of host later, which no longer has it/);
    // It was never put on the queue.
    assertError(await other.request('GET', skipped?.operation ?? ''), 404, /does not exist/);
    await worker.stop();
  });

  it('have no job on the queue twice, and leave no plan without a run', async () => {
    const log = createLogger({ level: 'error', format: 'json' }, {});
    const config = check('config.json', JSON.parse(await readFile(stack.stow.configFile, 'utf8')), 'config');
    await using nats = await connectNats(config.nats, 'test', log);
    const [id, other] = [randomUUID(), randomUUID()];
    // There is no worker of this remote.
    const job: Job = { kind: 'backup', address: { remote: 'later', project: 'default', instance: 'c1' }, body: {} };
    assert.equal(await publishUnlessQueued(nats, id, job), undefined);
    assert.equal(await publishUnlessQueued(nats, id, job), undefined, 'our own is no other');
    assert.equal((await publishUnlessQueued(nats, other, job))?.operation, id);
    assert.equal(await countQueuedJobs(nats, 'backup', job.address), 1);

    const runs = new RunStore(nats, 1);
    const [newest] = await runs.list();
    assert.ok(newest);
    const orphan = { id: randomUUID(), plan: 'deadbeef' };
    await runs.writeChunk(orphan, 0, [], 0);
    assert.equal(await runs.removeUnplanned(60_000), 0, 'one that may be about to get its head');
    assert.equal(await runs.removeUnplanned(0), 1);
    assert.ok((await runs.chunk(newest.run, 0)).children.length > 0);
  });

  it('end as Failure when a part of their plan is gone, and back up the rest', async () => {
    const config = check('config.json', JSON.parse(await readFile(stack.stow.configFile, 'utf8')), 'config');
    await using nats = await connectNats(config.nats, 'test', createLogger({ level: 'error', format: 'json' }, {}));
    const runs = new RunStore(nats, 1);
    const of = { id: randomUUID(), plan: 'deadbeef' };
    const rest = plan([{ remote: 'local', project: 'default', instance: 'a1' }]);
    await runs.writeChunk(of, 1, rest, 0);
    const at = new Date().toISOString();
    const head: Run = {
      ...{ ...of, chunks: 2, status: 'Running', class: 'hand', created_at: at, updated_at: at },
      request: { selector: { instances: ['a1', 'a2'] } },
      places: { 'local/default': { pending: 2 } },
      ...{ away: [], failures: [], excluded: 0 },
    };
    assert.ok(await runs.update(head, 0));
    const run = await ended(of.id);
    assert.deepEqual([run.status, run.counts.total, run.counts.success], ['Failure', 1, 1]);
    assert.match(run.failures[0]?.reason ?? '', /^part 1 of its plan is lost/);
    assert.deepEqual(states(await children(of.id)), { a1: 'success' });
  });

  it('queue a child again whose job NATS dropped as the repeat of another message', async () => {
    const config = check('config.json', JSON.parse(await readFile(stack.stow.configFile, 'utf8')), 'config');
    await using nats = await connectNats(config.nats, 'test', createLogger({ level: 'error', format: 'json' }, {}));
    const { config: stream } = await nats.jsm.streams.info(jobsStream);
    await nats.jsm.streams.update(jobsStream, { ...stream, duplicate_window: 1e9 });
    const { release } = await occupy();
    const id = idOf(await create({ selector: { instances: ['a1', 'a2'] } }));
    const queued = (instance: string) =>
      nats.jsm.streams
        .getMessage(jobsStream, { last_by_subj: `lxstow.jobs.local.backup.default.${instance}` })
        .catch(() => undefined);
    const found = await until(
      () => queued('a1'),
      (message) => message !== undefined && message !== null,
    );
    await nats.jsm.streams.deleteMessage(jobsStream, found?.seq ?? 0);
    await until(
      () => queued('a1'),
      (message) => message !== undefined && message !== null,
    );

    release();
    const run = await ended(id);
    assert.deepEqual([run.status, run.counts.success], ['Success', 2]);
    await nats.jsm.streams.update(jobsStream, stream);
  });

  it('leave no operation waiting for a job that the full queue refused, when they are cancelled', async () => {
    const config = check('config.json', JSON.parse(await readFile(stack.stow.configFile, 'utf8')), 'config');
    await using nats = await connectNats(config.nats, 'test', createLogger({ level: 'error', format: 'json' }, {}));
    const { config: stream } = await nats.jsm.streams.info(jobsStream);
    const { answer, release } = await occupy();
    await nats.jsm.streams.update(jobsStream, { ...stream, max_msgs: 1 });
    try {
      const id = idOf(await create({ selector: { instances: ['a1', 'a2'] } }));
      const operations = async () => {
        const links = (await children(id)).map(({ operation }) => stack.stow.request('GET', operation));
        return (await Promise.all(links)).map(({ body }) => body.metadata?.status);
      };
      await until(operations, (found) => found.every((status) => status === 'Pending'));
      assert.equal((await stack.stow.request('DELETE', `/1.0/runs/${id}`)).status, 200);
      const run = await ended(id);
      assert.deepEqual([run.status, run.counts.cancelled], ['Cancelled', 2]);
      assert.deepEqual(await operations(), ['Cancelled', 'Cancelled']);
    } finally {
      await nats.jsm.streams.update(jobsStream, stream);
    }
    release();
    assert.equal((await stack.stow.finished(answer)).status, 'Success');
  });

  it('say that a remote is away, and go on when it is back', async () => {
    const [worker] = stack.stow.workers;
    const { release } = await occupy();
    const id = idOf(await create({ selector: { instances: ['a1'] } }));
    await worker?.stop();
    release();
    const { away } = await until(
      () => show(id),
      (run) => run.away.length > 0,
    );
    assert.deepEqual(
      away.map(({ remote, reason }) => [remote, reason]),
      [['local', 'no worker of host local is up']],
    );
    assertError(await create({ selector: { all: true } }), 503, /no worker of host local is up/);
    await worker?.start();
    const run = await ended(id);
    assert.deepEqual([run.status, run.counts.success, run.away], ['Success', 1, []]);
  });

  it('of 60 containers let a restore by hand pass', async (test) => {
    const { lxd } = stack.lab;
    if (!lxd) return test.skip('there is no real LXD');
    const names = Array.from({ length: 60 }, (_, index) => `many-${index + 10}`);
    await forEach(names, 4, (name) => lxd.lxc(['init', 'bb', name, '--config', 'security.privileged=true']));
    const id = idOf(await create({ selector: { instances: ['many-*'] } }));
    await until(
      () => show(id),
      ({ counts }) => counts.success > 0,
    );
    const [made] = await children(id, '?state=success');
    const path = `/1.0/instances/${made?.instance}/backups/${made?.backup}`;
    const answer = await stack.stow.request('POST', path, { body: { name: 'many-copy' } });
    assert.equal((await stack.stow.finished(answer)).status, 'Success');
    const { counts } = await show(id);
    assert.ok(counts.pending > names.length / 3, `the restore has waited: ${JSON.stringify(counts)}`);
    const run = await ended(id);
    assert.deepEqual([run.status, run.counts.total, run.counts.success], ['Success', 60, 60]);
  });
});
