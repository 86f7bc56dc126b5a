/**
 * How far a backup is, for another attempt to go on from: its beginning, and each part that is stored. Kept beside the operation, not
 * in it: ten thousand parts are too much for one record that changes every second.
 */
import { gunzipSync, gzipSync } from 'node:zlib';
import type { TarState } from '../../archive/tar/tar.ts';
import type { Compression, ManifestInstance, ManifestLxd, Part } from '../../contract/schemas.ts';
import type { LxdBackup } from '../../lxd/backups.ts';
import { type Bucket, parseRecord } from '../../nats/bucket.ts';
import { operationKey } from '../../nats/bucketKeys.ts';
import type { Upload, UploadedPart } from '../../storage/objectStore.ts';
import type { Log } from '../../telemetry/logger.ts';

/** All that is settled before the first byte is sent. */
export interface BackupStart {
  /** The name of LXD's own copy. */
  lxdBackup: string;
  /** Set once LXD has said that its copy is whole: only then can another attempt go on. */
  made?: LxdBackup;
  compression: Compression;
  /** The upload of now, and when it was begun (ms since 1970). */
  upload: Upload;
  begun: number;
  /** The same through all renewals: what the parts' records are marked with. */
  session: string;
  /** After a renewal: the S3 parts that hold the archive's parts up to and including `upto`, copied from the object with this ETag. */
  copied?: { upto: number; parts: UploadedPart[]; etag: string };
  instance: ManifestInstance;
  lxd: ManifestLxd;
}

/** A part that is stored, where the tar scanner was behind it, and how many bytes of it are zeros, as zerosIn() counts them, where that was counted. */
export type SentPart = Part & { tar: TarState; zeros?: number };

/** As it is written. The instance's description has records of its own, `pieces` of them: with its profiles it may be larger than a message of NATS. */
type StoredStart = Omit<BackupStart, 'instance'> & { pieces: number };

const partsInChunk = 64;
const keptMs = 30 * 24 * 3_600_000;

interface Chunk {
  session: string;
  parts: SentPart[];
}

export class BackupCheckpoint {
  #start: BackupStart;
  readonly #pieces: number;
  readonly #bucket: Bucket;
  readonly #key: string;
  readonly #log: Log;
  readonly #chunks = new Map<number, { parts: Map<number, SentPart>; revision: number }>();
  readonly #dirty = new Set<number>();
  #writing: Promise<void> | undefined;
  #amending: Promise<void> = Promise.resolve();

  private constructor(start: BackupStart, pieces: number, bucket: Bucket, key: string, log: Log) {
    this.#start = start;
    this.#pieces = pieces;
    this.#bucket = bucket;
    this.#key = key;
    this.#log = log;
  }

  /** Begins anew: what an earlier attempt recorded is forgotten. */
  static async create(
    bucket: Bucket,
    operation: { remote: string; id: string },
    start: BackupStart,
    log: Log,
  ): Promise<BackupCheckpoint> {
    const key = operationKey(operation.remote, operation.id);
    await removeCheckpoint(bucket, operation);
    const pieces = await writeInstance(bucket, key, start.instance);
    await bucket.create(`${key}.start`, formatStart(start, pieces), { ttlMs: keptMs });
    return new BackupCheckpoint(start, pieces, bucket, key, log);
  }

  /** What an earlier attempt recorded; undefined when it had not come so far. */
  static async load(
    bucket: Bucket,
    operation: { remote: string; id: string },
    log: Log,
  ): Promise<BackupCheckpoint | undefined> {
    const key = operationKey(operation.remote, operation.id);
    const { entry } = await bucket.get(`${key}.start`);
    if (!entry) return undefined;
    const { pieces, ...start } = parseRecord<StoredStart>(entry.value);
    const instance = await readInstance(bucket, key, pieces);
    if (!instance) return undefined;
    const checkpoint = new BackupCheckpoint({ ...start, instance }, pieces, bucket, key, log);
    for (let index = 0; ; index++) {
      const { entry: found, revision } = await bucket.get(`${key}.${index}`);
      if (!found) return checkpoint;
      const { session, parts } = parseRecord<Chunk>(found.value);
      if (session !== checkpoint.start.session) return checkpoint;
      checkpoint.#chunks.set(index, { parts: new Map(parts.map((part) => [part.number, part])), revision });
    }
  }

  get start(): BackupStart {
    return this.#start;
  }

  /** Another upload takes the place of the one so far. */
  async renew(facts: Pick<BackupStart, 'upload' | 'begun' | 'copied'>): Promise<void> {
    await this.#writing;
    await this.#amend(facts);
  }

  /** LXD's copy is whole. */
  settle(made: LxdBackup): Promise<void> {
    return this.#amend({ made });
  }

