/**
 * The archive's upload: takes parts, and makes an object of them. Renews an upload that grows old: MinIO removes one a day after its beginning, however
 * busy it is (docs/s3.md).
 */
import { etagAt } from '../../backups/archives.ts';
import { isCode, LxstowError } from '../../contract/errors.ts';
import type { Tags } from '../../contract/schemas.ts';
import { type Attempt, cleanupSignal, lingering } from '../../operations/attempt.ts';
import type { ObjectStore, Upload, UploadedPart, UploadOptions } from '../../storage/objectStore.ts';
import { multipartEtag } from '../../storage/s3/s3Messages.ts';
import type { Tools } from '../tools.ts';
import type { BackupCheckpoint, SentPart } from './checkpoint.ts';

/** Most bytes of one copy inside the store. S3 allows 5 GiB, but then takes long to answer. */
const copyBytes = 1024 ** 3;

export interface ArchiveUploadOptions {
  key: string;
  tags: Tags;
  contentType: string;
}

export class ArchiveUpload {
  readonly #checkpoint: BackupCheckpoint;
  readonly #options: ArchiveUploadOptions;
  readonly #attempt: Attempt;
  readonly #tools: Tools;
  readonly #inFlight = new Set<Promise<unknown>>();
  #opening: Promise<void> | undefined;
  #renewing: Promise<void> | undefined;
  /** The ETag of an archive that was stored in one request. */
  #whole: string | undefined;

  constructor(checkpoint: BackupCheckpoint, options: ArchiveUploadOptions, attempt: Attempt, tools: Tools) {
    this.#checkpoint = checkpoint;
    this.#options = options;
    this.#attempt = attempt;
    this.#tools = tools;
  }

  /** The archive's key in the store. */
  get key(): string {
    return this.#checkpoint.start.upload?.key ?? this.#options.key;
  }

