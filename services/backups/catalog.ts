/** The backups that are stored, read from the bucket: their manifests are the truth, and kept in memory only under their ETag. */
import { isDeepStrictEqual } from 'node:util';
import { mapInOrder } from '../concurrency/orderedMap.ts';
import { isCode, LxstowError } from '../contract/errors.ts';
import type { BackupAddress, Manifest, ManifestBackup, Tags } from '../contract/schemas.ts';
import type { ObjectStore, StoredObject } from '../storage/objectStore.ts';
import type { Log } from '../telemetry/logger.ts';
import { readIndex, writeIndex } from './backupIndex.ts';
import { archiveKey, listPrefix, manifestKey, type Part, parseManifestKey, prefixesOf } from './keys.ts';
import { formatManifest, parseManifest } from './manifest.ts';

/** A backup in a list, as the contract has it, and whose it is. */
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
  };
}

/** A backup's manifest, and the ETag by which a change of it is noticed. */
export interface StoredBackup {
  manifest: Manifest;
  etag: string;
}

type OnUnreadable = (address: BackupAddress) => void;

interface ManifestEntry {
  address: BackupAddress;
  object: StoredObject;
}

/** So often others may be faster with a change. */
const mostClashes = 20;
const readsInFlight = 32;
const mostKept = 20_000;
/** Of what S3 lists in one answer. */
const pageLength = 1000;
/** A store lists one page after the other, but several listings at a time: three times as fast on MinIO with two cores. */
const listsInFlight = 4;
const mostPieces = 16;
/** Folders are remotes, in them projects, in them instances. */
const instanceLevel = 3;
/** So many manifests that are not known are worth a look into the index; so many that had to be read, a new one. */
const worthAnIndex = 64;

export class Catalog {
  readonly #store: ObjectStore;
  readonly #prefix: string;
  readonly #log: Log;
  /** The one used longest ago first. */
  readonly #kept = new Map<string, Summary['backup']>();

  constructor(store: ObjectStore, prefix: string, log: Log) {
    this.#store = store;
    this.#prefix = prefix;
    this.#log = log;
  }

  /** The manifest of a backup. Throws not-found. */
  async manifest(address: BackupAddress, signal: AbortSignal): Promise<Manifest> {
    return (await this.stored(address, signal)).manifest;
  }

  /** The same, with its ETag. */
  async stored(address: BackupAddress, signal: AbortSignal): Promise<StoredBackup> {
    try {
      const { body, etag } = await this.#store.read(manifestKey(this.#prefix, address), signal);
      return { manifest: parseManifest(body, address), etag };
    } catch (error) {
      if (isCode(error, 'not-found'))
        throw new LxstowError('not-found', `backup ${address.instance}/${address.backup} does not exist`, {
          cause: error,
        });
      throw error;
    }
  }

  /**
   * Changes what people may change of a backup: first in its manifest, by compare-and-set, then its archive's tags. `change` is called
   * anew with what it is when others change it meanwhile. Throws not-found; what `change` throws ends it.
   */
  async change(
    address: BackupAddress,
    change: (stored: StoredBackup) => Pick<ManifestBackup, 'tags' | 'notes' | 'pinned'>,
    signal: AbortSignal,
  ): Promise<StoredBackup> {
    const key = manifestKey(this.#prefix, address);
    for (let clashes = 0; ; clashes++) {
      const found = await this.stored(address, signal);
      const { manifest } = found;
      const { notes: _, pinned: __, ...fixed } = manifest.backup;
      const next = { ...manifest, backup: { ...fixed, ...change(found) } };
      const options = { tags: next.backup.tags, contentType: 'application/json' };
      try {
        const etag = await this.#store.replace(key, found.etag, formatManifest(next), options, signal);
        // A store may take no tags, or no more of them: notes can be changed all the same.
        if (!isDeepStrictEqual(next.backup.tags, manifest.backup.tags))
          await this.#tagArchive(address, { manifest: next, etag }, signal);
        return { manifest: next, etag };
      } catch (error) {
        if (!(isCode(error, 'conflict') || isCode(error, 'not-found')) || clashes >= mostClashes) throw error;
      }
    }
  }

  /** Whoever changes the manifest last looks once more behind his tags: so theirs are the last, whatever overtakes what. */
  async #tagArchive(address: BackupAddress, changed: StoredBackup, signal: AbortSignal): Promise<void> {
    let { manifest, etag } = changed;
    for (;;) {
      await this.#store.tag(archiveKey(this.#prefix, address), manifest.backup.tags, signal);
      const now = await this.stored(address, signal);
      if (now.etag === etag) return;
      ({ manifest, etag } = now);
    }
  }

  /** Whether there is such a backup. */
  async has(address: BackupAddress, signal: AbortSignal): Promise<boolean> {
    try {
      await this.#store.stat(manifestKey(this.#prefix, address), signal);
      return true;
    } catch (error) {
      if (isCode(error, 'not-found')) return false;
      throw error;
    }
  }

