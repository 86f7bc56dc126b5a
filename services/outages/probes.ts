/** Probes: requests that show whether S3, LXD and NATS serve us. */
import { isCode, LxstowError } from '../contract/errors.ts';
import type { LxdClient } from '../lxd/connection/client.ts';
import { mistrust } from '../lxd/instances.ts';
import { Bucket } from '../nats/bucket/bucket.ts';
import type { Nats } from '../nats/connection.ts';
import { operationsBucket } from '../nats/streams.ts';
import type { ObjectStore } from '../storage/objectStore.ts';
import type { Log } from '../telemetry/logger.ts';
import { mayBeOfWrites } from './blame.ts';

const startTimeoutMs = 10_000;

/** S3 lets us read, but not write. */
export class WritesRefused extends LxstowError {}

interface Question {
  /** Also tries a write. Only after a write was refused: each costs a request and, in a versioned bucket, a version. */
  writes: boolean;
}

/**
 * Throws the reason, as a LxstowError, if the dependency does not serve us. Returns a value that changes with each start of it, if it has one. May
 * reject with the signal's reason.
 */
export type Probe = (signal: AbortSignal, question: Question) => Promise<string | undefined>;

/** Lists objects; if a write is wanted, also creates the object `key` and deletes it. */
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
    // An earlier probe's object could not be deleted.
    if (!isCode(error, 'conflict')) throw error;
  }
  await store.remove(key, signal).catch((error) => {
    // Backups need no permission to delete.
    if (!isCode(error, 's3-denied')) throw error;
  });
}

/** Probes S3 when the program starts. Throws if it refuses us, which will not change by itself; one that is not up yet may come. */
export async function probeAtStart(store: Pick<ObjectStore, 'probe'>, log: Log): Promise<void> {
  await store.probe(AbortSignal.timeout(startTimeoutMs)).catch((error) => {
    if (!isCode(error, 's3-unavailable') && (error as Error).name !== 'TimeoutError') throw error;
    log.warn('the object store does not answer yet', { error });
  });
}

/** Asks LXD whether it trusts us: LXD also answers clients that it does not trust. */
export function probeOfLxd(lxd: LxdClient): Probe {
  return async (signal) => {
    const { auth, environment } = await lxd.get<{ auth?: string; environment?: { server_pid?: number } }>(
      '/1.0',
      {},
      signal,
    );
    if (auth !== undefined && auth !== 'trusted') throw mistrust(lxd);
    return environment?.server_pid === undefined ? undefined : String(environment.server_pid);
  };
}

/** Asks NATS's JetStream for a record, as each job does: a connection alone may lack JetStream or rights. */
export function probeOfNats(nats: Nats): () => Promise<void> {
  const operations = new Bucket(nats, operationsBucket, 0);
  return async () => {
    nats.assertConnected();
    await operations.get('=readiness');
  };
}
