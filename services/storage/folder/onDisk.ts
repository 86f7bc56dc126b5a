/** For a store on this host: a call that writes an object returns only once the object is on the disk. VersityGW alone leaves it in memory, where a power cut loses it. */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { isCode, LxstowError } from '../../contract/errors.ts';
import type { ObjectStore } from '../objectStore.ts';

const run = promisify(execFile);

/** How the error begins if an object could not be synced to the disk. */
export const notOnDisk = 'a new object may not be on the disk, because `sync -f` failed for';

/** Wraps the calls that make an object, and adds `flush`. */
export function onDisk<S extends Pick<ObjectStore, 'completeUpload' | 'create' | 'replace'>>(
  store: S,
  folder: string,
): S & Pick<ObjectStore, 'flush'> {
  return {
    ...store,
    flush: (signal) => sync(folder, signal),
    completeUpload: async (upload, parts, signal, over) =>
      synced(store.completeUpload(upload, parts, signal, over), folder, signal),
    create: async (key, body, options, signal) => synced(store.create(key, body, options, signal), folder, signal),
    replace: async (key, etag, body, options, signal) =>
      synced(store.replace(key, etag, body, options, signal), folder, signal),
  };
}

/** A refused write may be one whose answer was lost: the caller then recognises its object (storage/retrying.ts), so that must be on the disk, too. */
async function synced(call: Promise<string>, folder: string, signal: AbortSignal): Promise<string> {
  try {
    const etag = await call;
    await sync(folder, signal);
    return etag;
  } catch (error) {
    if (isCode(error, 'conflict') || isCode(error, 'not-found')) await sync(folder, signal);
    throw error;
  }
}

/** Node.js has no syncfs(2), which takes folders and attributes along; coreutils has. */
async function sync(folder: string, signal: AbortSignal): Promise<void> {
  try {
    await run('sync', ['-f', folder], { signal });
  } catch (error) {
    signal.throwIfAborted();
    // Do not retry: the kernel reports a disk error only once, and then takes the bytes as written.
    throw new LxstowError('s3-refused', `${notOnDisk} ${folder}: ${(error as Error).message}`, {
      cause: error,
    });
  }
}
