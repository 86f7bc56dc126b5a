// npm run bench: what a backup and a restore cost, beside what the parts and the peers do in the same run.
// npm run bench -- --size 600 --rounds 5 --only backup,restore,sizes,disk,slots,many,control,load,drain,scale,fleet,hostile --stored 1000000 --planned 10000 --children 125 --kinds log-like --lxmin /path/to/lxmin --json out.json --compare before.json
// Two builds, or two settings, in one run: --ways lxstow --beside '/other/dist/services/cli/main.js' --beside 'LXSTOW_GZIP_LIBRARY='
import { writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import type { DataKind } from '../lab/data.ts';
import { errorText, type Log } from '../lab/run.ts';
import { s3Titles } from '../lab/s3.ts';
import { backupWays, lxdExport, storeAlone, type Way } from './backups.ts';
import { measureListing, measureRequests } from './control.ts';
import { measureDrain } from './drain.ts';
import { measureFleet } from './fleet.ts';
import { measureHostile } from './hostile.ts';
import { measureLoad } from './load.ts';
import { measureManyBackups } from './manyBackups.ts';
import { type Cost, medianCost } from './measure.ts';
import { measureDisk, measureMany, measureSizes, measureSlots } from './memory.ts';
import { openPlace, type Place } from './place.ts';
import { type Line, machine, markdown, type Report, readReport, type Table } from './report.ts';
import { restoreWays } from './restores.ts';
import { measureRunScale } from './runScale.ts';
import { measurePlan } from './runs.ts';
import { measureScale } from './scale.ts';

const everything = 'backup,restore,sizes,disk,slots,many,control,load,drain,scale,fleet,hostile';

const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '600' },
    rounds: { type: 'string', default: '5' },
    only: { type: 'string', default: everything },
    kinds: { type: 'string', default: 'incompressible,log-like,mixed' },
    sizes: { type: 'string', default: '100,1000,8000' },
    disk: { type: 'string', default: '10' },
    many: { type: 'string', default: '200' },
    backups: { type: 'string', default: '10,1000,10000' },
    jobs: { type: 'string', default: '10000' },
    slots: { type: 'string', default: '64' },
    stored: { type: 'string', default: '1000000' },
    planned: { type: 'string', default: '10000' },
    children: { type: 'string', default: '125' },
    lxmin: { type: 'string' },
    json: { type: 'string' },
    profile: { type: 'string' },
    compare: { type: 'string' },
    ways: { type: 'string', default: '' },
    beside: { type: 'string', multiple: true, default: [] },
  },
});
const sizeMiB = Number(values.size);
const rounds = Number(values.rounds);
const wanted = values.only.split(',');
const log: Log = (line) => process.stderr.write(`${line}\n`);
const kinds: Record<string, DataKind> = { incompressible: 'random', 'log-like': 'log', mixed: 'mixed' };

process.once('SIGINT', () => process.exit(130)); // the lab removes itself when its process ends
try {
  const before = values.compare ? await readReport(values.compare) : undefined;
  await using place = await openPlace(log, values);
  const report: Report = {
    machine: machine({ LXD: place.lxd.version, S3: `on ${s3Titles[place.s3.kind]}`, gzip: `by ${place.gzip}` }),
    tables: [],
  };
  const add = (table: Table) => {
    report.tables.push(table);
    log(`\n${markdown({ ...report, tables: [table] }, before)}\n`);
  };
  for (const [title, kind] of Object.entries(kinds)) {
    if (!wanted.includes('backup') && !wanted.includes('restore')) break;
    if (!values.kinds.split(',').includes(title)) continue;
    const instance = `bench-${kind}`;
    log(`making ${instance}, ${sizeMiB} MiB`);
    await place.lxd.launch(instance, { dataMiB: sizeMiB, kind });
    if (wanted.includes('backup')) add(await compareBackups(place, title, instance));
    if (wanted.includes('restore') && kind !== 'mixed') add(await compareRestores(place, title, instance));
    await place.lxd.lxc(['delete', '--force', instance]);
  }
  if (wanted.includes('sizes')) add(await measureSizes(place, values.sizes.split(',').map(Number), rounds, log));
  const disk = wanted.includes('disk') ? await measureDisk(Number(values.disk), log) : undefined;
  if (disk) add(disk);
  if (wanted.includes('slots')) add(await measureSlots(place, sizeMiB, rounds, log));
  if (wanted.includes('many')) add(await measureMany(place, Number(values.many), log));
  if (wanted.includes('control')) {
    add(await measureRequests(place, rounds));
    for (const table of await measureListing(place, values.backups.split(',').map(Number), rounds, log)) add(table);
  }
  if (wanted.includes('load')) for (const table of await measureLoad(rounds, log)) add(table);
  for (const sync of wanted.includes('drain') ? [true, false] : [])
    add(await measureDrain({ jobs: Number(values.jobs), slots: Number(values.slots), rounds, sync }, log));
  if (wanted.includes('fleet')) {
    add(await measureFleet(rounds, log));
    add(await measureManyBackups(Number(values.stored), rounds, log));
    add(await measurePlan(Number(values.planned), rounds, log));
    add(await measureRunScale(Number(values.children), rounds, log));
  }
  if (wanted.includes('hostile')) add(await measureHostile(rounds, log));
  if (wanted.includes('scale')) add(await measureScale(place, rounds, log));
  console.log(markdown(report, before));
  if (values.json) await writeFile(values.json, `${JSON.stringify(report, null, 2)}\n`);
} catch (error) {
  log(`bench: ${errorText(error)}`);
  process.exitCode = 1;
}

