/** The questions by which a worker finds out whether S3 and LXD serve it. */
import { isCode, LxstowError } from '../contract/errors.ts';
import type { LxdClient } from '../lxd/client.ts';
import type { ObjectStore } from '../storage/objectStore.ts';
import { mayBeOfWrites } from './blame.ts';

/** S3 lets us read, but not write. */
export class WritesRefused extends LxstowError {}

export interface Question {
  /** Whether a write is tried, too: only after one was refused, for each costs a request and, in a bucket with versions, a version. */
  writes: boolean;
}

/**
 * Throws, in our words, why it does not serve us. Returns what is another after each start of it, where that can be known. May reject with the
 * signal's reason.
 */
export type Probe = (signal: AbortSignal, question: Question) => Promise<string | undefined>;

/** Lists; and where writes are asked for, makes the object `key` and deletes it. */
export function probeOfS3(store: ObjectStore, key: string): Probe {
  return async (signal, { writes }) => {
    await store.probe(signal);
    if (writes) await tryToWrite(store, key, signal);
    return undefined;
  };
}

async function tryToWrite(store: ObjectStore, key: string, signal: AbortSignal): Promise<void> {
  try {
    await store.create(key, Buffer.from('lxstow asks whether it may write\n'), { contentType: 'text/plain' }, signal);
  } catch (error) {
    if (error instanceof LxstowError && mayBeOfWrites(error.code))
      throw new WritesRefused(error.code, error.message, { cause: error });
    // The one before could not be deleted.
    if (!isCode(error, 'conflict')) throw error;
  }
  await store.remove(key, signal).catch((error) => {
    // Backups need no right to delete.
    if (!isCode(error, 's3-denied')) throw error;
  });
}

interface Server {
  auth?: string;
  environment?: { server_pid?: number };
}

/** Asks who LXD says that we are: to a certificate that it does not know LXD answers too, but does nothing for it. */
export function probeOfLxd(lxd: LxdClient): Probe {
  return async (signal) => {
    const { auth, environment } = await lxd.get<Server>('/1.0', {}, signal);
    if (auth !== undefined && auth !== 'trusted')
      throw new LxstowError('lxd-refused', `LXD (${lxd.remote}) does not trust our certificate`);
    return environment?.server_pid === undefined ? undefined : String(environment.server_pid);
  };
}
