/**
 * How far a backup is, for another attempt to resume: its beginning, and each part that is stored. Kept beside the operation, not in it: ten thousand
 * parts are too much for one record that changes every second.
 */
import { gunzipSync, gzipSync } from 'node:zlib';
import type { TarState } from '../../archive/tar/tar.ts';
import type { BackupLock, Compression, ManifestInstance, ManifestLxd, Part } from '../../contract/schemas.ts';
import type { LxdBackup } from '../../lxd/backups.ts';
import { type Bucket, parseRecord } from '../../nats/bucket.ts';
import { operationKey } from '../../nats/bucketKeys.ts';
import type { Upload, UploadedPart } from '../../storage/objectStore.ts';
import type { Log } from '../../telemetry/logger.ts';

/** What is known before the first byte is sent. */
export interface BackupStart {
  /** The name of LXD's own copy. */
  lxdBackup: string;
  /** Set once LXD has said that its copy is whole: only then can another attempt resume. */
  made?: LxdBackup;
  compression: Compression;
  /** The current upload, and when it was begun (ms since 1970). */
  upload: Upload;
  begun: number;
  /** How archive and manifest are locked. */
  lock?: BackupLock;
  /** Marks the parts' records; stays the same when the upload is renewed. */
  session: string;
  /** After a renewal: the S3 parts that hold the archive's parts up to and including `upto`, copied from the object with this ETag. */
  copied?: { upto: number; parts: UploadedPart[]; etag: string };
  instance: ManifestInstance;
  lxd: ManifestLxd;
}

/** A part that is stored, the tar scanner's state behind it, and how many of its bytes are zeros, if zerosIn() has counted them. */
export type SentPart = Part & { tar: TarState; zeros?: number };

/** The stored form. The instance's description is in `pieces` records of its own: with its profiles it may be larger than a message of NATS. */
type StoredStart = Omit<BackupStart, 'instance'> & { pieces: number };

const partsInChunk = 64;
const keptMs = 30 * 24 * 3_600_000;

interface Chunk {
  session: string;
  parts: SentPart[];
}

/** The records of one operation. */
interface Place {
  bucket: Bucket;
  /** What their keys begin with. */
  key: string;
}

export class BackupCheckpoint {
  #start: BackupStart;
  readonly #bucket: Bucket;
  readonly #key: string;
  readonly #log: Log;
  /** Of the record of the beginning, and of each piece of the description. */
  #revision: number;
  readonly #pieces: number[];
  readonly #chunks = new Map<number, { parts: Map<number, SentPart>; revision: number }>();
  readonly #dirty = new Set<number>();
  #writing: Promise<void> | undefined;
  #amending: Promise<void> = Promise.resolve();

  private constructor(start: BackupStart, place: Place, revision: number, pieces: number[], log: Log) {
    this.#start = start;
    this.#bucket = place.bucket;
    this.#key = place.key;
    this.#revision = revision;
    this.#pieces = pieces;
    this.#log = log;
  }

  /** Records the beginning. The records of an earlier attempt must be removed by then. */
  static async create(
    bucket: Bucket,
    operation: { remote: string; id: string },
    start: BackupStart,
    log: Log,
  ): Promise<BackupCheckpoint> {
    const place = { bucket, key: operationKey(operation.remote, operation.id) };
    const pieces = await writeInstance(place, start.instance);
    const revision = await write(place, 'start', formatStart(start, pieces.length), 0);
    return new BackupCheckpoint(start, place, revision, pieces, log);
  }

  /** Reads what an earlier attempt recorded; undefined if it had not come so far. */
  static async load(
    bucket: Bucket,
    operation: { remote: string; id: string },
    log: Log,
  ): Promise<BackupCheckpoint | undefined> {
    const key = operationKey(operation.remote, operation.id);
    const { entry } = await bucket.get(`${key}.start`);
    if (!entry) return undefined;
    const { pieces: count, ...start } = parseRecord<StoredStart>(entry.value);
    const found = await readInstance({ bucket, key }, count);
    if (!found) return undefined;
    const { instance, pieces } = found;
    const checkpoint = new BackupCheckpoint({ ...start, instance }, { bucket, key }, entry.revision, pieces, log);
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

  /** Records another upload in the place of the current one. */
  async renew(facts: Pick<BackupStart, 'upload' | 'begun' | 'copied'>): Promise<void> {
    await this.#writing;
    await this.#amend(facts);
  }

  /** Records that LXD's copy is whole. */
  settle(made: LxdBackup): Promise<void> {
    return this.#amend({ made });
  }

  /** Writes run one after another: each writes all that is known. */
  #amend(facts: Partial<BackupStart>): Promise<void> {
    const amend = async () => {
      this.#start = { ...this.#start, ...facts };
      this.#revision = await write(this.#place, 'start', formatStart(this.#start, this.#pieces.length), this.#revision);
    };
    const amended = this.#amending.then(amend);
    this.#amending = amended.catch(() => undefined);
    return amended;
  }

