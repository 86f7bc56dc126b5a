/** Backups that were deleted, but that the bucket still keeps as old versions. */
import { mapInOrder } from '../concurrency/orderedMap.ts';
import { minuteText } from '../contract/durations.ts';
import { unlessCode, unlessMissing } from '../contract/errors.ts';
import type { BackupAddress, Manifest } from '../contract/schemas.ts';
import type { ObjectStore } from '../storage/objectStore.ts';
import type { S3Connection } from '../storage/s3/s3Connection.ts';
import { type DeletedObject, deletedObjects, readVersion } from '../storage/s3/versions.ts';
import { archiveKey, listPrefix, manifestKey, parseArchiveKey, parseManifestKey } from './keys.ts';
import { parseManifest } from './manifest.ts';
import { lockedUntil } from './protection.ts';

export interface DeletedBackup {
  address: BackupAddress;
  /** When the last of its objects was deleted. */
  deleted: string;
  /** Bytes of the archive. */
  size: number;
  /** The objects that a delete marker hides: the archive, then the manifest, which makes it a backup. */
  objects: DeletedObject[];
  /** Why it is certain that lxstow did not delete it; undefined if lxstow may have. */
  foreign: string | undefined;
}

interface Tools {
  s3: S3Connection;
  store: ObjectStore;
  prefix: string;
}

interface Group {
  address: BackupAddress;
  manifest?: DeletedObject;
  archive?: DeletedObject;
}

const readsInFlight = 16;

/** All deleted backups that are complete, of all hosts. Throws s3-denied if the credentials do not allow to list old versions. */
export async function deletedBackups(tools: Tools, signal: AbortSignal): Promise<DeletedBackup[]> {
  const { s3, prefix } = tools;
  const groups = new Map<string, Group>();
  for await (const object of deletedObjects(s3, listPrefix(prefix, {}), signal)) {
    const described = parseManifestKey(prefix, object.key);
    const address = described ?? parseArchiveKey(prefix, object.key);
    if (!address) continue;
    const key = archiveKey(prefix, address);
    const known = groups.get(key) ?? { address };
    groups.set(key, { ...known, ...(described ? { manifest: object } : { archive: object }) });
  }
  const found: DeletedBackup[] = [];
  for await (const each of mapInOrder(groups.values(), readsInFlight, (group) => describe(group, tools, signal)))
    if (each) found.push(each);
  return found;
}

/** Undefined if the backup could not be restored. */
async function describe(group: Group, tools: Tools, signal: AbortSignal): Promise<DeletedBackup | undefined> {
  const { address, manifest: hidden, archive } = group;
  const manifest = await manifestOf(group, tools, signal);
  if (!manifest) return undefined;
  const key = archiveKey(tools.prefix, address);
  const etag = archive ? archive.etag : (await unlessMissing(() => tools.store.stat(key, signal)))?.etag;
  if (etag !== manifest.archive.etag) return undefined;
  const objects = [archive, hidden].filter((each) => each !== undefined);
  const deleted =
    objects
      .map((each) => each.deleted)
      .sort()
      .at(-1) ?? '';
  return { address, deleted, size: manifest.archive.size, objects, foreign: whyForeign(manifest, group) };
}

async function manifestOf(
  { address, manifest }: Group,
  { s3, store, prefix }: Tools,
  signal: AbortSignal,
): Promise<Manifest | undefined> {
  const read = () => (manifest ? readVersion(s3, manifest, signal) : store.read(manifestKey(prefix, address), signal));
  return unlessCode(['not-found', 'bad-manifest'], async () => parseManifest((await read()).body, address));
}

/** lxstow deletes neither what is locked or pinned, nor one of a backup's objects alone. */
function whyForeign(found: Manifest, { manifest, archive }: Group): string | undefined {
  const until = lockedUntil(found);
  if (until !== undefined) return `locked until ${minuteText(until)}`;
  if (found.backup.pinned) return 'pinned';
  if (!archive) return 'only its manifest was deleted';
  return manifest ? undefined : 'only its archive was deleted';
}
