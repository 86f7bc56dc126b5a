/** The worker's memory against the instance's size, and over many backups. */
import type { Log } from '../lab/run.ts';
import { measure } from './measure.ts';
import type { Place } from './place.ts';
import type { Line, Table } from './report.ts';

/** A worker with one slot, whatever the size. */
const mostMiB = 220;

/** One backup of each size and compression, by the same worker, which begins anew with each size. */
export async function measureMemory(
  { lxd, stow, done, workerPid }: Place,
  sizesMiB: number[],
  log: Log,
): Promise<Table> {
  const lines: Line[] = [];
  for (const sizeMiB of sizesMiB) {
    const instance = `memory-${sizeMiB}`;
    await lxd.launch(instance, { dataMiB: sizeMiB, kind: 'mixed' });
    for (const compression of ['none', 'gzip', 'zstd']) {
      const [worker] = stow.workers;
      await worker?.stop();
      await worker?.start();
      let name = '';
      const cost = await measure(async () => {
        name = await done(await stow.request('POST', `/1.0/instances/${instance}/backups?compression=${compression}`));
      }, workerPid());
      const { body } = await stow.request('GET', `/1.0/instances/${instance}/backups/${name}`);
      lines.push({ name: `${sizeMiB} MiB, ${compression}`, ...cost, storedBytes: body.metadata.size });
      log(`${sizeMiB} MiB, ${compression}: ${cost.peakMiB?.toFixed(0)} MiB`);
      await stow.request('DELETE', `/1.0/instances/${instance}/backups/${name}`);
    }
    await lxd.lxc(['delete', '--force', instance]);
  }
  const most = Math.max(...lines.map(({ peakMiB = 0 }) => peakMiB));
  return {
    title: 'Memory of a worker with one slot',
    bytes: 0,
    rounds: 1,
    lines,
    bars: [{ text: `peak ≤ ${mostMiB} MiB, whatever the size`, value: most, holds: most <= mostMiB }],
  };
}
