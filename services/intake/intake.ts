/** Makes a backup from an archive that comes from elsewhere, as an operation that clients can watch and cancel. If it fails, nothing is left. */
import { Readable } from 'node:stream';
import type { Threads } from '../archive/compression/threads.ts';
import type { SlotMemory } from '../archive/slotMemory.ts';
import type { LxdIndex } from '../archive/tar/indexYaml.ts';
import { SnapshotFiles } from '../archive/tar/snapshotFiles.ts';
import type { OnEntry } from '../archive/tar/tar.ts';
import type { Catalog } from '../backups/catalog.ts';
import { archiveKey, manifestKey } from '../backups/keys.ts';
import { formatManifest, manifestVersion } from '../backups/manifest.ts';
import type { IdleWatch } from '../concurrency/idleWatch.ts';
import { contentTypes } from '../contract/backupNames.ts';
import { asLxstowError, isCode, LxstowError } from '../contract/errors.ts';
import {
  type Address,
  type BackupAddress,
  type Compression,
  check,
  type Manifest,
  type ManifestArchive,
  type ManifestSource,
  type Operation,
  type OperationMetadata,
  type Requestor,
  type Tags,
} from '../contract/schemas.ts';
import { version } from '../contract/version.ts';
import type { Lease, Leases } from '../coordination/leases.ts';
import type { Reservations } from '../coordination/reservations.ts';
import type { Keeper } from '../fleet/keeper.ts';
import { claimKey, removal } from '../nats/bucketKeys.ts';
import { Attempt, bytesPerSecond, cleanupSignal, lingering } from '../operations/attempt.ts';
import { type CancelSource, keepAlive } from '../operations/heartbeat.ts';
import { cancelled, fail, newOperation, succeed } from '../operations/operation.ts';
import type { OperationStore, Stored } from '../operations/operationStore.ts';
import type { ObjectStore, Upload } from '../storage/objectStore.ts';
import type { Log } from '../telemetry/logger.ts';
import type { JobResult } from '../telemetry/metrics.ts';
import { receiveParts } from './receive.ts';

export interface IntakeTools {
  prefix: string;
  /** This process: the owner of the operations and claims. */
  name: string;
  store: ObjectStore;
  threads: Threads;
  cancels: CancelSource;
  operations: OperationStore;
  leases: Leases;
  reservations: Reservations;
  catalog: Catalog;
  keeper: Keeper;
  heartbeatMs: number;
  log: Log;
  /** Called with each operation that has ended. */
  onEnd?: (operation: Operation, result: JobResult) => void;
}

interface Incoming {
  /** The operation's id. */
  id: string;
  place: Address;
  index: LxdIndex;
  tar: AsyncIterable<Buffer>;
  compression: Compression;
  tags: Tags;
  /** Announced bytes. */
  length: number | undefined;
  /** The time in the backup's name. Default: now. */
  named?: Date;
  /** When the archive was made, if known. */
  created?: Date;
  notes?: string;
  source?: ManifestSource;
  requestor?: Requestor;
  /** The webhook to notify of the end. */
  webhook?: { notifyEndpoint?: string };
  trace?: string;
  /** The operation, if a dead process has left it, and this one resumes it. */
  left?: Stored | undefined;
  /** A lease to hold in addition to the claim on the name. */
  lease?: Lease;
  /** Checks the contents before they become a backup. */
  judge?: Judge;
  /** No other transfer may use it. */
  memory: SlotMemory;
  idle: IdleWatch;
  /** Aborts when the client is gone. */
  gone: AbortSignal;
}

export interface Judge {
  onEntry: OnEntry;
  /** Throws if the archive may not be accepted. */
  finish(): Promise<void>;
}

export class Intake {
  readonly #tools: IntakeTools;

  constructor(tools: IntakeTools) {
    this.#tools = tools;
  }

  /** Stores the archive; returns its successful operation. If it throws, nothing is left but the failed operation. */
  async take(incoming: Incoming): Promise<Operation> {
    const { operations, leases, reservations, catalog, cancels, name, heartbeatMs, onEnd, log } = this.#tools;
    const { id, place, compression, tags, requestor, trace, lease, gone } = incoming;
    const { instance } = place;
    // The deletion of a backup of that name could remove the new archive. It sees the reservation if it begins later.
    const inUse = async (backup: string) =>
      (await catalog.has({ ...place, backup }, gone)) ||
      (await leases.holder(claimKey(place, backup, removal))) !== undefined;
    const backup = await reservations.takeNext(place, incoming.named ?? new Date(), compression, id, inUse);
    const address: BackupAddress = { ...place, backup };
    using _kept = reservations.keep(place, backup, id, (error) => log.warn('name not renewed', { ...address, error }));
    const ownLog = log.child({ operation: id, trace, ...address, kind: 'upload' });
    let attempt: Attempt | undefined;
    let filled = false;
    try {
      const body = { backup, compression, tags, ...incoming.webhook, ...(requestor && { requestor }) };
      const fresh = newOperation(
        { id, kind: 'upload', address: place, body, ...(trace !== undefined && { trace }) },
        new Date(),
      );
      const stored = incoming.left ?? (await operations.create(fresh));
      attempt =
        stored && (await Attempt.begin(stored, { store: operations, leases, lease, worker: name, log: ownLog }));
      if (!attempt) throw new LxstowError('cancelled', 'the upload was cancelled before it began');
      if (attempt.operation.backup !== backup) await attempt.record({ backup });
      await attempt.claim(claimKey(address, backup, id), `backup ${instance}/${backup} is in use`);
      {
        using _alive = keepAlive(attempt, cancels, heartbeatMs);
        await this.#fill(address, incoming, attempt);
      }
      filled = true;
      await attempt.finish((operation) => succeed(operation, new Date()));
      onEnd?.(attempt.operation, 'success');
      ownLog.info('upload done');
      return attempt.operation;
    } catch (thrown) {
      const error = asLxstowError(
        attempt?.signal.aborted ? attempt.signal.reason : gone.aborted ? gone.reason : thrown,
      );
      ownLog.warn('upload failed', { error });
      if (attempt && !filled) {
        const end = (operation: Operation) =>
          operation.status === 'Cancelling' ? cancelled(operation, new Date()) : fail(operation, error, new Date());
        try {
          await attempt.finish(end);
          const { operation } = attempt;
          onEnd?.(operation, operation.status === 'Cancelled' ? 'cancelled' : 'failure');
        } catch (reason) {
          ownLog.error('the end of an upload is left to the janitor', { error: reason });
        }
      }
      throw error;
    } finally {
      await attempt?.release();
      await reservations
        .release(address, backup, id)
        .catch((error) => ownLog.warn('a name is left to the janitor', { error }));
    }
  }

