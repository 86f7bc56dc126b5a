/** What Prometheus sees and what logs say of a job, on real parts. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import https from 'node:https';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { jetstream } from '@nats-io/jetstream';
import { connect, headers } from '@nats-io/transport-node';
import type { Operation } from '../../services/contract/schemas.ts';
import { operationIdOf } from '../../services/jobs/jobs.ts';
import { findPromtool } from '../lab/parts.ts';
import { errorText, run } from '../lab/run.ts';
import { publish } from './publisher.ts';
import { openStack, type Stack, succeeded, until } from './stack.ts';

const docs = fileURLToPath(new URL('../../docs/', import.meta.url));
const c1 = 'lxstow.jobs.local.backup.default.c1';

type Labels = Record<string, string>;

/** The value of a series, by its labels or more of them; undefined where there is none. */
function sample(text: string, name: string, labels: Labels = {}): number | undefined {
  for (const line of text.split('\n')) {
    const [, series, inside = '', value] = /^(\w+)(?:{(.*)})? (\S+)$/.exec(line) ?? [];
    if (series !== name) continue;
    const has = new Map(
      [...inside.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key = '', word = '']) => [key, word]),
    );
    if (Object.entries(labels).every(([key, word]) => has.get(key) === word)) return Number(value);
  }
  return undefined;
}

const namesIn = (text: string) => [...new Set(text.match(/\b(lxstow|nodejs|process)_\w+/g) ?? [])];

