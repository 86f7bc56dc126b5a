/** S3's messages: queries, XML, and what its errors mean to us. No network. */
import { XMLParser } from 'fast-xml-parser';
import type { Tags } from '../contract.ts';
import { type ErrorCode, LxstowError } from '../errors.ts';
import type { OpenUpload, StoredObject, UploadedPart } from './objectStore.ts';

export type Xml = { [name: string]: Xml | Xml[] | string | undefined };

const xml = new XMLParser({
  parseTagValue: false,
  ignoreAttributes: true,
  // MinIO writes quotes as &#34;
  htmlEntities: true,
  isArray: (name) => ['Part', 'Upload', 'CommonPrefixes'].includes(name),
});

/** S3's words whose meaning their HTTP status does not tell. */
const meanings = new Map<string, ErrorCode>(
  Object.entries({
    NoSuchBucket: 's3-refused',
    NoSuchUpload: 'not-found',
    // 403, but of this one object: its archive is in cold storage.
    InvalidObjectState: 's3-refused',
    PreconditionFailed: 'conflict',
    XMinioStorageFull: 's3-full',
    // The store does not have what was asked for: that does not change.
    NotImplemented: 's3-refused',
    // Damaged or broken off on its way: the same bytes may arrive whole the next time.
    BadDigest: 's3-unavailable',
    IncompleteBody: 's3-unavailable',
    RequestTimeout: 's3-unavailable',
    XAmzContentChecksumMismatch: 's3-unavailable',
    // AWS, of two conditional writes at once: the next try learns who won.
    ConditionalRequestConflict: 's3-unavailable',
    OperationAborted: 's3-unavailable',
  }),
);

/** Our code for an error that S3 calls `code`, or that is nothing but its HTTP status. */
export function meaningOf(code: string, status: number): ErrorCode {
  const meaning = meanings.get(code);
  if (meaning) return meaning;
  if (status === 404) return 'not-found';
  if (status === 401 || status === 403) return 's3-denied';
  if (status === 412) return 'conflict';
  if (status === 507) return 's3-full';
  // Not implemented; not in this version of HTTP.
  if (status === 501 || status === 505) return 's3-refused';
  return status === 408 || status === 429 || status >= 500 ? 's3-unavailable' : 's3-refused';
}

/** Undefined for what is no XML: a proxy's page, an answer that broke off. */
export function parseXml(text: string): Xml | undefined {
  // As the answer to each HEAD is that does not succeed.
  if (text === '') return undefined;
  try {
    return xml.parse(text) as Xml;
  } catch {
    return undefined;
  }
}

const fields = ['Key', 'Size', 'ETag', 'LastModified'];

/** The same for a page of a listing. Its thousand entries, all alike, would keep the parser busy for 25 ms, and everybody waiting. */
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

/** The same for tags, by their keys. The parser would trim them. */
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

/** A key, as URLs have it. */
export function escapedKey(key: string): string {
  return key.split('/').map(escapedInUrl).join('/');
}

/** As S3 signs it: all but RFC 3986's unreserved characters is escaped, and only that. */
function escapedInUrl(text: string): string {
  return encodeURIComponent(text).replaceAll(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}

/** An entry of a listing. `escaped`: its key is URL-encoded, as we ask for; a server that does not know how says nothing of it. */
export function storedObject(entry: Xml, escaped: boolean): StoredObject {
  return {
    key: decoded(word(entry, 'Key'), escaped),
    size: Number(word(entry, 'Size')),
    etag: bare(word(entry, 'ETag')),
    modified: word(entry, 'LastModified'),
  };
}

/** A key or a beginning of one, as listings have them. */
export function decoded(key: string, escaped: boolean): string {
  return escaped ? decodeURIComponent(key.replaceAll('+', ' ')) : key;
}

/** An entry of a listing of uploads. */
export function openUpload(entry: Xml): OpenUpload {
  return {
    key: word(entry, 'Key'),
    uploadId: word(entry, 'UploadId'),
    initiated: word(entry, 'Initiated'),
  };
}

/** `summed`: the upload was begun with checksums, and each part's must be named again. */
export function completion(parts: UploadedPart[], summed: boolean): string {
  const each = parts.map(
    ({ number, etag, crc32 }) =>
      `<Part><PartNumber>${number}</PartNumber><ETag>"${etag}"</ETag>${summed ? `<ChecksumCRC32>${crc32}</ChecksumCRC32>` : ''}</Part>`,
  );
  return `<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${each.join('')}</CompleteMultipartUpload>`;
}

/** Where a bucket is to be; nothing for what S3 takes where nothing is said. */
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

/** An ETag without its quotes. */
export function bare(etag: string): string {
  return etag.replaceAll(/^"|"$/g, '');
}
