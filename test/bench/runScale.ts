/** What more workers add to a run where LXD takes 2 s for an export, and what a child costs each part. */
import { link, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { deleteLxdBackup } from '../../services/lxd/archives/backups.ts';
import { LxdClient } from '../../services/lxd/connection/client.ts';
import { type Lab, openLab } from '../lab/lab.ts';
import { createLxdBackup } from '../lab/lxdBackup.ts';
import { type Lxstow, startLxstow } from '../lab/lxstow.ts';
import type { Log } from '../lab/run.ts';
import { s3Titles } from '../lab/s3.ts';
import { type LxdSimulator, startSimulator } from '../simulator/simulator.ts';
import { type BenchClient, openClient } from './client.ts';
import { nameOf } from './fleet.ts';
import { cpuSeconds, measure, median } from './measure.ts';
import { built } from './place.ts';
import type { Table } from './report.ts';
import { ended, post } from './runs.ts';

const shapes = [1, 2, 4, 8];
const slots = 4;
const exportMs = 2000;
const kibOfInstance = 512;

/**
 * Real workers and a simulated LXD. Each worker has as many children in every run, and some before the clock starts: else the start of eight processes,
 * which compile what they run, would be counted as the cost of a child. One worker alone would need 8 min for the 1 000 children of eight.
 */
export async function measureRunScale(ofWorker: number, rounds: number, log: Log): Promise<Table> {
  await using lab = await openLab({ name: 'run-scale', log, lxd: false });
  await using simulator = await startSimulator();
  const { nats, s3 } = lab;
  if (!nats || !s3) throw new Error('there is no NATS or no S3 server');
  const partNames = ['gateway', 'workers', 'NATS', s3Titles[s3.kind], 'simulated LXD and the bench'];
  const most = ofWorker * Math.max(...shapes);
  log(`making ${most} instances of 1 MiB`);
  for (let index = 0; index < most; index++) await makeSmall(simulator, nameOf(index));
  simulator.faults.packed = await packedOnce(simulator, nameOf(0));
  simulator.faults.backupMs = exportMs;
  const parts = { natsUrl: nats.url, s3, socket: simulator.socket, workers: 0, cli: built };
  const config = { worker: { slots, compression: 'none', janitorEveryMinutes: 0 } };
  await using stow = await startLxstow({ name: 'run-scale', log, ...parts, config });
  using client = openClient(stow, 1);
  const walls = new Map<number, number[]>(shapes.map((workers) => [workers, []]));
  const costs: number[][] = [];
  for (let round = 1; round <= rounds; round++)
    for (const workers of shapes) {
      const { wallS, cost } = await oneRun({ stow, client, lab, children: workers * ofWorker }, workers);
      walls.get(workers)?.push(wallS);
      costs.push(cost);
      const each = cost.map((ms, part) => `${partNames[part]} ${ms.toFixed(1)}`).join(', ');
      log(`round ${round} of ${rounds}: ${workers} × ${slots}: ${wallS.toFixed(1)} s, ms a child: ${each}`);
    }
  const wall = (workers: number) => median(walls.get(workers) ?? []);
  const floor = (ofWorker * exportMs) / 1000 / slots;
  const overhead = median(costs.map(([gateway = 0, ofWorkers = 0]) => gateway + ofWorkers));
  const ofPart = (part: number) => median(costs.map((cost) => cost[part] ?? Number.NaN));
  return {
    title: `Runs of ${ofWorker} children a worker, by workers of ${slots} slots, where LXD takes ${exportMs / 1000} s an export`,
    bytes: 0,
    rounds,
    lines: [
      ...shapes.map((workers) => ({
        name: `${workers} worker${workers > 1 ? 's' : ''}, ${workers * ofWorker} children`,
        wallS: wall(workers),
        toFloor: wall(workers) / floor,
      })),
      ...partNames.map((name, part) => ({ name: `CPU for one child: ${name}`, wallS: ofPart(part) / 1000 })),
    ],
    bars: [
      ...shapes.map((workers) => {
        const value = floor / wall(workers);
        const text = `${workers} worker${workers > 1 ? 's' : ''} ≥ 0.85 × as fast as slots that do nothing but wait for LXD`;
        return { text, value, holds: value >= 0.85 };
      }),
      { text: 'user + system time ≤ 30 ms a child of 1 MiB', value: overhead, holds: overhead <= 30 },
    ],
  };
}

interface Scene {
  stow: Lxstow;
  client: BenchClient;
  lab: Lab;
  children: number;
}

/** A run by so many workers. `cost`: CPU time that each part took, ms a child. */
async function oneRun(
  { stow, client, lab, children }: Scene,
  workers: number,
): Promise<{ wallS: number; cost: number[] }> {
  const begun = await Promise.all(Array.from({ length: workers }, () => stow.addWorker()));
  await runOf(client, workers * slots * 2);
  const parts = [[stow.gateway], begun, [lab.nats], [lab.s3], [process]];
  const used = () => Promise.all(parts.map((each) => cpuOfAll(each.map((part) => part?.pid ?? 0))));
  const before = await used();
  const { wallS } = await measure(() => runOf(client, children));
  const cost = (await used()).map((cpuS, part) => (1000 * (cpuS - (before[part] ?? 0))) / children);
  await Promise.all(begun.map((worker) => worker.stop()));
  return { wallS, cost };
}

async function runOf(client: BenchClient, children: number): Promise<void> {
  const instances = Array.from({ length: children }, (_, index) => nameOf(index));
  const counts = await ended(client, await post(client, { selector: { instances } }));
  if (counts.success !== children) throw new Error(JSON.stringify(counts));
}

async function cpuOfAll(pids: number[]): Promise<number> {
  return (await Promise.all(pids.map(cpuSeconds))).reduce((sum, each) => sum + each, 0);
}

/** Has the simulator pack one backup, so that it packs no other while the run is measured. */
async function packedOnce(simulator: LxdSimulator, instance: string): Promise<string> {
  const lxd = new LxdClient('local', { socket: simulator.socket }, {});
  const address = { remote: 'local', project: 'default', instance };
  const waiting = { signal: new AbortController().signal, idleTimeoutMs: 60_000 };
  const name = 'packed';
  await createLxdBackup(lxd, address, name, waiting);
  const kept = join(simulator.state.dir, 'packed.tar');
  await link(simulator.state.backupFile({ name: instance, project: 'default' }, name), kept);
  await deleteLxdBackup(lxd, address, name, waiting);
  lxd[Symbol.dispose]();
  return kept;
}

/** About 1 MiB, without the odd files that tests want. */
async function makeSmall(simulator: LxdSimulator, name: string): Promise<void> {
  const rootfs = await simulator.createInstance(name);
  await rm(join(rootfs, 'odd'), { recursive: true });
  await writeFile(join(rootfs, 'data'), Buffer.alloc(kibOfInstance * 1024, name));
}
