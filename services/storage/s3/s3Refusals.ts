/** S3's refusals as our errors: which code, and what to do about it. */
import { type ErrorCode, isCode, LxstowError } from '../../contract/errors.ts';
import { parseXml, type Xml } from './s3Messages.ts';

const noBucket = 'NoSuchBucket';

/** S3's error codes whose HTTP status alone is misleading. */
const meanings: Record<string, ErrorCode> = {
  [noBucket]: 's3-refused',
  NoSuchUpload: 'not-found',
  // 403, but only for this object: it is in cold storage.
  InvalidObjectState: 's3-refused',
  PreconditionFailed: 'conflict',
  XMinioStorageFull: 's3-full',
  // VersityGW, with 404, for an access key that it does not know.
  XAdminUserNotFound: 's3-denied',
  // VersityGW, for a disk quota.
  QuotaExceeded: 's3-full',
  // VersityGW, for whatever goes wrong where an object gets its name. No key of ours is another one's folder.
  ExistingObjectIsDirectory: 's3-unavailable',
  // 400 on AWS. A session ends; the configuration may have the next one by now.
  ExpiredToken: 's3-denied',
  InvalidToken: 's3-denied',
  TokenRefreshRequired: 's3-denied',
  // The store does not support the request; a retry cannot help.
  NotImplemented: 's3-refused',
  // The body was damaged or truncated in transit; a retry may succeed.
  BadDigest: 's3-unavailable',
  IncompleteBody: 's3-unavailable',
  RequestTimeout: 's3-unavailable',
  XAmzContentChecksumMismatch: 's3-unavailable',
  // AWS, for two concurrent conditional writes: a retry learns which one won.
  ConditionalRequestConflict: 's3-unavailable',
  OperationAborted: 's3-unavailable',
};

const unknownKey = 'set s3.accessKey to a user that the store knows';

/** What to do about a refusal, by S3's error code. The answer to a HEAD has only its status. */
const advices: Record<string, string> = {
  [noBucket]: '`lxstow setup` makes it',
  SignatureDoesNotMatch: 'set s3.secretKey to the secret of s3.accessKey',
  InvalidAccessKeyId: unknownKey,
  XAdminUserNotFound: unknownKey,
  ExpiredToken: 'set s3.sessionToken, and the keys that belong to it, to those of a new session',
  AccessDenied: '`lxstow doctor` says which right is missing',
  'HTTP 403': '`lxstow doctor` says what is wrong',
};

/** The error for an answer with this status and body, which may not be S3's own. `own`: the bucket is lxstow's, so give advice. */
export function refusalOf(
  status: number,
  body: string,
  { title, bucket, own }: { title: string; bucket: string; own: boolean },
): LxstowError {
  const { Code: said, Message: message, Endpoint: elsewhere } = (parseXml(body)?.Error ?? {}) as Xml;
  const code = typeof said === 'string' ? said : `HTTP ${status}`;
  // For a bucket in another region, AWS names its endpoint.
  const where = typeof elsewhere === 'string' ? `; set s3.endpoint to ${elsewhere}` : '';
  const text = `${title} said ${code}${typeof message === 'string' ? `: ${message}` : ''}${where}`;
  const meaning = meanings[code] ?? meaningOf(status);
  const advice = own && code in advices ? `: ${advices[code]}` : '';
  const isRefused = meaning === 's3-refused' || meaning === 's3-denied';
  return new LxstowError(meaning, isRefused ? `${text} (bucket ${bucket}${advice})` : text);
}

/** True when the error says that the store does not have what was asked for. Not every store uses the same code. */
export function isUnsupported(error: unknown): boolean {
  return isCode(error, 's3-refused') && /NotImplemented|MethodNotAllowed|HTTP (405|501)/.test((error as Error).message);
}

/** True when the error says that the bucket does not exist. */
export function isNoBucket(error: unknown): boolean {
  return isCode(error, 's3-refused') && (error as Error).message.includes(noBucket);
}

/** For "succeeds if it is already gone". */
export function unlessGone(error: unknown): void {
  if (!isCode(error, 'not-found')) throw error;
}

function meaningOf(status: number): ErrorCode {
  if (status === 404) return 'not-found';
  if (status === 401 || status === 403) return 's3-denied';
  if (status === 412) return 'conflict';
  if (status === 507) return 's3-full';
  // Not implemented; HTTP version not supported.
  if (status === 501 || status === 505) return 's3-refused';
  return status === 408 || status === 429 || status >= 500 ? 's3-unavailable' : 's3-refused';
}
