/** Multipart uploads over S3. */
import { LxstowError } from '../../contract/errors.ts';
import type { Config } from '../../contract/schemas.ts';
import { formatTagging } from '../../contract/tagging.ts';
import { assertLocks, explainNoLock, lockHeaders } from '../objectLock.ts';
import type { ObjectStore, Upload } from '../objectStore.ts';
import { etagOf, type S3Connection } from './s3Connection.ts';
import { assertUndamaged, bare, completion, copySource, md5, multipartEtag, word, type Xml } from './s3Messages.ts';
import { unlessGone } from './s3Refusals.ts';

type Uploads = Pick<
  ObjectStore,
  'beginUpload' | 'putPart' | 'completeUpload' | 'copyPart' | 'listParts' | 'abortUpload'
>;

export function s3Uploads(s3: S3Connection, { bucket, checksumHeaders }: Config['s3']): Uploads {
  return {
    async beginUpload(key, { tags, contentType, copies: mayCopy = false, ...protection }, signal) {
      const copies = mayCopy || !checksumHeaders;
      const headers: Record<string, string> = { 'content-type': contentType };
      // MinIO makes no checksum of a copied part, and refuses such a part in an upload with checksums.
      if (!copies) headers['x-amz-checksum-algorithm'] = 'CRC32';
      if (Object.keys(tags).length > 0) headers['x-amz-tagging'] = formatTagging(tags);
      await assertLocks(s3, protection, signal);
      Object.assign(headers, lockHeaders(protection));
      const query = { uploads: '' };
      const begun = await s3
        .ask('InitiateMultipartUploadResult', { method: 'POST', key, query, headers, signal })
        .catch((error) => explainNoLock(protection, error));
      return { key, uploadId: word(begun, 'UploadId'), copies };
    },

    async putPart({ key, uploadId, copies = false }, number, body, crc32, signal) {
      const query = { partNumber: String(number), uploadId };
      // AWS refuses a CRC-32 in an upload that was begun without an algorithm. A bucket with Object Lock requires a checksum in each PUT.
      if (copies) assertUndamaged(body, crc32, `part ${number} of ${key}`);
      const headers: Record<string, string> = copies ? { 'content-md5': md5(body) } : { 'x-amz-checksum-crc32': crc32 };
      return etagOf(await s3.send({ method: 'PUT', key, query, headers, body, signal }));
    },

    async completeUpload({ key, uploadId, copies = false }, parts, signal, over) {
      const headers: Record<string, string> = { 'content-type': 'application/xml' };
      if (over === undefined) headers['if-none-match'] = '*';
      else headers['if-match'] = `"${over}"`;
      const content = { query: { uploadId }, headers, body: completion(parts, !copies), patient: true };
      const done = await s3.ask('CompleteMultipartUploadResult', { method: 'POST', key, ...content, signal });
      // Ceph before 17 leaves it empty.
      const etag = bare(word(done, 'ETag')) || multipartEtag(parts);
      await assertMade(s3, key, etag, signal);
      return etag;
    },

    async copyPart({ key, uploadId }, number, { etag, start, size }, signal) {
      const headers = {
        'x-amz-copy-source': copySource(bucket, key),
        'x-amz-copy-source-range': `bytes=${start}-${start + size - 1}`,
        'x-amz-copy-source-if-match': `"${etag}"`,
      };
      const query = { partNumber: String(number), uploadId };
      const copied = await s3.ask('CopyPartResult', { method: 'PUT', key, query, headers, signal });
      return { number, etag: bare(word(copied, 'ETag')) };
    },

    listParts: (upload, signal) => listParts(s3, upload, signal),

    async abortUpload({ key, uploadId }, signal) {
      await s3.send({ method: 'DELETE', key, query: { uploadId }, signal }).catch(unlessGone);
    },
  };
}

/** VersityGW says that an upload is completed when its completion has begun, even one that a crash cut off. */
async function assertMade(s3: S3Connection, key: string, etag: string, signal: AbortSignal): Promise<void> {
  const answer = await s3.send({ method: 'HEAD', key, signal }).catch(unlessGone);
  if (answer === undefined || etagOf(answer) !== etag)
    throw new LxstowError('s3-unavailable', 'S3 says that the upload is completed, but the object does not exist');
}

async function listParts(
  s3: S3Connection,
  { key, uploadId }: Upload,
  signal: AbortSignal,
): ReturnType<ObjectStore['listParts']> {
  const parts: Awaited<ReturnType<ObjectStore['listParts']>> = [];
  for (let marker: string | undefined = '0'; marker !== undefined; ) {
    const query = { uploadId, 'part-number-marker': marker, 'max-parts': '1000' };
    const page = await s3.ask('ListPartsResult', { method: 'GET', key, query, signal });
    for (const part of (page.Part ?? []) as Xml[])
      parts.push({
        number: Number(word(part, 'PartNumber')),
        size: Number(word(part, 'Size')),
        etag: bare(word(part, 'ETag')),
      });
    marker = page.IsTruncated === 'true' ? word(page, 'NextPartNumberMarker') : undefined;
  }
  return parts;
}
