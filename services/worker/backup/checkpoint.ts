/**
 * The progress of a backup, from which another attempt resumes: its beginning, and each stored part. It is kept apart from the operation: ten thousand
 * parts are too much for one record. Nothing is written while LXD may still write its copy, because no attempt can resume that, nor for a backup of one
 * part, which can be made again just as quickly.
 */
import { gunzipSync, gzipSync } from 'node:zlib';
import { smallestPartBytes } from '../../archive/cutParts.ts';
import type { TarState } from '../../archive/tar/tar.ts';
import { isCode } from '../../contract/errors.ts';
import type { BackupLock, Compression, ManifestInstance, ManifestLxd, Part } from '../../contract/schemas.ts';
import type { LxdBackup } from '../../lxd/archives/backups.ts';
import { type Bucket, parseRecord } from '../../nats/bucket/bucket.ts';
import { operationKey } from '../../nats/bucketKeys.ts';
import type { Upload, UploadedPart } from '../../storage/objectStore.ts';
import type { Log } from '../../telemetry/logger.ts';

/** What is known before the first byte is sent. */
export interface BackupStart {
  /** The name of LXD's own copy. */
  lxdBackup: string;
  /** Set once LXD has reported that its copy is complete. Only then can another attempt resume. */
  made?: LxdBackup;
  compression: Compression;
  /** The current upload, and when it was begun (ms since 1970). Undefined until the first part of several is sent. */
  upload?: Upload;
  begun?: number;
  /** How archive and manifest are locked. */
  lock?: BackupLock;
  /** Marks the parts' records; stays the same when the upload is renewed. */
  session: string;
  /** After a renewal: the S3 parts that hold the archive's parts up to and including `upto`, copied from the object with this ETag. */
  copied?: { upto: number; parts: UploadedPart[]; etag: string };
  instance: ManifestInstance;
  lxd: ManifestLxd;
}

/** A stored part, the tar scanner's state after it, and how many of its bytes are zeros, if zerosIn() has counted them. */
export type SentPart = Part & { tar: TarState; zeros?: number };

/**
 * The first record: the beginning and the first parts. The instance's description is in it, too, unless it is long: with its profiles it may be larger than
 * a message of NATS, and is then in `pieces` records of its own.
 */
interface StoredStart extends Omit<BackupStart, 'instance'> {
  packed?: string;
  pieces: number;
  parts: SentPart[];
}

const startName = 'begin';
const partsInChunk = 64;
const longestPacked = 8 * 1024;
const keptMs = 30 * 24 * 3_600_000;

/** The record of later parts. */
interface Chunk {
  session: string;
  parts: SentPart[];
}

/** Where the records of an operation are. */
interface Place {
  bucket: Bucket;
  /** The beginning of their keys. */
  key: string;
}

/** The description of an instance, as it is stored. */
interface Packed {
  bytes: Buffer;
  /** Revisions of the records that contain it; empty if it is in the first record. */
  pieces: number[];
}

export class BackupCheckpoint {
  #start: BackupStart;
  readonly #place: Place;
  /** Undefined until it is written. */
  #packed: Packed | undefined;
  readonly #log: Log;
  /** By number; the parts of chunk 0 are in the first record. */
  readonly #chunks = new Map<number, { parts: Map<number, SentPart>; revision: number }>();
  /** Chunks that have changed since they were written. */
  readonly #dirty = new Set<number>();
  /** Writes run one after another. */
  #tail: Promise<void> = Promise.resolve();

  private constructor(start: BackupStart, place: Place, packed: Packed | undefined, log: Log) {
    this.#start = start;
    this.#place = place;
    this.#packed = packed;
    this.#log = log;
  }

  /** The records of an earlier attempt must be removed by then. */
  static create(
    bucket: Bucket,
    operation: { remote: string; id: string },
    start: BackupStart,
    log: Log,
  ): BackupCheckpoint {
    return new BackupCheckpoint(start, { bucket, key: operationKey(operation.remote, operation.id) }, undefined, log);
  }

