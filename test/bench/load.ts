/** A gateway with many clients at once: a thousand that ask for an operation each second, two hundred that listen to events. */
import { type ChildProcess, fork } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { answerInventory } from '../../services/hosts/hostInventory.ts';
import { connectNats, type Nats } from '../../services/nats/connection.ts';
import { amend, begin, newOperation } from '../../services/operations/operation.ts';
import { OperationStore, type Stored } from '../../services/operations/operationStore.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { openLab } from '../lab/lab.ts';
import { startLxstow } from '../lab/lxstow.ts';
import type { Log } from '../lab/run.ts';
import { openClient } from './client.ts';
import type { ClientsReport, ClientsTask } from './loadClients.ts';
import { type Cost, measure, median } from './measure.ts';
import { built } from './place.ts';
import type { Table } from './report.ts';

const pollers = 1000;
const pollEveryMs = 1000;
const listeners = 200;
const changesPerSecond = 50;
const seconds = 20;
const changes = seconds * changesPerSecond;
const instanceCounts = [10, 100, 1000];
const settings = { replicas: 1, operationsKeptHours: 1, runsKeptHours: 1, maxQueuedJobs: 100_000 };

/** The lab without LXD: what is measured does not come near it. Operations are changed, and instances told, by the bench in a worker's place. */
export async function measureLoad(rounds: number, log: Log): Promise<Table[]> {
  await using lab = await openLab({ name: 'load', log, lxd: false });
  if (!lab.nats || !lab.s3) throw new Error('there is no NATS or no S3 server');
  const parts = { natsUrl: lab.nats.url, s3: lab.s3, socket: '/none', workers: 0 };
  await using stow = await startLxstow({ name: 'load', log, ...parts, cli: built });
  const silent = createLogger({ level: 'error', format: 'json' }, {});
  await using nats = await connectNats({ servers: [lab.nats.url], ...settings }, 'bench', silent);
  return [await measureClients(stow, nats, rounds, log), await measureInstances(stow, nats, rounds)];
}

type Gateway = Awaited<ReturnType<typeof startLxstow>>;

/** All of one round, in ms. */
interface Round {
  polled: ClientsReport;
  heard: ClientsReport;
  cost: Cost;
}

async function measureClients(stow: Gateway, nats: Nats, rounds: number, log: Log): Promise<Table> {
  const measured: Round[] = [];
  for (let round = 1; round <= rounds; round++) {
    log(`round ${round} of ${rounds}: ${pollers} clients poll, ${listeners} listen, for ${seconds} s`);
    measured.push(await withClients(stow, nats));
  }
  const middle = (of: (round: Round) => number | undefined) => median(measured.map((round) => of(round) ?? Number.NaN));
  const line = (name: string, of: (round: Round) => number) => ({ name, wallS: middle(of) / 1000 });
  const answered = middle(({ polled, cost }) => polled.count / cost.wallS);
  const lost = Math.max(...measured.map(({ heard }) => changes * listeners - heard.count));
  const peakMiB = Math.max(...measured.map(({ cost }) => cost.peakMiB ?? Number.NaN));
  return {
    title: `${pollers} clients poll an operation each second, ${listeners} listen to events, ${changesPerSecond} changes a second, ${seconds} s`,
    bytes: 0,
    rounds,
    lines: [
      line('GET of an operation, p50', ({ polled }) => polled.p50),
      line('GET of an operation, p99', ({ polled }) => polled.p99),
      line('an event reaches a listener after, p50', ({ heard }) => heard.p50),
      line('an event reaches a listener after, p99', ({ heard }) => heard.p99),
      line('the last of all', ({ heard }) => heard.most),
      { name: "the gateway's CPU, and its peak in all rounds", wallS: middle(({ cost }) => cost.cpuS), peakMiB },
    ],
    bars: [
      bar(
        `GETs answered with 200, a second, ≥ ${((pollers * 1000) / pollEveryMs) * 0.95}`,
        answered,
        (value) => value >= (pollers * 950) / pollEveryMs,
      ),
      bar(
        'GET p99 ≤ 100 ms',
        middle(({ polled }) => polled.p99),
        (value) => value <= 100,
      ),
      bar(`events lost, of ${changes * listeners} a round, at worst`, lost, (value) => value === 0),
      bar(
        'events come within 250 ms, p99',
        middle(({ heard }) => heard.p99),
        (value) => value <= 250,
      ),
      bar('peak of the gateway ≤ 300 MiB', peakMiB, (value) => value <= 300),
    ],
  };
}

