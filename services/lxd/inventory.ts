/** Lists what is in an LXD, in all its projects: for clients, and for the janitor. */
import { unlessMissing } from '../contract/errors.ts';
import type { Address } from '../contract/schemas.ts';
import { mark } from './archives/backups.ts';
import type { LxdClient } from './connection/client.ts';
import type { Config, LxdInstance as Instance } from './instances.ts';
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

/**
 * Yields what `pick` makes of each instance that these credentials may see, without undefined results. A project's answer may have many MiB: memory holds only
 * what was picked of it.
 */
export async function* everyInstance<T>(
  lxd: LxdClient,
  pick: (found: InventoryInstance) => T | undefined,
  signal: AbortSignal,
): AsyncGenerator<T> {
  for (const project of await projectNames(lxd, signal)) {
    const picked: T[] = [];
    for await (const instance of lxd.items<Instance>('/1.0/instances', { recursion: '1', project }, signal)) {
      const one = pick({ address: { remote: lxd.remote, project, instance: instance.name }, instance });
      if (one !== undefined) picked.push(one);
    }
    yield* picked;
  }
}

/** An object as LXD returns it, with whatever fields LXD gives it. */
export type LxdObject = Record<string, unknown>;

/** An instance as LXD returns it, with its project and its remote (`location`). */
export type LxdInstance = LxdObject & { name: string; project: string; location: string };

/** Lists every instance except those of running restores, with these keys of its configuration, profiles included. */
export async function recordedInstances(lxd: LxdClient, keys: string[], signal: AbortSignal): Promise<LxdInstance[]> {
  const recorded = ({ address: { project }, instance }: InventoryInstance): LxdInstance | undefined => {
    const { name, config, expanded_config } = instance;
    if (parseOwnName(name)) return undefined;
    return { name, project, location: lxd.remote, config: only(keys, { ...config, ...expanded_config }) };
  };
  return await Array.fromAsync(everyInstance(lxd, recorded, signal));
}

/** The configuration with these keys only. */
export function only(keys: string[], config: Config): Config {
  return Object.fromEntries(keys.flatMap((key) => (config[key] === undefined ? [] : [[key, config[key]]])));
}

interface ListedInstances {
  /** Default: all. */
  projects?: string[] | undefined;
  /** Adds state and snapshots. */
  full: boolean;
  /** List only instances after this one. */
  after?: { project: string; name: string } | undefined;
  /** Ends the list after the instance with which its JSON exceeds this size. Default: lists all. */
  bytes?: number;
}

/**
 * Lists instances by project and name. Omits LXD's own backups, because clients mean those in the store, and instances that a restore has not finished.
 * Reads LXD's answers item by item, and holds about twice `bytes` of them.
 */
export async function listInstances(
  lxd: LxdClient,
  { projects, full, after, bytes = Number.POSITIVE_INFINITY }: ListedInstances,
  signal: AbortSignal,
): Promise<LxdInstance[]> {
  const found: LxdInstance[] = [];
  let left = bytes;
  for (const project of (projects ?? (await projectNames(lxd, signal))).toSorted()) {
    if (left < 0) break;
    if (after && project < after.project) continue;
    const first = new FirstInstances(left);
    const query = { recursion: full ? '2' : '1', project };
    for await (const instance of lxd.items<LxdInstance>('/1.0/instances', query, signal)) {
      if (parseOwnName(instance.name) || (after?.project === project && instance.name <= after.name)) continue;
      first.add(shown(instance, lxd.remote, project));
    }
    found.push(...first.take());
    left -= first.bytes;
  }
  return found;
}

/** The list is sorted and cut only after this many more bytes, because sorting it after every item would take long. */
const slackBytes = 4 * 1024 * 1024;

/** Keeps the first instances by name, up to the one with which they exceed a size. */
class FirstInstances {
  readonly #limit: number;
  #items: { instance: LxdInstance; bytes: number }[] = [];
  bytes = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  add(instance: LxdInstance): void {
    const bytes = Buffer.byteLength(JSON.stringify(instance));
    this.#items.push({ instance, bytes });
    this.bytes += bytes;
    if (this.bytes > this.#limit + Math.max(this.#limit, slackBytes)) this.#cut();
  }

  take(): LxdInstance[] {
    this.#cut();
    return this.#items.map(({ instance }) => instance);
  }

  #cut(): void {
    this.#items.sort((a, b) => (a.instance.name < b.instance.name ? -1 : 1));
    this.bytes = 0;
    let count = 0;
    while (count < this.#items.length && this.bytes <= this.#limit) this.bytes += this.#items[count++]?.bytes ?? 0;
    this.#items.length = count;
  }
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
