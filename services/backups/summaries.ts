/** What lists show of backups: from memory, from their project's index, or from their manifests. */
import { mapInOrder } from '../concurrency/orderedMap.ts';
import { isCode } from '../contract/errors.ts';
import type { BackupAddress, Manifest, Tags } from '../contract/schemas.ts';
import type { ObjectStore, StoredObject } from '../storage/objectStore.ts';
import type { Log } from '../telemetry/logger.ts';
import { readIndex, writeIndex } from './backupIndex.ts';
import { manifestKey } from './keys.ts';
import { parseManifest } from './manifest.ts';
import type { ManifestEntry } from './manifestListing.ts';

/** A backup in a list, with the schema's fields, and its address. */
export interface Summary {
  address: BackupAddress;
  backup: {
    name: string;
    created: string;
    size: number;
    optimized: boolean;
    compressed: boolean;
    instance_only: boolean;
    tags: Tags;
    pinned: boolean;
    /** By a legal hold. */
    held: boolean;
    /** Null if it was never locked. May be in the past. */
    locked_until: string | null;
  };
}

const readsInFlight = 32;
/** Summaries in memory. */
const mostKept = 20_000;
/** If this many manifests are unknown, the index is read; if this many had to be read, a new index is written. */
const worthAnIndex = 64;

type Place = { remote: string; project: string };

/** A project's index while a list is made. */
interface Index {
  place: Place;
  /** The project's manifests in the list. */
  entries: ManifestEntry[];
  /** How many of them had to be read. */
  missing: number;
  /** ETag of the object from which the index was read. */
  etag: string | undefined;
}

/** Called with the address of a backup whose manifest cannot be read. */
export type OnUnreadable = (address: BackupAddress) => void;

export class Summaries {
  readonly #store: ObjectStore;
  readonly #prefix: string;
  readonly #log: Log;
  /** The least recently used first. */
  readonly #kept = new Map<string, Summary['backup']>();

  constructor(store: ObjectStore, prefix: string, log: Log) {
    this.#store = store;
    this.#prefix = prefix;
    this.#log = log;
  }

  /**
   * Summarises these manifests, in their order. If many of a project had to be read, and these are whole `projects`, writes an index for the next
   * gateway. A `page` is too small for a project's index, which may have a million backups. Leaves out manifests that are gone, and those that cannot be read: it logs them, and calls `onUnreadable`, which may throw.
   */
  async of(
    entries: ManifestEntry[],
    are: 'projects' | 'part' | 'page',
    signal: AbortSignal,
    onUnreadable: OnUnreadable = () => undefined,
  ): Promise<Summary[]> {
    const found = new Map<ManifestEntry, Summary['backup']>();
    for (const entry of entries) {
      const backup = this.#recall(entry);
      if (backup) found.set(entry, backup);
    }
    const indexes: Index[] = [];
    for (const [place, each] of are === 'page' ? [] : byProject(entries)) {
      const unknown = each.filter((entry) => !found.has(entry));
      if (unknown.length < worthAnIndex) continue;
      const { told, etag } = await this.#index(place, signal);
      for (const entry of unknown) {
        const backup = told.get(idOf(entry));
        if (backup) found.set(entry, this.#remember(entry, backup));
      }
      indexes.push({ place, entries: each, missing: unknown.filter((entry) => !found.has(entry)).length, etag });
    }
    const missing = entries.filter((entry) => !found.has(entry));
    const read = async (entry: ManifestEntry) => ({ entry, backup: await this.#read(entry, signal, onUnreadable) });
    for await (const { entry, backup } of mapInOrder(missing, readsInFlight, read))
      if (backup) found.set(entry, backup);
    for (const index of are === 'projects' ? indexes : [])
      if (index.missing >= worthAnIndex) await this.#writeIndex(index, found, signal);
    return entries.flatMap((entry) => {
      const backup = found.get(entry);
      return backup ? [{ address: entry.address, backup }] : [];
    });
  }

  /** A project's index, by manifest. */
  async #index(place: Place, signal: AbortSignal) {
    const { backups, etag } = await readIndex(this.#store, this.#prefix, place, this.#log, signal);
    const told = backups.map(({ instance, etag, manifestSize, ...backup }): [string, Summary['backup']] => {
      const key = manifestKey(this.#prefix, { ...place, instance, backup: backup.name });
      return [idOf({ object: { key, etag, size: manifestSize } }), backup];
    });
    return { told: new Map(told), etag };
  }

  async #writeIndex(
    { place, entries, etag }: Index,
    found: Map<ManifestEntry, Summary['backup']>,
    signal: AbortSignal,
  ): Promise<void> {
    const backups = entries.flatMap((entry) => {
      const backup = found.get(entry);
      const { address, object } = entry;
      return backup ? [{ instance: address.instance, ...backup, etag: object.etag, manifestSize: object.size }] : [];
    });
    await writeIndex(this.#store, this.#prefix, place, { backups, etag }, this.#log, signal);
  }

  #recall(entry: ManifestEntry): Summary['backup'] | undefined {
    const kept = this.#kept.get(idOf(entry));
    return kept && this.#remember(entry, kept);
  }

  #remember(entry: ManifestEntry, backup: Summary['backup']): Summary['backup'] {
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
  ): Promise<Summary['backup'] | undefined> {
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

function byProject(entries: ManifestEntry[]): [Place, ManifestEntry[]][] {
  const projects = Map.groupBy(entries, ({ address: { remote, project } }) => `${remote}/${project}`);
  return [...projects.values()].map((each) => {
    const { remote = '', project = '' } = each[0]?.address ?? {};
    return [{ remote, project }, each];
  });
}

/** Another manifest has another ETag. */
function idOf({ object: { key, etag, size } }: { object: Omit<StoredObject, 'modified'> }): string {
  return `${key} ${etag} ${size}`;
}

/** A backup's fields in the contract. */
export function summarise({ backup, archive }: Manifest): Summary['backup'] {
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
