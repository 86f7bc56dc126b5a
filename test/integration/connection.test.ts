/** The connection to NATS through what operators do to it, on a real nats-server: users that go and come back, passwords that change, full accounts. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomBytes, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { after, before, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { nkeys } from '@nats-io/transport-node';
import { loadConfig } from '../../services/contract/config.ts';
import type { Config } from '../../services/contract/schemas.ts';
import { Leases } from '../../services/coordination/leases.ts';
import type { GatewayParts } from '../../services/gateway/gatewayParts.ts';
import { serveOverNats } from '../../services/gateway/natsApi/service.ts';
import {
  answerInventory,
  askInventory,
  type InventoryQuestion,
  largestPageBytes,
} from '../../services/hosts/hostInventory.ts';
import { answerLookUp, askLookUp } from '../../services/hosts/lookUp.ts';
import { Deliveries } from '../../services/jobs/deliveries.ts';
import { publishJob } from '../../services/jobs/jobs.ts';
import type { LxdClient } from '../../services/lxd/connection/client.ts';
import { type LxdInstance, listInstances } from '../../services/lxd/inventory.ts';
import { Bucket } from '../../services/nats/bucket/bucket.ts';
import { connectNats, type Nats } from '../../services/nats/connection.ts';
import { setUp } from '../../services/nats/setup.ts';
import { checkpointsBucket, consumerName, jobsStream, leasesBucket } from '../../services/nats/streams.ts';
import { jobSubject } from '../../services/nats/subjects.ts';
import type { Attempt } from '../../services/operations/attempt.ts';
import { OperationStore } from '../../services/operations/operationStore.ts';
import { createLogger, type Log } from '../../services/telemetry/logger.ts';
import { createWorkerMetrics } from '../../services/telemetry/metrics.ts';
import { traceOf } from '../../services/telemetry/trace.ts';
import { type LoopOptions, runLoop } from '../../services/worker/loop/runLoop.ts';
import { openFolder } from '../lab/folder.ts';
import { type LabNats, startNats } from '../lab/nats.ts';
import { freePort } from '../lab/processes.ts';
import { until } from './stack.ts';

const cli = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));
const at = { timeout: 120_000 };
const log = createLogger({ level: 'error', format: 'json' }, {});
const byKey = nkeys.createUser();
interface Account {
  /** In NATS's own syntax. */
  jetStream?: string;
  /** In NATS's own syntax. */
  rights?: string;
}
const users = (
  user: string,
  password: string,
  { jetStream = '{ max_file: 1MB }', rights = '' }: Account = {},
) => `accounts {
  APP {
    jetstream: ${jetStream}
    users: [ { user: ${user}, password: ${password}, ${rights} }, { nkey: ${byKey.getPublicKey()} } ]
  }
}`;

let server: LabNats;
let settings: Config['nats'];

before(async () => {
  server = await startNats({
    log: () => undefined,
    name: 'connection',
    config: `max_payload: 128KB\n${users('lx', 'first')}`,
  });
  settings = {
    ...{ servers: [server.url], user: 'lx', password: 'first' },
    ...{ replicas: 1, operationsKeptHours: 1, runsKeptHours: 1, maxQueuedJobs: 1000 },
  };
});
after(() => server?.[Symbol.asyncDispose]());

/** How often the server has logged this since it began. */
async function logged(text: string): Promise<number> {
  return (await readFile(join(server.dir, 'daemon.log'), 'utf8')).split(text).length - 1;
}

/** Has the running server know this user alone. Resolves when it does: while it reloads, it refuses logins that are right before and after. */
async function reload(user: string, password: string, account?: Account): Promise<void> {
  const reloads = () => logged('Reloaded server configuration');
  const before = await reloads();
  const file = join(server.dir, 'nats.conf');
  const text = await readFile(file, 'utf8');
  await writeFile(file, text.replace(/^accounts \{.*?^\}/ms, users(user, password, account)));
  await server.kill('SIGHUP');
  await until(reloads, (count) => count > before);
}

/** How many logins the server has refused since it began. */
const refusals = () => logged('authentication error');

/** Waits until the server has refused `more` logins more. */
async function refused(more: number, before: number): Promise<void> {
  await until(refusals, (count) => count >= before + more);
}

const connected = (nats: Nats) => until(async () => nats.connected, Boolean);

/** Called before what cuts the connection. The function that it returns waits until the connection was lost; it may be back by then. */
function losing({ loss }: Nats): () => Promise<boolean> {
  return () => until(async () => loss.aborted, Boolean);
}