  /** Reads the records of an earlier attempt; undefined if there are none. */
  static async load(
    bucket: Bucket,
    operation: { remote: string; id: string },
    log: Log,
  ): Promise<BackupCheckpoint | undefined> {
    const place = { bucket, key: operationKey(operation.remote, operation.id) };
    const { entry } = await bucket.get(`${place.key}.${startName}`);
    if (!entry) return undefined;
    const { pieces, packed: short, parts, ...stored } = parseRecord<StoredStart>(entry.value);
    const packed = short === undefined ? await readPieces(place, pieces) : { bytes: fromBase64(short), pieces: [] };
    if (!packed) return undefined;
    const instance = JSON.parse(gunzipSync(packed.bytes).toString()) as ManifestInstance;
    const checkpoint = new BackupCheckpoint({ ...stored, instance }, place, packed, log);
    checkpoint.#take(0, parts, entry.revision);
    for (let index = 1; ; index++) {
      const { entry: found, revision } = await bucket.get(`${place.key}.${index}`);
      if (!found) return checkpoint;
      const { session, parts } = parseRecord<Chunk>(found.value);
      if (session !== checkpoint.start.session) return checkpoint;
      checkpoint.#take(index, parts, revision);
    }
  }

  get start(): BackupStart {
    return this.#start;
  }

  /** Records the upload, or a new one that replaces it. */
  renew(facts: Pick<BackupStart, 'upload' | 'begun' | 'copied'>): Promise<void> {
    return this.#amend(facts);
  }

  /** Records that LXD's copy is complete, and what was sent of it before. */
  settle(made: LxdBackup): Promise<void> {
    return this.#amend({ made });
  }

  /**
   * The parts from the first on, up to the first gap: a part that is not recorded, or that does not begin where the previous one ends. It may be from an attempt whose
   * parts had another size.
   */
  get parts(): SentPart[] {
    const found: SentPart[] = [];
    for (let number = 1; ; number++) {
      const part = this.#chunks.get(chunkOf(number))?.parts.get(number);
      if (!part || part.rawStart !== (found.at(-1)?.rawEnd ?? 0)) return found;
      found.push(part);
    }
  }

