/** A fleet of 10 000 instances on 100 hosts, one of which has 2 000: what asking for their states costs a gateway. */
import { randomUUID } from 'node:crypto';
import { mapInOrder } from '../../services/concurrency/orderedMap.ts';
import type { Address, InstanceRecord } from '../../services/contract/schemas.ts';
import { FleetStore } from '../../services/fleet/fleetStore.ts';
import { connectNats } from '../../services/nats/connection.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { openLab } from '../lab/lab.ts';
import { startLxstow } from '../lab/lxstow.ts';
import type { Log } from '../lab/run.ts';
import { openClient } from './client.ts';
import { type Cost, measure, medianCost } from './measure.ts';
import { built } from './place.ts';
import type { Table } from './report.ts';

const hosts = 100;
const instances = 10_000;
const ofLargestHost = 2000;
const writesInFlight = 128;
export const fleetSettings = { replicas: 1, operationsKeptHours: 1, runsKeptHours: 1, maxQueuedJobs: 100_000 };

export const hostOf = (index: number) => `host${index < ofLargestHost ? 0 : 1 + (index % (hosts - 1))}`;
export const nameOf = (index: number) => `web-${index}`;
export const hostNames = Array.from({ length: hosts }, (_, index) => `host${index}`);

/** The lab without LXD: none is asked. Records are written by the bench in the place of workers. */
export async function measureFleet(rounds: number, log: Log): Promise<Table> {
  await using lab = await openLab({ name: 'fleet', log, lxd: false });
  if (!lab.nats || !lab.s3) throw new Error('there is no NATS or no S3 server');
  const remotes = Object.fromEntries(hostNames.map((name) => [name, {}]));
  const config = { remotes, gateway: { defaultRemote: 'host0' } };
  const parts = { natsUrl: lab.nats.url, s3: lab.s3, socket: '/none', workers: 0, config };
  await using stow = await startLxstow({ name: 'fleet', log, ...parts, cli: built });
  const silent = createLogger({ level: 'error', format: 'json' }, {});
  await using nats = await connectNats({ servers: [lab.nats.url], ...fleetSettings }, 'bench', silent);
  const fleet = new FleetStore(nats);
  log(`writing ${instances} records`);
  const writing = mapInOrder(records(), writesInFlight, ([address, record]) => fleet.change(address, () => record));
  for await (const _ of writing);

  using client = openClient(stow, 1);
  const pid = () => stow.gateway.pid ?? 0;
  const get = async (path: string) => {
    const { status, text } = await client.request('GET', path);
    if (status !== 200) throw new Error(text);
    return text;
  };
  const whole = async () => {
    const { metadata } = JSON.parse(await get('/1.0/status?recursion=1&all-projects=true'));
    if (metadata.length !== instances) throw new Error(`${metadata.length} of ${instances} instances are there`);
  };
  const steps: [name: string, step: () => Promise<unknown>][] = [
    ['all, by a gateway that has just started', whole],
    ['all, again', whole],
    ['… after one has changed', async () => change(fleet).then(whole)],
    ['a page of 100', () => get('/1.0/status?recursion=1&all-projects=true&limit=100&after=host50/default/')],
    ['/metrics', async () => (await fetch(`${stow.healthUrl.gateway}/metrics`)).text()],
  ];
  const costs = new Map<string, Cost[]>(steps.map(([name]) => [name, []]));
  for (let round = 1; round <= rounds; round++) {
    await stow.gateway.stop();
    await stow.gateway.start();
    for (const [name, step] of steps) costs.get(name)?.push(await measure(step, pid()));
  }
  const lines = [...costs].map(([name, each]) => ({ name, ...medianCost(each) }));
  const wall = (name: string) => lines.find((line) => line.name === name)?.wallS ?? Number.NaN;
  const first = wall('all, by a gateway that has just started');
  const all = wall('all, again');
  const page = wall('a page of 100') * 1000;
  const peak = Math.max(...lines.map(({ peakMiB }) => peakMiB ?? Number.NaN));
  return {
    title: `States of ${instances} instances on ${hosts} hosts`,
    bytes: 0,
    rounds,
    lines,
    bars: [
      { text: 'all of them, by a gateway that has just started ≤ 0.5 s', value: first, holds: first <= 0.5 },
      { text: 'all of them ≤ 0.5 s', value: all, holds: all <= 0.5 },
      { text: 'a page ≤ 50 ms', value: page, holds: page <= 50 },
      { text: 'memory of the gateway ≤ 300 MiB', value: peak, holds: peak <= 300 },
    ],
  };
}

function change(fleet: FleetStore): Promise<void> {
  const address = { remote: hostOf(0), project: 'default', instance: nameOf(0) };
  const last = { operation: randomUUID(), at: new Date().toISOString(), outcome: 'success' } as const;
  return fleet.change(address, (record) => ({ ...record, last }));
}

async function* records(): AsyncGenerator<[Address, InstanceRecord]> {
  const at = new Date().toISOString();
  for (let index = 0; index < instances; index++) {
    const address = { remote: hostOf(index), project: 'default', instance: nameOf(index) };
    const uuid = `0b5a3c1e-7f0d-4c62-9d3b-${String(index).padStart(12, '0')}`;
    const failed = index % 50 === 0;
    yield [
      address,
      {
        seen: { at, excluded: false, uuid },
        ...(index % 20 !== 1 && { good: { backup: 'backup_2026-11-27-03-0012.tar.gz', at, size: 123_456_789 } }),
        last: {
          ...{ operation: uuid, at, outcome: failed ? 'failure' : 'success' },
          ...(failed && { reason: 'LXD said: no space left on device' }),
        },
      },
    ];
  }
}