  /** Stores a whole archive, which is one part, in one request (docs/adr/0044-one-request.md). */
  async putWhole(part: Omit<SentPart, 'etag'>, body: Buffer, signal: AbortSignal): Promise<SentPart> {
    const { key, tags, contentType } = this.#options;
    const { lock } = this.#checkpoint.start;
    const options = { tags, contentType, lock, crc32: part.crc32, operation: this.#attempt.operation.id };
    this.#attempt.assertOwned();
    const etag = await this.#tools.store
      .create(key, body, options, lingering(signal))
      .catch((error) => this.#sentBefore(body, error, signal));
    const sent = { ...part, etag };
    this.#checkpoint.add(sent);
    this.#whole = etag;
    return sent;
  }

  /**
   * The ETag of the archive that an earlier request of this operation has stored. If that was another attempt's, only the next attempt may remove it: a
   * worker that has just lost its lease would remove its successor's.
   */
  async #sentBefore(body: Buffer, error: unknown, signal: AbortSignal): Promise<string> {
    const { store } = this.#tools;
    if (!isCode(error, 'conflict') || (await store.stat(this.key, signal)).operation !== this.#attempt.operation.id)
      throw error;
    const present = await store.read(this.key, signal);
    if (present.body.equals(body)) return present.etag;
    throw new LxstowError(
      's3-unavailable',
      'the archive of an earlier attempt arrived late: it is removed, and sent again',
    );
  }

  /** Stores a part and records it. The first begins the upload. */
  async put(part: Omit<SentPart, 'etag'>, body: Buffer, signal: AbortSignal): Promise<SentPart> {
    if (!this.#checkpoint.start.upload) {
      this.#opening ??= this.#open(signal).finally(() => {
        this.#opening = undefined;
      });
      await this.#opening;
    }
    if (this.#isOld()) {
      this.#renewing ??= this.#renew(signal).finally(() => {
        this.#renewing = undefined;
      });
    }
    await this.#renewing;
    this.#attempt.assertOwned();
    const sending = this.#send(part, body, signal);
    this.#inFlight.add(sending);
    try {
      return await sending;
    } finally {
      this.#inFlight.delete(sending);
    }
  }

  async #send(part: Omit<SentPart, 'etag'>, body: Buffer, signal: AbortSignal): Promise<SentPart> {
    const etag = await this.#tools.store
      .putPart(this.#upload, this.#s3Number(part.number), body, part.crc32, signal)
      .catch(throwEnded);
    const sent = { ...part, etag };
    this.#checkpoint.add(sent);
    return sent;
  }

  /** Makes the object of its parts, unless it is there; returns its ETag. */
  async complete(signal: AbortSignal): Promise<string> {
    if (this.#whole !== undefined) return this.#whole;
    const { store } = this.#tools;
    const { copied } = this.#checkpoint.start;
    this.#attempt.assertOwned();
    return store.completeUpload(this.#upload, this.#s3Parts(), signal, copied?.etag).catch(async (error) => {
      // An earlier attempt may have begun this completion: the store goes on with it when its client is gone.
      const isThere = isEnded(error) && (await etagAt(store, this.key, signal)) === this.etag;
      return isThere ? this.etag : throwEnded(error);
    });
  }

  /** The ETag that the object of all recorded parts has. */
  get etag(): string {
    return multipartEtag(this.#s3Parts());
  }

  /** Whether the store has every recorded part with the recorded ETag. Throws not-found if the upload is gone. */
  async isSound(signal: AbortSignal): Promise<boolean> {
    const stored = new Map(
      (await this.#tools.store.listParts(this.#upload, signal)).map((part) => [part.number, part.etag]),
    );
    return this.#s3Parts().every(({ number, etag }) => stored.get(number) === etag);
  }

  /** Begins a new upload, and has the store copy the key's object, whose ETag must be `etag`, into it. */
  async reopen(etag: string, signal: AbortSignal): Promise<void> {
    const { store } = this.#tools;
    const { tags, contentType } = this.#options;
    const { lock } = this.#checkpoint.start;
    const old = this.#upload;
    const { uploadId } = this.#attempt.operation.checkpoint ?? {};
    // An earlier attempt died while it renewed the upload: its copy is incomplete.
    if (uploadId && uploadId !== old.uploadId) await store.abortUpload({ key: old.key, uploadId }, signal);
    const sent = this.#checkpoint.parts;
    const begun = Date.now();
    const upload = await store.beginUpload(old.key, { tags, contentType, lock, copies: true }, lingering(signal));
    await this.#attempt.checkpoint({ key: upload.key, uploadId: upload.uploadId });
    const size = sent.reduce((sum, part) => sum + part.size, 0);
    const parts: UploadedPart[] = [];
    // Equal pieces: S3 takes no part under 5 MiB except the last, and more parts follow these.
    const pieceBytes = Math.ceil(size / Math.ceil(size / copyBytes));
    for (let start = 0; start < size; start += pieceBytes) {
      this.#attempt.assertOwned();
      const from = { etag, start, size: Math.min(pieceBytes, size - start) };
      parts.push(await store.copyPart(upload, parts.length + 1, from, signal).catch(throwEnded));
    }
    await this.#checkpoint.renew({ upload, begun, copied: { upto: sent.at(-1)?.number ?? 0, parts, etag } });
    this.#attempt.log.info('upload renewed', { bytes: size, parts: sent.length });
  }

  get #upload(): Upload {
    const { upload } = this.#checkpoint.start;
    if (!upload) throw new TypeError('no upload was begun');
    return upload;
  }

  async #open(signal: AbortSignal): Promise<void> {
    const { key, tags, contentType } = this.#options;
    const { lock } = this.#checkpoint.start;
    const begun = Date.now();
    signal.throwIfAborted();
    const upload = await openUpload(key, { tags, contentType, lock }, this.#attempt, this.#tools.store);
    await this.#checkpoint.renew({ upload, begun });
  }

  async #renew(signal: AbortSignal): Promise<void> {
    await Promise.allSettled(this.#inFlight);
    const sent = this.#checkpoint.parts;
    // Do not renew while an earlier part is missing, because a later one was faster. The next part does.
    if (!this.#isOld() || sent.length === 0 || sent.length !== this.#checkpoint.recorded) return;
    await this.reopen(await this.complete(signal), signal);
  }

  #isOld(): boolean {
    const { begun } = this.#checkpoint.start;
    return begun !== undefined && Date.now() - begun > this.#tools.config.s3.uploadMaxAgeMs;
  }

  #s3Parts(): UploadedPart[] {
    const { copied } = this.#checkpoint.start;
    const own = this.#checkpoint.parts.filter(({ number }) => number > (copied?.upto ?? 0));
    return [
      ...(copied?.parts ?? []),
      ...own.map(({ number, etag, crc32 }) => ({ number: this.#s3Number(number), etag, crc32 })),
    ];
  }

  #s3Number(number: number): number {
    const { copied } = this.#checkpoint.start;
    return copied ? number - copied.upto + copied.parts.length : number;
  }
}

function isEnded(error: unknown): boolean {
  return isCode(error, 'not-found') || isCode(error, 'conflict');
}

/** Throws an error that the job is not blamed for if an upload is gone, or another object is at its key: the next attempt looks at what is there. */
function throwEnded(error: unknown): never {
  if (!isEnded(error)) throw error;
  const why = `the upload was ended by another request than this attempt's: ${(error as Error).message}`;
  throw new LxstowError('s3-unavailable', why, { cause: error });
}

/** Opens an upload and records it. If it cannot be recorded, for example because NATS is away, aborts the upload: no other process would know of it. */
export async function openUpload(
  key: string,
  options: UploadOptions,
  attempt: Pick<Attempt, 'signal' | 'checkpoint' | 'log'>,
  store: Pick<ObjectStore, 'beginUpload' | 'abortUpload'>,
): Promise<Upload> {
  const upload = await store.beginUpload(key, options, lingering(attempt.signal));
  try {
    await attempt.checkpoint({ key, uploadId: upload.uploadId });
  } catch (error) {
    await store
      .abortUpload(upload, cleanupSignal())
      .catch((left) => attempt.log.error('left behind', { what: 'upload', upload, error: left }));
    throw error;
  }
  return upload;
}
