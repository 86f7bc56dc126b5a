/** Finds the youngest stored backup of each instance, with one listing and about one manifest an instance. */
import { type BackupScope, listPrefix, parseManifestKey } from '../backups/keys.ts';
import { parseManifest } from '../backups/manifest.ts';
import { mapInOrder } from '../concurrency/orderedMap.ts';
import { isAhead } from '../contract/durations.ts';
import { unlessCode } from '../contract/errors.ts';
import type { Address, BackupAddress, GoodBackup, Manifest } from '../contract/schemas.ts';
import { instanceKey } from '../nats/bucketKeys.ts';
import type { ObjectStore } from '../storage/objectStore.ts';
import { isLater } from './instanceRecord.ts';

const readsInFlight = 16;

interface Candidate {
  address: BackupAddress;
  key: string;
  /** Times in ms: the backup was made between the time in its name and the last write of its manifest. */
  earliest: number;
  latest: number;
}

interface Youngest {
  address: Address;
  good: GoodBackup;
}

/** The fields of a backup that a record has. */
export function goodOf({ backup, archive }: Manifest): GoodBackup {
  return { backup: backup.name, at: backup.created, size: archive.size };
}

/**
 * The youngest backup of each instance of a host, or of the one that `of` names, by key. Manifests that cannot be read are left out. A backup that is
 * made or deleted during the listing may be included or not. One that is ahead of now comes from a wrong clock, and counts only if there is no other.
 */
export async function youngestBackups(
  store: ObjectStore,
  prefix: string,
  of: BackupScope,
  signal: AbortSignal,
  now = new Date(),
): Promise<Map<string, Youngest>> {
  const candidates = new Map<string, Candidate[]>();
  for await (const { key, modified } of store.list(listPrefix(prefix, of), signal)) {
    const address = parseManifestKey(prefix, key);
    if (!address) continue;
    const latest = Date.parse(modified);
    const named = timeOfName(address.backup);
    // A name that a person gave may contain any time.
    const candidate = { address, key, latest, earliest: named <= latest ? named : Number.NEGATIVE_INFINITY };
    const instance = instanceKey(address);
    candidates.set(instance, contenders(candidates.get(instance) ?? [], candidate, now));
  }
  const found = new Map<string, Youngest>();
  const read = async (each: Candidate[]) => youngestOf(each, now, (candidate) => readGood(store, candidate, signal));
  for await (const youngest of mapInOrder(values(candidates), readsInFlight, read))
    if (youngest) found.set(instanceKey(youngest.address), youngest);
  return found;
}

/** The backups that can be the youngest: one or two of a thousand. */
function contenders(before: Candidate[], candidate: Candidate, now: Date): Candidate[] {
  if (before.some((each) => isYounger(each, candidate, now))) return before;
  return [...before.filter((each) => !isYounger(candidate, each, now)), candidate];
}

/** Whether one is younger than the other, whenever either was made. */
function isYounger(one: Candidate, other: Candidate, now: Date): boolean {
  const isAfter = one.earliest > other.latest;
  const otherIsAhead = isAhead(other.earliest, now);
  if (!isAhead(one.latest, now)) return isAfter || otherIsAhead;
  return isAfter && otherIsAhead;
}

async function youngestOf(
  candidates: Candidate[],
  now: Date,
  read: (candidate: Candidate) => Promise<GoodBackup | undefined>,
): Promise<Youngest | undefined> {
  let found: Youngest | undefined;
  for (const candidate of candidates.sort((a, b) => b.latest - a.latest)) {
    const foundMs = found ? Date.parse(found.good.at) : Number.NEGATIVE_INFINITY;
    if (foundMs >= candidate.latest && !isAhead(foundMs, now)) break;
    const good = await read(candidate);
    if (!good || (found && !isLater(good, found.good, now))) continue;
    const { backup: _, ...address } = candidate.address;
    found = { address, good };
  }
  return found;
}

function readGood(
  store: ObjectStore,
  { key, address }: Candidate,
  signal: AbortSignal,
): Promise<GoodBackup | undefined> {
  return unlessCode(['not-found', 'bad-manifest'], async () =>
    goodOf(parseManifest((await store.read(key, signal)).body, address)),
  );
}

/** The time in the backup's name, in ms; -Infinity for a name that lxstow did not make. */
function timeOfName(name: string): number {
  const [, date, hour, minute, second] = /^backup_(\d{4}-\d\d-\d\d)-(\d\d)-(\d\d)(\d\d)\b/.exec(name) ?? [];
  const time = date === undefined ? Number.NaN : Date.parse(`${date}T${hour}:${minute}:${second}Z`);
  return Number.isNaN(time) ? Number.NEGATIVE_INFINITY : time;
}

async function* values<T>(map: Map<string, T>): AsyncGenerator<T> {
  yield* map.values();
}
