/** The object store over S3. */
import { isCode } from '../../contract/errors.ts';
import type { Config } from '../../contract/schemas.ts';
import { onDisk } from '../folder/onDisk.ts';
import { s3Locks } from '../objectLock.ts';
import type { BucketMaker, ObjectStore, Presigner } from '../objectStore.ts';
import { tagsIfAny } from '../tagsIfAny.ts';
import { S3Connection, type S3Options } from './s3Connection.ts';
import { s3Listings } from './s3Listings.ts';
import { location } from './s3Messages.ts';
import { s3Objects } from './s3Objects.ts';
import { isNoBucket } from './s3Refusals.ts';
import { s3Uploads } from './s3Uploads.ts';

/** Makes an S3 object store without retries; `retrying` adds them. Opens no connection. */
export function createS3Store(
  config: Config['s3'],
  options: S3Options = {},
): ObjectStore & Presigner & BucketMaker & Disposable {
  const s3 = new S3Connection(config, options);

  /** Lists below the prefix only, because the credentials may be limited to it. */
  async function probe(signal: AbortSignal): Promise<void> {
    const prefix: Record<string, string> = config.prefix ? { prefix: `${config.prefix}/` } : {};
    await s3.ask('ListBucketResult', {
      method: 'GET',
      query: { 'list-type': '2', 'max-keys': '1', ...prefix },
      signal,
    });
  }

  async function ensureBucket(signal: AbortSignal): Promise<boolean> {
    try {
      await probe(signal);
      return false;
    } catch (error) {
      if (!isNoBucket(error)) throw error;
    }
    try {
      await s3.send({ method: 'PUT', body: location(config.region), signal });
      return true;
    } catch (error) {
      // Another process created it first.
      if (isCode(error, 's3-refused') && /BucketAlreadyOwnedByYou/.test((error as Error).message)) return false;
      throw error;
    }
  }

  const disk = config.syncFolder ?? config.folder;
  const writes = tagsIfAny({ ...s3Uploads(s3, config), ...s3Objects(s3, config) });
  return {
    probe,
    ensureBucket,
    ...(disk === undefined ? { ...writes, flush: async () => undefined } : onDisk(writes, disk)),
    ...s3Listings(s3),
    ...s3Locks(s3),
    presign: async (key, { expirySeconds, filename }) =>
      s3.presign(key, expirySeconds, { 'response-content-disposition': `attachment; filename="${filename}"` }),
    [Symbol.dispose]: () => s3[Symbol.dispose](),
  };
}
