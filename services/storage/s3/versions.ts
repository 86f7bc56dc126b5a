/** Old versions in the bucket, and the delete markers over them. For commands that people run, so nothing is retried. */
import type { S3Connection } from './s3Connection.ts';
import { bare, decoded, word, type Xml } from './s3Messages.ts';

/** An object that was deleted, but is kept as an old version. */
export interface DeletedObject {
  key: string;
  /** Version id of the marker that hides it. */
  marker: string;
  /** When the marker was written. */
  deleted: string;
  /** Version id, ETag and size of what it hides. */
  version: string;
  etag: string;
  size: number;
}

/** Of a key: a marker, and an object. */
interface Seen {
  marker?: Xml;
  object?: Xml;
}

/** Yields the deleted objects under a prefix. Throws s3-denied without the right s3:ListBucketVersions. */
export async function* deletedObjects(
  s3: S3Connection,
  prefix: string,
  signal: AbortSignal,
): AsyncGenerator<DeletedObject> {
  const seen = new Map<string, Seen>();
  for await (const { key, marker, object } of entriesUnder(s3, prefix, signal)) {
    const known = seen.get(key);
    if (marker?.IsLatest === 'true') seen.set(key, { ...known, marker });
    if (object && (!known?.object || word(object, 'LastModified') > word(known.object, 'LastModified')))
      seen.set(key, { ...known, object });
  }
  for (const [key, { marker, object }] of seen) {
    if (!marker || !object) continue;
    const hidden = { version: word(object, 'VersionId'), etag: bare(word(object, 'ETag')) };
    const size = Number(word(object, 'Size'));
    yield { key, marker: word(marker, 'VersionId'), deleted: word(marker, 'LastModified'), ...hidden, size };
  }
}

/** Yields the ids of an object's old versions. Throws s3-denied without the right s3:ListBucketVersions. */
export async function* oldVersions(s3: S3Connection, key: string, signal: AbortSignal): AsyncGenerator<string> {
  for await (const { key: found, object } of entriesUnder(s3, key, signal))
    if (found === key && object && object.IsLatest !== 'true') yield word(object, 'VersionId');
}

/** Yields each version, as `object`, and each delete marker under a prefix. */
async function* entriesUnder(
  s3: S3Connection,
  prefix: string,
  signal: AbortSignal,
): AsyncGenerator<Seen & { key: string }> {
  let markers: Record<string, string> = {};
  for (;;) {
    const query = { versions: '', 'encoding-type': 'url', prefix, ...markers };
    const page = await s3.ask('ListVersionsResult', { method: 'GET', query, signal });
    const keyOf = (entry: Xml) => decoded(word(entry, 'Key'), page.EncodingType === 'url');
    for (const marker of (page.DeleteMarker ?? []) as Xml[]) yield { key: keyOf(marker), marker };
    for (const object of (page.Version ?? []) as Xml[]) yield { key: keyOf(object), object };
    if (page.IsTruncated !== 'true') return;
    markers = {
      'key-marker': decoded(word(page, 'NextKeyMarker'), page.EncodingType === 'url'),
      'version-id-marker': word(page, 'NextVersionIdMarker'),
    };
  }
}

/** Reads an old version whole. */
export async function readVersion(
  s3: S3Connection,
  { key, version }: Pick<DeletedObject, 'key' | 'version'>,
  signal: AbortSignal,
): Promise<{ body: Buffer; etag: string }> {
  const { headers, body } = await s3.send({ method: 'GET', key, query: { versionId: version }, signal });
  return { body, etag: bare(headers.etag ?? '') };
}

/** Removes the marker, so that the object is there again. Needs s3:DeleteObjectVersion. */
export async function liftMarker(s3: S3Connection, { key, marker }: DeletedObject, signal: AbortSignal): Promise<void> {
  await s3.send({ method: 'DELETE', key, query: { versionId: marker }, signal });
}
