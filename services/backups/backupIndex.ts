/**
 * The index of a project's backups: one object with what lists show of them, so that a gateway that has just started need not read every manifest. An
 * entry counts only if its ETag and size are those of the listing (adr/0019). It is read and written beside the listing, so its size costs no memory.
 */
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { createGunzip, gzip } from 'node:zlib';
import { isCode, LxstowError, unlessMissing } from '../contract/errors.ts';
import { faultsOf, type IndexedBackup } from '../contract/schemas.ts';
import { textLines } from '../contract/textLines.ts';
import type { ObjectStore } from '../storage/objectStore.ts';
import type { Log } from '../telemetry/logger.ts';
import { indexKey } from './keys.ts';

export interface IndexPlace {
  store: ObjectStore;
  prefix: string;
  of: { remote: string; project: string };
  log: Log;
  signal: AbortSignal;
}

/** The first line; one backup per line follows. */
const head = JSON.stringify({ version: 6 });
/** Unpacked; about two million backups. What is behind it is neither written nor read. */
const mostBytes = 512 * 1024 * 1024;
const longestLine = 64 * 1024;
const rangeBytes = 256 * 1024;
/** Lines that were passed and may still be wanted. */
const mostPassed = 20_000;
/** What reading a manifest costs, in bytes of an index: 230 lines of 2.5 µs each take as long as one GET. */
const bytesPerManifest = 8192;

/** Reads a project's index once, from its start to its end. */
export class IndexReader {
  readonly #place: IndexPlace;
  /** Undefined if there is no index. */
  readonly etag: string | undefined;
  /** Whether it could not be read to its end: it is written again. */
  damaged = false;
  #lines: AsyncGenerator<IndexedBackup> | undefined;
  /** Read, but behind the last call. */
  #next: IndexedBackup | undefined;
  #passed: IndexedBackup[] = [];

  private constructor(place: IndexPlace, found: { etag: string; size: number } | undefined, isWorthIt: boolean) {
    this.#place = place;
    this.etag = found?.etag;
    if (found && isWorthIt) this.#lines = linesOf(place, found);
  }

  /** Opens the index; one that is missing or cannot be read is empty. With `manifests`, also one whose reading costs more than so many manifests. */
  static async open(place: IndexPlace, manifests = Number.POSITIVE_INFINITY): Promise<IndexReader> {
    const { store, signal, log } = place;
    const key = indexKey(place.prefix, place.of);
    try {
      const found = await unlessMissing(() => store.stat(key, signal));
      return new IndexReader(place, found, found !== undefined && found.size <= manifests * bytesPerManifest);
    } catch (error) {
      signal.throwIfAborted();
      log.warn('index of backups not read', { key, error });
      return new IndexReader(place, undefined, false);
    }
  }

