/** Compares the records of a remote with its instances in LXD and its backups in the store, and writes only what differs. */
import { isDeepStrictEqual } from 'node:util';
import { forEach } from '../concurrency/orderedMap.ts';
import type { Address, InstanceRecord, NamedInstance, SeenInstance } from '../contract/schemas.ts';
import type { LxdInstance } from '../lxd/inventory.ts';
import { instanceKey } from '../nats/bucketKeys.ts';
import { instanceKeepOf, keepKeys } from '../retention/instanceKeys.ts';
import { excludeKey, excludesItself, scheduleKey, schedulesOf } from '../runs/selector.ts';
import type { ObjectStore } from '../storage/objectStore.ts';
import type { FleetStore, StoredRecord } from './fleetStore.ts';
import { withSeen, withYoungest } from './instanceRecord.ts';
import { youngestBackups } from './youngest.ts';

const uuidKey = 'volatile.uuid';
/** The keys of LXD's configuration that records contain. */
export const recordedKeys = [uuidKey, excludeKey, scheduleKey, ...keepKeys];

const writesInFlight = 64;
/** How long the record of a deleted instance without backups stays. */
const forgottenAfterMs = 7 * 24 * 3_600_000;

/**
 * Records which instances exist, which are gone, and which were renamed. Returns how many records changed. Skips an instance that is missing while a
 * job `isAtWork` on it, which may be replacing it: the next inventory looks again.
 */
export async function compareInstances(
  fleet: FleetStore,
  remote: string,
  list: () => Promise<LxdInstance[]>,
  isAtWork: (address: Address) => Promise<boolean>,
): Promise<number> {
  // Read the records first: an instance whose record is newer than the list is not gone.
  const records = await fleet.recordsOf(remote);
  const at = new Date().toISOString();
  const present = new Map<string, { address: Address; seen: SeenInstance }>();
  for (const instance of await list()) {
    const address = { remote, project: instance.project, instance: instance.name };
    present.set(instanceKey(address), { address, seen: seenOf(instance, at) });
  }
  const changes = sightings(records, present, at);
  let written = 0;
  const write = async ({ address, seen }: Sighting) => {
    if (seen.gone === at && (await isAtWork(address))) return;
    await fleet.change(address, (record) => withSeen(record, seen, new Date(at)));
    written++;
  };
  await forEach(changes, writesInFlight, write);
  const forgotten = [...records].filter(([key, { record }]) => !present.has(key) && isForgotten(record));
  for (const [, stored] of forgotten) await fleet.forget(stored);
  return written + forgotten.length;
}

interface Sighting {
  address: Address;
  seen: SeenInstance;
}

/** The sightings that are new to the records. Pure. */
export function sightings(
  records: ReadonlyMap<string, { address: Address; record: InstanceRecord }>,
  present: ReadonlyMap<string, Sighting>,
  at: string,
): Sighting[] {
  const absent = [...records].filter(([key]) => !present.has(key)).map(([, stored]) => stored);
  const formerly = new Map(absent.flatMap(({ address, record }) => byUuid(record.seen, address)));
  const nowadays = new Map([...present.values()].flatMap(({ address, seen }) => byUuid(seen, address)));
  const here = [...present].flatMap(([key, { address, seen }]) => {
    const before = records.get(key)?.record.seen;
    const same = before && !before.gone && before.uuid === seen.uuid;
    const was = same ? before.was : formerly.get(seen.uuid ?? '');
    return news(address, before, { ...seen, ...(was && { was }) });
  });
  const gone = absent.flatMap(({ address, record: { seen } }) => {
    const renamed = nowadays.get(seen?.uuid ?? '') ?? seen?.renamed;
    const { at: _, ...before } = seen ?? { at, excluded: false };
    return news(address, seen, { ...before, at, gone: seen?.gone ?? at, ...(renamed && { renamed }) });
  });
  return [...here, ...gone];
}

function news(address: Address, before: SeenInstance | undefined, seen: SeenInstance): Sighting[] {
  return isDeepStrictEqual({ ...before, at: '' }, { ...seen, at: '' }) ? [] : [{ address, seen }];
}

function byUuid(seen: SeenInstance | undefined, { project, instance }: Address): [string, NamedInstance][] {
  return seen?.uuid ? [[seen.uuid, { project, instance }]] : [];
}

function seenOf(instance: LxdInstance, at: string): SeenInstance {
  const { config, expanded_config } = instance;
  const all = { ...(config as Record<string, string>), ...(expanded_config as Record<string, string>) };
  const uuid = all[uuidKey];
  const schedules = schedulesOf(instance);
  const keep = instanceKeepOf(all);
  const excluded = excludesItself(instance);
  return { at, excluded, ...(schedules.length > 0 && { schedules }), ...(uuid && { uuid }), ...(keep && { keep }) };
}

function isForgotten({ seen, good }: InstanceRecord): boolean {
  return !good && seen?.gone !== undefined && Date.now() - Date.parse(seen.gone) > forgottenAfterMs;
}

/** Records each instance's youngest backup in the store. Returns how many records changed. */
export async function compareBackups(
  fleet: FleetStore,
  remote: string,
  { store, prefix }: { store: ObjectStore; prefix: string },
  signal: AbortSignal,
): Promise<number> {
  const records = await fleet.recordsOf(remote);
  const found = await youngestBackups(store, prefix, { remote }, signal);
  const known = [...records.values()];
  const unknown = [...found].filter(([key]) => !records.has(key)).map(([, { address }]) => address);
  const stored: StoredRecord[] = [
    ...known,
    ...unknown.map((address) => ({ address, record: {} as InstanceRecord, revision: 0 })),
  ];
  let count = 0;
  const write = async ({ address, record, revision }: StoredRecord) => {
    const next = withYoungest(record, found.get(instanceKey(address))?.good);
    if (isDeepStrictEqual(next.good, record.good)) return;
    // A record that has changed since may be newer than the listing.
    if (await fleet.replace({ address, revision }, next)) count++;
    else await correct(fleet, address, { store, prefix }, signal);
  };
  await forEach(stored, writesInFlight, write);
  return count;
}

/** The same for one instance, with a listing of its own. Repeats if another process changes its record first. */
async function correct(
  fleet: FleetStore,
  address: Address,
  { store, prefix }: { store: ObjectStore; prefix: string },
  signal: AbortSignal,
): Promise<void> {
  await fleet.change(address, async (record) => {
    const found = await youngestBackups(store, prefix, address, signal);
    return withYoungest(record, found.get(instanceKey(address))?.good);
  });
}
