/** The stored backups, read from the bucket. Their manifests are authoritative; a copy in memory counts only if its ETag matches. */
import { isCode, unlessCode, unlessMissing } from '../contract/errors.ts';
import type { BackupAddress, Manifest, ManifestBackup } from '../contract/schemas.ts';
import type { ObjectStore } from '../storage/objectStore.ts';
import type { Log } from '../telemetry/logger.ts';
import { archiveKey, type BackupScope, manifestKey } from './keys.ts';
import { formatManifest, parseManifest, readManifest, type StoredBackup } from './manifest.ts';
import { cursorOf, listManifests, type ManifestEntry, manifestsBehind } from './manifestListing.ts';
import { type OnUnreadable, Summaries, type Summary } from './summaries.ts';

/** How often a change is repeated because another process was faster. */
const mostClashes = 20;
/** Backups of one batch: as many as fit into V8's young generation, so that a long list leaves little garbage behind. */
const batchLength = 1000;

/** Notes, pin and hold are removed if they are left out; tags are kept. `held: false` ends a hold even if the manifest does not name it. */
type BackupChange = Pick<ManifestBackup, 'notes' | 'pinned' | 'held'> & Partial<Pick<ManifestBackup, 'tags'>>;

export class Catalog {
  readonly #store: ObjectStore;
  readonly #prefix: string;
  readonly #summaries: Summaries;

  constructor(store: ObjectStore, prefix: string, log: Log) {
    this.#store = store;
    this.#prefix = prefix;
    this.#summaries = new Summaries(store, prefix, log);
  }

  /** The manifest of a backup. Throws not-found. */
  async manifest(address: BackupAddress, signal: AbortSignal): Promise<Manifest> {
    return (await this.stored(address, signal)).manifest;
  }

  /** The same, with its ETag. */
  stored(address: BackupAddress, signal: AbortSignal): Promise<StoredBackup> {
    return readManifest(this.#store, this.#prefix, address, signal);
  }

  /**
   * Changes the tags, notes, pin and legal hold of a backup: first in its manifest, by compare-and-set, then in its archive (a hold ends in the archive first). If another process changes the
   * manifest first, `change` is called again with the new one. Throws not-found, and what `change` throws.
   */
  async change(
    address: BackupAddress,
    change: (stored: StoredBackup) => BackupChange,
    signal: AbortSignal,
  ): Promise<StoredBackup> {
    const key = manifestKey(this.#prefix, address);
    for (let clashes = 0; ; clashes++) {
      const found = await this.stored(address, signal);
      const { manifest } = found;
      const { notes: _, pinned: __, held: wasHeld = false, ...fixed } = manifest.backup;
      const { held, ...changed } = change(found);
      const next = { ...manifest, backup: { ...fixed, ...changed, ...(held && { held }) } };
      // A hold is in the manifest before it begins, and until it has ended. So the same change again completes what failed halfway.
      if (wasHeld && !held) await this.#release(address, manifest, signal);
      else if (held === false) await this.#releaseUnknown(address, manifest, signal);
      const { lock } = next.backup;
      const options = { tags: next.backup.tags, contentType: 'application/json', lock, held: held ?? false };
      const etag = await this.#store.replace(key, found.etag, formatManifest(next), options, signal).catch((error) => {
        if (!(isCode(error, 'conflict') || isCode(error, 'not-found')) || clashes >= mostClashes) throw error;
      });
      if (etag === undefined) continue;
      if (held) await this.#holdArchive(address, wasHeld, signal);
      // A store may accept no tags, or no more of them: notes can be changed all the same. Tags are sent even if the manifest has them: an earlier request may have failed here.
      if (changed.tags) await this.#tagArchive(address, { manifest: next, etag }, signal);
      return { manifest: next, etag };
    }
  }

