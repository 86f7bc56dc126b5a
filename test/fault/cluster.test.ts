/** What a user of a NATS cluster gets when its leaders die amid a batch: everything that was accepted, once. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { jetstream } from '@nats-io/jetstream';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import type { Operation, RunPage } from '../../services/contract/schemas.ts';
import { assertError, openStack, type Stack, until } from '../integration/stack.ts';
import type { Answer } from '../lab/lxstow.ts';
import { type LabNats, type NatsCluster, startNats, startNatsCluster } from '../lab/nats.ts';
import { startProxy, type Wire } from './proxy.ts';
import { assertClean, assertOneBackup, assertRestores } from './workers.ts';

const quiet = () => undefined;
const instances = Array.from({ length: 8 }, (_, index) => `c${index}`);
const wanted = { http: 14, published: 6 };
/** A client that waits longer than this for a yes or a no was forgotten. */
const longestAnswerMs = 25_000;
/** As users have it: NATS that dies or falls silent does not answer either. */
const gateway = { askTimeoutMs: 2000 };

describe('a NATS cluster of three', { timeout: 1_800_000 }, () => {
  let cluster: NatsCluster;
  let stack: Stack;
  before(async () => {
    process.env.LXSTOW_LAB_LXD = 'none';
    cluster = await startNatsCluster({ log: quiet, name: 'trio' });
    stack = await openStack('cluster', {
      workers: 2,
      config: { nats: { servers: cluster.urls, replicas: 3 }, worker: { slots: 2 }, gateway },
    });
    for (const name of instances) await stack.launch(name);
  });
  after(async () => {
    await stack?.[Symbol.asyncDispose]();
    await cluster?.[Symbol.asyncDispose]();
  });

  const instanceOf = (index: number) => instances[index % instances.length] ?? '';

  /** Asks until a yes; what else it was told, and how long it waited for each. */
  async function request(name: string, instance: string, refusals: Answer[]): Promise<string> {
    for (;;) {
      const asked = performance.now();
      const answer = await stack.stow.request('POST', `/1.0/instances/${instance}/backups`, { body: { name } });
      assert.ok(
        performance.now() - asked < longestAnswerMs,
        `${name} was answered after ${performance.now() - asked} ms`,
      );
      if (answer.status === 202) return answer.body.operation.split('/').at(-1) ?? '';
      assert.equal(answer.status, 503, answer.text);
      refusals.push(answer);
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
  }

  /** As a careful publisher does it: the same message id until the stream has confirmed it. */
  async function publishSurely(connection: NatsConnection, backup: string, instance: string): Promise<string> {
    const id = randomUUID();
    const subject = `lxstow.jobs.local.backup.default.${instance}`;
    await until(
      () =>
        jetstream(connection, { timeout: 2000 })
          .publish(subject, JSON.stringify({ backup }), { msgID: id })
          .catch(() => undefined),
      (ack) => ack !== undefined,
    );
    return id;
  }

  it('loses its leaders during a batch: nothing accepted is lost, nothing is done twice, and who was told no may ask again', async () => {
    const files = new Map(
      await Promise.all(instances.map(async (name) => [name, await stack.fingerprint(name)] as const)),
    );
    const publisher = await connect({ servers: cluster.urls, maxReconnectAttempts: -1, reconnectTimeWait: 200 });
    const accepted = new Map<string, { name: string; instance: string }>();
    const refusals: Answer[] = [];
    let asking = true;
    const asks = [
      ...Array.from({ length: wanted.http }, (_, index) => ({ name: `http-${index}`, instance: instanceOf(index) })),
      ...Array.from({ length: wanted.published }, (_, index) => ({
        name: `nats-${index}`,
        instance: instanceOf(index),
      })),
    ].sort((one, other) => one.name.slice(5).localeCompare(other.name.slice(5)));

    const batch = (async () => {
      // Three at a time, spread over the elections.
      const todo = asks.values();
      await Promise.all(
        [1, 2, 3].map(async () => {
          for (const { name, instance } of todo) {
            const id = name.startsWith('http')
              ? await request(name, instance, refusals)
              : await publishSurely(publisher, name, instance);
            accepted.set(id, { name, instance });
            await new Promise((resolve) => setTimeout(resolve, 500));
          }
        }),
      );
      asking = false;
    })();
    const killing = (async () => {
      for (const [stream, after] of [
        ['LXSTOW_JOBS', 4],
        ['KV_lxstow_operations', 8],
        ['KV_lxstow_leases', 12],
      ] as const) {
        await until(
          async () => accepted.size,
          (size) => size >= after || !asking,
        );
        const leader = await cluster.leaderOf(stream);
        await leader.kill('SIGKILL');
        await cluster.leaderOf(stream);
        await leader.start();
      }
    })();
    await Promise.all([batch, killing]);
    await publisher.close();
    assert.equal(accepted.size, asks.length);

    for (const [id, { name, instance }] of accepted) {
      const operation = await ended(id);
      assert.equal(operation.status, 'Success', `${name} of ${instance}: ${operation.err}`);
      await assertOneBackup(stack, instance, name, id);
    }
    const manifests = (await stack.keys()).filter((key) => key.endsWith('.manifest.json'));
    assert.equal(manifests.length, accepted.size, 'there are backups that nobody was told of');
    const others = (await operations()).filter(({ id }) => !accepted.has(id));
    assert.deepEqual(
      others.filter(({ status }) => status !== 'Failure').map(({ id, status }) => `${id} ${status}`),
      [],
    );
    await assertClean(stack);
    for (const instance of instances.slice(0, 2)) {
      const one = [...accepted.values()].find((each) => each.instance === instance);
      assert.ok(one);
      await assertRestores(stack, instance, one.name, files.get(instance) ?? new Map());
    }
    console.log(`refused: ${refusals.length}; operations withdrawn: ${others.length}`);
  });

  it('loses its leaders at the minute of a schedule: its run is made once', async () => {
    const minute = Math.ceil((Date.now() + 15_000) / 60_000) * 60_000;
    const at = new Date(minute);
    const definition = {
      cron: `${at.getUTCMinutes()} ${at.getUTCHours()} * * *`,
      selector: { instances: ['c0', 'c1'] },
    };
    const made = await stack.stow.request('POST', '/1.0/schedules', { body: { name: 'minute', definition } });
    assert.equal(made.status, 201, made.text);
    await delay(minute - 500 - Date.now());
    for (const stream of ['KV_lxstow_schedules', 'KV_lxstow_runs']) {
      const leader = await cluster.leaderOf(stream);
      await leader.kill('SIGKILL');
      await cluster.leaderOf(stream);
      await leader.start();
    }
    const last = async () => (await stack.stow.request('GET', '/1.0/schedules/minute')).body.metadata?.last;
    const { run } = await until(last, (found) => found !== undefined);
    assert.equal((await ended(run)).status, 'Success');
    const { runs }: RunPage = (await stack.stow.request('GET', '/1.0/runs')).body.metadata;
    const ours = runs.filter(({ schedule }) => schedule?.name === 'minute');
    assert.deepEqual(
      ours.map(({ id, counts }) => [id, counts.success]),
      [[run, 2]],
    );
  });

  const ended = (id: string) =>
    until(
      async () => (await stack.stow.request('GET', `/1.0/operations/${id}`)).body.metadata as Operation,
      (operation) => operation?.status_code >= 200,
    );

  async function operations(): Promise<Operation[]> {
    const answer = await stack.stow.request('GET', '/1.0/operations?all-projects=true&recursion=1');
    assert.equal(answer.status, 200, answer.text);
    return Object.values(answer.body.metadata as Record<string, Operation[]>).flat();
  }
});

describe('a gateway whose NATS falls silent amid a request', { timeout: 1_800_000 }, () => {
  let nats: LabNats;
  let wire: Wire;
  let stack: Stack;
  before(async () => {
    process.env.LXSTOW_LAB_LXD = 'none';
    nats = await startNats({ log: quiet, name: 'silent' });
    wire = await startProxy({ target: { port: nats.port } });
    stack = await openStack('silence', { natsUrl: `nats://127.0.0.1:${wire.port}`, workers: 0, config: { gateway } });
  });
  after(async () => {
    await stack?.[Symbol.asyncDispose]();
    await wire?.[Symbol.asyncDispose]();
    await nats?.[Symbol.asyncDispose]();
  });

  it('says 503, and leaves nothing: the same request is taken as soon as NATS is heard again', async () => {
    const ask = () => stack.stow.request('POST', '/1.0/instances/c1/backups', { body: { name: 'mine' } });
    wire.stall('down');
    const begun = performance.now();
    assertError(await ask(), 503, /NATS/);
    const waited = performance.now() - begun;
    assert.ok(waited < longestAnswerMs, `${waited} ms`);
    await wire.heal();
    const answer = await until(ask, ({ status }) => status !== 503 && status !== 409);
    assert.equal(answer.status, 202, answer.text);
    const operations = (await stack.stow.request('GET', '/1.0/operations')).body.metadata;
    assert.deepEqual(operations, { pending: [answer.body.operation] });
    // Another of this name is refused: it was free for one.
    assertError(await ask(), 409, /already exists/);
  });
});