async function withClients(stow: Gateway, nats: Nats): Promise<Round> {
  const operations = new OperationStore(nats, settings.operationsKeptHours);
  const running = await Promise.all(Array.from({ length: pollers }, (_, index) => runningOperation(operations, index)));
  const { url, client } = stow;
  const at = { url, cert: client.cert, key: client.key };
  using polling = startClients({
    ...at,
    kind: 'pollers',
    ids: running.map(({ operation }) => operation.id),
    everyMs: pollEveryMs,
  });
  using listening = startClients({ ...at, kind: 'listeners', count: listeners });
  await Promise.all([polling.ready, listening.ready]);
  const cost = await measure(async () => {
    polling.process.send('begin');
    const begun = performance.now();
    const writes: Promise<void>[] = [];
    for (let change = 0; change < changes; change++) {
      await delay(Math.max(0, begun + (change * 1000) / changesPerSecond - performance.now()));
      writes.push(writeOver(operations, running, change % running.length));
    }
    await Promise.all(writes);
    polling.process.send('end');
  }, stow.gateway.pid);
  const polled = await polling.report;
  listening.process.send({ expected: changes * listeners });
  return { polled, heard: await listening.report, cost };
}

async function runningOperation(operations: OperationStore, index: number): Promise<Stored> {
  const address = { remote: 'local', project: 'default', instance: `load${index}` };
  const pending = await operations.create(newOperation({ id: randomUUID(), kind: 'backup', address }, new Date()));
  const stored = pending && (await operations.update(begin(pending.operation, 'bench', new Date()), pending.revision));
  if (!stored) throw new Error('an operation could not be written');
  return stored;
}

/** What a worker writes each second of a transfer. */
async function writeOver(operations: OperationStore, running: Stored[], index: number): Promise<void> {
  const { operation, revision } = running[index] as Stored;
  const metadata = { stage: 'uploading', bytes_done: (operation.metadata.bytes_done ?? 0) + 1_000_000 } as const;
  const written = await operations.update(amend(operation, { metadata }, new Date()), revision);
  if (!written) throw new Error(`operation ${operation.id} was changed by somebody else`);
  running[index] = written;
}

/** Clients in a process of their own, so that they wait for nobody here. */
function startClients(task: ClientsTask) {
  const process: ChildProcess = fork(fileURLToPath(new URL('./loadClients.ts', import.meta.url)));
  process.send(task);
  const failed = once(process, 'exit').then(() => {
    throw new Error('clients have died');
  });
  const next = async <T>() => (await Promise.race([once(process, 'message'), failed]))[0] as T;
  const ready = next<'ready'>();
  const report = ready.then(() => next<ClientsReport>());
  for (const each of [failed, ready, report]) each.then(undefined, () => undefined); // whoever waits for one hears of it
  return { process, ready, report, [Symbol.dispose]: () => void process.kill() };
}

/** GET of all instances: what gateway and NATS take, LXD's own time apart. */
async function measureInstances(stow: Gateway, nats: Nats, rounds: number): Promise<Table> {
  using client = openClient(stow, 1);
  const answering = new AbortController();
  let count = 0;
  answerInventory(
    nats,
    'local',
    async () => Array.from({ length: count }, (_, index) => instance(index)),
    answering.signal,
  );
  await nats.connection.flush();
  const lines: Table['lines'] = [];
  for (const query of ['', '?recursion=1']) {
    for (count of instanceCounts) {
      const times: number[] = [];
      for (let round = 0; round <= rounds; round++) {
        const { status, text, ms } = await client.request('GET', `/1.0/instances${query}`);
        if (status !== 200 || JSON.parse(text).metadata.length !== count) throw new Error(text.slice(0, 500));
        if (round > 0) times.push(ms);
      }
      lines.push({ name: `GET /1.0/instances${query}, ${count}`, wallS: median(times) / 1000 });
    }
  }
  answering.abort();
  const bars = ['', '?recursion=1'].map((query) => {
    const [, before, last] = lines.filter(({ name }) => name.startsWith(`GET /1.0/instances${query},`));
    const times = (last?.wallS ?? Number.NaN) / (before?.wallS ?? Number.NaN);
    return bar(`1 000 cost at most 10 × as much as 100${query && ', with recursion'}`, times, (value) => value <= 10);
  });
  return { title: 'Cost against the number of instances', bytes: 0, rounds, lines, bars };
}

/** As LXD shows one, with what makes it long. */
function instance(index: number) {
  const config = Object.fromEntries(Array.from({ length: 20 }, (_, key) => [`volatile.key.${key}`, `${index}-${key}`]));
  return {
    ...{ name: `c${String(index).padStart(5, '0')}`, project: 'default', location: 'local', type: 'container' },
    ...{ architecture: 'x86_64', status: 'Running', status_code: 103, stateful: false, ephemeral: false },
    ...{ config, devices: {}, profiles: ['default'], expanded_config: config, expanded_devices: {} },
    ...{ created_at: '2026-02-26T07:52:18Z', last_used_at: '2026-02-26T07:52:18Z', description: '' },
  };
}

function bar(text: string, value: number, is: (value: number) => boolean): Table['bars'][number] {
  return { text, value, holds: is(value) };
}
