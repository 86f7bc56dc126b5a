/** The object store's interface. Every implementation passes test/contract/objectStore.ts. */
import type { BackupLock, Tags } from '../contract/schemas.ts';

export interface StoredObject {
  key: string;
  /** Bytes. */
  size: number;
  etag: string;
  /** ISO 8601. */
  modified: string;
}

/** An open multipart upload. Keep key and id to find it again: listings may omit it (docs/s3.md). */
export interface Upload {
  key: string;
  uploadId: string;
  /** It carries no checksums: parts of it may be copies, or the store takes none. */
  copies?: boolean;
}

/** An open upload in a listing. */
export interface OpenUpload extends Upload {
  /** Time of its start, ISO 8601. */
  initiated: string;
}

export interface UploadedPart {
  /** From 1, without gaps. */
  number: number;
  etag: string;
  /** base64 of the big-endian CRC-32, as S3 writes it; undefined for a copied part. */
  crc32?: string;
}

/** How a new object is protected by S3 Object Lock. */
export interface Protection {
  lock?: BackupLock | undefined;
  /** By a legal hold, until it is released. */
  held?: boolean | undefined;
}

/** How an object is made in one request. */
interface NewObject extends Protection {
  tags?: Tags;
  contentType: string;
  /** base64 of the big-endian CRC-32 of the body: the store refuses another body. */
  crc32?: string;
  /** The operation that makes it; `stat` returns it. */
  operation?: string;
}

export interface UploadOptions extends Protection {
  tags: Tags;
  contentType: string;
  /** `copyPart` will make parts of it. */
  copies?: boolean;
}

/**
 * All calls throw LxstowError: `not-found`, `conflict` (a condition did not hold), `s3-denied` (credentials, rights), `s3-refused` (an invalid
 * request, a missing bucket), `s3-full`, and `s3-unavailable` for everything that a retry may cure. All calls end soon after `signal` aborts.
 */
export interface ObjectStore {
  /** Resolves when the bucket exists and the credentials may list it. */
  probe(signal: AbortSignal): Promise<void>;

  /** Opens an upload. The object gets its tags, if the store supports tags (docs/s3.md). */
  beginUpload(key: string, options: UploadOptions, signal: AbortSignal): Promise<Upload>;
  /** Uploads one part; returns its ETag. The store refuses the part when its CRC-32 is not `crc32`. `body` may be reused once this settles. */
  putPart(upload: Upload, number: number, body: Buffer, crc32: string, signal: AbortSignal): Promise<string>;
  /**
   * Makes the object from its parts; returns its ETag. Throws `conflict` when the key exists, on servers that check it (docs/s3.md); with `over`,
   * when the key's object does not have that ETag.
   */
  completeUpload(upload: Upload, parts: UploadedPart[], signal: AbortSignal, over?: string): Promise<string>;
  /** Has the store make a part from `size` bytes, from `start` on, of the object at the upload's own key. That object must have this ETag. */
  copyPart(
    upload: Upload,
    number: number,
    from: { etag: string; start: number; size: number },
    signal: AbortSignal,
  ): Promise<UploadedPart>;
  /** Lists the stored parts, in order of their numbers. Throws not-found when the upload is gone. */
  listParts(upload: Upload, signal: AbortSignal): Promise<{ number: number; size: number; etag: string }[]>;
  /** Drops the upload and its parts. Succeeds if the upload is already gone. */
  abortUpload(upload: Upload, signal: AbortSignal): Promise<void>;

  /**
   * Writes a small object if the key is free, atomically on every server; throws `conflict` otherwise. Returns its ETag. `body` may be reused once
   * this settles.
   */
  create(key: string, body: Buffer, options: NewObject, signal: AbortSignal): Promise<string>;
  /** Atomically replaces the small object that has this ETag; throws `conflict` or `not-found` when it is no longer there. Returns the new ETag. */
  replace(
    key: string,
    etag: string,
    body: Buffer,
    options: { tags: Tags; contentType: string } & Protection,
    signal: AbortSignal,
  ): Promise<string>;
  /** Replaces all tags of an object. Does nothing on a store that has none. */
  tag(key: string, tags: Tags, signal: AbortSignal): Promise<void>;
  /** Reads an object's tags; none on a store that has none. */
  tagsOf(key: string, signal: AbortSignal): Promise<Record<string, string>>;
  /** Reads the whole of a small object. */
  read(key: string, signal: AbortSignal): Promise<{ body: Buffer; etag: string }>;
  /** Reads an object's size, its ETag, and the operation that was named when it was created. */
  stat(key: string, signal: AbortSignal): Promise<{ size: number; etag: string; operation?: string }>;
  /** Fills `into` with the object's bytes from `start` on; throws `conflict` when the object's ETag is no longer `etag`. */
  readRange(key: string, etag: string, start: number, into: Buffer, signal: AbortSignal): Promise<void>;
  /** Deletes an object; true if the bucket keeps it as an old version. Succeeds if the object is already gone. */
  remove(key: string, signal: AbortSignal): Promise<boolean>;
  /** Resolves when every object that is there is on the disk. Does nothing for a store that answers a write only once it is durable. */
  flush(signal: AbortSignal): Promise<void>;
  /**
   * Puts a legal hold on an object, or releases it, and those of its old versions with bytes of which `isToRelease` is true, if they may be listed and read
   * (s3:ListBucketVersions, s3:GetObjectVersion). Throws s3-refused if the bucket has no Object Lock.
   */
  hold(key: string, held: boolean, signal: AbortSignal, isToRelease?: (body: Buffer) => boolean): Promise<void>;
  /**
   * Yields every object whose key begins with `prefix`, once: in order of the keys' bytes, on some servers folder by folder. With `after`
   * only those behind this key in that order.
   */
  list(prefix: string, signal: AbortSignal, options?: ListOptions): AsyncIterable<StoredObject>;
  /** Yields the folders under `prefix`, each once: the keys' beginnings up to and including the first `/` after `prefix`. */
  folders(prefix: string, signal: AbortSignal): AsyncIterable<string>;
  /**
   * Yields open uploads whose key begins with `prefix`, each once. Some may be missing (docs/s3.md): after a restart, MinIO lists an upload only by its exact
   * key, and of more than 1 000 uploads of one key, the rest may be missing until some are gone.
   */
  listUploads(prefix: string, signal: AbortSignal): AsyncIterable<OpenUpload>;
}

export interface ListOptions {
  after?: string | undefined;
  /** How many objects are wanted at once, up to 1 000. */
  atOnce?: number;
}

export interface BucketMaker {
  /** Creates the bucket if it does not exist; resolves with whether it did. Throws `s3-denied` when the credentials do not allow it. */
  ensureBucket(signal: AbortSignal): Promise<boolean>;
}

/** Makes URLs that need no credentials. */
export interface Presigner {
  /** Makes a URL that lets anyone GET the object for `expirySeconds`, as a file named `filename`. Sends no request. */
  presign(key: string, options: { expirySeconds: number; filename: string }): Promise<string>;
}
