/** What requests cost: creating, and listing beside many other backups. */
import { setTimeout as delay } from 'node:timers/promises';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { archiveKey, indexKey, manifestKey } from '../../services/backups/keys.ts';
import { formatManifest, parseManifest } from '../../services/backups/manifest.ts';
import type { ObjectStore } from '../../services/storage/objectStore.ts';
import type { Log } from '../lab/run.ts';
import { openClient } from './client.ts';
import { median, quantile } from './measure.ts';
import type { Place } from './place.ts';
import type { Table } from './report.ts';

const never = new AbortController().signal;
const requestsPerSecond = 200;
const requests = 600;
const connections = 32;
const writesInFlight = 64;

/**
 * POSTs at a steady rate, each answered with 202. No worker is up: what they begin waits in the queue, and is cancelled in the end. In turn with them, at
 * the same rate, what no durable 202 can do without: three writes to NATS, one after the other, each confirmed.
 */
export async function measureRequests({ stow, natsUrl }: Place, rounds: number): Promise<Table> {
  for (const worker of stow.workers) await worker.stop();
  using client = openClient(stow, connections);
  await using writes = await openWrites(natsUrl);
  const created: string[] = [];
  const post = async (name: string) => {
    const { status, text } = await client.request('POST', '/1.0/instances/control/backups', { name });
    if (status !== 202) throw new Error(text);
    created.push(JSON.parse(text).operation);
  };
  const ways = new Map<string, (index: number, round: number) => Promise<void>>([
    ['POST', (index, round) => post(`r${round}-${index}.tar.gz`)],
    ['NATS alone: three writes', writes.three],
  ]);
  const times = new Map<string, number[][]>([...ways.keys()].map((name) => [name, []]));
  // The first round warms up, and does not count.
  for (let round = 0; round <= rounds; round++) {
    for (const [name, run] of ways) {
      const each = await steadily((index) => run(index, round));
      if (round > 0) times.get(name)?.push(each);
    }
  }
  for (const operation of created) await client.request('DELETE', operation);
  for (const worker of stow.workers) await worker.start();
  const medianOf = (name: string, part: number) => median((times.get(name) ?? []).map((each) => quantile(each, part)));
  const [p50, p99] = [medianOf('POST', 0.5), medianOf('POST', 0.99)];
  return {
    title: `POST to 202, ${requestsPerSecond} a second`,
    bytes: 0,
    rounds,
    lines: [...ways.keys()].flatMap((name) => [
      { name: `${name}, p50`, wallS: medianOf(name, 0.5) / 1000 },
      { name: `${name}, p99`, wallS: medianOf(name, 0.99) / 1000 },
    ]),
    bars: [
      { text: 'p50 ≤ 5 ms', value: p50, holds: p50 <= 5 },
      { text: 'p99 ≤ 25 ms', value: p99, holds: p99 <= 25 },
    ],
  };
}

/** Milliseconds of each run; they begin at a steady rate, however long each takes. */
async function steadily(run: (index: number) => Promise<unknown>): Promise<number[]> {
  const begun = performance.now();
  return Promise.all(
    Array.from({ length: requests }, async (_, index) => {
      const due = begun + (index * 1000) / requestsPerSecond;
      await delay(Math.max(0, due - performance.now()));
      const from = performance.now();
      await run(index);
      return performance.now() - from;
    }),
  );
}

/** Writes to three streams, as a POST's go to those of leases, jobs and operations. */
async function openWrites(natsUrl: string) {
  const connection = await connect({ servers: natsUrl });
  const streams = ['bench-a', 'bench-b', 'bench-c'];
  const manager = await jetstreamManager(connection);
  for (const name of streams) await manager.streams.add({ name, subjects: [name] });
  const client = jetstream(connection);
  const text = 'x'.repeat(1000);
  return {
    async three() {
      for (const name of streams) await client.publish(name, text);
    },
    async [Symbol.asyncDispose]() {
      for (const name of streams) await manager.streams.delete(name);
      await connection.close();
    },
  };
}