it('is there again when a user that was missing for a while, and was refused several times, is back', at, async () => {
  const lines: string[] = [];
  const note = (_: string, { status }: { status?: string } = {}) => status && lines.push(status);
  const noting = { debug: note, info: note, warn: note, error: note, child: () => noting } as unknown as Log;
  await using nats = await connectNats(settings, 'test', noting);
  await setUp(nats, { nats: settings, remotes: { local: {} } } as unknown as Config);
  const deliveries = await Deliveries.open(nats, consumerName('local', 'transfer'), new AbortController().signal);
  const next = deliveries.next();
  const before = await refusals();
  const lost = losing(nats);
  await reload('somebody', 'first');
  await lost();
  await refused(4, before);
  await reload('lx', 'first');
  await connected(nats);
  const consumer = () => nats.jsm.consumers.info(jobsStream, consumerName('local', 'transfer'));
  await until(consumer, ({ num_waiting }) => num_waiting > 0);
  for (const instance of ['a', 'b', 'c'])
    await nats.js.publish(jobSubject('backup', { remote: 'local', project: 'default', instance }), '{}');
  const first = await next;
  assert.equal((await consumer()).num_ack_pending, 1, 'one pull, whatever the number of refused logins');
  await first?.ackAck();
  await nats.jsm.streams.purge(jobsStream);
  const { disconnect, reconnect } = Object.groupBy(lines, (line) => line);
  assert.deepEqual([disconnect?.length, reconnect?.length], [1, 1], lines.join());
});

it('takes the password of now for each login', at, async () => {
  let password = 'first';
  await using nats = await connectNats(settings, 'test', log, { reread: () => ({ ...settings, password }) });
  const before = await refusals();
  const lost = losing(nats);
  await reload('lx', 'second');
  await lost();
  await refused(1, before);
  password = 'second';
  await connected(nats);
  password = 'first';
  const lostAgain = losing(nats);
  await reload('lx', 'first');
  await lostAgain();
  await connected(nats);
});

it('goes on with the seed that it has while its file is half written', at, async () => {
  await using folder = await openFolder('seed', () => undefined);
  const nkey = join(folder.path, 'seed');
  await writeFile(nkey, byKey.getSeed());
  const { user: _, password: __, ...others } = settings;
  await using nats = await connectNats({ ...others, nkey }, 'test', log);
  await writeFile(nkey, byKey.getSeed().subarray(0, 20));
  const lost = losing(nats);
  await nats.connection.reconnect();
  await lost();
  await connected(nats);
  assert.equal(nats.closed.aborted, false);
  await assert.rejects(connectNats({ ...others, nkey }, 'test', log), {
    code: 'bad-config',
    message: /nats\.nkey: .*seed/,
  });
  const servers = settings.servers.map((server) => server.replace('//', '//lxstow:42secret@'));
  await assert.rejects(connectNats({ ...others, servers }, 'test', log), {
    code: 'bad-config',
    message: 'nats.servers: addresses only; give the user and password as nats.user and nats.password',
  });
});

it('is heard again by those whose right to listen was taken away, and given back', at, async () => {
  await using nats = await connectNats(settings, 'test', log);
  await using other = await connectNats({ ...settings, user: 'lx' }, 'other', log);
  const stop = new AbortController();
  answerLookUp(nats, 'local', async () => ({ project: true, instance: true }), stop.signal);
  const service = await serveOverNats({ nats, log } as unknown as GatewayParts);
  const ask = () =>
    askLookUp(other, 'local', { project: 'default', instance: 'c1' }, 5000, traceOf(undefined)).catch(
      ({ code }) => code,
    );
  const ping = () => other.connection.request('$SRV.PING.lxstow', '', { timeout: 5000 }).then(Boolean, () => false);
  const both = async () => [await ask(), await ping()];
  assert.deepEqual(await both(), [{ project: true, instance: true }, true]);
  await reload('lx', 'first', {
    rights: 'permissions: { subscribe: { deny: ["lxstow.ask.>", "lxstow.api.>", "$SRV.>"] } }',
  });
  await until(both, ([look, pong]) => look === 'no-worker' && !pong);
  await reload('lx', 'first');
  await until(both, ([look, pong]) => typeof look === 'object' && pong === true);
  stop.abort();
  await service.drain(5000);
});

it('goes on with the password that it has while the configuration cannot be read', at, async () => {
  const reread = () => {
    throw new Error('half written');
  };
  await using nats = await connectNats(settings, 'test', log, { reread });
  assert.equal(nats.connected, true);
});