  /** Holds the archive as its manifest says, or releases it again if that has changed since. If it was held before, it may be gone. */
  async #holdArchive(address: BackupAddress, wasHeld: boolean, signal: AbortSignal): Promise<void> {
    for (let held = true; ; held = !held) {
      const sent = this.#store.hold(archiveKey(this.#prefix, address), held, signal);
      await (wasHeld ? unlessMissing(() => sent) : sent);
      const { manifest } = await this.stored(address, signal);
      if ((manifest.backup.held ?? false) === held) return;
    }
  }

  /** Releases archive and manifest, and the old versions of this manifest: those of another backup that had the name stay held. */
  async #release(address: BackupAddress, { operation }: Manifest, signal: AbortSignal): Promise<void> {
    const isOfBackup = (body: Buffer) => {
      try {
        return parseManifest(body, address).operation === operation;
      } catch {
        return false;
      }
    };
    await unlessMissing(() => this.#store.hold(archiveKey(this.#prefix, address), false, signal));
    await this.#store.hold(manifestKey(this.#prefix, address), false, signal, isOfBackup);
  }

  /** Releases a hold that the manifest does not name. Without Object Lock, or the right to hold, there is none. */
  async #releaseUnknown(address: BackupAddress, manifest: Manifest, signal: AbortSignal): Promise<void> {
    await unlessCode(['s3-refused', 's3-denied'], () => this.#release(address, manifest, signal));
  }

  /** Tags the archive, and again if the manifest has changed since: the tags of the last change are written last, whichever request overtakes which. */
  async #tagArchive(address: BackupAddress, changed: StoredBackup, signal: AbortSignal): Promise<void> {
    let { manifest, etag } = changed;
    for (;;) {
      await unlessMissing(() => this.#store.tag(archiveKey(this.#prefix, address), manifest.backup.tags, signal));
      const now = await this.stored(address, signal);
      if (now.etag === etag) return;
      ({ manifest, etag } = now);
    }
  }

  /** Whether there is such a backup. */
  async has(address: BackupAddress, signal: AbortSignal): Promise<boolean> {
    return (await unlessMissing(() => this.#store.stat(manifestKey(this.#prefix, address), signal))) !== undefined;
  }

  /** Lists all backups of an instance, a project or a remote, or all, by these and their name. Logs and leaves out manifests that cannot be read; `onUnreadable` may throw. */
  async list(of: BackupScope, signal: AbortSignal, onUnreadable?: OnUnreadable): Promise<Summary[]> {
    return (await Array.fromAsync(this.batches(of, signal, onUnreadable))).flat();
  }

  /** The same, but reads every manifest, 32 at a time: for decisions, which must not depend on an index. */
  async listRead(of: BackupScope, signal: AbortSignal, onUnreadable: OnUnreadable): Promise<Summary[]> {
    const entries = await Array.fromAsync(listManifests(this.#store, this.#prefix, of, signal));
    return this.#summaries.read(entries, signal, onUnreadable);
  }

  /** Like `list`, in batches, as the store lists them. Walks the listing once. Memory does not grow with the number of backups. */
  batches(of: BackupScope, signal: AbortSignal, onUnreadable?: OnUnreadable): AsyncGenerator<Summary[]> {
    const listed = inBatches(listManifests(this.#store, this.#prefix, of, signal));
    return this.#summaries.walk(listed, { areWhole: of.instance === undefined, onUnreadable }, signal);
  }

  /** Like `list`, but at most `limit` backups after the cursor `after`; `next` is the cursor of the next page, if there is one. Reads only one page, however many backups there are. */
  async page(
    of: BackupScope,
    { limit, after }: { limit: number; after?: string | undefined },
    signal: AbortSignal,
  ): Promise<{ summaries: Summary[]; next?: string }> {
    const behind: ManifestEntry[] = [];
    const wanted = { after, count: limit + 1 };
    for await (const entry of manifestsBehind(this.#store, this.#prefix, of, wanted, signal)) {
      behind.push(entry);
      if (behind.length > limit) break;
    }
    const page = behind.slice(0, limit);
    const summaries = await this.#summaries.of(page, signal);
    const last = behind.length > limit ? page.at(-1) : undefined;
    return { summaries, ...(last && { next: cursorOf(last.address, of) }) };
  }
}

async function* inBatches(listed: AsyncIterable<ManifestEntry>): AsyncGenerator<ManifestEntry[]> {
  let batch: ManifestEntry[] = [];
  for await (const entry of listed) {
    batch.push(entry);
    if (batch.length < batchLength) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}