/**
 * Lists of an instance's backups and of all: by the first gateway ever, by one that has just started and finds the index, and by one that has
 * seen them. Beside each manifest is an archive, as beside a real one: the store lists twice as many keys.
 */
export async function measureListing(place: Place, counts: number[], rounds: number, log: Log): Promise<Table[]> {
  const { lxd, stow, done, store } = place;
  await lxd.launch('listed');
  const name = await done(await stow.request('POST', '/1.0/instances/listed/backups?compression=none'));
  const address = { remote: 'local', project: 'default', instance: 'listed', backup: name };
  const manifest = parseManifest((await store.read(manifestKey('', address), never)).body, address);
  const perInstance = 1000;
  const ours = await keysOf(store);
  const tables: Table[] = [];
  let there = 0;
  for (const count of counts) {
    log(`writing ${count - there} manifests`);
    const missing = Array.from({ length: count - there }, (_, index) => there + index);
    const write = async () => {
      for (let index = missing.pop(); index !== undefined; index = missing.pop()) {
        const instance = `many${Math.floor(index / perInstance)}`;
        const copy = { ...address, instance, backup: `b${index}.tar` };
        const body = formatManifest({ ...manifest, backup: { ...manifest.backup, name: copy.backup, instance } });
        await store.create(archiveKey('', copy), Buffer.from('-'), { contentType: 'application/x-tar' }, never);
        await store.create(manifestKey('', copy), body, { contentType: 'application/json' }, never);
      }
    };
    await Promise.all(Array.from({ length: writesInFlight }, write));
    there = count;
    const timed = async (path: string) => {
      const begun = performance.now();
      const answer = await stow.request('GET', path);
      if (answer.status !== 200) throw new Error(answer.text);
      return performance.now() - begun;
    };
    const restart = async () => {
      await stow.gateway.stop();
      await stow.gateway.start();
    };
    const [cold, warm, one, alone]: [number[], number[], number[], number[]] = [[], [], [], []];
    await restart();
    await store.remove(indexKey('', address), never);
    const first = await timed('/1.0/instances/*/backups');
    for (let round = 0; round < rounds; round++) {
      const begun = performance.now();
      if ((await keysOf(store)) < 2 * count + ours) throw new Error('not all is listed');
      alone.push(performance.now() - begun);
      await restart();
      cold.push(await timed('/1.0/instances/*/backups'));
      warm.push(await timed('/1.0/instances/*/backups'));
      one.push(await timed('/1.0/instances/many0/backups'));
    }
    const lines = [
      { name: `S3's own listing (${2 * count} keys)`, wallS: median(alone) / 1000 },
      { name: 'all, the first time ever (once)', wallS: first / 1000 },
      { name: 'all, cold', wallS: median(cold) / 1000 },
      { name: 'all, warm', wallS: median(warm) / 1000 },
      { name: `one instance's (${Math.min(count, perInstance)}), warm`, wallS: median(one) / 1000 },
    ];
    const own = median(alone);
    const bars =
      count === 10_000
        ? [
            { text: 'cold ≤ 1.5 s', value: median(cold) / 1000, holds: median(cold) <= 1500 },
            { text: 'warm ≤ 0.6 s', value: median(warm) / 1000, holds: median(warm) <= 600 },
            { text: "one instance's 1 000 ≤ 0.25 s", value: median(one) / 1000, holds: median(one) <= 250 },
            // The same bars, where S3's own listing takes longer than the 0.41 s that they were set for.
            { text: "cold ≤ 3.66 × S3's own", value: median(cold) / own, holds: median(cold) <= 3.66 * own },
            { text: "warm ≤ 1.46 × S3's own", value: median(warm) / own, holds: median(warm) <= 1.46 * own },
          ]
        : [];
    tables.push({ title: `Listing ${count} backups`, bytes: 0, rounds, lines, bars });
  }
  return tables;
}

async function keysOf(store: ObjectStore): Promise<number> {
  let count = 0;
  for await (const _ of store.list('', never)) count++;
  return count;
}
