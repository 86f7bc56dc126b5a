/** Leftovers in the object store: uploads that no operation will complete, and archives without a manifest. */
import { etagAt } from '../backups/archives.ts';
import { archiveKey, listPrefix, manifestKey, parseArchiveKey, parseManifestKey } from '../backups/keys.ts';
import { mapInOrder } from '../concurrency/orderedMap.ts';
import { unlessMissing } from '../contract/errors.ts';
import type { BackupAddress } from '../contract/schemas.ts';
import { parseRecord } from '../nats/bucket/bucket.ts';
import { claimKey } from '../nats/bucketKeys.ts';
import type { ObjectStore, OpenUpload, StoredObject } from '../storage/objectStore.ts';
import { looksInFlight } from './inLxd.ts';
import type { Leftover, SearchTools } from './leftoverTypes.ts';

export async function* uploads(tools: SearchTools): AsyncGenerator<Leftover> {
  const { store, owners, prefix, remote, checkpoints, bucket, signal } = tools;
  const found = new Map<string, OpenUpload>();
  const all = listPrefix(prefix, { remote });
  for await (const upload of store.listUploads(all, signal)) found.set(upload.uploadId, upload);
  // MinIO lists some uploads only by their exact key.
  const exact = async (key: string) =>
    (await Array.fromAsync(store.listUploads(key, signal))).filter((upload) => upload.key === key);
  const keys = new Set(owners.archiveKeys(Date.now()));
  // Versions up to 0.1 wrote `start`.
  for (const name of ['begin', 'start'])
    for (const { value } of await checkpoints.entries(`${remote}.*.${name}`)) {
      const { upload } = parseRecord<{ upload?: { key?: string } }>(value);
      if (upload?.key?.startsWith(all)) keys.add(upload.key);
    }
  for await (const there of mapInOrder(keys, looksInFlight, exact))
    for (const upload of there) found.set(upload.uploadId, upload);

  for (const upload of found.values()) {
    const { key, uploadId, initiated } = upload;
    const address = parseArchiveKey(prefix, key);
    if (!address) continue;
    const ownerNow = () => owners.ofBackup(address, key, 'upload');
    const owner = await ownerNow();
    if (owner.state === 'living') continue;
    yield {
      kind: 'upload',
      what: key,
      where: `s3://${bucket}`,
      since: new Date(initiated),
      owner,
      address,
      ownerNow,
      async remove(removing) {
        // Listings may contain uploads that are gone.
        let there = false;
        for await (const open of store.listUploads(key, removing)) there ||= open.uploadId === uploadId;
        if (there) await store.abortUpload(upload, removing);
        return there;
      },
    };
  }
}

export async function* archives(tools: SearchTools): AsyncGenerator<Leftover> {
  const { store, owners, prefix, remote, bucket, leasesBucket, bareArchives, signal } = tools;
  const bare = await bareObjects(store, prefix, remote, signal);
  rememberBare(
    bareArchives,
    bare.map(({ object }) => object),
  );
  for (const { object, address } of bare) {
    const { key } = object;
    const ownerNow = () => owners.ofBackup(address, key, 'archive');
    const owner = await ownerNow();
    if (owner.state === 'living') bareArchives.delete(idOf(object));
    if (owner.state === 'living' || !(await isOurs(object, tools))) continue;
    const bareSince = bareArchives.get(idOf(object));
    yield {
      kind: 'archive',
      what: key,
      where: `s3://${bucket}`,
      since: new Date(object.modified),
      ...(bareSince && { bareSince }),
      owner,
      address,
      ownerNow,
      async remove(removing) {
        if (await etagAt(store, manifestKey(prefix, address), removing)) return false;
        if ((await leasesBucket.keys(claimKey(address, address.backup, '*'))).length > 0) return false;
        if ((await etagAt(store, key, removing)) !== object.etag) return false;
        await store.remove(key, removing);
        return true;
      },
    };
  }
}

/** The archives without a manifest. Keeps nothing of the others, however many there are: a manifest is listed after its archive. */
async function bareObjects(
  store: ObjectStore,
  prefix: string,
  remote: string,
  signal: AbortSignal,
): Promise<{ object: StoredObject; address: BackupAddress }[]> {
  const bare = new Map<string, StoredObject>();
  for await (const object of store.list(listPrefix(prefix, { remote }), signal)) {
    const described = parseManifestKey(prefix, object.key);
    if (described) bare.delete(archiveKey(prefix, described));
    else if (parseArchiveKey(prefix, object.key)) bare.set(object.key, object);
  }
  return [...bare.values()].flatMap((listed) => {
    // Copy it: its strings are slices, which keep the whole page of the listing in memory.
    const object = structuredClone(listed);
    const address = parseArchiveKey(prefix, object.key);
    return address ? { object, address } : [];
  });
}

/** Adds the archives that were not without a manifest before, and forgets those that are no longer. */
function rememberBare(since: Map<string, Date>, found: StoredObject[]): void {
  const now = new Date();
  const before = new Map(since);
  since.clear();
  for (const object of found) since.set(idOf(object), before.get(idOf(object)) ?? now);
}

function idOf({ key, etag }: StoredObject): string {
  return `${key} ${etag}`;
}

/** Our archives are made of parts, which the ETag shows, or name the operation that made them. Another object, put in one piece, is not ours. */
async function isOurs({ key, etag }: StoredObject, { store, signal }: SearchTools): Promise<boolean> {
  return /-\d+$/.test(etag) || (await unlessMissing(() => store.stat(key, signal)))?.operation !== undefined;
}