  /** One after another: each writes all that is known. */
  #amend(facts: Partial<BackupStart>): Promise<void> {
    const write = async () => {
      this.#start = { ...this.#start, ...facts };
      const { revision } = await this.#bucket.get(`${this.#key}.start`);
      const value = formatStart(this.#start, this.#pieces);
      await this.#bucket.put(`${this.#key}.start`, value, revision, { ttlMs: keptMs });
    };
    const amended = this.#amending.then(write);
    this.#amending = amended.catch(() => undefined);
    return amended;
  }

  /**
   * The parts from the first on, up to the first that is not recorded, or does not go on where the one before it ended: it may be of an attempt
   * whose parts had another size.
   */
  get parts(): SentPart[] {
    const found: SentPart[] = [];
    for (let number = 1; ; number++) {
      const part = this.#chunks.get(chunkOf(number))?.parts.get(number);
      if (!part || part.rawStart !== (found.at(-1)?.rawEnd ?? 0)) return found;
      found.push(part);
    }
  }

  /** How many parts are recorded, with or without a gap among them. */
  get recorded(): number {
    let count = 0;
    for (const { parts } of this.#chunks.values()) count += parts.size;
    return count;
  }

  /** Records a part. It is written at once, together with others that come meanwhile; a failure to write costs only its being sent again. */
  add(part: SentPart): void {
    const index = chunkOf(part.number);
    const chunk = this.#chunks.get(index) ?? { parts: new Map(), revision: 0 };
    chunk.parts.set(part.number, part);
    this.#chunks.set(index, chunk);
    this.#dirty.add(index);
    this.#writing ??= this.#write().finally(() => {
      this.#writing = undefined;
    });
  }

  /** Removes everything: the backup is done, or given up. */
  async remove(): Promise<void> {
    await this.#writing;
    const [remote = '', id = ''] = this.#key.split('.');
    await removeCheckpoint(this.#bucket, { remote, id });
  }

  async #write(): Promise<void> {
    for (const index of this.#dirty) {
      this.#dirty.delete(index);
      const chunk = this.#chunks.get(index);
      if (!chunk) continue;
      const value: Chunk = { session: this.start.session, parts: [...chunk.parts.values()] };
      try {
        const key = `${this.#key}.${index}`;
        const written = await this.#bucket.put(key, JSON.stringify(value), chunk.revision, { ttlMs: keptMs });
        // Over a marker, or over a write of ours whose answer was lost: the lease says that the key is ours.
        chunk.revision = written ?? (await this.#bucket.get(key)).revision;
        if (written === undefined) this.#dirty.add(index);
      } catch (error) {
        this.#log.warn('checkpoint not written', { error });
        return;
      }
    }
  }
}

function formatStart({ instance: _, ...start }: BackupStart, pieces: number): string {
  return JSON.stringify({ ...start, pieces } satisfies StoredStart);
}

/** Writes the description of an instance; returns in how many pieces. */
async function writeInstance(bucket: Bucket, key: string, instance: ManifestInstance): Promise<number> {
  const packed = gzipSync(JSON.stringify(instance));
  const size = bucket.largestValue;
  const pieces = Math.ceil(packed.length / size);
  for (let piece = 0; piece < pieces; piece++) {
    const name = `${key}.instance.${piece}`;
    const { revision } = await bucket.get(name);
    await bucket.put(name, packed.subarray(piece * size, (piece + 1) * size), revision, { ttlMs: keptMs });
  }
  return pieces;
}

/** Undefined when a piece is missing. */
async function readInstance(bucket: Bucket, key: string, pieces: number): Promise<ManifestInstance | undefined> {
  const found: Buffer[] = [];
  for (let piece = 0; piece < pieces; piece++) {
    const { entry } = await bucket.get(`${key}.instance.${piece}`);
    if (!entry) return undefined;
    found.push(entry.value);
  }
  return JSON.parse(gunzipSync(Buffer.concat(found)).toString()) as ManifestInstance;
}

/** Removes what is recorded of an operation. */
export async function removeCheckpoint(bucket: Bucket, { remote, id }: { remote: string; id: string }): Promise<void> {
  const key = operationKey(remote, id);
  const { entry, revision } = await bucket.get(`${key}.start`);
  if (entry) await bucket.remove(`${key}.start`, revision);
  for (const series of [`${key}.instance`, key]) await removeSeries(bucket, series);
}

/** Removes `key.0`, `key.1`, … up to the first one that is not there. */
async function removeSeries(bucket: Bucket, key: string): Promise<void> {
  for (let index = 0; ; index++) {
    const { entry, revision } = await bucket.get(`${key}.${index}`);
    if (!entry) return;
    await bucket.remove(`${key}.${index}`, revision);
  }
}

function chunkOf(number: number): number {
  return Math.floor((number - 1) / partsInChunk);
}
