/** Runs at size: planning and feeding 10 000 children, and what more workers add where LXD takes 2 s for an export. */

import { answerInventory } from '../../services/hosts/hostInventory.ts';
import { Deliveries } from '../../services/jobs/deliveries.ts';
import { connectNats, type Nats } from '../../services/nats/connection.ts';
import { consumerName } from '../../services/nats/streams.ts';
import { begin, succeed } from '../../services/operations/operation.ts';
import { OperationStore } from '../../services/operations/operationStore.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { openLab } from '../lab/lab.ts';
import { type Lxstow, startLxstow } from '../lab/lxstow.ts';
import { startNats } from '../lab/nats.ts';
import type { Log } from '../lab/run.ts';
import type { LabS3 } from '../lab/s3.ts';
import { type BenchClient, openClient } from './client.ts';
import { fleetSettings, hostNames, hostOf, nameOf } from './fleet.ts';
import { type Cost, measure, medianCost } from './measure.ts';
import { built } from './place.ts';
import type { Table } from './report.ts';

const slotsOfHost = 8;
const silent = createLogger({ level: 'error', format: 'json' }, {});

/** The lab's own remote, `local`, is not among the hosts. */
const everywhere = { selector: { all: true, remotes: hostNames } };

/** The bench answers for the workers of all hosts; what is measured is the gateway's process alone. */
export async function measurePlan(children: number, rounds: number, log: Log): Promise<Table> {
  await using lab = await openLab({ name: 'plan', log, lxd: false });
  if (!lab.s3) throw new Error('there is no S3 server');
  const plans: Cost[] = [];
  for (let round = 1; round <= rounds; round++) {
    await using place = await openHosts(children, lab.s3, true, false);
    const { client, stow } = place;
    plans.push(await measure(() => post(client, everywhere), stow.gateway.pid));
    log(`round ${round} of ${rounds}: ${children} children planned in ${plans.at(-1)?.wallS.toFixed(2)} s`);
  }
  await using place = await openHosts(children, lab.s3, false, true);
  const { client, stow } = place;
  const whole = await measure(async () => {
    const counts = await ended(client, await post(client, everywhere));
    if (counts.success !== children) throw new Error(JSON.stringify(counts));
  }, stow.gateway.pid);
  log(`${children} children done in ${whole.wallS.toFixed(1)} s: ${whole.peakMiB?.toFixed(0)} MiB`);
  const plan = medianCost(plans);
  const peak = whole.peakMiB ?? Number.NaN;
  return {
    title: `A run of ${children} children on ${hostNames.length} hosts`,
    bytes: 0,
    rounds,
    lines: [
      { name: 'planned: from the request to the answer, each write synced', ...plan },
      { name: 'all of it, by workers that do nothing (one run)', ...whole },
    ],
    bars: [
      { text: 'planned in ≤ 10 s', value: plan.wallS, holds: plan.wallS <= 10 },
      { text: 'memory of the gateway ≤ 300 MiB', value: peak, holds: peak <= 300 },
    ],
  };
}

interface Hosts extends AsyncDisposable {
  client: BenchClient;
  stow: Lxstow;
}

/** A gateway, and workers of all hosts as far as it sees them: they say what there is, and with `work` call each job done. */
async function openHosts(children: number, s3: LabS3, sync: boolean, work: boolean): Promise<Hosts> {
  await using opening = new AsyncDisposableStack();
  const { url } = opening.use(await startNats({ log: () => undefined, name: 'plan', sync }));
  const remotes = Object.fromEntries(hostNames.map((name) => [name, {}]));
  const stow = opening.use(
    await startLxstow({
      ...{ name: 'plan', log: () => undefined, natsUrl: url, s3, socket: '/none', workers: 0, cli: built },
      config: { remotes, gateway: { defaultRemote: hostOf(0) } },
    }),
  );
  const nats = opening.use(await connectNats({ servers: [url], ...fleetSettings }, 'bench', silent));
  const stop = new AbortController();
  const instances = Map.groupBy(
    Array.from({ length: children }, (_, index) => index),
    hostOf,
  );
  const loops = hostNames.flatMap((remote) => {
    const found = (instances.get(remote) ?? []).map((index) => {
      const object = {
        name: nameOf(index),
        project: 'default',
        location: remote,
        type: 'container',
        status: 'Running',
      };
      return { ...object, config: {}, expanded_config: {} };
    });
    answerInventory(nats, remote, async () => found, stop.signal);
    return work ? Array.from({ length: slotsOfHost }, () => callDone(nats, remote, stop.signal)) : [];
  });
  opening.defer(async () => {
    stop.abort();
    await Promise.all(loops);
  });
  const client = opening.use(openClient(stow, 1));
  const owned = opening.move();
  return { client, stow, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** One slot of a worker for which every backup has been made at once. */
async function callDone(nats: Nats, remote: string, stopping: AbortSignal): Promise<void> {
  const operations = new OperationStore(nats, fleetSettings.operationsKeptHours);
  const deliveries = await Deliveries.open(nats, consumerName(remote, 'transfer'), stopping);
  for (let job = await deliveries.next(); job; job = await deliveries.next()) {
    const id = job.headers?.get('Nats-Msg-Id') ?? '';
    const found = await operations.find(id, remote);
    const running = found && (await operations.update(begin(found.operation, 'bench', new Date()), found.revision));
    if (running) await operations.update(succeed(running.operation, new Date()), running.revision);
    await job.ackAck();
  }
}

export async function post(client: BenchClient, body: object): Promise<string> {
  const { status, text } = await client.request('POST', '/1.0/runs', body);
  if (status !== 202) throw new Error(text);
  return JSON.parse(text).metadata.id;
}

/** Waits as a client does who costs the gateway nothing meanwhile. */
export async function ended(client: BenchClient, id: string): Promise<{ success: number }> {
  for (;;) {
    await client.request('GET', `/1.0/operations/${id}/wait`);
    const { text } = await client.request('GET', `/1.0/runs/${id}`);
    const { status_code, counts } = JSON.parse(text).metadata;
    if (status_code >= 200) return counts;
  }
}
