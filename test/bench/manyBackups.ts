/** A million backups in one project: what lists of them cost a gateway that has just started. */
import https from 'node:https';
import { openLab } from '../lab/lab.ts';
import { type Lxstow, startLxstow } from '../lab/lxstow.ts';
import type { Log } from '../lab/run.ts';
import { openClient } from './client.ts';
import { startListedStore } from './listedStore.ts';
import { type Cost, measure, medianCost } from './measure.ts';
import { built } from './place.ts';
import type { Table } from './report.ts';

/** The store is the bench itself: it answers from memory. */
export async function measureManyBackups(backups: number, rounds: number, log: Log): Promise<Table> {
  await using lab = await openLab({ name: 'many-backups', log, lxd: false, s3: false });
  if (!lab.nats) throw new Error('there is no NATS');
  log(`making an index of ${backups} backups`);
  await using s3 = await startListedStore(backups);
  const parts = { natsUrl: lab.nats.url, s3, socket: '/none', workers: 0, cli: built };
  await using stow = await startLxstow({ name: 'many-backups', log, ...parts });
  using client = openClient(stow, 1);
  const pid = () => stow.gateway.pid ?? 0;
  const middle = `web-${String(Math.floor(backups / 200)).padStart(5, '0')}/backup_2026-11-27-03-0042.tar.gz`;
  const page = async () => {
    const { status, text } = await client.request(
      'GET',
      `/1.0/instances/*/backups?recursion=1&limit=100&after=${middle}`,
    );
    if (status !== 200 || JSON.parse(text).metadata.length !== 100) throw new Error(text);
  };
  const all = async () => {
    const lines = await linesOf(stow);
    if (lines !== backups) throw new Error(`${lines} of ${backups} backups are there`);
  };
  const steps: [name: string, step: () => Promise<unknown>][] = [
    ['a page of 100, by a gateway that has just started', page],
    ['a page of 100, again', page],
    ['all, as NDJSON', all],
  ];
  const costs = new Map<string, Cost[]>(steps.map(([name]) => [name, []]));
  for (let round = 1; round <= rounds; round++) {
    await stow.gateway.stop();
    await stow.gateway.start();
    const before = s3.reads;
    for (const [name, step] of steps) costs.get(name)?.push(await measure(step, pid()));
    log(
      `round ${round} of ${rounds}: ${s3.reads - before} manifests read, ${costs.get('all, as NDJSON')?.at(-1)?.wallS.toFixed(1)} s`,
    );
  }
  const lines = [...costs].map(([name, each]) => ({ name, ...medianCost(each) }));
  const ms = 1000 * (lines[1]?.wallS ?? Number.NaN);
  const peak = Math.max(...lines.map(({ peakMiB }) => peakMiB ?? Number.NaN));
  return {
    title: `Lists of ${backups} backups in one project`,
    bytes: 0,
    rounds,
    lines,
    bars: [
      { text: 'a page ≤ 50 ms', value: ms, holds: ms <= 50 },
      { text: 'memory of the gateway ≤ 300 MiB', value: peak, holds: peak <= 300 },
    ],
  };
}

/** Counts the lines of the whole list as they come. */
function linesOf({ url, client: { cert, key } }: Lxstow): Promise<number> {
  const headers = { accept: 'application/x-ndjson' };
  const target = new URL('/1.0/instances/*/backups?recursion=1', url);
  return new Promise((resolve, reject) => {
    const options = { cert, key, headers, rejectUnauthorized: false, agent: false };
    https
      .get(target, options, (response) => {
        let lines = 0;
        response.on('data', (chunk: Buffer) => {
          for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, at + 1)) lines++;
        });
        response.on('error', reject);
        response.on('end', () => resolve(lines));
      })
      .on('error', reject);
  });
}
