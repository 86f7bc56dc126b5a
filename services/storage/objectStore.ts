/** What lxstow needs of an object store. Every implementation passes test/contract/objectStore.ts. */
import type { Tags } from '../contract.ts';

export interface StoredObject {
  key: string;
  /** Bytes. */
  size: number;
  etag: string;
  /** ISO 8601. */
  modified: string;
}

/** An open multipart upload. Only the key and the id together find it again (docs/s3.md: listings forget). */
export interface Upload {
  key: string;
  uploadId: string;
  /** Parts of it may be copies: it carries no checksums. */
  copies?: boolean;
}

/** An open upload in a listing. */
export interface OpenUpload extends Upload {
  /** When it was begun, ISO 8601. */
  initiated: string;
}

export interface UploadedPart {
  /** From 1, without gaps. */
  number: number;
  etag: string;
  /** base64 of the big-endian CRC-32, as S3 writes it; of a copied part there is none. */
  crc32?: string;
}

export interface UploadOptions {
  tags: Tags;
  contentType: string;
  /** Parts of it will be made by `copyPart`. */
  copies?: boolean;
}

/**
 * All calls throw LxstowError: `not-found`, `conflict` (a condition did not hold), `s3-denied` (credentials, rights), `s3-refused` (a request
 * that will never do, a bucket that is not there), `s3-full`, and `s3-unavailable` for all that another try may cure. All end soon after `signal` aborts.
 */
export interface ObjectStore {
  /** Resolves when the bucket is there and the credentials may list it. */
  probe(signal: AbortSignal): Promise<void>;

  /** Opens an upload; the tags will be the object's. */
  beginUpload(key: string, options: UploadOptions, signal: AbortSignal): Promise<Upload>;
  /** Sends one part. The store refuses it when its CRC-32 is not `crc32`. Returns the part's ETag. `body` may be used again once this settles. */
  putPart(upload: Upload, number: number, body: Buffer, crc32: string, signal: AbortSignal): Promise<string>;
  /** Makes the object out of its parts and returns its ETag. Throws `conflict` when the key exists, or with `over`
   * when it does not hold the object of that ETag, where the server can tell (MinIO, AWS). */
  completeUpload(upload: Upload, parts: UploadedPart[], signal: AbortSignal, over?: string): Promise<string>;
  /** Has the store copy `size` bytes from `start` on of the upload's own key, as it is with this ETag, into a part. */
  copyPart(
    upload: Upload,
    number: number,
    from: { etag: string; start: number; size: number },
    signal: AbortSignal,
  ): Promise<UploadedPart>;
  /** The parts that the store has, by number. Throws not-found when the upload is no more. */
  listParts(upload: Upload, signal: AbortSignal): Promise<{ number: number; size: number; etag: string }[]>;
  /** Drops the upload and its parts. An upload that is gone is fine. */
  abortUpload(upload: Upload, signal: AbortSignal): Promise<void>;

  /** Writes a small object only if the key is free, in one atomic step on every server; `conflict` otherwise. Returns its ETag. */
  create(
    key: string,
    body: Buffer,
    options: { tags?: Tags; contentType: string },
    signal: AbortSignal,
  ): Promise<string>;
  /** Writes a small object over the one with this ETag, in one atomic step; `conflict` or `not-found` when that is not there any more. Returns the new ETag. */
  replace(
    key: string,
    etag: string,
    body: Buffer,
    options: { tags: Tags; contentType: string },
    signal: AbortSignal,
  ): Promise<string>;
  /** Gives an object these tags, in place of those that it had. */
  tag(key: string, tags: Tags, signal: AbortSignal): Promise<void>;
  /** The tags that an object has. */
  tagsOf(key: string, signal: AbortSignal): Promise<Record<string, string>>;
  /** Reads a small object whole. */
  read(key: string, signal: AbortSignal): Promise<{ body: Buffer; etag: string }>;
  /** Size and ETag of an object. */
  stat(key: string, signal: AbortSignal): Promise<{ size: number; etag: string }>;
  /** Fills `into` with the object's bytes from `start` on; `conflict` when the object's ETag is no longer `etag`. */
  readRange(key: string, etag: string, start: number, into: Buffer, signal: AbortSignal): Promise<void>;
  /** Deletes an object. One that is gone is fine. */
  remove(key: string, signal: AbortSignal): Promise<void>;
  /** Every object whose key begins with `prefix`, once. In order of the keys' bytes on MinIO and AWS, folder by folder on SeaweedFS. */
  list(prefix: string, signal: AbortSignal): AsyncIterable<StoredObject>;
  /** What the keys that begin with `prefix` have next, up to the next `/` and with it, each once: the folders in it. */
  folders(prefix: string, signal: AbortSignal): AsyncIterable<string>;
  /**
   * The open uploads whose key begins with `prefix`, each once. Not all of them: MinIO forgets, when it restarts, those that are
   * not asked for by their exact key; and of more than 1 000 of one key, the rest may be missing until some of them are gone.
   */
  listUploads(prefix: string, signal: AbortSignal): AsyncIterable<OpenUpload>;
}

/** Makes the bucket itself. */
export interface BucketMaker {
  /** Resolves when the bucket is there, to whether it had to be made. Throws `s3-denied` where this user may not make it. */
  ensureBucket(signal: AbortSignal): Promise<boolean>;
}

/** Makes URLs that need no credentials. */
export interface Presigner {
  /** A URL under which anybody can GET the object for so long, as a file of that name. Nothing is asked of the server. */
  presign(key: string, options: { expirySeconds: number; filename: string }): Promise<string>;
}
