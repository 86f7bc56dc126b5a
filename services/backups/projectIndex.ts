/** A project's index while the project is listed: it is read beside the listing, and written again where that is worth it. */
import type { IndexedBackup } from '../contract/schemas.ts';
import { IndexDraft, type IndexPlace, IndexReader } from './backupIndex.ts';
import { indexKey } from './keys.ts';
import type { ManifestEntry } from './manifestListing.ts';

/** If this many manifests of a batch are unknown, the index is read; if this many had to be read, a new index is written. */
const worthAnIndex = 64;

/** What a list shows of a backup, with the names of the API. */
export type ListedBackup = Omit<IndexedBackup, 'instance' | 'etag' | 'manifestSize'>;
export type Found = Map<ManifestEntry, ListedBackup>;

/** What a gateway knows of the indexes that it writes. */
export interface Drafts {
  large: Set<IndexDraft>;
  /** Keys of indexes that knew too little, and of which no draft was at hand. */
  stale: Set<string>;
}

export class ProjectIndex implements AsyncDisposable {
  readonly #place: IndexPlace;
  readonly #drafts: Drafts | undefined;
  readonly #draft: IndexDraft | undefined;
  #reader: IndexReader | undefined;
  /** How many manifests had to be read. */
  #missing = 0;

  /** Without `drafts`, the index is not written: not all of the project is listed. */
  constructor(place: IndexPlace, drafts: Drafts | undefined) {
    this.#place = place;
    this.#drafts = drafts;
    this.#draft = drafts && new IndexDraft(drafts.large);
  }

  /** Adds to `found` what the index knows of these manifests. Call it with all manifests of the project, batch by batch as they are listed. */
  async find(entries: ManifestEntry[], found: Found): Promise<void> {
    const unknown = entries.filter((entry) => !found.has(entry));
    if (unknown.length === 0 || (!this.#reader && unknown.length < worthAnIndex)) return;
    this.#reader ??= await IndexReader.open(this.#place, this.#draft ? undefined : unknown.length);
    const wanted = new Map(unknown.map((entry) => [idOf({ ...indexed(entry), ...positionOf(entry) }), entry]));
    const last = entries.at(-1);
    if (!last) return;
    await this.#reader.upTo(positionOf(last), (line) => {
      const entry = wanted.get(idOf(line));
      const { instance: _, etag: __, manifestSize: ___, ...backup } = line;
      if (entry) found.set(entry, backup);
    });
  }

  /** Notes these manifests for a new index. `missing`: how many of them had to be read. */
  async note(entries: ManifestEntry[], found: Found, missing: number): Promise<void> {
    if (!this.#draft || !this.#drafts) return;
    this.#missing += missing;
    if (this.#draft.givenUp) return;
    const lines = entries.flatMap((entry) => {
      const backup = found.get(entry);
      return backup ? [{ instance: entry.address.instance, ...backup, ...indexed(entry) }] : [];
    });
    await this.#draft.add(lines, this.#missing > 0 || this.#drafts.stale.has(this.#key));
  }

  /** All manifests of the project were listed: writes a new index if the old one knew too little. */
  async end(): Promise<void> {
    if (!this.#draft || (this.#missing < worthAnIndex && !this.#reader?.damaged)) return;
    this.#reader ??= await IndexReader.open(this.#place, 0);
    if (await this.#draft.write(this.#place, this.#reader.etag)) this.#drafts?.stale.delete(this.#key);
    else this.#drafts?.stale.add(this.#key);
  }

  get #key(): string {
    return indexKey(this.#place.prefix, this.#place.of);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#draft?.[Symbol.dispose]();
    await this.#reader?.[Symbol.asyncDispose]();
  }
}

function positionOf({ address: { instance, backup } }: ManifestEntry) {
  return { instance, name: backup };
}

function indexed({ object: { etag, size } }: ManifestEntry) {
  return { etag, manifestSize: size };
}

/** Another manifest has another ETag. */
function idOf(line: { instance: string; name: string; etag: string; manifestSize: number }): string {
  return `${line.instance}/${line.name} ${line.etag} ${line.manifestSize}`;
}