  /**
   * The parts from the first on, up to the first that is not recorded, or does not begin where the one before it ends: it may be of an attempt whose
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

  /** Number of recorded parts, those behind a gap too. */
  get recorded(): number {
    let count = 0;
    for (const { parts } of this.#chunks.values()) count += parts.size;
    return count;
  }

  /** Records a part, at once or together with others that come during a write. If the write fails, the next attempt sends the part again. */
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

  /** Removes every record: the backup is done. */
  async remove(): Promise<void> {
    await this.#writing;
    const records: [string, number][] = [
      ['start', this.#revision],
      ...this.#pieces.map((revision, piece): [string, number] => [`instance.${piece}`, revision]),
      ...[...this.#chunks].map(([index, { revision }]): [string, number] => [String(index), revision]),
    ];
    for (const [name, revision] of records) {
      const key = `${this.#key}.${name}`;
      if (await this.#bucket.remove(key, revision)) continue;
      const now = await this.#bucket.get(key);
      if (now.entry) await this.#bucket.remove(key, now.revision);
    }
  }

  get #place(): Place {
    return { bucket: this.#bucket, key: this.#key };
  }

  async #write(): Promise<void> {
    for (const index of this.#dirty) {
      this.#dirty.delete(index);
      const chunk = this.#chunks.get(index);
      if (!chunk) continue;
      const value: Chunk = { session: this.start.session, parts: [...chunk.parts.values()] };
      try {
        chunk.revision = await write(this.#place, String(index), JSON.stringify(value), chunk.revision);
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

/** Writes a record, whatever it holds: the lease on the instance says that it is ours. `expected`: its revision, as far as is known. Returns the new one. */
async function write({ bucket, key }: Place, name: string, value: Buffer | string, expected: number): Promise<number> {
  for (let revision = expected; ; ) {
    const written = await bucket.put(`${key}.${name}`, value, revision, { ttlMs: keptMs });
    if (written !== undefined) return written;
    // Another attempt's record, its marker, or a write of ours whose answer was lost.
    revision = (await bucket.get(`${key}.${name}`)).revision;
  }
}

/** Writes the description of an instance; returns the revisions of its pieces. */
async function writeInstance(place: Place, instance: ManifestInstance): Promise<number[]> {
  const packed = gzipSync(JSON.stringify(instance));
  const size = place.bucket.largestValue;
  const pieces: number[] = [];
  for (let at = 0; at < packed.length; at += size)
    pieces.push(await write(place, `instance.${pieces.length}`, packed.subarray(at, at + size), 0));
  return pieces;
}

/** Undefined if a piece is missing. */
async function readInstance(
  { bucket, key }: Place,
  count: number,
): Promise<{ instance: ManifestInstance; pieces: number[] } | undefined> {
  const found: Buffer[] = [];
  const pieces: number[] = [];
  while (pieces.length < count) {
    const { entry } = await bucket.get(`${key}.instance.${pieces.length}`);
    if (!entry) return undefined;
    found.push(entry.value);
    pieces.push(entry.revision);
  }
  return { instance: JSON.parse(gunzipSync(Buffer.concat(found)).toString()) as ManifestInstance, pieces };
}

/** Removes all records of an operation's attempts. */
export async function removeCheckpoint(bucket: Bucket, { remote, id }: { remote: string; id: string }): Promise<void> {
  const key = operationKey(remote, id);
  const { entry, revision } = await bucket.get(`${key}.start`);
  if (entry) await bucket.remove(`${key}.start`, revision);
  for (const series of [`${key}.instance`, key]) await removeSeries(bucket, series);
}

/** Removes `key.0`, `key.1`, … up to the first that is not there. */
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
