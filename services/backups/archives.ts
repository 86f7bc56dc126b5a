/** Checks and reads a backup's archive in the object store by its manifest. */
import { isCode, LxstowError, unlessMissing } from '../contract/errors.ts';
import type { BackupAddress, ManifestArchive } from '../contract/schemas.ts';
import type { ObjectStore } from '../storage/objectStore.ts';

/** Compares size and ETag with the manifest, without reading the archive: finds damage before a transfer begins. Throws archive-corrupt. */
export async function checkArchive(
  archive: ManifestArchive,
  from: BackupAddress,
  key: string,
  store: ObjectStore,
  signal: AbortSignal,
): Promise<void> {
  const { size, etag } = await store.stat(key, signal).catch((error) => explain(error, from));
  const which = `the archive of ${from.instance}/${from.backup}`;
  if (size !== archive.size)
    throw new LxstowError('archive-corrupt', `${which} has ${size} bytes, but its manifest says ${archive.size}`);
  if (etag !== archive.etag)
    throw new LxstowError(
      'archive-corrupt',
      `${which} was replaced: its ETag is ${etag}, the manifest says ${archive.etag}`,
    );
}

/** Fills `into` with the archive's bytes from `start` on. Throws archive-corrupt when the archive is gone or was replaced. */
export async function readArchive(
  { etag }: ManifestArchive,
  from: BackupAddress,
  key: string,
  store: ObjectStore,
  start: number,
  into: Buffer,
  signal: AbortSignal,
): Promise<void> {
  await store.readRange(key, etag, start, into, signal).catch((error) => explain(error, from));
}

function explain(error: unknown, { instance, backup }: BackupAddress): never {
  if (isCode(error, 'not-found') || isCode(error, 'conflict')) {
    throw new LxstowError(
      'archive-corrupt',
      `the archive of ${instance}/${backup} is gone or was replaced: ${(error as Error).message}`,
      { cause: error },
    );
  }
  throw error;
}

/** The ETag of the object under a key; undefined when there is none. */
export async function etagAt(store: ObjectStore, key: string, signal: AbortSignal): Promise<string | undefined> {
  return (await unlessMissing(() => store.stat(key, signal)))?.etag;
}
