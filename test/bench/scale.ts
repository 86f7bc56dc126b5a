/** More workers, or more slots: what each adds on many small instances, beside what LXD itself gains by doing several at a time. */
import { mapInOrder } from '../../services/concurrency/orderedMap.ts';
import { openExport } from '../../services/lxd/archives/exports.ts';
import { bytesOf } from '../lab/exports.ts';
import type { Log } from '../lab/run.ts';
import { type Cost, measure, medianCost } from './measure.ts';
import type { Place } from './place.ts';
import type { Line, Table } from './report.ts';

const count = 40;
const shapes = [
  { workers: 1, slots: 1 },
  { workers: 2, slots: 1 },
  { workers: 4, slots: 1 },
  { workers: 1, slots: 4 },
] as const;
const parallel = [1, 2, 4] as const;
/** Of what LXD itself gains, with as many at a time. */
const leastShare = 0.8;

/** Wall of the backups of 40 small instances, all asked for at once. The place's own worker stands aside meanwhile. */
export async function measureScale(place: Place, rounds: number, log: Log): Promise<Table> {
  const { lxd, stow } = place;
  const instances = Array.from({ length: count }, (_, index) => `scale-${index + 1}`);
  const [first = '', ...others] = instances;
  log(`making ${count} instances`);
  await lxd.launch(first, { dataMiB: 4 });
  await lxd.lxc(['stop', '--force', first]);
  for (const name of others) await lxd.lxc(['copy', first, name]);
  const [own] = stow.workers;
  await own?.stop();

  const costs = new Map<string, Cost[]>();
  const note = (name: string, cost: Cost, round: number) => {
    log(`round ${round} of ${rounds}: ${name}: ${cost.wallS.toFixed(2)} s`);
    if (round > 0) costs.set(name, [...(costs.get(name) ?? []), cost]);
  };
  // The first round warms up, and does not count: LXD, the store and the disk have seen everything then.
  for (let round = 0; round <= rounds; round++) {
    for (const at of round === 0 ? [4] : parallel)
      note(alone(at), await measure(() => exportAll(place, instances, at)), round);
    for (const { workers, slots } of round === 0 ? shapes.slice(-1) : shapes) {
      const begun = await Promise.all(
        Array.from({ length: workers }, () => stow.addWorker({ LXSTOW_WORKER_SLOTS: String(slots) })),
      );
      note(shape(workers, slots), await measure(() => backUpAll(place, instances)), round);
      await Promise.all(begun.map((worker) => worker.stop()));
    }
  }
  await own?.start();
  await Promise.all(instances.map((name) => lxd.lxc(['delete', '--force', name])));

  const wall = (name: string) => medianCost(costs.get(name) ?? []).wallS;
  const lines: Line[] = [...costs].map(([name, each]) => ({ name, ...medianCost(each) }));
  for (const { workers, slots } of shapes) {
    const line = lines.find(({ name }) => name === shape(workers, slots));
    if (line) line.toFloor = wall(line.name) / wall(alone(workers * slots));
  }
  const bars = shapes.slice(1).map(({ workers, slots }) => {
    const gain = wall(shape(1, 1)) / wall(shape(workers, slots));
    const lxds = wall(alone(1)) / wall(alone(workers * slots));
    const text = `${shape(workers, slots)}: speed-up ≥ ${leastShare} × LXD's own, ${lxds.toFixed(2)}`;
    return { text, value: gain, holds: gain >= leastShare * lxds };
  });
  return { title: `${count} small instances (floor: LXD alone, as many at a time)`, bytes: 0, rounds, lines, bars };
}

function alone(at: number): string {
  return `LXD alone: create and export, ${at} at a time`;
}

function shape(workers: number, slots: number): string {
  return `lxstow, ${workers} × ${slots} slot${slots > 1 ? 's' : ''}`;
}

async function backUpAll({ stow, done }: Place, instances: string[]): Promise<void> {
  const answers = await Promise.all(
    instances.map((name) => stow.request('POST', `/1.0/instances/${name}/backups?compression=none`)),
  );
  await Promise.all(answers.map(done));
}

async function exportAll({ lxd, api, lxdBackup, dropLxdBackup }: Place, instances: string[], at: number) {
  const { signal } = new AbortController();
  const each = (async function* () {
    yield* instances;
  })();
  const one = async (instance: string) => {
    await lxdBackup(instance, 'raw');
    await bytesOf(await openExport(api, { remote: 'local', project: lxd.project, instance }, 'raw', signal));
    await dropLxdBackup(instance, 'raw');
  };
  for await (const _ of mapInOrder(each, at, one));
}