/** Every way once a round, so that what else the machine does meets all alike. The first round warms up, and does not count. */
async function alternate(all: Way[], instance: string): Promise<Map<string, (Cost & { storedBytes?: number })[]>> {
  const ways = all.filter(({ name }) => new RegExp(values.ways).test(name));
  const costs = new Map<string, (Cost & { storedBytes?: number })[]>(ways.map(({ name }) => [name, []]));
  for (let round = 0; round <= rounds; round++) {
    for (const { name, run } of ways) {
      const cost = await run(instance);
      log(`${round === 0 ? 'warm-up' : `round ${round} of ${rounds}`}: ${name}: ${costText(cost)}`);
      if (round > 0) costs.get(name)?.push(cost);
    }
  }
  return costs;
}

function costText({ wallS, cpuS, peakMiB }: Cost): string {
  const rest = cpuS === undefined ? '' : `, ${cpuS.toFixed(2)} CPU s, ${peakMiB?.toFixed(0) ?? '-'} MiB`;
  return `${wallS.toFixed(2)} s${rest}`;
}

function linesOf(costs: Map<string, (Cost & { storedBytes?: number })[]>): Line[] {
  return [...costs].map(([name, each]) => {
    const storedBytes = each.at(-1)?.storedBytes;
    return { name, ...medianCost(each), ...(storedBytes === undefined ? {} : { storedBytes }) };
  });
}

async function compareBackups(place: Place, title: string, instance: string): Promise<Table> {
  const costs = await alternate([lxdExport(place), ...backupWays(place, values)], instance);
  const lines = linesOf(costs);
  const wall = (name: string) => lines.find((line) => line.name === name)?.wallS ?? Number.NaN;
  const floor = wall('LXD alone: create') + Math.max(wall('LXD alone: export'), wall(storeAlone(place.s3)));
  if (!Number.isNaN(floor)) for (const line of lines) line.toFloor = wall(line.name) / floor;
  const bytes = costs.get('lxstow, none')?.at(-1)?.storedBytes ?? 0;
  const none = lines.find(({ name }) => name === 'lxstow, none');
  const bars = [
    bar('none ≤ 1.4 × floor', wall('lxstow, none') / floor, (value) => value <= 1.4),
    bar('CPU of the worker with none ≤ 1.5 s/GB', (none?.cpuS ?? Number.NaN) / (bytes / 1e9), (value) => value <= 1.5),
    bar(
      'none ≥ 2 × faster than export | mc pipe',
      wall('export | mc pipe') / wall('lxstow, none'),
      (value) => value >= 2,
    ),
    bar('none ≥ 10 × faster than lxmin', wall('lxmin backup') / wall('lxstow, none'), (value) => value >= 10),
    title === 'log-like'
      ? bar('gzip faster than none: gzip / none < 1', wall('lxstow, gzip') / wall('lxstow, none'), (value) => value < 1)
      : bar('gzip ≤ 1.25 × none', wall('lxstow, gzip') / wall('lxstow, none'), (value) => value <= 1.25),
  ];
  return { title: `Backup, ${title}`, bytes, rounds, lines, bars: bars.filter(({ value }) => !Number.isNaN(value)) };
}

async function compareRestores(place: Place, title: string, instance: string): Promise<Table> {
  const costs = await alternate(restoreWays(place, values), instance);
  const lines = linesOf(costs);
  const wall = (name: string) => lines.find((line) => line.name === name)?.wallS ?? Number.NaN;
  const floor = wall('lxc import from a file');
  if (!Number.isNaN(floor)) for (const line of lines) line.toFloor = wall(line.name) / floor;
  const bars = [
    bar('none ≤ 1.15 × lxc import of the same tar', wall('lxstow, none') / floor, (value) => value <= 1.15),
    bar('none ≥ 3 × faster than lxmin', wall('lxmin restore') / wall('lxstow, none'), (value) => value >= 3),
  ];
  return {
    title: `Restore, ${title} (floor: lxc import from a file)`,
    bytes: sizeMiB * 2 ** 20,
    rounds,
    lines,
    bars: bars.filter(({ value }) => !Number.isNaN(value)),
  };
}

function bar(text: string, value: number, is: (value: number) => boolean): Table['bars'][number] {
  return { text, value, holds: is(value) };
}