  /** Stores archive and manifest. If it throws, nothing is left of either. */
  async #fill(address: BackupAddress, incoming: Incoming, attempt: Attempt): Promise<void> {
    const { prefix, store, threads, keeper } = this.#tools;
    const { index, tar, compression, tags, length, judge, memory, idle, gone } = incoming;
    const signal = AbortSignal.any([attempt.signal, gone]);
    const key = archiveKey(prefix, address);
    const upload = await store.beginUpload(key, { tags, contentType: contentTypes[compression] }, lingering(signal));
    const snapshots = new SnapshotFiles(index.instance.snapshots);
    let completing = false;
    try {
      await attempt.checkpoint({ key, uploadId: upload.uploadId });
      const begun = performance.now();
      const onProgress = (bytes_done: number, bytes_stored: number) => {
        const bytes_per_second = bytesPerSecond(bytes_done, begun);
        attempt.report({ stage: 'uploading', bytes_done, bytes_stored, bytes_per_second } satisfies OperationMetadata);
      };
      const bytes = Readable.from(tar, { objectMode: false });
      const received = await receiveParts(bytes, upload, {
        compression,
        length,
        store,
        threads,
        memory,
        idle,
        signal,
        onEntry: (entry) => {
          snapshots.see(entry);
          return judge?.onEntry(entry);
        },
        onProgress,
      });
      snapshots.finish();
      idle.watch(false);
      await judge?.finish();
      attempt.assertOwned();
      completing = true;
      const etag = await store.completeUpload(upload, received.parts, signal);
      const archive = { key, etag, compression, optimized: index.optimized, instanceOnly: false, ...received };
      const manifest = manifestOf(address, attempt.operation.id, incoming, archive);
      attempt.assertOwned();
      // Do not interrupt this write: it may still arrive after #undo has looked for the manifest.
      const options = { tags, contentType: 'application/json' };
      await store.create(manifestKey(prefix, address), formatManifest(manifest), options, cleanupSignal());
      await keeper.made(address, manifest);
    } catch (error) {
      await this.#undo(address, upload, completing && !isCode(error, 'conflict'), attempt);
      throw error;
    }
  }

  /**
   * Removes what this upload has made. `completed`: archive and manifest may exist. After a lost lease it removes neither: they may be of another process
   * that has taken the operation over, and that process, or the janitor, removes what is left.
   */
  async #undo(address: BackupAddress, upload: Upload, completed: boolean, attempt: Attempt): Promise<void> {
    const { store, catalog, keeper, prefix } = this.#tools;
    try {
      // Only this attempt has this upload: it may abort it after the lease is lost, too.
      await store.abortUpload(upload, cleanupSignal());
      if (!completed) return;
      const signal = AbortSignal.any([cleanupSignal(), attempt.leaseLost]);
      const found = await catalog.manifest(address, signal).catch((error) => {
        if (!isCode(error, 'not-found')) throw error;
      });
      if (found && found.operation !== attempt.operation.id) return;
      // Check the lease after reading: if a later attempt has written the manifest, the lease was lost before.
      attempt.assertHeld();
      if (found) {
        await store.remove(manifestKey(prefix, address), signal);
        await keeper.removed(address);
      }
      attempt.assertHeld();
      await store.remove(upload.key, signal);
    } catch (error) {
      attempt.log.error('left behind', { upload, error });
    }
  }
}

/** Throws bad-request if the archive's index says something that a manifest may not contain. */
function manifestOf(
  { backup: name, ...place }: BackupAddress,
  operation: string,
  { index, tags, created, notes, source }: Incoming,
  archive: ManifestArchive,
): Manifest {
  const manifest: Manifest = {
    version: manifestVersion,
    writer: `lxstow ${version}`,
    operation,
    backup: {
      ...{ name, ...place },
      created: (created ?? new Date()).toISOString(),
      tags,
      ...(notes !== undefined && { notes }),
    },
    archive,
    instance: index.instance,
    lxd: { version: 'unknown' },
    ...(source && { source }),
  };
  return check('manifest.json', manifest, "the archive's description");
}
