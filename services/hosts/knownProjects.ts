import { LxstowError } from '../contract/errors.ts';
import type { Nats } from '../nats/connection.ts';
import { askInventory } from './hostInventory.ts';

interface UnknownProjects {
  /** Projects that none of the hosts that answered has. */
  missing: string[];
  /** Hosts that did not answer, and may have these projects. */
  silent: string[];
}

export async function unknownProjects(
  nats: Nats,
  remotes: string[],
  projects: string[],
  timeoutMs: number,
): Promise<UnknownProjects> {
  const known = new Set<string>();
  const silent: string[] = [];
  if (projects.length === 0) return { missing: [], silent };
  const ask = async (remote: string) => {
    try {
      for (const { name } of await askInventory(nats, remote, { kind: 'projects' }, timeoutMs)) known.add(String(name));
    } catch (error) {
      if (!(error instanceof LxstowError)) throw error;
      silent.push(remote);
    }
  };
  await Promise.all(remotes.map(ask));
  return { missing: projects.filter((name) => !known.has(name)), silent };
}

/** `project nope does not exist on local` */
export function projectsText({ missing, silent }: UnknownProjects, remotes: string[]): string {
  const heard = remotes.filter((each) => !silent.includes(each));
  const plural = missing.length > 1;
  return `project${plural ? 's' : ''} ${missing.join(', ')} ${plural ? 'do' : 'does'} not exist on ${heard.join(', ')}`;
}
