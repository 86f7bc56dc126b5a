/** What to do about an error of S3. */
import { isCode } from '../contract/errors.ts';
import type { Config } from '../contract/schemas.ts';
import { notOnDisk } from '../storage/folder/onDisk.ts';
import { isNoBucket, isUnsupported } from '../storage/s3/s3Refusals.ts';
import { messageOf } from './finding.ts';

const newSession = 'Set s3.sessionToken, and its keys, to those of a new session.';
const otherStore = 'The store does not have this, and lxstow needs it: docs/s3.md says what a store must have.';

/** Advice after the first request, which lists the bucket, has failed. */
export function adviceFor(error: unknown, { bucket, endpoint }: Config['s3']): string {
  const message = messageOf(error);
  if (isNoBucket(error) || isCode(error, 'not-found'))
    return `Run \`lxstow setup\` to create ${bucket}, or set s3.bucket to an existing bucket.`;
  if (/InvalidAccessKeyId|XAdminUserNotFound/.test(message)) return 'Set s3.accessKey to a user that the store knows.';
  if (/SignatureDoesNotMatch/.test(message)) return 'Set s3.secretKey to the secret of s3.accessKey.';
  if (/RequestTimeTooSkewed/.test(message)) return 'Set the clocks: `timedatectl`.';
  if (/ExpiredToken|InvalidToken/.test(message)) return newSession;
  if (isUnsupported(error)) return otherStore;
  if (/AccessDenied/.test(message)) return `Give the user of s3.accessKey s3:ListBucket on ${bucket}.`;
  if (/region/i.test(message)) return 'Set s3.region to where the bucket is.';
  return `Does S3 answer at ${endpoint}? See s3.endpoint.`;
}

/** Advice after a request that needs this right has failed. Rights to list are granted on the bucket, all others on its objects. `folder`: the beginning of keys. */
export function adviceForRight(error: unknown, right: string, bucket: string, folder: string): string {
  if (isCode(error, 's3-full')) return 'Make room in the store.';
  const message = messageOf(error);
  if (message.startsWith(notOnDisk))
    return 'Set s3.syncFolder to a folder on the disk of the S3 server, or remove this key; also check whether the disk is intact.';
  if (/checksum|x-amz-sdk|content-md5/i.test(message) && !/mismatch/i.test(message))
    return 'Set s3.checksumHeaders to false, if the store accepts no checksums in headers: docs/s3.md.';
  if (/ExpiredToken|InvalidToken/.test(message)) return newSession;
  if (/NotImplemented|InvalidRequest|InvalidArgument|Unsupported|HTTP (400|501)/.test(message)) return otherStore;
  if (/^s3:ListBucket/.test(right))
    return `Give the user of s3.accessKey ${right} on ${bucket}${folder ? `, for the prefix ${folder}` : ''}.`;
  return `Give the user of s3.accessKey ${right} on ${bucket}/${folder}*.`;
}
