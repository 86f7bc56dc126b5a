/** Objects over S3: small ones whole, archives by range. */
import { isCode, LxstowError } from '../../contract/errors.ts';
import type { Config, Tags } from '../../contract/schemas.ts';
import { formatTagging } from '../../contract/tagging.ts';
import { assertLocks, explainNoLock, lockHeaders } from '../objectLock.ts';
import type { ObjectStore } from '../objectStore.ts';
import { etagOf, type S3Connection, wholeBytes } from './s3Connection.ts';
import { assertUndamaged, bare, md5, parseTags, tagging } from './s3Messages.ts';
import { unlessGone } from './s3Refusals.ts';

type Objects = Pick<ObjectStore, 'create' | 'replace' | 'tag' | 'tagsOf' | 'read' | 'stat' | 'readRange' | 'remove'>;

const operationHeader = 'x-amz-meta-lxstow-operation';

export function s3Objects(s3: S3Connection, { checksumHeaders }: Config['s3']): Objects {
  return {
    async create(key, body, { tags = {}, contentType, crc32, operation, ...protection }, signal) {
      if (crc32 !== undefined && !checksumHeaders) assertUndamaged(body, crc32, key);
      const sum = checksumHeaders ? crc32 : undefined;
      const headers = {
        'if-none-match': '*',
        ...described(body, contentType, tags, sum),
        ...(operation !== undefined && { [operationHeader]: operation }),
        ...lockHeaders(protection),
      };
      await assertLocks(s3, protection, signal);
      const sent = s3.send({ method: 'PUT', key, headers, body, signal });
      return etagOf(await sent.catch((error) => explainNoLock(protection, error)));
    },

    async replace(key, etag, body, { tags, contentType, ...protection }, signal) {
      const headers = { ...described(body, contentType, tags), ...lockHeaders(protection) };
      const { held } = protection;
      await assertLocks(s3, { held }, signal);
      const put = async (condition: string) =>
        etagOf(await s3.send({ method: 'PUT', key, headers: { ...headers, 'if-match': condition }, body, signal }));
      return put(`"${etag}"`)
        .catch(async (error) => {
          if (!isCode(error, 'conflict')) throw error;
          // Ceph compares the header with its quotes: it refuses a condition that holds.
          const present = await s3.send({ method: 'HEAD', key, signal });
          if (etagOf(present) !== etag) throw error;
          return put(etag);
        })
        .catch((error) => explainNoLock({ held }, error));
    },

    async tag(key, tags, signal) {
      const body = Buffer.from(tagging(tags));
      const headers = described(body, 'application/xml');
      await s3.send({ method: 'PUT', key, query: { tagging: '' }, headers, body, signal });
    },

    async tagsOf(key, signal) {
      const tags = await s3.ask('Tagging', { method: 'GET', key, query: { tagging: '' }, signal }, parseTags);
      return tags as Record<string, string>;
    },

    read: (key, signal) =>
      s3.download({ key, signal }, async (answer, waiting) => {
        if (answer.length > wholeBytes)
          throw new LxstowError(
            's3-refused',
            `object ${key} is larger than the ${wholeBytes} bytes that lxstow reads at once`,
          );
        return { body: await answer.body(wholeBytes, waiting), etag: bare(answer.headers.get('etag') ?? '') };
      }),

    async stat(key, signal) {
      const answer = await s3.send({ method: 'HEAD', key, signal });
      const { 'content-length': size, [operationHeader]: operation } = answer.headers;
      return { size: Number(size), etag: etagOf(answer), ...(typeof operation === 'string' && { operation }) };
    },

    readRange(key, etag, start, into, signal) {
      const headers = { range: `bytes=${start}-${start + into.length - 1}`, 'if-match': `"${etag}"` };
      return s3.download({ key, headers, signal }, async (answer, waiting) => {
        if (answer.length !== into.length)
          throw new LxstowError('s3-unavailable', `S3 sent ${answer.length} bytes of ${into.length}`);
        await answer.fill(into, waiting);
      });
    },

    async remove(key, signal) {
      const sent = s3.send({ method: 'DELETE', key, signal });
      const headers = await sent.then((answer) => answer.headers, unlessGone);
      const { 'x-amz-delete-marker': marker, 'x-amz-version-id': version } = headers ?? {};
      // While versions are suspended, the marker takes the object's place.
      return marker === 'true' && version !== 'null';
    },
  };
}

/** Headers that describe a body. AWS requires a checksum of tags, and in a bucket with Object Lock of every body. */
function described(body: Buffer, contentType: string, tags: Tags = {}, crc32?: string): Record<string, string> {
  const sum: Record<string, string> = crc32 ? { 'x-amz-checksum-crc32': crc32 } : { 'content-md5': md5(body) };
  const headers: Record<string, string> = { 'content-type': contentType, ...sum };
  if (Object.keys(tags).length > 0) headers['x-amz-tagging'] = formatTagging(tags);
  return headers;
}
