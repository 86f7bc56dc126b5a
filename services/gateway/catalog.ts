/** The backups that are stored, read from the bucket: their manifests are the truth, and kept in memory only under their ETag. */
import { mapInOrder } from '../archive/flow.ts';
import { formatManifest, parseManifest } from '../archive/manifest.ts';
import type { BackupAddress, Manifest, ManifestBackup } from '../contract.ts';
import { isCode, LxstowError } from '../errors.ts';
import type { Log } from '../logger.ts';
import { instanceLeaseKey } from '../queue/topology.ts';
import { archiveKey, listPrefix, manifestKey, type Part, parseManifestKey } from '../storage/keys.ts';
import type { ObjectStore, StoredObject } from '../storage/objectStore.ts';

/** A backup in a list, as the contract has it, and whose it is. */
export interface Summary {
  address: BackupAddress;
  backup: { name: string; created: string; size: number; optimized: boolean; compressed: boolean };
}

/** A backup's manifest, and the ETag by which a change of it is noticed. */
export interface StoredBackup {
  manifest: Manifest;
  etag: string;
}

interface ManifestEntry {
  address: BackupAddress;
  object: StoredObject;
}

/** So often others may be faster with a change. */
const mostClashes = 20;
const readsInFlight = 32;
const mostKept = 20_000;

export class Catalog {
  readonly #store: ObjectStore;
  readonly #prefix: string;
  readonly #log: Log;
  /** By key and ETag, the one used longest ago first: another manifest has another ETag. */
  readonly #kept = new Map<string, Summary>();

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
    change: (stored: StoredBackup) => Pick<ManifestBackup, 'tags' | 'notes'>,
    signal: AbortSignal,
  ): Promise<StoredBackup> {
    const key = manifestKey(this.#prefix, address);
    for (let clashes = 0; ; clashes++) {
      const found = await this.stored(address, signal);
      const { manifest } = found;
      const { notes: _, ...fixed } = manifest.backup;
      const next = { ...manifest, backup: { ...fixed, ...change(found) } };
      const options = { tags: next.backup.tags, contentType: 'application/json' };
      try {
        const etag = await this.#store.replace(key, found.etag, formatManifest(next), options, signal);
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
   * logged and left out.
   */
  async list(of: Part, signal: AbortSignal): Promise<Summary[]> {
    const found: Summary[] = [];
    const manifests = this.#manifests(of, signal);
    for await (const summary of mapInOrder(manifests, readsInFlight, (entry) => this.#summary(entry, signal))) {
      if (summary) found.push(summary);
    }
    return found;
  }

  /**
   * The youngest backup of each instance of a remote. Reads about one manifest of each: none is younger than the object that holds it,
   * which a change of tags or notes writes anew.
   */
  async newest(remote: string, signal: AbortSignal): Promise<Summary[]> {
    const entries = new Map<string, ManifestEntry[]>();
    for await (const entry of this.#manifests({ remote }, signal)) {
      const key = instanceLeaseKey(entry.address);
      const known = entries.get(key);
      if (known) known.push(entry);
      else entries.set(key, [entry]);
    }
    const youngest = async (of: ManifestEntry[]) => {
      let found: Summary | undefined;
      for (const entry of of.sort((a, b) => Date.parse(b.object.modified) - Date.parse(a.object.modified))) {
        if (found && Date.parse(found.backup.created) >= Date.parse(entry.object.modified)) break;
        const next = await this.#summary(entry, signal);
        if (next && (!found || next.backup.created > found.backup.created)) found = next;
      }
      return found;
    };
    const found: Summary[] = [];
    for await (const summary of mapInOrder(each([...entries.values()]), readsInFlight, youngest))
      if (summary) found.push(summary);
    return found;
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
    const summaries: Summary[] = [];
    for await (const summary of mapInOrder(each(page), readsInFlight, (entry) => this.#summary(entry, signal)))
      if (summary) summaries.push(summary);
    const last = behind.length > limit ? page.at(-1) : undefined;
    return { summaries, ...(last && { next: cursorOf(last.address) }) };
  }

  async *#manifests(of: Part, signal: AbortSignal): AsyncGenerator<ManifestEntry> {
    for await (const object of this.#store.list(listPrefix(this.#prefix, of), signal)) {
      const address = parseManifestKey(this.#prefix, object.key);
      if (address && (of.project ?? address.project) === address.project) yield { address, object };
    }
  }

  async #summary({ address, object }: ManifestEntry, signal: AbortSignal): Promise<Summary | undefined> {
    const id = `${object.key} ${object.etag}`;
    const kept = this.#kept.get(id);
    try {
      const summary = kept ?? { address, backup: summarise(await this.manifest(address, signal)) };
      this.#kept.delete(id);
      this.#kept.set(id, summary);
      const oldest = this.#kept.size > mostKept ? this.#kept.keys().next().value : undefined;
      if (oldest !== undefined) this.#kept.delete(oldest);
      return summary;
    } catch (error) {
      if (isCode(error, 'not-found')) return undefined;
      if (!isCode(error, 'bad-manifest')) throw error;
      this.#log.error('manifest cannot be read', { key: object.key, error });
      return undefined;
    }
  }
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
  };
}
