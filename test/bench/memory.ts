/** The worker's memory, and its time, against the instance's size; with more slots; and over many backups. */
import { titleOf } from '../lab/engines.ts';
import { residentMiB } from '../lab/processes.ts';
import type { Log } from '../lab/run.ts';
import { type Cost, measure, medianCost } from './measure.ts';
import { openPlace, type Place } from './place.ts';
import type { Line, Table } from './report.ts';

/** An engine of the lab that makes virtual machines, and leaves holes where it restores zeros. */
const machinesOn = 'incus6';
/** Of empty space to what is stored of it: 1 MiB is 1062 bytes of gzip. */
const leastRatio = 900;
/** A worker with one slot, whatever the size. */
const mostMiB = 220;
/** What a further slot may add: four buffers for parts (services/archive/draftParts.ts), six for blocks on two cores (compression.ts). */
const poolMiB = 4 * (16 + 1) + 6;
const compressions = ['none', 'gzip', 'zstd'] as const;
const slots = 4;
/** Time may grow with the size, and no faster; what a backup takes whatever its size helps the larger ones. */
const mostGrowth = 1.1;

/** Backups of each size and compression, and one restore of each, each by a worker that has done nothing before. */
export async function measureSizes(place: Place, sizesMiB: number[], rounds: number, log: Log): Promise<Table> {
  const { lxd, stow } = place;
  const lines: Line[] = [];
  for (const sizeMiB of sizesMiB) {
    const instance = `memory-${sizeMiB}`;
    await lxd.launch(instance, { dataMiB: sizeMiB, kind: 'mixed' });
    const costs = new Map<string, Cost[]>();
    const stored = new Map<string, number>();
    for (let round = 1; round <= rounds; round++) {
      for (const compression of compressions) {
        const note = (what: string, cost: Cost) => {
          const name = `${what}, ${compression}, ${sizeMiB} MiB`;
          costs.set(name, [...(costs.get(name) ?? []), cost]);
          log(`round ${round} of ${rounds}: ${name}: ${cost.wallS.toFixed(2)} s, ${cost.peakMiB?.toFixed(0)} MiB`);
          return name;
        };
        await restartWorker(place);
        const { cost, path, size } = await backUp(place, instance, compression);
        stored.set(note('backup', cost), size);
        if (round === rounds) {
          await restartWorker(place);
          note('restore', await restore(place, path));
        }
        await stow.request('DELETE', path);
      }
    }
    await lxd.lxc(['delete', '--force', instance]);
    for (const [name, each] of costs) {
      const storedBytes = stored.get(name);
      const peak = peakOf(each);
      lines.push({ name, ...medianCost(each), peakMiB: peak, ...(storedBytes === undefined ? {} : { storedBytes }) });
    }
  }
  const most = peakOf(lines);
  const bars = [{ text: `peak ≤ ${mostMiB} MiB, whatever the size`, value: most, holds: most <= mostMiB }];
  const perMiB = (compression: string, sizeMiB: number) =>
    (lines.find(({ name }) => name === `backup, ${compression}, ${sizeMiB} MiB`)?.wallS ?? Number.NaN) / sizeMiB;
  for (const [index, larger] of sizesMiB.entries()) {
    const smaller = sizesMiB[index - 1];
    if (smaller === undefined) continue;
    for (const compression of compressions) {
      const value = perMiB(compression, larger) / perMiB(compression, smaller);
      const text = `${compression}: time per byte at ${larger} MiB ≤ ${mostGrowth} × that at ${smaller} MiB`;
      bars.push({ text, value, holds: value <= mostGrowth });
    }
  }
  return {
    title: 'Size: time and peak memory of a worker with one slot (peak: the most of all rounds)',
    bytes: 0,
    rounds,
    lines,
    bars,
  };
}

/**
 * A backup and a restore of a virtual machine's disk that is nearly empty, each by a worker that has done nothing before. Undefined where there are
 * no virtual machines.
 */
export async function measureDisk(diskGiB: number, log: Log): Promise<Table | undefined> {
  await using place = await openPlace(log, { engine: machinesOn });
  const { lxd, stow } = place;
  if (lxd.noMachines) return void log(lxd.noMachines);
  const instance = 'memory-disk';
  await lxd.createMachine(instance, { diskMiB: diskGiB * 1024, dataMiB: 1 });
  const bytes = diskGiB * 2 ** 30;
  const lines: Line[] = [];
  const bars: Table['bars'] = [];
  for (const compression of ['gzip', 'zstd']) {
    await restartWorker(place);
    const { cost, path, size } = await backUp(place, instance, compression);
    lines.push({ name: `backup, ${compression}`, ...cost, storedBytes: size });
    log(`${compression}: ${cost.wallS.toFixed(2)} s, ${cost.peakMiB?.toFixed(0)} MiB`);
    await restartWorker(place);
    lines.push({ name: `restore, ${compression}`, ...(await restore(place, path)) });
    await stow.request('DELETE', path);
    const value = bytes / (size - 2 ** 20);
    const text = `${compression}: of empty space, ${leastRatio} bytes or more for each one that is stored`;
    bars.push({ text, value, holds: value >= leastRatio });
  }
  const most = peakOf(lines);
  bars.push({ text: `peak ≤ ${mostMiB} MiB`, value: most, holds: most <= mostMiB });
  const title = `A disk of ${diskGiB} GiB with 1 MiB in it, of a virtual machine of ${titleOf(machinesOn)}`;
  return { title, bytes, rounds: 1, lines, bars };
}

