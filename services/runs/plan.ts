/** Plans the children of a run: their order, their chunks, their ids. Pure. */
import type { Address, Run, RunChild } from '../contract/schemas.ts';
import { uuid5 } from '../jobs/jobs.ts';

/** With the longest names and reasons a chunk is below half a message of 1 MiB. */
export const chunkSize = 500;
/** Characters of a reason that a child keeps. */
export const longestReason = 200;

/** The id of a child's operation: the same for every gateway and every try. A client that cannot read the run's head cannot guess it before it is shown. */
export function childId({ id, plan }: Pick<Run, 'id' | 'plan'>, { remote, project, instance }: Address): string {
  return uuid5(`${id}|${plan}|${remote}|${project}|${instance}`);
}

/** Each instance once: first the first of each host, then the second of each. Children that run at the same time are in few chunks. */
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
