/** S3's messages: queries, headers, XML. No network. */
import { createHash } from 'node:crypto';
import zlib from 'node:zlib';
import { XMLParser } from 'fast-xml-parser';
import { crcInS3 } from '../../archive/crcInS3.ts';
import { LxstowError } from '../../contract/errors.ts';
import type { Tags } from '../../contract/schemas.ts';
import type { OpenUpload, StoredObject, UploadedPart } from '../objectStore.ts';

export type Xml = { [name: string]: Xml | Xml[] | string | undefined };

const xml = new XMLParser({
  parseTagValue: false,
  ignoreAttributes: true,
  // MinIO writes quotes as &#34;
  htmlEntities: true,
  isArray: (name) => ['Part', 'Upload', 'CommonPrefixes', 'Version', 'DeleteMarker'].includes(name),
});

/** Parses XML; undefined for anything else, such as a proxy's page or a truncated answer. */
export function parseXml(text: string): Xml | undefined {
  // A failed HEAD has no body.
  if (text === '') return undefined;
  try {
    return xml.parse(text) as Xml;
  } catch {
    return undefined;
  }
}

const fields = ['Key', 'Size', 'ETag', 'LastModified'];

/** Like `parseXml`, for a page of a listing. On its thousand entries the parser would block the event loop for 25 ms. */
export function parseListing(text: string): Xml | undefined {
  const entries: Xml[] = [];
  const rest = text.replaceAll(/<Contents>(.*?)<\/Contents>/gs, (_, entry: string) => {
    entries.push(Object.fromEntries(fields.map((name) => [name, fieldOf(entry, name)])));
    return '';
  });
  const parsed = parseXml(rest);
  const page = parsed?.ListBucketResult;
  return page === undefined ? parsed : { ListBucketResult: { ...(page as Xml), Contents: entries } };
}

/** Like `parseXml`, for tags; returns their values by key. The parser would trim them. */
export function parseTags(text: string): Xml | undefined {
  const parsed = parseXml(text);
  if (parsed?.Tagging === undefined) return parsed;
  const tags = [...text.matchAll(/<Tag>(.*?)<\/Tag>/gs)].map(([, tag = '']) => [
    fieldOf(tag, 'Key'),
    fieldOf(tag, 'Value'),
  ]);
  return { Tagging: Object.fromEntries(tags.map(([key = '', value = '']) => [key, value])) };
}

function fieldOf(entry: string, name: string): string | undefined {
  const begin = entry.indexOf(`<${name}>`);
  if (begin < 0) return undefined;
  const value = entry.slice(begin + name.length + 2, entry.indexOf(`</${name}>`, begin));
  return value.includes('&') ? value.replaceAll(/&(#x?[0-9a-f]+|\w+);/gi, decodeEntity) : value;
}

const entities: Record<string, string> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" };

function decodeEntity(whole: string, name: string): string {
  if (!name.startsWith('#')) return entities[name] ?? whole;
  const hex = name[1]?.toLowerCase() === 'x';
  return String.fromCodePoint(Number.parseInt(name.slice(hex ? 2 : 1), hex ? 16 : 10));
}

export function formatQuery(query: Record<string, string>): string {
  return Object.entries(query)
    .map(([name, value]) => `${escapedInUrl(name)}=${escapedInUrl(value)}`)
    .join('&');
}

/** Escapes a key for a URL. */
export function escapedKey(key: string): string {
  return key.split('/').map(escapedInUrl).join('/');
}

/** Escapes as S3's signatures require: everything except RFC 3986's unreserved characters. */
function escapedInUrl(text: string): string {
  return encodeURIComponent(text).replaceAll(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}

/** Value of the header `x-amz-copy-source`. */
export function copySource(bucket: string, key: string): string {
  return `/${bucket}/${escapedKey(key)}`;
}

/** Throws s3-unavailable if the body's CRC-32 is not `crc32`: for stores that accept no such checksum. */
export function assertUndamaged(body: Buffer, crc32: string, what: string): void {
  if (crcInS3(zlib.crc32(body)) !== crc32)
    throw new LxstowError('s3-unavailable', `${what} was damaged before it was sent`);
}

/** Value of the header `content-md5`. */
export function md5(body: Buffer): string {
  return createHash('md5').update(body).digest('base64');
}

/** Reads an entry of a listing. `escaped`: the server says that it URL-encoded the key, as we ask it to. */
export function storedObject(entry: Xml, escaped: boolean): StoredObject {
  return {
    key: decoded(word(entry, 'Key'), escaped),
    size: Number(word(entry, 'Size')),
    etag: bare(word(entry, 'ETag')),
    modified: word(entry, 'LastModified'),
  };
}

/** Decodes a key or key prefix of a listing. */
export function decoded(key: string, escaped: boolean): string {
  return escaped ? decodeURIComponent(key.replaceAll('+', ' ')) : key;
}

/** Reads an entry of a listing of uploads. */
export function openUpload(entry: Xml): OpenUpload {
  return {
    key: word(entry, 'Key'),
    uploadId: word(entry, 'UploadId'),
    initiated: word(entry, 'Initiated'),
  };
}

/** Body of CompleteMultipartUpload. `summed`: the upload was begun with checksums, so each part's must be repeated. */
export function completion(parts: UploadedPart[], summed: boolean): string {
  const each = parts.map(
    ({ number, etag, crc32 }) =>
      `<Part><PartNumber>${number}</PartNumber><ETag>"${etag}"</ETag>${summed ? `<ChecksumCRC32>${crc32}</ChecksumCRC32>` : ''}</Part>`,
  );
  return `<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${each.join('')}</CompleteMultipartUpload>`;
}

/** Body of CreateBucket. Empty for S3's default region. */
export function location(region: string): string {
  if (region === 'us-east-1') return '';
  return `<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><LocationConstraint>${escaped(region)}</LocationConstraint></CreateBucketConfiguration>`;
}

export function tagging(tags: Tags): string {
  const each = Object.entries(tags).map(
    ([key, value]) => `<Tag><Key>${escaped(key)}</Key><Value>${escaped(value)}</Value></Tag>`,
  );
  return `<Tagging xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><TagSet>${each.join('')}</TagSet></Tagging>`;
}

function escaped(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}

export function word(entry: Xml, name: string): string {
  const value = entry[name];
  if (typeof value !== 'string') throw new LxstowError('s3-unavailable', `S3 answered without <${name}>`);
  return value;
}

/** Removes an ETag's quotes. */
export function bare(etag: string): string {
  return etag.replaceAll(/^"|"$/g, '');
}

/** The ETag that S3 gives an object made from these parts: the MD5 of the parts' MD5s, and their number. */
export function multipartEtag(parts: Pick<UploadedPart, 'etag'>[]): string {
  const hash = createHash('md5');
  for (const { etag } of parts) hash.update(Buffer.from(etag, 'hex'));
  return `${hash.digest('hex')}-${parts.length}`;
}