  /** Number of recorded parts, including those after a gap. */
  get recorded(): number {
    let count = 0;
    for (const { parts } of this.#chunks.values()) count += parts.size;
    return count;
  }

  /** Records a part, at once, or together with others if a write is running. If the write fails, the next attempt sends the part again. */
  add(part: SentPart): void {
    const index = chunkOf(part.number);
    this.#chunk(index).parts.set(part.number, part);
    this.#dirty.add(index);
    this.#save().catch((error) => this.#log.warn('checkpoint not written', { error }));
  }

  /** Removes every record, once the backup is done. */
  async remove(): Promise<void> {
    await this.#tail;
    if (!this.#isKept) return;
    const records: [string, number][] = [
      ...[...this.#chunks].map(([index, { revision }]): [string, number] => [nameOf(index), revision]),
      ...(this.#packed?.pieces ?? []).map((revision, piece): [string, number] => [`instance.${piece}`, revision]),
    ];
    for (const [name, revision] of records) {
      const key = `${this.#place.key}.${name}`;
      if (await this.#place.bucket.remove(key, revision)) continue;
      const now = await this.#place.bucket.get(key);
      if (now.entry) await this.#place.bucket.remove(key, now.revision);
    }
  }

  /** If a record is too large for a message of NATS, the backup goes on without it: another attempt then sends everything again. */
  async #amend(facts: Partial<BackupStart>): Promise<void> {
    this.#start = { ...this.#start, ...facts };
    this.#dirty.add(0);
    try {
      await this.#save();
    } catch (error) {
      if (!isCode(error, 'too-large')) throw error;
      this.#log.warn('checkpoint not written', { error });
    }
  }

  /** Whether another attempt could resume, and would save something. */
  get #isKept(): boolean {
    return (this.#start.made?.size ?? 0) > smallestPartBytes;
  }

  /** Writes what is known and not written yet. */
  #save(): Promise<void> {
    if (!this.#isKept) return this.#tail;
    const saved = this.#tail.then(async () => {
      this.#packed ??= await writeInstance(this.#place, this.#start.instance);
      for (const index of this.#dirty) {
        this.#dirty.delete(index);
        try {
          const chunk = this.#chunk(index);
          chunk.revision = await write(this.#place, nameOf(index), this.#format(index, this.#packed), chunk.revision);
        } catch (error) {
          this.#dirty.add(index);
          throw error;
        }
      }
    });
    this.#tail = saved.catch(() => undefined);
    return saved;
  }

  #format(index: number, { bytes, pieces }: Packed): string {
    const parts = [...this.#chunk(index).parts.values()];
    if (index > 0) return JSON.stringify({ session: this.#start.session, parts } satisfies Chunk);
    const { instance: _, ...start } = this.#start;
    const stored: StoredStart = { ...start, pieces: pieces.length, parts };
    return JSON.stringify(pieces.length > 0 ? stored : { ...stored, packed: bytes.toString('base64') });
  }

  #chunk(index: number): { parts: Map<number, SentPart>; revision: number } {
    return this.#chunks.get(index) ?? this.#take(index, [], 0);
  }

  #take(index: number, parts: SentPart[], revision: number): { parts: Map<number, SentPart>; revision: number } {
    const chunk = { parts: new Map(parts.map((part) => [part.number, part])), revision };
    this.#chunks.set(index, chunk);
    return chunk;
  }
}

/** Writes a record, over any existing one: the holder of the lease on the instance owns the record. `expected`: its revision, as far as is known. Returns the new revision. */
async function write({ bucket, key }: Place, name: string, value: Buffer | string, expected: number): Promise<number> {
  for (let revision = expected; ; ) {
    const written = await bucket.put(`${key}.${name}`, value, revision, { ttlMs: keptMs });
    if (written !== undefined) return written;
    // The key has another attempt's record, the marker of a removed one, or our own write whose answer was lost.
    revision = (await bucket.get(`${key}.${name}`)).revision;
  }
}

/** Packs the description of an instance. If it is too long for the first record, writes it in pieces. */
async function writeInstance(place: Place, instance: ManifestInstance): Promise<Packed> {
  const bytes = gzipSync(JSON.stringify(instance));
  const size = place.bucket.largestValue;
  const pieces: number[] = [];
  if (bytes.length > longestPacked)
    for (let at = 0; at < bytes.length; at += size)
      pieces.push(await write(place, `instance.${pieces.length}`, bytes.subarray(at, at + size), 0));
  return { bytes, pieces };
}

/** Undefined if a piece is missing. */
async function readPieces({ bucket, key }: Place, count: number): Promise<Packed | undefined> {
  const found: Buffer[] = [];
  const pieces: number[] = [];
  while (pieces.length < count) {
    const { entry } = await bucket.get(`${key}.instance.${pieces.length}`);
    if (!entry) return undefined;
    found.push(entry.value);
    pieces.push(entry.revision);
  }
  return { bytes: Buffer.concat(found), pieces };
}

/** Removes all records of an operation's attempts. */
export async function removeCheckpoint(bucket: Bucket, { remote, id }: { remote: string; id: string }): Promise<void> {
  const key = operationKey(remote, id);
  const { entry, revision } = await bucket.get(`${key}.${startName}`);
  if (entry) await bucket.remove(`${key}.${startName}`, revision);
  await removeSeries(bucket, `${key}.instance`, 0);
  await removeSeries(bucket, key, 1);
}

/** Removes `key.<first>` and the following keys, up to the first one that does not exist. */
async function removeSeries(bucket: Bucket, key: string, first: number): Promise<void> {
  for (let index = first; ; index++) {
    const { entry, revision } = await bucket.get(`${key}.${index}`);
    if (!entry) return;
    await bucket.remove(`${key}.${index}`, revision);
  }
}

function nameOf(chunk: number): string {
  return chunk === 0 ? startName : String(chunk);
}

function chunkOf(number: number): number {
  return Math.floor((number - 1) / partsInChunk);
}

function fromBase64(text: string): Buffer {
  return Buffer.from(text, 'base64');
}
