/** What is there in an LXD, in all of its projects: for those who look for what was left. */
import type { Address } from '../contract.ts';
import { isCode } from '../errors.ts';
import { mark } from './backups.ts';
import type { LxdClient } from './client.ts';

export interface InventoryInstance {
  address: Address;
  status: string;
  /** LXD's own id for it, which a restore keeps. */
  uuid: string;
}

const segment = encodeURIComponent;
const ours = new RegExp(`^${mark}([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-[1-9][0-9]*$`);

/** The operation that made this backup in LXD; undefined when it is not one of ours. */
export function operationOfLxdBackup(name: string): string | undefined {
  return ours.exec(name)?.[1];
}

/** Every instance that these credentials may see. */
export async function* everyInstance(lxd: LxdClient, signal: AbortSignal): AsyncGenerator<InventoryInstance> {
  const projects = await lxd.get<string[]>('/1.0/projects', {}, signal);
  for (const path of projects) {
    const project = decodeURIComponent(path.split('/').at(-1) ?? '');
    const instances = await lxd.get<{ name: string; status: string; config: Record<string, string> }[]>(
      '/1.0/instances',
      { recursion: '1', project },
      signal,
    );
    for (const { name, status, config } of instances) {
      const address = { remote: lxd.remote, project, instance: name };
      yield { address, status, uuid: config['volatile.uuid'] ?? '' };
    }
  }
}

/** LXD's own backups of an instance, ours and others; none of an instance that is gone. */
export async function lxdBackupsOf(
  lxd: LxdClient,
  { project, instance }: Address,
  signal: AbortSignal,
): Promise<{ name: string; created: Date }[]> {
  try {
    const found = await lxd.get<{ name: string; created_at: string }[]>(
      `/1.0/instances/${segment(instance)}/backups`,
      { recursion: '1', project },
      signal,
    );
    // Some versions say `c1/backup`.
    return found.map(({ name, created_at }) => ({ name: name.split('/').at(-1) ?? '', created: new Date(created_at) }));
  } catch (error) {
    if (isCode(error, 'not-found')) return [];
    throw error;
  }
}
