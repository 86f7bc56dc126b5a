/** Plans the children of a run: their order, their chunks, their ids. Pure. */
import type { Address, Run, RunChild } from '../contract/schemas.ts';
import { uuid5 } from '../jobs/jobs.ts';

/** Children per chunk: with the longest names and reasons, a chunk stays below half a message of 1 MiB. */
export const chunkSize = 500;
/** Characters of a reason that a child keeps. */
export const longestReason = 200;

/** The id of a child's operation: the same for every gateway and every try. A client that cannot read the run's head cannot guess it before it is shown. */
export function childId({ id, plan }: Pick<Run, 'id' | 'plan'>, { remote, project, instance }: Address): string {
  return uuid5(`${id}|${plan}|${remote}|${project}|${instance}`);
}

/**
 * Each instance once: first the first of each host, then the second of each. Children that run at the same time are in few chunks. Of one host, those whose
 * `addressKey` is in `first` go before the others.
 */
export function plan(addresses: Address[], first: ReadonlySet<string> = new Set()): RunChild[] {
  const byRemote = Map.groupBy(addresses, ({ remote }) => remote);
  const queues = [...byRemote.values()].map((each) =>
    unique(each).sort((a, b) => rank(a, first) - rank(b, first) || byName(a, b)),
  );
  const children: RunChild[] = [];
  for (let turn = 0; queues.some(({ length }) => turn < length); turn++)
    for (const queue of queues) {
      const next = queue[turn];
      if (!next) continue;
      const { remote, project, instance } = next;
      children.push({ remote, project, instance, state: 'pending', ...(rank(next, first) === 0 && { first: true }) });
    }
  return children;
}

export function chunksOf(children: RunChild[]): RunChild[][] {
  const count = Math.ceil(children.length / chunkSize);
  return Array.from({ length: count }, (_, index) => children.slice(index * chunkSize, (index + 1) * chunkSize));
}

export function addressKey({ remote, project, instance }: Address): string {
  return `${remote}/${project}/${instance}`;
}

/** When a child of a scheduled run may begin: for each instance always after the same part of the jitter, but at once for those in `first`. 0 for other runs. */
export function dueMs({ schedule }: Pick<Run, 'schedule'>, child: Address & Pick<RunChild, 'first'>): number {
  if (!schedule) return 0;
  const { name, starts_at, jitter_seconds = 0 } = schedule;
  const part = child.first ? 0 : Number.parseInt(uuid5(`${name}|${addressKey(child)}`).slice(0, 8), 16) / 2 ** 32;
  return Date.parse(starts_at) + Math.floor(part * jitter_seconds * 1000);
}

function rank(address: Address, first: ReadonlySet<string>): number {
  return first.has(addressKey(address)) ? 0 : 1;
}

function unique(addresses: Address[]): Address[] {
  return [...new Map(addresses.map((each) => [`${each.project}/${each.instance}`, each])).values()];
}

function byName(a: Address, b: Address): number {
  return a.project === b.project ? (a.instance < b.instance ? -1 : 1) : a.project < b.project ? -1 : 1;
}