/** Four instances at once, by a worker with four slots. */
export async function measureSlots(place: Place, sizeMiB: number, rounds: number, log: Log): Promise<Table> {
  const { lxd, stow, done } = place;
  const instances = Array.from({ length: slots }, (_, index) => `slot-${index + 1}`);
  for (const name of instances) await lxd.launch(name, { dataMiB: sizeMiB, kind: 'mixed' });
  const [own] = stow.workers;
  await own?.stop();
  const lines: Line[] = [];
  for (const compression of compressions) {
    const costs: Cost[] = [];
    for (let round = 1; round <= rounds; round++) {
      const worker = await stow.addWorker({ LXSTOW_WORKER_SLOTS: String(slots) });
      const paths: string[] = [];
      costs.push(
        await measure(async () => {
          const asked = instances.map(async (name) => {
            const path = `/1.0/instances/${name}/backups`;
            paths.push(`${path}/${await done(await stow.request('POST', `${path}?compression=${compression}`))}`);
          });
          await Promise.all(asked);
        }, worker.pid),
      );
      for (const path of paths) await stow.request('DELETE', path);
      await worker.stop();
      log(
        `round ${round} of ${rounds}: ${slots} × ${sizeMiB} MiB, ${compression}: ${costs.at(-1)?.peakMiB?.toFixed(0)} MiB`,
      );
    }
    const peak = peakOf(costs);
    lines.push({ name: `${slots} × ${sizeMiB} MiB, ${compression}`, ...medianCost(costs), peakMiB: peak });
  }
  await own?.start();
  for (const name of instances) await lxd.lxc(['delete', '--force', name]);
  const most = peakOf(lines);
  const limit = mostMiB + (slots - 1) * poolMiB;
  const bars = [{ text: `peak ≤ ${mostMiB} + ${slots - 1} × ${poolMiB} MiB`, value: most, holds: most <= limit }];
  return {
    title: `Memory of a worker with ${slots} slots (peak: the most of all rounds)`,
    bytes: 0,
    rounds,
    lines,
    bars,
  };
}

/** One worker, and backups one after the other, of each compression in turn: what it keeps. */
export async function measureMany(place: Place, count: number, log: Log): Promise<Table> {
  const { lxd, stow, workerPid } = place;
  const instance = 'many';
  await lxd.launch(instance, { dataMiB: 64, kind: 'mixed' });
  await restartWorker(place);
  const tenth = Math.ceil(count / 10);
  const peaks: number[] = [];
  const resting: number[] = [];
  for (let done = 0; done < count; done++) {
    const { cost, path } = await backUp(place, instance, compressions[done % compressions.length] ?? 'none');
    await stow.request('DELETE', path);
    peaks.push(cost.peakMiB ?? 0);
    resting.push(await residentMiB(workerPid()));
    if ((done + 1) % tenth === 0) log(`${done + 1} of ${count}: ${resting.at(-1)?.toFixed(0)} MiB at rest`);
  }
  await lxd.lxc(['delete', '--force', instance]);
  const most = (values: number[]) => Math.max(...values);
  const lines = [
    { name: `the most, backups ${tenth + 1} to ${2 * tenth}`, peakMiB: most(peaks.slice(tenth, 2 * tenth)) },
    { name: `the most, the last ${tenth}`, peakMiB: most(peaks.slice(-tenth)) },
    {
      name: `at rest, behind backups ${tenth + 1} to ${2 * tenth}, the most`,
      peakMiB: most(resting.slice(tenth, 2 * tenth)),
    },
    { name: `at rest, behind the last ${tenth}, the most`, peakMiB: most(resting.slice(-tenth)) },
  ];
  const growth = most(resting.slice(-tenth)) / most(resting.slice(tenth, 2 * tenth));
  const bars = [{ text: 'at rest, the last tenth ≤ 1.05 × the second', value: growth, holds: growth <= 1.05 }];
  return { title: `Memory of a worker over ${count} backups of 64 MiB`, bytes: 0, rounds: 1, lines, bars };
}

function peakOf(costs: Pick<Cost, 'peakMiB'>[]): number {
  return Math.max(...costs.map(({ peakMiB = 0 }) => peakMiB));
}

async function restartWorker({ stow }: Place): Promise<void> {
  const [worker] = stow.workers;
  await worker?.stop();
  await worker?.start();
}

async function backUp({ stow, done, workerPid }: Place, instance: string, compression: string) {
  const path = `/1.0/instances/${instance}/backups`;
  let name = '';
  const cost = await measure(async () => {
    name = await done(await stow.request('POST', `${path}?compression=${compression}`));
  }, workerPid());
  const { body } = await stow.request('GET', `${path}/${name}`);
  return { cost, path: `${path}/${name}`, size: body.metadata.size as number };
}

async function restore({ lxd, stow, done, workerPid }: Place, path: string): Promise<Cost> {
  const name = 'memory-again';
  const cost = await measure(async () => done(await stow.request('POST', path, { body: { name } })), workerPid());
  await lxd.lxc(['delete', '--force', name]);
  return cost;
}