  /**
   * Calls `each` with the entries up to this one, which are in the order of the listing that the index was written by. Where another listing has another order, entries
   * come too early: those of the last call come again.
   */
  async upTo(last: Position, each: (entry: IndexedBackup) => void): Promise<void> {
    const passed = this.#passed;
    this.#passed = [];
    for (const entry of passed) each(entry);
    for (;;) {
      const entry = this.#next ?? (await this.#line());
      this.#next = entry;
      if (!entry || isBehind(entry, last)) return;
      this.#next = undefined;
      each(entry);
      if (this.#passed.length < mostPassed) this.#passed.push(entry);
    }
  }

  async #line(): Promise<IndexedBackup | undefined> {
    const { store, prefix, of, signal, log } = this.#place;
    const key = indexKey(prefix, of);
    try {
      const next = await this.#lines?.next();
      return next?.done ? undefined : next?.value;
    } catch (error) {
      signal.throwIfAborted();
      this.#lines = undefined;
      if (isCode(error, 'conflict') || isCode(error, 'not-found')) {
        // Another gateway has written it since.
        const found = await unlessMissing(() => store.stat(key, signal));
        if (!found) return undefined;
        this.#lines = linesOf(this.#place, found);
        return this.#line();
      }
      this.damaged = !(error instanceof LxstowError);
      const what = this.damaged ? 'not understood, it will be made again' : 'not read';
      log.warn(`index of backups ${what}`, { key, error });
      return undefined;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lines?.return(undefined);
  }
}

interface Position {
  instance: string;
  name: string;
}

/** Behind in every order that stores have: some list `web` before `web-1`, most `web-1/` before `web/`. */
function isBehind(one: Position, other: Position): boolean {
  if (one.instance === other.instance) return one.name > other.name;
  return one.instance > other.instance && `${one.instance}/` > `${other.instance}/`;
}

async function* linesOf(
  { store, prefix, of, signal }: IndexPlace,
  { etag, size }: { etag: string; size: number },
): AsyncGenerator<IndexedBackup> {
  const key = indexKey(prefix, of);
  const ranges = async function* () {
    for (let start = 0; start < size; start += rangeBytes) {
      const range = Buffer.allocUnsafe(Math.min(rangeBytes, size - start));
      await store.readRange(key, etag, start, range, signal);
      yield range;
    }
  };
  const unpacked = createGunzip({ chunkSize: longestLine });
  const fed = Promise.allSettled([pipeline(Readable.from(ranges()), unpacked)]);
  try {
    let [bytes, isFirst] = [0, true];
    for await (const lines of textLines(unpacked.setEncoding('utf8'), longestLine))
      for (const line of lines) {
        bytes += line.length + 1;
        if (bytes > mostBytes) return;
        if (!isFirst) yield entryOf(line);
        else if (line !== head) throw new Error('it is of another version');
        isFirst = false;
      }
    if (isFirst) throw new Error('it has no first line');
  } finally {
    unpacked.destroy();
    await fed;
  }
}

function entryOf(line: string): IndexedBackup {
  const entry = JSON.parse(line);
  const [fault] = faultsOf('backup-index.json', entry);
  if (fault !== undefined) throw new Error(fault);
  return entry;
}

const pack = promisify(gzip);
/** Batches after which a draft begins to be packed, if it may be needed. Most projects have no more. */
const mostBatches = 10;

/** A new index, entry by entry in the order of the listing. */
export class IndexDraft implements Disposable {
  /** The drafts that hold more than `mostBatches`. There is one at a time: two million backups are some 60 MiB. */
  readonly #large: Set<IndexDraft>;
  readonly #batches: IndexedBackup[][] = [];
  /** Each a whole gzip stream: one behind the other is one, too. */
  readonly #packed: Buffer[] = [];
  #bytes = 0;
  #givenUp = false;

  /** Takes no more entries. */
  get givenUp(): boolean {
    return this.#givenUp;
  }

  constructor(large: Set<IndexDraft>) {
    this.#large = large;
  }

  /** `mayBeNeeded`: a large draft is given up unless this is so by its first batches. */
  async add(batch: IndexedBackup[], mayBeNeeded: boolean): Promise<void> {
    if (this.#givenUp) return;
    this.#batches.push(batch);
    if (this.#batches.length <= mostBatches) return;
    this.#givenUp = !this.#large.has(this) && (this.#large.size > 0 || !mayBeNeeded);
    if (this.#givenUp) return void this.#batches.splice(0);
    this.#large.add(this);
    await this.#pack();
  }

  /**
   * Writes the index in the place of the one with this ETag, unless another gateway has written one first. Logs a failure: no list needs an index. Returns
   * false if it was given up.
   */
  async write({ store, prefix, of, log, signal }: IndexPlace, etag: string | undefined): Promise<boolean> {
    if (this.#givenUp) return false;
    const key = indexKey(prefix, of);
    try {
      await this.#pack();
      const body = Buffer.concat(this.#packed.splice(0));
      const contentType = 'application/gzip';
      if (etag === undefined) await store.create(key, body, { contentType }, signal);
      else await store.replace(key, etag, body, { tags: {}, contentType }, signal);
      log.debug('index of backups written', { key, bytes: body.length });
    } catch (error) {
      if (!(signal.aborted || isCode(error, 'conflict') || isCode(error, 'not-found')))
        log.warn('index of backups not written', { key, error });
    }
    return true;
  }

  async #pack(): Promise<void> {
    for (const batch of this.#batches.splice(0)) {
      const lines = [...(this.#bytes === 0 ? [head] : []), ...batch.map((entry) => JSON.stringify(entry)), ''];
      const text = lines.join('\n');
      this.#bytes += text.length;
      if (this.#bytes <= mostBytes) this.#packed.push(await pack(text, { level: 1 }));
    }
  }

  [Symbol.dispose](): void {
    this.#large.delete(this);
  }
}
