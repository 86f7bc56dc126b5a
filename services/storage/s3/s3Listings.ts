/** Listings over S3. */
import { isCode } from '../../contract/errors.ts';
import type { ListOptions, ObjectStore, OpenUpload, StoredObject } from '../objectStore.ts';
import type { S3Connection } from './s3Connection.ts';
import { decoded, openUpload, parseListing, storedObject, word, type Xml } from './s3Messages.ts';

/** In one answer, by S3's own limit. */
const mostKeys = 1000;

type Listings = Pick<ObjectStore, 'list' | 'folders' | 'listUploads'>;

export function s3Listings(s3: S3Connection): Listings {
  return {
    list: (prefix, signal, options) => list(s3, prefix, signal, options),
    folders: (prefix, signal) => folders(s3, prefix, signal),
    listUploads: (prefix, signal) => listUploads(s3, prefix, signal),
  };
}

async function* list(
  s3: S3Connection,
  prefix: string,
  signal: AbortSignal,
  { after, atOnce }: ListOptions = {},
): AsyncGenerator<StoredObject> {
  const query = {
    prefix,
    ...(after !== undefined && { 'start-after': after }),
    ...(atOnce !== undefined && { 'max-keys': String(Math.min(atOnce, mostKeys)) }),
  };
  for await (const { Contents, EncodingType } of pages(s3, query, signal))
    for (const entry of (Contents ?? []) as Xml[]) yield storedObject(entry, EncodingType === 'url');
}

async function* folders(s3: S3Connection, prefix: string, signal: AbortSignal): AsyncGenerator<string> {
  for await (const { CommonPrefixes, EncodingType } of pages(s3, { prefix, delimiter: '/' }, signal))
    for (const entry of (CommonPrefixes ?? []) as Xml[]) yield decoded(word(entry, 'Prefix'), EncodingType === 'url');
}

async function* pages(s3: S3Connection, query: Record<string, string>, signal: AbortSignal): AsyncGenerator<Xml> {
  const asked: Record<string, string> = { 'list-type': '2', 'encoding-type': 'url', ...query };
  for (let token: string | undefined; ; ) {
    const next = token === undefined ? asked : { ...asked, 'continuation-token': token };
    const page = await s3.ask('ListBucketResult', { method: 'GET', query: next, signal }, parseListing);
    yield page;
    if (page.IsTruncated !== 'true') return;
    token = word(page, 'NextContinuationToken');
  }
}

async function* listUploads(s3: S3Connection, prefix: string, signal: AbortSignal): AsyncGenerator<OpenUpload> {
  // MinIO takes a prefix for a whole key: list a folder without a prefix, and filter here. Other servers do not need this.
  let asked = prefix.endsWith('/') ? '' : prefix;
  const given = new Set<string>();
  let markers: Record<string, string> = {};
  for (;;) {
    // Ask for plain keys: if asked to encode them, SeaweedFS says that it did, but does not.
    const query = { uploads: '', ...(asked ? { prefix: asked } : {}), ...markers };
    const page = await s3.ask('ListMultipartUploadsResult', { method: 'GET', query, signal }).catch((error) => {
      const { 'upload-id-marker': id, ...byKey } = markers;
      // The credentials may be limited to the prefix: ask with it.
      if (asked !== prefix && isCode(error, 's3-denied')) asked = prefix;
      // VersityGW turns pages by key only.
      else if (id !== undefined && isCode(error, 's3-refused')) markers = byKey;
      else throw error;
      return undefined;
    });
    if (page === undefined) continue;
    const known = given.size;
    for (const entry of (page.Upload ?? []) as Xml[]) {
      const upload = openUpload(entry);
      const isNew = !given.has(upload.uploadId);
      given.add(upload.uploadId);
      if (isNew && upload.key.startsWith(prefix)) yield upload;
    }
    // For more than 1 000 uploads of one key, MinIO reports a truncated page and then sends the same page for ever.
    if (page.IsTruncated !== 'true' || given.size === known) return;
    const id = page.NextUploadIdMarker;
    // Garage returns none if a page ends with the last upload of a key.
    markers = {
      'key-marker': word(page, 'NextKeyMarker'),
      ...(typeof id === 'string' && id ? { 'upload-id-marker': id } : {}),
    };
  }
}
