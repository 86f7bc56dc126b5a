/** Tries each permission on the bucket that gateway and worker need, on an object of our own, which is removed with all its versions. */
import { randomUUID } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { crcInS3 } from '../archive/crcInS3.ts';
import { isCode, LxstowError } from '../contract/errors.ts';
import type { ObjectStore, Upload } from '../storage/objectStore.ts';
import type { S3Connection } from '../storage/s3/s3Connection.ts';
import { word, type Xml } from '../storage/s3/s3Messages.ts';
import { answerMs, briefly, messageOf, type Report } from './finding.ts';
import { adviceForRight } from './s3Advice.ts';
import type { Kept } from './s3Bucket.ts';

interface TrialOptions {
  store: ObjectStore;
  /** The bucket itself, for versions, which ObjectStore does not offer; and its name. */
  bucket: S3Connection;
  name: string;
  kept: Kept;
  /** The beginning that all keys must have: empty, or ending with a slash. */
  folder: string;
  signal: AbortSignal;
}

const probe = 'lxstow-doctor-';
const oldProbeMs = 3_600_000;
const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const small = { contentType: 'text/plain' };
const body = Buffer.from('lxstow doctor: this may be removed\n');

export class RightsTrial {
  readonly #options: TrialOptions;
  readonly #store: ObjectStore;
  readonly #kept: Kept;
  /** The beginning of the keys of all trials. */
  readonly #prefix: string;
  readonly #key: string;
  readonly #report: Report;
  readonly #reportLeft: Report;
  readonly #done: string[] = [];
  #failed = false;
  #upload: Upload | undefined;

  constructor(options: TrialOptions, report: Report, reportLeft: Report) {
    const { store, kept, folder } = options;
    this.#options = options;
    this.#store = store;
    this.#kept = kept;
    this.#prefix = folder + probe;
    // In a bucket that locks, an object stays: so use one key, however often this is run.
    this.#key = `${this.#prefix}${kept.locked ? 'locked' : randomUUID()}`;
    this.#report = report;
    this.#reportLeft = reportLeft;
  }

