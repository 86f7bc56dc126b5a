/** Finds the manifests of many backups in the bucket, with several listings at a time. */
import { mapInOrder } from '../concurrency/orderedMap.ts';
import type { BackupAddress } from '../contract/schemas.ts';
import type { ObjectStore, StoredObject } from '../storage/objectStore.ts';
import { type BackupScope, keyOfCursor, listPrefix, parseManifestKey, prefixesOf } from './keys.ts';

export interface ManifestEntry {
  address: BackupAddress;
  object: StoredObject;
}

/** Objects in one answer of S3 to a listing. */
const pageLength = 1000;
/** A store lists one page after the other, but several listings at a time: three times as fast on MinIO with two cores. */
const listsInFlight = 4;
/** Manifests of a piece that are kept until the pieces before it are done. */
const mostAhead = 16_000;
const fewestPieces = 16;
/** Folders of one piece: with 100 backups each, not many more manifests than are read ahead. */
const foldersOfPiece = 400;
/** Levels of folders: hosts, projects, instances. */
const instanceLevel = 3;

/** Yields the manifests of these backups, in the order of the store's listing. Lists more than one page in pieces, several at a time. */
export async function* listManifests(
  store: ObjectStore,
  prefix: string,
  of: BackupScope,
  signal: AbortSignal,
): AsyncGenerator<ManifestEntry> {
  const first: StoredObject[] = [];
  for await (const object of store.list(listPrefix(prefix, of), signal)) {
    first.push(object);
    if (first.length === pageLength) break;
  }
  const entriesOf = async function* (objects: Iterable<StoredObject> | AsyncIterable<StoredObject>) {
    for await (const object of objects) {
      const address = parseManifestKey(prefix, object.key);
      if (address && (of.project ?? address.project) === address.project) yield { address, object };
    }
  };
  const pieces = first.length < pageLength ? [] : await piecesOf(store, prefix, of, signal);
  if (pieces.length === 0) return yield* entriesOf(first);
  await using opened = new AsyncDisposableStack();
  // List the first page again: a backup that has changed since then is yielded once, as it is now.
  const listed = mapInOrder(pieces, listsInFlight, async (piece) => {
    const rest = opened.use(entriesOf(store.list(piece, signal)));
    const ahead: ManifestEntry[] = [];
    while (ahead.length < mostAhead) {
      const next = await rest.next();
      if (next.done) break;
      ahead.push(next.value);
    }
    return { ahead, rest };
  });
  for await (const { ahead, rest } of listed) {
    yield* ahead;
    yield* rest;
  }
}

/** Prefixes that together match all keys of these backups. */
async function piecesOf(store: ObjectStore, prefix: string, of: BackupScope, signal: AbortSignal): Promise<string[]> {
  const whole = [listPrefix(prefix, of)];
  const { remote, project, instance } = of;
  const named = [remote, remote && project, remote && project && instance].filter((word) => word !== undefined).length;
  let folders = whole;
  for (let level = named; level < instanceLevel && folders.length < fewestPieces; level++) {
    const below: string[] = [];
    for (const folder of folders) for await (const name of store.folders(folder, signal)) below.push(name);
    folders = below;
  }
  return prefixesOf(folders, Math.max(fewestPieces, Math.ceil(folders.length / foldersOfPiece))) ?? whole;
}

/** Yields the manifests of these backups after a cursor, in the order of the store's listing, and asks the store for about `count` of them at most. */
export async function* manifestsBehind(
  store: ObjectStore,
  prefix: string,
  of: BackupScope,
  { after, count }: { after: string | undefined; count: number },
  signal: AbortSignal,
): AsyncGenerator<ManifestEntry> {
  // Each backup has an archive and a manifest.
  const options = { atOnce: 2 * count };
  const start = after === undefined ? undefined : keyOfCursor(prefix, of, after);
  for (const scope of await scopesOf(store, prefix, of, signal)) {
    const folder = listPrefix(prefix, scope);
    // SeaweedFS orders folders by their names, without the slash.
    const isBefore = start !== undefined && !start.startsWith(folder) && scope !== of && folder < start;
    if (isBefore) continue;
    const from = start?.startsWith(folder) || scope === of ? { ...options, after: start } : options;
    for await (const object of store.list(folder, signal, from)) {
      const address = parseManifestKey(prefix, object.key);
      if (address) yield { address, object };
    }
  }
}

/** Splits a scope into scopes whose keys have a common prefix: a project of all hosts becomes one scope for each host, by name. */
async function scopesOf(
  store: ObjectStore,
  prefix: string,
  of: BackupScope,
  signal: AbortSignal,
): Promise<BackupScope[]> {
  if (of.remote !== undefined || of.project === undefined) return [of];
  const root = listPrefix(prefix, {});
  const remotes: string[] = [];
  for await (const folder of store.folders(root, signal)) remotes.push(folder.slice(root.length, -1));
  return remotes
    .filter((remote) => !remote.startsWith('.'))
    .sort((a, b) => (`${a}/` < `${b}/` ? -1 : 1))
    .map((remote) => ({ ...of, remote }));
}

/** A backup's cursor in a list; with its host and project if the list has several. */
export function cursorOf({ remote, project, instance, backup }: BackupAddress, of: BackupScope): string {
  const own = `${instance}/${backup}`;
  return of.remote === undefined || of.project === undefined ? `${remote}/${project}/${own}` : own;
}