  /**
   * All backups of an instance, of a project, of a remote, or all, ordered by these and their name. One whose manifest cannot be read is
   * logged and left out; `onUnreadable` is told of it, and what that throws ends the listing.
   */
  async list(of: Part, signal: AbortSignal, onUnreadable?: OnUnreadable): Promise<Summary[]> {
    const entries: ManifestEntry[] = [];
    for await (const entry of this.#manifests(of, signal)) entries.push(entry);
    return this.#summaries(entries, of.instance === undefined, signal, onUnreadable);
  }

  /** As `list`, `limit` at most, those behind the cursor `after`; `next` is the cursor of a page that is not the last. */
  async page(
    of: { remote: string; project: string; instance?: string },
    { limit, after = '' }: { limit: number; after?: string },
    signal: AbortSignal,
  ): Promise<{ summaries: Summary[]; next?: string }> {
    const behind: ManifestEntry[] = [];
    for await (const entry of this.#manifests(of, signal)) if (cursorOf(entry.address) > after) behind.push(entry);
    // Not every store lists in this order (docs/s3.md).
    behind.sort((a, b) => (cursorOf(a.address) < cursorOf(b.address) ? -1 : 1));
    const page = behind.slice(0, limit);
    const summaries = await this.#summaries(page, false, signal);
    const last = behind.length > limit ? page.at(-1) : undefined;
    return { summaries, ...(last && { next: cursorOf(last.address) }) };
  }

  /** As the store lists them; what is more than a page, in pieces side by side. */
  async *#manifests(of: Part, signal: AbortSignal): AsyncGenerator<ManifestEntry> {
    const prefix = listPrefix(this.#prefix, of);
    const first: StoredObject[] = [];
    for await (const object of this.#store.list(prefix, signal)) {
      first.push(object);
      if (first.length === pageLength) break;
    }
    const pieces = first.length < pageLength ? [] : await this.#pieces(of, signal);
    // Anew from the first: so that what has changed meanwhile is told once, as it is.
    const listed =
      pieces.length > 0
        ? mapInOrder(each(pieces), listsInFlight, (piece) => this.#piece(piece, of, signal))
        : each([this.#entries(first, of)]);
    for await (const entries of listed) yield* entries;
  }

  async #piece(prefix: string, of: Part, signal: AbortSignal): Promise<ManifestEntry[]> {
    const found: ManifestEntry[] = [];
    for await (const object of this.#store.list(prefix, signal)) found.push(...this.#entries([object], of));
    return found;
  }

  #entries(objects: StoredObject[], of: Part): ManifestEntry[] {
    return objects.flatMap((object) => {
      const address = parseManifestKey(this.#prefix, object.key);
      return address && (of.project ?? address.project) === address.project ? [{ address, object }] : [];
    });
  }

  /** Prefixes that together have all that is there, at this moment, of these backups. */
  async #pieces(of: Part, signal: AbortSignal): Promise<string[]> {
    const whole = [listPrefix(this.#prefix, of)];
    const { remote, project, instance } = of;
    const named = [remote, remote && project, remote && project && instance].filter(
      (word) => word !== undefined,
    ).length;
    let folders = whole;
    for (let level = named; level < instanceLevel && folders.length < mostPieces; level++) {
      const below: string[] = [];
      for (const folder of folders) for await (const name of this.#store.folders(folder, signal)) below.push(name);
      folders = below;
    }
    return prefixesOf(folders, mostPieces) ?? whole;
  }

  /**
   * What these manifests say, in their order: as it is remembered, as their project's index has it, or read. When many of a project had to
   * be read, and these are `whole` projects, the next gateway finds an index.
   */
  async #summaries(
    entries: ManifestEntry[],
    whole: boolean,
    signal: AbortSignal,
    onUnreadable: OnUnreadable = () => undefined,
  ): Promise<Summary[]> {
    const found = new Map<ManifestEntry, Summary['backup']>();
    for (const entry of entries) {
      const backup = this.#recall(entry);
      if (backup) found.set(entry, backup);
    }
    const indexes: Index[] = [];
    for (const [place, each] of byProject(entries)) {
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
    for await (const { entry, backup } of mapInOrder(each(missing), readsInFlight, read))
      if (backup) found.set(entry, backup);
    for (const index of whole ? indexes : [])
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

  /** As its manifest has it now; undefined when that is gone or cannot be read. An entry that was listed before a change gets the new ETag. */
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

type Place = { remote: string; project: string };

/** A project's index while a list is made. */
interface Index {
  place: Place;
  /** The project's manifests in the list. */
  entries: ManifestEntry[];
  /** How many of them it does not know. */
  missing: number;
  /** Of the object that it was read from. */
  etag: string | undefined;
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

/** Where a backup is in the order of a list. */
export function cursorOf({ instance, backup }: BackupAddress): string {
  return `${instance}/${backup}`;
}

async function* each<T>(items: T[]): AsyncGenerator<T> {
  yield* items;
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
  };
}