describe('metrics', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  before(async () => {
    stack = await openStack('metrics', {
      config: { s3: { attempts: 2 }, worker: { slots: 1, graceMs: 0 }, log: { level: 'debug' } },
    });
    await stack.launch('c1', { dataMiB: 20 });
  });
  after(() => stack?.[Symbol.asyncDispose]());

  async function scrape(part: 'gateway' | 'worker'): Promise<string> {
    const answer = await fetch(`${stack.stow.healthUrl[part]}/metrics`);
    assert.equal(answer.status, 200);
    assert.match(answer.headers.get('content-type') ?? '', /^text\/plain; version=0\.0\.4/);
    return answer.text();
  }
  const ask = async (part: 'gateway' | 'worker', name: string, labels?: Labels) =>
    sample(await scrape(part), name, labels);
  const becomes = (part: 'gateway' | 'worker', name: string, labels: Labels, is: (value: number) => boolean) =>
    until(
      () => ask(part, name, labels),
      (value) => value !== undefined && is(value),
    );
  const operationOf = async (id: string) =>
    (await stack.stow.request('GET', `/1.0/operations/${id}`)).body.metadata as Operation;
  const ended = (id: string) =>
    until(
      () => operationOf(id),
      (operation) => operation?.status_code >= 200,
    );
  const download = (path: string, range: string) =>
    new Promise<number>((resolve, reject) => {
      const options = { ...stack.stow.client, headers: { range }, rejectUnauthorized: false, agent: false };
      const request = https.get(stack.stow.url + path, options, async (response) => {
        let bytes = 0;
        for await (const chunk of response) bytes += chunk.length;
        resolve(bytes);
      });
      request.on('error', reject);
    });
  const lastSuccess = { remote: 'local', project: 'default', instance: 'c1' };

  it('count jobs, bytes and requests; gateway and workers agree on the youngest backup', async () => {
    const begun = Date.now() / 1000;
    assert.equal(await ask('worker', 'lxstow_jobs_total', { kind: 'backup', result: 'success' }), 0);
    const name = await stack.backup('c1', '?compression=none');
    // The client may hear of the end before the worker has counted it.
    await becomes('worker', 'lxstow_jobs_total', { kind: 'backup', result: 'success' }, (count) => count === 1);
    const worker = await scrape('worker');
    assert.equal(sample(worker, 'lxstow_job_duration_seconds_count', { kind: 'backup', result: 'success' }), 1);
    const { size } = (await stack.stow.request('GET', '/1.0/instances/c1/backups')).body.metadata[0];
    assert.equal(sample(worker, 'lxstow_received_bytes_total', { peer: 'lxd' }), size);
    assert.ok((sample(worker, 'lxstow_sent_bytes_total', { peer: 's3' }) ?? 0) > size, 'archive and manifest');
    assert.ok(
      (sample(worker, 'lxstow_s3_request_duration_seconds_count', { call: 'putPart', result: 'ok' }) ?? 0) >= 1,
    );
    const exported = { method: 'GET', endpoint: '/1.0/instances/*/backups/*/export', result: '206' };
    assert.ok((sample(worker, 'lxstow_lxd_request_duration_seconds_count', exported) ?? 0) >= 1);
    const made = await becomes('gateway', 'lxstow_last_success_timestamp_seconds', lastSuccess, () => true);
    assert.ok(made !== undefined && made >= begun - 1 && made <= Date.now() / 1000 + 1, `made at ${made}`);

    const backup = `/1.0/instances/c1/backups/${name}`;
    assert.equal(await download(`${backup}/export`, 'bytes=0-1048575'), 1_048_576);
    await becomes('gateway', 'lxstow_sent_bytes_total', { peer: 'client' }, (bytes) => bytes === 1_048_576);
    await succeeded(stack.stow, await stack.stow.request('POST', backup, { body: { name: 'c2' } }));
    assert.equal(await ask('worker', 'lxstow_sent_bytes_total', { peer: 'lxd' }), size);
    await becomes('worker', 'lxstow_jobs_running', { kind: 'restore' }, (count) => count === 0);
  });

  it('the youngest backup is known to a gateway that has just begun', async () => {
    const name = await stack.backup('c1', '?compression=none');
    const { metadata } = (await stack.stow.request('GET', '/1.0/instances/c1/backups')).body;
    const { created } = metadata.find((backup: { name: string }) => backup.name === name);
    await stack.stow.gateway.stop();
    await stack.stow.gateway.start();
    const made = await becomes('gateway', 'lxstow_last_success_timestamp_seconds', lastSuccess, () => true);
    assert.equal(made, Date.parse(created) / 1000);
  });

  it('a failed job, and a message that is none', async () => {
    const failures = () => ask('worker', 'lxstow_jobs_total', { kind: 'backup', result: 'failure' });
    assert.equal(await failures(), 0);
    await ended(await publish(stack.nats.url, 'lxstow.jobs.local.backup.default.nobody', {}));
    await until(failures, (count) => count === 1);
    assert.equal(await ask('gateway', 'lxstow_dead_letters'), 0);
    await publish(stack.nats.url, c1, 'no JSON');
    await becomes('worker', 'lxstow_jobs_total', { kind: 'unknown', result: 'refused' }, (count) => count === 1);
    await becomes('gateway', 'lxstow_dead_letters', {}, (count) => count === 1);
  });

  it('retries, of a call and of a job', async () => {
    await stack.s3.kill('SIGKILL');
    const id = await publish(stack.nats.url, c1, {});
    await becomes('worker', 'lxstow_job_retries_total', { kind: 'backup' }, (count) => count >= 1);
    await becomes('worker', 'lxstow_s3_retries_total', {}, (count) => count >= 1);
    await becomes(
      'worker',
      'lxstow_s3_request_duration_seconds_count',
      { result: 's3-unavailable' },
      (count) => count >= 2,
    );
    await stack.s3.start();
    assert.equal((await ended(id)).status, 'Success');
  });

  it('a job that is taken over', async () => {
    // A store that does not answer holds the job.
    await stack.s3.kill('SIGSTOP');
    const [worker] = stack.stow.workers;
    assert.ok(worker);
    try {
      const id = await publish(stack.nats.url, c1, {});
      await until(
        () => operationOf(id),
        (operation) => operation?.status === 'Running',
      );
      await worker.kill('SIGKILL');
      await stack.s3.kill('SIGCONT');
      await worker.start();
      assert.equal((await ended(id)).status, 'Success');
    } finally {
      await stack.s3.kill('SIGCONT');
    }
    assert.equal(await ask('worker', 'lxstow_lease_takeovers_total', { kind: 'backup' }), 1);
  });

  it('the queue, while no worker is up, and while NATS is away', async () => {
    const [worker] = stack.stow.workers;
    assert.ok(worker);
    const transfers = { remote: 'local', lane: 'transfer' };
    const waiting = { ...transfers, state: 'waiting' };
    await becomes('gateway', 'lxstow_queue_jobs', waiting, (jobs) => jobs === 0);
    await worker.stop();
    const id = await publish(stack.nats.url, c1, {});
    await publish(stack.nats.url, c1, {});
    await becomes('gateway', 'lxstow_queue_jobs', waiting, (jobs) => jobs === 2);
    await becomes('gateway', 'lxstow_queue_oldest_seconds', transfers, (seconds) => seconds >= 1);
    assert.equal(await ask('gateway', 'lxstow_queue_oldest_seconds', { remote: 'local', lane: 'quick' }), 0);

    await stack.nats.kill('SIGKILL');
    await becomes('gateway', 'lxstow_nats_up', {}, (up) => up === 0);
    assert.equal(await ask('gateway', 'lxstow_queue_jobs', waiting), undefined);
    assert.equal(await ask('gateway', 'lxstow_dead_letters'), undefined);
    await stack.nats.start();
    await becomes('gateway', 'lxstow_nats_up', {}, (up) => up === 1);

    await worker.start();
    assert.equal((await ended(id)).status, 'Success');
    await becomes('gateway', 'lxstow_queue_oldest_seconds', transfers, (seconds) => seconds === 0);
  });

  describe('what stands in docs', () => {
    it('each metric of the dashboard, the alerts and the page is there', async () => {
      const there = new Set(
        [...`${await scrape('gateway')}${await scrape('worker')}`.matchAll(/^# TYPE (\w+) (\w+)/gm)].flatMap(
          ([, name = '', type]) =>
            type === 'histogram' ? ['', '_bucket', '_sum', '_count'].map((end) => name + end) : [name],
        ),
      );
      for (const file of [
        'grafana/lxstow.json',
        'prometheus/alerts.yml',
        'prometheus/alerts.test.yml',
        'observability.md',
      ]) {
        const names = namesIn(await readFile(docs + file, 'utf8'));
        assert.ok(names.length > 0, file);
        for (const name of names) assert.ok(there.has(name), `${file}: there is no metric ${name}`);
      }
    });

    it('each metric of ours is on the page', async () => {
      const page = namesIn(await readFile(`${docs}observability.md`, 'utf8'));
      const ours = [...`${await scrape('gateway')}${await scrape('worker')}`.matchAll(/^# TYPE (lxstow_\w+)/gm)];
      for (const [, name = ''] of ours) assert.ok(page.includes(name), `observability.md does not tell of ${name}`);
    });

    it('promtool finds no fault in metrics, alerts and their tests', async (t) => {
      let promtool: string;
      try {
        promtool = await findPromtool(() => undefined);
      } catch (error) {
        return t.skip(`no promtool: ${errorText(error)}`);
      }
      for (const part of ['gateway', 'worker'] as const)
        await run(promtool, ['check', 'metrics'], { input: await scrape(part) });
      await run(promtool, ['check', 'rules', `${docs}prometheus/alerts.yml`]);
      await run(promtool, ['test', 'rules', `${docs}prometheus/alerts.test.yml`]);
    });
  });

  describe('a trace', () => {
    const newTrace = () => randomBytes(16).toString('hex');
    const logged = async (part: 'gateway' | number, message: string) =>
      (await stack.stow.logOf(part))
        .split('\n')
        .slice(0, -1)
        .filter((line) => line.startsWith('{'))
        .map((line) => JSON.parse(line) as Record<string, unknown>)
        .filter((line) => line.message === message);
    const lines = (part: 'gateway' | number, message: string, trace: string) =>
      until(
        async () => (await logged(part, message)).filter((line) => line.trace === trace),
        ({ length }) => length > 0,
      );

    it('goes from a request over the queue to the log lines of gateway and worker', async () => {
      const trace = newTrace();
      const traceparent = `00-${trace}-${randomBytes(8).toString('hex')}-01`;
      const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups', { headers: { traceparent } });
      const { id } = await succeeded(stack.stow, answer);
      const paths = (await lines('gateway', 'audit', trace)).map(({ path }) => path);
      assert.deepEqual(paths, ['/1.0/instances/c1/backups']);
      const done = (await lines(0, 'job done', trace)).map(({ operation }) => operation);
      assert.deepEqual(done, [id]);
      await lines(0, 'asked', trace);
    });

    it('goes on from a message that was published straight to the subject', async () => {
      const trace = newTrace();
      const connection = await connect({ servers: stack.nats.url });
      try {
        const carried = headers();
        carried.set('traceparent', `00-${trace}-00f067aa0ba902b7-00`);
        const { seq } = await jetstream(connection).publish(c1, '', { headers: carried });
        await ended(operationIdOf({ messageId: undefined, sequence: seq }));
      } finally {
        await connection.close();
      }
      await lines(0, 'job done', trace);
    });

    it('that is not valid is not taken over: a new one begins', async () => {
      const trace = newTrace();
      const traceparent = `00-${trace}-0000000000000000-01`;
      const path = '/1.0/instances/c1/backups/none';
      assert.equal((await stack.stow.request('DELETE', path, { headers: { traceparent } })).status, 404);
      const [line] = await until(
        async () => (await logged('gateway', 'audit')).filter((each) => each.path === path),
        ({ length }) => length > 0,
      );
      assert.match(String(line?.trace), /^[0-9a-f]{32}$/);
      assert.notEqual(line?.trace, trace);
    });
  });
});
