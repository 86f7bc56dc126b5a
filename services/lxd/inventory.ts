/** Lists what is in an LXD, in all its projects: for clients, and for the janitor. */
import { unlessMissing } from '../contract/errors.ts';
import type { Address } from '../contract/schemas.ts';
import { mark } from './backups.ts';
import type { LxdClient } from './client.ts';
import type { LxdInstance as Instance } from './instances.ts';
import { parseOwnName } from './ownNames.ts';

export interface InventoryInstance {
  address: Address;
  instance: Instance;
}

const segment = encodeURIComponent;
const ours = new RegExp(`^${mark}([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-[1-9][0-9]*$`);

/** The operation that made this backup in LXD; undefined if it is not one of ours. */
export function operationOfLxdBackup(name: string): string | undefined {
  return ours.exec(name)?.[1];
}

/** Names of the projects that these credentials may see. */
async function projectNames(lxd: LxdClient, signal: AbortSignal): Promise<string[]> {
  const paths = await lxd.get<string[]>('/1.0/projects', {}, signal);
  return paths.map((path) => decodeURIComponent(path.split('/').at(-1) ?? ''));
}

/** Every instance that these credentials may see. */
export async function* everyInstance(lxd: LxdClient, signal: AbortSignal): AsyncGenerator<InventoryInstance> {
  for (const project of await projectNames(lxd, signal)) {
    const instances = await lxd.get<Instance[]>('/1.0/instances', { recursion: '1', project }, signal);
    for (const instance of instances)
      yield { address: { remote: lxd.remote, project, instance: instance.name }, instance };
  }
}

/** An object as LXD returns it, with whatever fields LXD gives it. */
export type LxdObject = Record<string, unknown>;

/** An instance as LXD returns it, with its project and its remote (`location`). */
export type LxdInstance = LxdObject & { name: string; project: string; location: string };

/**
 * Lists the instances of some projects, or of all, by project and name. `full` adds state and snapshots. Omits LXD's own backups, because clients
 * mean those in the store, and instances that a restore has not finished.
 */
export async function listInstances(
  lxd: LxdClient,
  { projects, full }: { projects: string[] | undefined; full: boolean },
  signal: AbortSignal,
): Promise<LxdInstance[]> {
  const found: LxdInstance[] = [];
  for (const project of (projects ?? (await projectNames(lxd, signal))).toSorted()) {
    const query = { recursion: full ? '2' : '1', project };
    const instances = await lxd.get<LxdInstance[]>('/1.0/instances', query, signal);
    instances.sort((a, b) => (a.name < b.name ? -1 : 1));
    const theirs = instances.filter(({ name }) => !parseOwnName(name));
    found.push(...theirs.map((instance) => shown(instance, lxd.remote, project)));
  }
  return found;
}

/** Reads one instance; undefined if it does not exist. */
export async function readInstance(
  lxd: LxdClient,
  { project, instance, full }: { project: string; instance: string; full: boolean },
  signal: AbortSignal,
): Promise<LxdInstance | undefined> {
  const path = `/1.0/instances/${segment(instance)}`;
  return unlessMissing(async () => {
    const query = { project, ...(full ? { recursion: '1' } : {}) };
    const found = shown(await lxd.get<LxdInstance>(path, query, signal), lxd.remote, project);
    // LXD before 4.22 has no recursion here, and lxc needs a state.
    if (full) found.state ??= await lxd.get(`${path}/state`, { project }, signal);
    return found;
  });
}

export function readInstanceState(
  lxd: LxdClient,
  { project, instance }: { project: string; instance: string },
  signal: AbortSignal,
): Promise<LxdObject | undefined> {
  return unlessMissing(() => lxd.get(`/1.0/instances/${segment(instance)}/state`, { project }, signal));
}

export function listProjects(lxd: LxdClient, signal: AbortSignal): Promise<LxdObject[]> {
  return lxd.get('/1.0/projects', { recursion: '1' }, signal);
}

export function listPools(lxd: LxdClient, signal: AbortSignal): Promise<LxdObject[]> {
  return lxd.get('/1.0/storage-pools', { recursion: '1' }, signal);
}

function shown({ backups: _, ...instance }: LxdInstance, location: string, project: string): LxdInstance {
  return { ...instance, name: String(instance.name), project, location };
}

/** Lists LXD's own backups of an instance, ours and others; empty if the instance is gone. */
export async function lxdBackupsOf(
  lxd: LxdClient,
  { project, instance }: Address,
  signal: AbortSignal,
): Promise<{ name: string; created: Date }[]> {
  const found = await unlessMissing(() =>
    lxd.get<{ name: string; created_at: string }[]>(
      `/1.0/instances/${segment(instance)}/backups`,
      { recursion: '1', project },
      signal,
    ),
  );
  // Some versions of LXD say `c1/backup`.
  return (found ?? []).map(({ name, created_at }) => ({
    name: name.split('/').at(-1) ?? '',
    created: new Date(created_at),
  }));
}
