/** What lists show of backups: from memory, from their project's index, or from their manifests. */
import { mapInOrder } from '../concurrency/orderedMap.ts';
import { isCode } from '../contract/errors.ts';
import type { BackupAddress, Manifest } from '../contract/schemas.ts';
import type { ObjectStore, StoredObject } from '../storage/objectStore.ts';
import type { Log } from '../telemetry/logger.ts';
import { parseManifest } from './manifest.ts';
import type { ManifestEntry } from './manifestListing.ts';
import { type Drafts, type Found, type ListedBackup, ProjectIndex } from './projectIndex.ts';

/** A backup in a list. */
export interface Summary {
  address: BackupAddress;
  backup: ListedBackup;
}

const readsInFlight = 32;
/** Summaries in memory. */
const mostKept = 20_000;

/** Called with the address of a backup whose manifest cannot be read. */
export type OnUnreadable = (address: BackupAddress) => void;

interface WalkOptions {
  /** Whether the listing has all backups of each of its projects. */
  areWhole: boolean;
  onUnreadable: OnUnreadable | undefined;
}

export class Summaries {
  readonly #store: ObjectStore;
  readonly #prefix: string;
  readonly #log: Log;
  /** The least recently used first. */
  readonly #kept = new Map<string, ListedBackup>();
  readonly #drafts: Drafts = { large: new Set(), stale: new Set() };

  constructor(store: ObjectStore, prefix: string, log: Log) {
    this.#store = store;
    this.#prefix = prefix;
    this.#log = log;
  }

  /**
   * Summarises these manifests, in their order, without an index, because they are few. Leaves out manifests that are gone, and those that cannot be
   * read: it logs them, and calls `onUnreadable`, which may throw.
   */
  async of(entries: ManifestEntry[], signal: AbortSignal, onUnreadable?: OnUnreadable): Promise<Summary[]> {
    const found = this.#recallAll(entries);
    await this.#readMissing(entries, found, signal, onUnreadable);
    return summariesOf(entries, found);
  }

  /** The same, but relies on no memory: reads every manifest. */
  async read(entries: ManifestEntry[], signal: AbortSignal, onUnreadable: OnUnreadable): Promise<Summary[]> {
    const found: Found = new Map();
    await this.#readMissing(entries, found, signal, onUnreadable);
    return summariesOf(entries, found);
  }

  /**
   * Like `of`, for a whole listing, batch by batch. Reads each project's index once, in parallel with the listing. If many manifests of whole projects had
   * to be read, writes a new index for the next gateway.
   */
  async *walk(
    batches: AsyncIterable<ManifestEntry[]>,
    { areWhole, onUnreadable }: WalkOptions,
    signal: AbortSignal,
  ): AsyncGenerator<Summary[]> {
    const open = new Map<string, ProjectIndex>();
    // The manifests of a project follow each other.
    const closeAllBut = async (projects: Map<string, unknown>) => {
      for (const [name, index] of open) {
        if (projects.has(name)) continue;
        await index.end();
        await index[Symbol.asyncDispose]();
        open.delete(name);
      }
    };
    try {
      for await (const entries of batches) {
        const found = this.#recallAll(entries);
        const projects = Map.groupBy(entries, ({ address: { remote, project } }) => `${remote}/${project}`);
        await closeAllBut(projects);
        for (const [name, each] of projects) {
          const index = open.get(name) ?? this.#openIndex(each, areWhole, signal);
          open.set(name, index);
          await index.find(each, found);
        }
        const missing = new Set(entries.filter((entry) => !found.has(entry)));
        // A long list would only push out what pages need.
        for (const [entry, backup] of found) if (this.#kept.size < mostKept) this.#remember(entry, backup);
        await this.#readMissing([...missing], found, signal, onUnreadable);
        for (const [name, each] of projects)
          await open.get(name)?.note(each, found, each.filter((entry) => missing.has(entry)).length);
        yield summariesOf(entries, found);
      }
      await closeAllBut(new Map());
    } finally {
      for (const index of open.values()) await index[Symbol.asyncDispose]();
    }
  }

  #openIndex(entries: ManifestEntry[], isWhole: boolean, signal: AbortSignal): ProjectIndex {
    const { remote = '', project = '' } = entries[0]?.address ?? {};
    const place = { store: this.#store, prefix: this.#prefix, of: { remote, project }, log: this.#log, signal };
    return new ProjectIndex(place, isWhole ? this.#drafts : undefined);
  }

  #recallAll(entries: ManifestEntry[]): Found {
    const found: Found = new Map();
    for (const entry of entries) {
      const backup = this.#kept.get(idOf(entry));
      if (backup) found.set(entry, this.#remember(entry, backup));
    }
    return found;
  }

  /** Reads the manifests that `found` lacks, and adds them to it. */
  async #readMissing(
    entries: ManifestEntry[],
    found: Found,
    signal: AbortSignal,
    onUnreadable: OnUnreadable = () => undefined,
  ): Promise<void> {
    const missing = entries.filter((entry) => !found.has(entry));
    const read = async (entry: ManifestEntry) => ({ entry, backup: await this.#read(entry, signal, onUnreadable) });
    for await (const { entry, backup } of mapInOrder(missing, readsInFlight, read))
      if (backup) found.set(entry, backup);
  }

  #remember(entry: ManifestEntry, backup: ListedBackup): ListedBackup {
    const id = idOf(entry);
    this.#kept.delete(id);
    this.#kept.set(id, backup);
    const oldest = this.#kept.size > mostKept ? this.#kept.keys().next().value : undefined;
    if (oldest !== undefined) this.#kept.delete(oldest);
    return backup;
  }

  /** Reads a manifest; undefined if it is gone or cannot be read. Updates an entry that was listed before a change. */
  async #read(
    entry: ManifestEntry,
    signal: AbortSignal,
    onUnreadable: OnUnreadable,
  ): Promise<ListedBackup | undefined> {
    const { address, object } = entry;
    try {
      const { body, etag } = await this.#store.read(object.key, signal);
      entry.object = { ...object, etag, size: body.length };
      return this.#remember(entry, summarise(parseManifest(body, address)));
    } catch (error) {
      if (isCode(error, 'not-found')) return undefined;
      if (!isCode(error, 'bad-manifest')) throw error;
      this.#log.error('manifest cannot be read', { key: object.key, error });
      onUnreadable(address);
      return undefined;
    }
  }
}

function summariesOf(entries: ManifestEntry[], found: Found): Summary[] {
  return entries.flatMap((entry) => {
    const backup = found.get(entry);
    return backup ? [{ address: entry.address, backup }] : [];
  });
}

/** Another manifest has another ETag. */
function idOf({ object: { key, etag, size } }: { object: Omit<StoredObject, 'modified'> }): string {
  return `${key} ${etag} ${size}`;
}

/** A backup's fields in the contract. */
export function summarise({ backup, archive }: Manifest): ListedBackup {
  return {
    name: backup.name,
    created: backup.created,
    size: archive.size,
    optimized: archive.optimized,
    compressed: archive.compression !== 'none',
    instance_only: archive.instanceOnly,
    tags: backup.tags,
    pinned: backup.pinned ?? false,
    held: backup.held ?? false,
    locked_until: backup.lock?.until ?? null,
  };
}
