/** A run's children: who they are, in which order, in which chunks. Pure. */
import type { Address, Run, RunChild } from '../contract/schemas.ts';
import { uuid5 } from '../jobs/jobs.ts';

/** With the longest names and reasons a chunk is below half a message of 1 MiB. */
export const chunkSize = 500;
/** Of a reason that is kept with a child. */
export const longestReason = 200;

/** A child's operation: the same whoever makes it, and however often. Nobody who cannot read the run's head knows it before it is shown. */
export function childId({ id, plan }: Pick<Run, 'id' | 'plan'>, { remote, project, instance }: Address): string {
  return uuid5(`${id}|${plan}|${remote}|${project}|${instance}`);
}

/** Each instance once, and the remotes' first ones first: so those that are at work at a time are in few chunks. */
export function plan(addresses: Address[]): RunChild[] {
  const byRemote = Map.groupBy(addresses, ({ remote }) => remote);
  const queues = [...byRemote.values()].map((each) => unique(each).sort(byName));
  const children: RunChild[] = [];
  for (let turn = 0; queues.some(({ length }) => turn < length); turn++)
    for (const queue of queues) {
      const next = queue[turn];
      if (next)
        children.push({ remote: next.remote, project: next.project, instance: next.instance, state: 'pending' });
    }
  return children;
}

export function chunksOf(children: RunChild[]): RunChild[][] {
  const count = Math.ceil(children.length / chunkSize);
  return Array.from({ length: count }, (_, index) => children.slice(index * chunkSize, (index + 1) * chunkSize));
}

function unique(addresses: Address[]): Address[] {
  return [...new Map(addresses.map((each) => [`${each.project}/${each.instance}`, each])).values()];
}

function byName(a: Address, b: Address): number {
  return a.project === b.project ? (a.instance < b.instance ? -1 : 1) : a.project < b.project ? -1 : 1;
}