it('says so when it is closed for good, but not when we close it ourselves', at, async () => {
  const nats = await connectNats(settings, 'test', log);
  await nats.connection.close();
  await until(async () => nats.closed.aborted, Boolean);
  assert.equal(nats.closed.reason.code, 'nats-unavailable');
  const ours = await connectNats(settings, 'test', log);
  await ours[Symbol.asyncDispose]();
  assert.equal(ours.closed.aborted, false);
});

/** Closes each connection to NATS at SIGUSR2, as its client does when it gives up for good. */
const closable = `
  import internal from ${JSON.stringify(import.meta.resolve('@nats-io/nats-core/internal'))};
  const { NatsConnectionImpl } = internal;
  const { connect } = NatsConnectionImpl;
  NatsConnectionImpl.connect = async (...args) => {
    const connection = await connect.apply(NatsConnectionImpl, args);
    process.on('SIGUSR2', () => connection.close());
    return connection;
  };`;

for (const part of ['gateway', 'worker'])
  it(`that is closed for good ends the ${part} with a failure, so that it is started again`, at, async () => {
    await using folder = await openFolder('closed', () => undefined);
    const file = join(folder.path, 'lxstow.json');
    const [port, healthPort] = [await freePort(), await freePort()];
    const config = {
      nats: { servers: settings.servers, user: 'lx', password: 'first' },
      s3: { endpoint: 'http://127.0.0.1:1', accessKey: 'a', secretKey: 's', bucket: 'lxstow' },
      remotes: { local: { socket: '/none' } },
      gateway: { port, healthPort, stateDir: join(folder.path, 'state') },
      worker: { healthPort },
      log: { format: 'json' },
    };
    await writeFile(file, JSON.stringify(config));
    {
      await using nats = await connectNats(settings, 'test', log);
      await setUp(nats, loadConfig({ file, env: {} }));
    }
    const args = ['--import', `data:text/javascript,${encodeURIComponent(closable)}`, cli, '--config', file, part];
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const [ended, output] = [once(child, 'exit'), [text(child.stdout), text(child.stderr)]];
    await until(
      () => fetch(`http://127.0.0.1:${healthPort}/healthz`).catch(() => undefined),
      (health) => health?.ok === true,
    );
    const said = async () => {
      const ready = await fetch(`http://127.0.0.1:${healthPort}/readyz`);
      const { checks } = (await ready.json()) as { checks: { nats: string } };
      return { isReady: ready.ok, nats: checks.nats };
    };
    await until(said, ({ nats }) => nats === 'ok');
    await reload('lx', 'first', { jetStream: 'disabled' });
    await until(said, ({ isReady, nats }) => !isReady && /NATS has no JetStream/.test(nats));
    await reload('lx', 'first');
    await until(said, ({ nats }) => nats === 'ok');
    await reload('lx', 'first', { rights: 'permissions: { publish: { deny: ["$JS.>"] } }' });
    await until(said, ({ isReady, nats }) => !isReady && /may not|[Pp]ermission/.test(nats));
    await reload('lx', 'first');
    await until(said, ({ nats }) => nats === 'ok');
    child.kill('SIGUSR2');
    const [status] = await ended;
    const logged = (await Promise.all(output)).join('');
    assert.equal(status, 69, logged);
    assert.match(logged, /"message":"stopping"/);
    assert.match(logged, /lxstow: the connection to NATS .* has ended for good/);
  });

const instance = (name: string): LxdInstance => ({
  name,
  project: 'default',
  location: 'none',
  noise: randomBytes(30_000).toString('hex'),
});
const all = { kind: 'instances', full: false } as const;

it('carries a list that is longer than a message may be here, page by page', at, async () => {
  await using nats = await connectNats(settings, 'test', log);
  const instances = ['a', 'b', 'c', 'd', 'e', 'f', 'g'].map(instance);
  answerInventory(nats, 'local', async () => instances, AbortSignal.timeout(20_000));
  await nats.connection.flush();
  assert.deepEqual(await askInventory(nats, 'local', all, 10_000), instances);
});

