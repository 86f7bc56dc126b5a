/** S3 Object Lock: objects that cannot be removed for some time, or while they are held. */
import { isCode, LxstowError, unlessCode, unlessMissing } from '../contract/errors.ts';
import type { ObjectStore, Protection } from './objectStore.ts';
import type { S3Connection } from './s3/s3Connection.ts';
import { md5 } from './s3/s3Messages.ts';
import { isUnsupported } from './s3/s3Refusals.ts';
import { oldVersions, readVersion } from './s3/versions.ts';

/** Stores take these when an object is written, or its upload begun; with a completion MinIO refuses them. */
export function lockHeaders({ lock, held }: Protection, nowMs = Date.now()): Record<string, string> {
  // S3 refuses a time that has passed.
  const isLocked = lock && Date.parse(lock.until) > nowMs;
  return {
    ...(isLocked && {
      'x-amz-object-lock-mode': lock.mode.toUpperCase(),
      'x-amz-object-lock-retain-until-date': lock.until,
    }),
    ...(held && { 'x-amz-object-lock-legal-hold': 'ON' }),
  };
}

export function s3Locks(s3: S3Connection): Pick<ObjectStore, 'hold'> {
  async function put(key: string, status: 'ON' | 'OFF', signal: AbortSignal, versionId?: string): Promise<void> {
    const body = Buffer.from(
      `<LegalHold xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>${status}</Status></LegalHold>`,
    );
    const headers = { 'content-type': 'application/xml', 'content-md5': md5(body) };
    const query = { 'legal-hold': '', ...(versionId !== undefined && { versionId }) };
    const sent = s3.send({ method: 'PUT', key, query, headers, body, signal });
    await sent.catch((error) => explainNoLock({ held: true }, error));
  }
  return {
    async hold(key, held, signal, isToRelease) {
      await put(key, held ? 'ON' : 'OFF', signal);
      if (held || !isToRelease) return;
      await unlessCode(['s3-denied'], async () => {
        for await (const version of oldVersions(s3, key, signal)) {
          const old = await unlessMissing(() => readVersion(s3, { key, version }, signal));
          if (old && isToRelease(old.body)) await put(key, 'OFF', signal, version);
        }
      });
    },
  };
}

/**
 * Throws if the bucket has no Object Lock: Garage accepts the headers of a lock, but keeps no lock. Without the right to check this
 * (s3:GetBucketObjectLockConfiguration), lxstow relies on the answer to the write.
 */
export async function assertLocks(s3: S3Connection, { lock, held }: Protection, signal: AbortSignal): Promise<void> {
  if (!(lock || held) || locking.has(s3)) return;
  const asked = { method: 'GET' as const, query: { 'object-lock': '' }, signal };
  const state = await s3.ask('ObjectLockConfiguration', asked).then(
    ({ ObjectLockEnabled: state }) => state,
    (error) => {
      if (isCode(error, 's3-denied')) return 'unknown';
      if (isCode(error, 'not-found')) return undefined;
      return explainNoLock({ lock, held }, error);
    },
  );
  if (state === 'Enabled') locking.add(s3);
  else if (state !== 'unknown') throw new LxstowError('s3-refused', noLock);
}

/** Connections that need not ask again, because no bucket loses its Object Lock. */
const locking = new WeakSet<S3Connection>();

const noLock = 'the bucket has no Object Lock, which must be enabled when a bucket is created (docs/s3.md)';

/** Throws the error of a write that asked for protection; says what is wrong if the bucket cannot provide it. */
export function explainNoLock({ lock, held }: Protection, error: unknown): never {
  // SeaweedFS says no more than InvalidRequest.
  const isAbout =
    isUnsupported(error) ||
    (isCode(error, 's3-refused') && /object ?lock|InvalidRequest/i.test((error as Error).message));
  if (!isAbout || !(lock || held)) throw error;
  throw new LxstowError('s3-refused', `${noLock}: ${(error as Error).message}`, { cause: error });
}