  /** Makes every call of gateway and worker once. In a locked bucket it deletes and completes nothing, and leaves one small object. */
  async run(): Promise<void> {
    const { locked } = this.#kept;
    try {
      await this.#tryObject();
      await this.#tryUpload();
      if (this.#failed) return;
      const skipped = locked
        ? `; the bucket has Object Lock, so deletion was not tested, and ${this.#key} stays there`
        : '';
      this.#report('ok', `tried, and allowed: ${this.#done.join(', ')}${skipped}`);
    } finally {
      await this.#cleanUp();
    }
  }

  async #tryObject(): Promise<void> {
    const store = this.#store;
    const key = this.#key;
    const isPut = await this.#step('put', 's3:PutObject', async (signal) => {
      await store.create(key, body, small, signal).catch((error) => {
        // The object exists from an earlier run, so this request was allowed, too.
        if (!(this.#kept.locked && isCode(error, 'conflict'))) throw error;
      });
      return true;
    });
    if (!isPut) return;
    await this.#tryCondition();
    await this.#step('get', 's3:GetObject', async (signal) => {
      if (!(await store.read(key, signal)).body.equals(body))
        throw new LxstowError('s3-refused', 'other bytes came back');
    });
    await this.#step('list', 's3:ListBucket', async (signal) => {
      const seen = await Array.fromAsync(store.list(this.#prefix, signal));
      if (!seen.some((object) => object.key === key))
        throw new LxstowError('s3-refused', 'the object that was just written is not listed');
      if (this.#kept.locked) return;
      // Names of hosts and projects may begin in the same way, so only what is named as a trial's object is removed.
      for (const { key, modified } of seen.filter((object) => uuid.test(object.key.slice(this.#prefix.length))))
        if (Date.now() - Date.parse(modified) > oldProbeMs) await store.remove(key, signal);
    });
    await this.#tryTags();
    if (this.#kept.locked) return;
    await this.#step('delete', 's3:DeleteObject', (signal) => store.remove(key, signal));
  }

  async #tryTags(): Promise<void> {
    const key = this.#key;
    const store = this.#store;
    const tags = await this.#step('tag', 's3:PutObjectTagging', async (signal) => {
      await store.tag(key, { lxstow: 'doctor' }, signal);
      // lxstow does not need the right to read tags.
      return store.tagsOf(key, signal).catch(() => ({ lxstow: 'doctor' }) as Record<string, string>);
    });
    if (tags === undefined || tags.lxstow !== undefined) return;
    this.#done.pop();
    this.#report(
      'warning',
      "the store does not support tags: the tags of backups are only in their manifests, and the store's lifecycle rules cannot use them",
      'You need to do nothing, unless you want lifecycle rules that use tags: docs/s3.md.',
    );
  }

  async #tryUpload(): Promise<void> {
    const store = this.#store;
    const key = this.#key;
    const begin = (signal: AbortSignal) => store.beginUpload(key, { tags: {}, ...small }, signal);
    const open = await this.#step('begin a multipart upload', 's3:PutObject', begin);
    if (!open) return;
    this.#upload = open;
    const sum = crcInS3(crc32(body));
    await this.#tryWrongSum(open, sum);
    const etag = await this.#step('put a part', 's3:PutObject', (signal) => store.putPart(open, 1, body, sum, signal));
    await this.#step('list parts', 's3:ListMultipartUploadParts', (signal) => store.listParts(open, signal));
    await this.#step('list uploads', 's3:ListBucketMultipartUploads', async (signal) => {
      for await (const _ of store.listUploads(key, signal));
    });
    if (etag !== undefined && !this.#kept.locked) {
      const parts = [{ number: 1, etag, crc32: sum }];
      const made = await this.#step('complete an upload', 's3:PutObject', (signal) =>
        store.completeUpload(open, parts, signal),
      );
      if (made !== undefined) {
        this.#upload = undefined;
        await store.remove(key, briefly(this.#options.signal));
        this.#upload = await this.#step(undefined, 's3:PutObject', begin);
      }
    }
    const last = this.#upload;
    if (last)
      await this.#step('abort an upload', 's3:AbortMultipartUpload', (signal) => store.abortUpload(last, signal));
  }

  /** Makes a call; reports its failure, and then returns undefined. `what`: what the call does, unless it was tried before. */
  async #step<T>(
    what: string | undefined,
    right: string,
    call: (signal: AbortSignal) => Promise<T>,
  ): Promise<T | undefined> {
    this.#options.signal.throwIfAborted();
    try {
      const result = await call(briefly(this.#options.signal));
      if (what) this.#done.push(what);
      return result;
    } catch (error) {
      this.#failed = true;
      this.#report(
        'problem',
        `S3 does not let lxstow ${what ?? 'begin another upload'}: ${messageOf(error)}`,
        adviceForRight(error, right, this.#options.name, this.#options.folder),
      );
      return undefined;
    }
  }

  /** Tests `If-None-Match`, which decides which of two writers wins. */
  async #tryCondition(): Promise<void> {
    const advice = 'Use a store that supports If-None-Match on PUT, or a newer version of this one: docs/s3.md.';
    try {
      await this.#store.create(this.#key, Buffer.from('second'), small, briefly(this.#options.signal));
    } catch (error) {
      if (isCode(error, 'conflict')) return;
      return this.#report('problem', `S3 does not support conditional writes: ${messageOf(error)}`, advice);
    }
    this.#report(
      'problem',
      'S3 overwrote an object despite If-None-Match: two workers could both believe that they won',
      advice,
    );
  }

  /** Tests whether the store verifies the checksum of a part, which the next one replaces. Without these headers, it gets Content-MD5. */
  async #tryWrongSum(upload: Upload, sumOfBody: string): Promise<void> {
    if (upload.copies) return;
    const other = Buffer.from('other');
    try {
      await this.#store.putPart(upload, 1, other, sumOfBody, briefly(this.#options.signal));
    } catch {
      return;
    }
    this.#report(
      'warning',
      'the store does not verify the checksums of parts: only a restore notices a part that was damaged in transit',
      'Set s3.checksumHeaders to false: parts then have Content-MD5, which every store verifies.',
    );
  }

  /** Removes what was put, whatever failed, and even after an abort. */
  async #cleanUp(): Promise<void> {
    const { bucket, name } = this.#options;
    const key = this.#key;
    const now = () => AbortSignal.timeout(answerMs);
    try {
      if (this.#upload) await this.#store.abortUpload(this.#upload, now());
      if (this.#kept.locked) return;
      await this.#store.remove(key, now());
      if (!this.#kept.versions) return;
      const query = { versions: '', prefix: key };
      const asked = { method: 'GET' as const, query, signal: now() };
      const { Version = [], DeleteMarker = [] } = await bucket.ask('ListVersionsResult', asked);
      for (const each of [Version, DeleteMarker].flat() as Xml[])
        await bucket.send({ method: 'DELETE', key, query: { versionId: word(each, 'VersionId') }, signal: now() });
    } catch (error) {
      this.#reportLeft(
        'warning',
        `the test object may still be in the bucket: ${messageOf(error)}`,
        `Remove it, with its versions: \`aws s3 rm s3://${name}/${key}\`; if the bucket keeps versions, also \`aws s3api delete-object\` with each \`--version-id\`.`,
      );
    }
  }
}