it('carries the instances after one whose description is longer than a page', at, async () => {
  await using nats = await connectNats(settings, 'test', log);
  const long = { name: 'b', noise: '0'.repeat(17 * 1024 * 1024) };
  const lxd = {
    remote: 'local',
    async *items() {
      yield* [{ name: 'a' }, long, { name: 'c' }];
    },
  } as unknown as LxdClient;
  const inventory = (question: InventoryQuestion, signal: AbortSignal) =>
    listInstances(lxd, { full: true, ...question, projects: ['default'], bytes: largestPageBytes }, signal);
  answerInventory(nats, 'remote3', inventory, AbortSignal.timeout(20_000));
  await nats.connection.flush();
  const found = await askInventory(nats, 'remote3', all, 10_000);
  assert.deepEqual(
    found.map(({ name }) => name),
    ['a', 'b', 'c'],
  );
});

it('may be closed before a question is answered', at, async () => {
  const asked = Promise.withResolvers<void>();
  const found = Promise.withResolvers<LxdInstance[]>();
  const nats = await connectNats(settings, 'test', log);
  await using other = await connectNats(settings, 'test', log);
  const inventory = () => {
    asked.resolve();
    return found.promise;
  };
  answerInventory(nats, 'remote2', inventory, AbortSignal.timeout(20_000));
  await nats.connection.flush();
  const answer = assert.rejects(askInventory(other, 'remote2', all, 1000), { code: 'no-worker' });
  await asked.promise;
  await nats[Symbol.asyncDispose]();
  found.resolve([]);
  await answer;
});

it("costs a job no attempt when the account's JetStream was full while it ran", at, async () => {
  await using nats = await connectNats(settings, 'test', log);
  await setUp(nats, { nats: settings, remotes: { local: {} } } as unknown as Config);
  const checkpoints = new Bucket(nats, checkpointsBucket);
  const stopping = new AbortController();
  const attempts: number[] = [];
  const run = async (_: unknown, attempt: Attempt) => {
    attempts.push(attempt.operation.attempt);
    if (attempts.length > 1) return stopping.abort();
    for (let n = 0, bytes = 60_000; !attempt.signal.aborted; n++)
      await checkpoints.put(`local.full-${n}`, Buffer.alloc(bytes), 0).catch(({ code }) => {
        assert.equal(code, 'queue-full');
        bytes = Math.floor(bytes / 10);
      });
    assert.equal(attempt.signal.reason.code, 'lease-lost');
    await reload('lx', 'first', { jetStream: '{ max_file: 64MB }' });
    throw attempt.signal.reason;
  };
  const address = { remote: 'local', project: 'default', instance: 'full' };
  const operations = new OperationStore(nats, 1);
  const id = randomUUID();
  await publishJob(nats, id, { kind: 'backup', address, body: {} });
  await runLoop({
    ...{ nats, worker: 'w', operations, log, stop: stopping.signal },
    deliveries: await Deliveries.open(nats, consumerName('local', 'transfer'), stopping.signal),
    nudges: { on: () => ({ [Symbol.dispose]: () => undefined }) },
    tools: {
      config: { remotes: { local: {} }, worker: { heartbeatMs: 200, attempts: 5, patienceHours: 1 } },
      ...{ leases: new Leases(new Bucket(nats, leasesBucket), 1000), metrics: createWorkerMetrics() },
      reservations: { release: async () => undefined },
    },
    runners: { backup: { run } },
    waitingRoom: { arrived: () => undefined, isBehind: () => false, callFirst: () => undefined, wait: () => undefined },
    outages: { gate: async () => undefined, examine: async () => ({ gate: undefined, cut: false }) },
    handingBack: new AbortController().signal,
  } as unknown as LoopOptions);
  assert.deepEqual(attempts, [1, 1]);
  assert.equal((await operations.find(id, '*'))?.operation.status, 'Success');
  await nats.jsm.streams.purge(`KV_${checkpointsBucket}`);
  await reload('lx', 'first');
});

it(
  "says that there is no room when the account's JetStream is full, or that a message is too large, and not that NATS is away",
  at,
  async () => {
    await using nats = await connectNats(settings, 'test', log);
    await setUp(nats, { nats: settings, remotes: { local: {} } } as unknown as Config);
    const bucket = new Bucket(nats, checkpointsBucket);
    const fill = async () => {
      for (let n = 0; n < 20; n++) await bucket.put(`local.${n}`, Buffer.alloc(100_000), 0);
    };
    const large = bucket.put('local.large', Buffer.alloc(200_000), 0);
    await assert.rejects(large, {
      code: 'too-large',
      message: /writing lxstow_checkpoints: larger than .* \(max_payload\)/,
    });
    await assert.rejects(fill, { code: 'queue-full', message: /NATS has no room/ });
  },
);
