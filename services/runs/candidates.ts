/** Asks hosts for the instances that a run's selector chooses. */
import { asLxstowError, type LxstowError } from '../contract/errors.ts';
import type { Address, RunSelector } from '../contract/schemas.ts';
import { askInProjects } from '../hosts/hostInventory.ts';
import type { LxdInstance } from '../lxd/inventory.ts';
import type { Nats } from '../nats/connection.ts';
import { excludeKey, scheduleKey, select } from './selector.ts';

export interface Heard {
  addresses: Address[];
  excluded: number;
  /** Names of all instances in the selector's projects. */
  known: Set<string>;
}

/** The instances of a host that the selector chooses. Throws as askInventory does. */
export async function chosenOn(nats: Nats, remote: string, selector: RunSelector, timeoutMs: number): Promise<Heard> {
  const { projects } = selector;
  const question = { kind: 'instances' as const, full: false, ...(projects && { projects }) };
  const found = (await askInProjects(nats, remote, question, timeoutMs)) as LxdInstance[];
  const { chosen, excluded } = select(found, selector);
  return {
    addresses: chosen.map(({ project, name }) => ({ remote, project, instance: name })),
    excluded,
    known: new Set(found.map(({ name }) => name)),
  };
}

/** The same for several hosts in parallel: the instances of the hosts that answer, and the reason for each that does not. */
export async function chosenOnAll(
  nats: Nats,
  remotes: string[],
  selector: RunSelector,
  timeoutMs: number,
): Promise<Heard & { silent: Map<string, LxstowError> }> {
  const answers = await Promise.allSettled(remotes.map((remote) => chosenOn(nats, remote, selector, timeoutMs)));
  const silent = new Map<string, LxstowError>();
  const heard: Heard = { addresses: [], excluded: 0, known: new Set() };
  for (const [index, answer] of answers.entries()) {
    if (answer.status === 'rejected') silent.set(remotes[index] as string, asLxstowError(answer.reason));
    else {
      heard.addresses.push(...answer.value.addresses);
      heard.excluded += answer.value.excluded;
      for (const name of answer.value.known) heard.known.add(name);
    }
  }
  return { ...heard, silent };
}

/** The facts about an instance in its record (services/fleet). */
export interface KnownInstance extends Address {
  excluded: boolean;
  /** The schedules that the instance names. */
  schedules: string[];
}

/** Those of the recorded instances that the selector chooses; none for a selector with `match`, because records do not contain the values to match. */
export function chosenOfKnown(known: KnownInstance[], selector: RunSelector): Address[] {
  if (selector.match?.length) return [];
  const found = known.map(({ instance, excluded, schedules, ...place }) => ({
    ...place,
    name: instance,
    config: { [excludeKey]: String(excluded), [scheduleKey]: schedules.join(',') },
  }));
  return select(found, selector).chosen.map(({ remote, project, name }) => ({ remote, project, instance: name }));
}
