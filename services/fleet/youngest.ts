/** The youngest backup of each instance that the store has, by one listing and about one manifest each. */
import { listPrefix, type Part, parseManifestKey } from '../backups/keys.ts';
import { parseManifest } from '../backups/manifest.ts';
import { mapInOrder } from '../concurrency/orderedMap.ts';
import { isCode } from '../contract/errors.ts';
import type { Address, BackupAddress, GoodBackup, Manifest } from '../contract/schemas.ts';
import { instanceKey } from '../nats/bucketKeys.ts';
import type { ObjectStore } from '../storage/objectStore.ts';

const readsInFlight = 16;

interface Candidate {
  address: BackupAddress;
  key: string;
  /** Times in ms. It was made in between: not before its name says, nor after its manifest was last written. */
  earliest: number;
  latest: number;
}

export interface Youngest {
  address: Address;
  good: GoodBackup;
}

/** What a record says of a backup. */
export function goodOf({ backup, archive }: Manifest): GoodBackup {
  return { backup: backup.name, at: backup.created, size: archive.size };
}

/**
 * Of each instance of a remote, or of the one that `of` names, by key. A manifest that cannot be read counts for nothing. Backups that were
 * made or deleted meanwhile may be in it or not.
 */
export async function youngestBackups(
  store: ObjectStore,
  prefix: string,
  of: Part,
  signal: AbortSignal,
): Promise<Map<string, Youngest>> {
  const candidates = new Map<string, Candidate[]>();
  for await (const { key, modified } of store.list(listPrefix(prefix, of), signal)) {
    const address = parseManifestKey(prefix, key);
    if (!address) continue;
    const latest = Date.parse(modified);
    const named = timeOfName(address.backup);
    // What people call a backup may say anything.
    const candidate = { address, key, latest, earliest: named <= latest ? named : Number.NEGATIVE_INFINITY };
    const instance = instanceKey(address);
    candidates.set(instance, contenders(candidates.get(instance) ?? [], candidate));
  }
  const found = new Map<string, Youngest>();
  const read = async (each: Candidate[]) => youngestOf(each, (candidate) => readGood(store, candidate, signal));
  for await (const youngest of mapInOrder(values(candidates), readsInFlight, read))
    if (youngest) found.set(instanceKey(youngest.address), youngest);
  return found;
}

/** Those that can be the youngest: an instance of a thousand backups keeps one or two. */
function contenders(before: Candidate[], candidate: Candidate): Candidate[] {
  if (before.some(({ earliest }) => earliest > candidate.latest)) return before;
  return [...before.filter(({ latest }) => latest >= candidate.earliest), candidate];
}

async function youngestOf(
  candidates: Candidate[],
  read: (candidate: Candidate) => Promise<GoodBackup | undefined>,
): Promise<Youngest | undefined> {
  let found: Youngest | undefined;
  for (const candidate of candidates.sort((a, b) => b.latest - a.latest)) {
    if (found && Date.parse(found.good.at) >= candidate.latest) break;
    const good = await read(candidate);
    if (!good || (found && found.good.at >= good.at)) continue;
    const { backup: _, ...address } = candidate.address;
    found = { address, good };
  }
  return found;
}

async function readGood(
  store: ObjectStore,
  { key, address }: Candidate,
  signal: AbortSignal,
): Promise<GoodBackup | undefined> {
  try {
    return goodOf(parseManifest((await store.read(key, signal)).body, address));
  } catch (error) {
    if (isCode(error, 'not-found') || isCode(error, 'bad-manifest')) return undefined;
    throw error;
  }
}

/** When the backup was asked for, in ms; of a name that lxstow has not made, long ago. */
function timeOfName(name: string): number {
  const [, date, hour, minute, second] = /^backup_(\d{4}-\d\d-\d\d)-(\d\d)-(\d\d)(\d\d)\b/.exec(name) ?? [];
  const time = date === undefined ? Number.NaN : Date.parse(`${date}T${hour}:${minute}:${second}Z`);
  return Number.isNaN(time) ? Number.NEGATIVE_INFINITY : time;
}

async function* values<T>(map: Map<string, T>): AsyncGenerator<T> {
  yield* map.values();
}
