/** The backups that are stored, read from the bucket: their manifests are the truth, and kept in memory only under their ETag. */
import { mapInOrder } from '../archive/flow.ts';
import { parseManifest } from '../archive/manifest.ts';
import type { BackupAddress, Manifest } from '../contract.ts';
import { isCode, LxstowError } from '../errors.ts';
import type { Log } from '../logger.ts';
import { listPrefix, manifestKey, parseManifestKey } from '../storage/keys.ts';
import type { ObjectStore, StoredObject } from '../storage/objectStore.ts';

/** A backup in a list, as the contract has it, and whose it is. */
export interface Summary {
  address: BackupAddress;
  backup: { name: string; created: string; size: number; optimized: boolean; compressed: boolean };
}

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
    try {
      const { body } = await this.#store.read(manifestKey(this.#prefix, address), signal);
      return parseManifest(body, address);
    } catch (error) {
      if (isCode(error, 'not-found'))
        throw new LxstowError('not-found', `backup ${address.instance}/${address.backup} does not exist`, {
          cause: error,
        });
      throw error;
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

  /** All backups of an instance, or of a project, ordered by instance and name. One whose manifest cannot be read is logged and left out. */
  async list(of: { remote: string; project: string; instance?: string }, signal: AbortSignal): Promise<Summary[]> {
    const found: Summary[] = [];
    const manifests = this.#manifests(listPrefix(this.#prefix, of), signal);
    for await (const summary of mapInOrder(manifests, readsInFlight, (entry) => this.#summary(entry, signal))) {
      if (summary) found.push(summary);
    }
    return found;
  }

  async *#manifests(
    prefix: string,
    signal: AbortSignal,
  ): AsyncGenerator<{ address: BackupAddress; object: StoredObject }> {
    for await (const object of this.#store.list(prefix, signal)) {
      const address = parseManifestKey(this.#prefix, object.key);
      if (address) yield { address, object };
    }
  }

  async #summary(
    { address, object }: { address: BackupAddress; object: StoredObject },
    signal: AbortSignal,
  ): Promise<Summary | undefined> {
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
