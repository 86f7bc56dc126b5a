/** Archives from elsewhere, as LXD's clients send them to be imported: each becomes a backup in the store. */
import { randomUUID } from 'node:crypto';
import { Readable } from 'node:stream';
import { type Request, Router } from 'express';
import { readTar } from '../../archive/decompress.ts';
import { IdleWatch } from '../../archive/idleWatch.ts';
import { type LxdIndex, readIndex } from '../../archive/lxdIndex.ts';
import { formatManifest, manifestVersion } from '../../archive/manifest.ts';
import {
  type BackupAddress,
  type Compression,
  check,
  contentTypes,
  type Manifest,
  type Operation,
  type Tags,
} from '../../contract.ts';
import { asLxstowError, isCode, LxstowError } from '../../errors.ts';
import { countJob } from '../../metrics.ts';
import { Attempt, bytesPerSecond, cleanupSignal } from '../../operations/attempt.ts';
import { keepAlive } from '../../operations/heartbeat.ts';
import { cancelled, fail, newOperation, succeed } from '../../operations/operation.ts';
import { claimKey } from '../../queue/topology.ts';
import { archiveKey, manifestKey } from '../../storage/keys.ts';
import type { Upload } from '../../storage/objectStore.ts';
import { version } from '../../version.ts';
import type { GatewayParts } from '../app.ts';
import { receiveParts } from '../receive.ts';
import { compressionQuery, ended, endpointOf, placeOf, requestorOf, tagsOf, traceOfRequest } from '../requests.ts';
import { accepted } from '../respond.ts';

interface Wanted {
  remote: string;
  project: string;
  /** In the place of the archive's own. */
  name: string | undefined;
  pool: string | undefined;
  compression: Compression;
  tags: Tags;
  told: { notifyEndpoint?: string };
}

export function uploadRoutes(parts: GatewayParts): Router {
  const { config, log, metrics, nats, operations, reservations, catalog, transfers } = parts;
  const { prefix } = config.s3;
  const { store, threads, leases, name: gateway, heartbeatMs, clientIdleTimeoutMs } = transfers.tools;
  const router = Router();

  router.post('/', async (request, response) => {
    if (!request.is('application/octet-stream'))
      throw new LxstowError('bad-request', 'lxstow makes no instances: send an archive, as application/octet-stream');
    const wanted = wantedOf(request);
    nats.assertConnected();
    using _place = transfers.begin();
    using idle = new IdleWatch(clientIdleTimeoutMs, 'the client of an upload', 'client-stalled');
    const gone = AbortSignal.any([ended(response), idle.signal]);
    idle.signal.addEventListener('abort', () => request.destroy(), { once: true });
    const { socket } = request;
    const before = socket.bytesRead;
    let operation: Operation | undefined;
    try {
      idle.watch(true);
      await readTar(
        request,
        async (bytes) => {
          const { index, tar } = await readIndex(bytes);
          operation = await receive(index, tar, wanted, request, idle, gone);
        },
        gone,
      );
    } catch (error) {
      throw gone.aborted ? gone.reason : error;
    } finally {
      metrics.received.inc({ peer: 'client' }, socket.bytesRead - before);
    }
    if (!operation) throw new LxstowError('bad-request', 'the archive is empty');
    accepted(response, operation, { name: operation.backup });
  });

  function wantedOf(request: Request): Wanted {
    const header = (name: string, schema: 'instanceName' | 'poolName') => {
      const value = request.get(name);
      return value ? (check(`names.json#/$defs/${schema}`, value, name) as string) : undefined;
    };
    return {
      ...placeOf(request, Object.keys(config.remotes), config.gateway.defaultRemote),
      name: header('X-LXD-name', 'instanceName'),
      pool: header('X-LXD-pool', 'poolName'),
      compression: compressionQuery(request) ?? config.worker.compression,
      tags: tagsOf(request),
      told: endpointOf(request, config.notify),
    };
  }

  /** An operation from the first byte on, so that it can be watched, cancelled, and found when this gateway dies. */
  async function receive(
    index: LxdIndex,
    tar: AsyncIterable<Buffer>,
    { remote, project, name, pool, compression, tags, told }: Wanted,
    request: Request,
    idle: IdleWatch,
    gone: AbortSignal,
  ): Promise<Operation> {
    const instance = name ?? check('names.json#/$defs/instanceName', index.name, "the archive's instance");
    const id = randomUUID();
    const has = (backup: string) => catalog.has({ remote, project, instance, backup }, gone);
    const place = { remote, project, instance };
    const backup = await reservations.takeNext(place, new Date(), compression, id, has);
    const address: BackupAddress = { ...place, backup };
    const body = { backup, compression, tags, ...told, requestor: requestorOf(request) };
    const trace = traceOfRequest(request).id;
    const uploadLog = log.child({ operation: id, trace, ...address, kind: 'upload' });
    let attempt: Attempt | undefined;
    let filled = false;
    try {
      const stored = await operations.create(
        newOperation({ id, kind: 'upload', address: place, body, trace }, new Date()),
      );
      attempt =
        stored &&
        (await Attempt.begin(stored, { store: operations, leases, lease: undefined, worker: gateway, log: uploadLog }));
      if (!attempt) throw new LxstowError('cancelled', 'the upload was cancelled before it began');
      await attempt.claim(claimKey(address, backup, id), `backup ${instance}/${backup} is in use`);
      {
        using _alive = keepAlive(attempt, nats, heartbeatMs);
        await fill(address, index, tar, { pool, compression, tags, request, idle, gone }, attempt);
      }
      filled = true;
      await attempt.finish((operation) => succeed(operation, new Date()));
      countJob(metrics, attempt.operation, 'success');
      uploadLog.info('upload done');
      return attempt.operation;
    } catch (thrown) {
      const error = asLxstowError(
        attempt?.signal.aborted ? attempt.signal.reason : gone.aborted ? gone.reason : thrown,
      );
      uploadLog.warn('upload failed', { error });
      if (attempt && !filled) {
        const end = (operation: Operation) =>
          operation.status === 'Cancelling' ? cancelled(operation, new Date()) : fail(operation, error, new Date());
        try {
          await attempt.finish(end);
          const { operation } = attempt;
          countJob(metrics, operation, operation.status === 'Cancelled' ? 'cancelled' : 'failure');
        } catch (reason) {
          uploadLog.error('the end of an upload is left to the janitor', { error: reason });
        }
      }
      throw error;
    } finally {
      await attempt?.release();
      await reservations
        .release(address, backup, id)
        .catch((error) => uploadLog.warn('a name is left to the janitor', { error }));
    }
  }

  interface Filling extends Pick<Wanted, 'pool' | 'compression' | 'tags'> {
    request: Request;
    idle: IdleWatch;
    gone: AbortSignal;
  }

  /** Stores archive and manifest. When it rejects, nothing is left of either. */
  async function fill(
    address: BackupAddress,
    { optimized, instance }: LxdIndex,
    tar: AsyncIterable<Buffer>,
    { pool, compression, tags, request, idle, gone }: Filling,
    attempt: Attempt,
  ): Promise<void> {
    const signal = AbortSignal.any([attempt.signal, gone]);
    const key = archiveKey(prefix, address);
    const length = request.get('content-length');
    const upload = await store.beginUpload(key, { tags, contentType: contentTypes[compression] }, signal);
    let completing = false;
    try {
      await attempt.checkpoint({ key, uploadId: upload.uploadId });
      const begun = performance.now();
      const received = await receiveParts(Readable.from(tar, { objectMode: false }), upload, {
        compression,
        length: length === undefined ? undefined : Number(length),
        store,
        threads,
        idle,
        signal,
        onProgress: (bytes_done, bytes_stored) =>
          attempt.report({
            stage: 'uploading',
            bytes_done,
            bytes_stored,
            bytes_per_second: bytesPerSecond(bytes_done, begun),
          }),
      });
      idle.watch(false);
      attempt.assertOwned();
      completing = true;
      const etag = await store.completeUpload(upload, received.parts, signal);
      const manifest: Manifest = {
        version: manifestVersion,
        writer: `lxstow ${version}`,
        operation: attempt.operation.id,
        backup: { ...nameOf(address), created: new Date().toISOString(), tags },
        archive: { key, etag, compression, optimized, instanceOnly: false, ...received },
        instance: pool === undefined ? instance : { ...instance, pool },
        lxd: { version: 'unknown' },
      };
      check('manifest.json', manifest, "the archive's description");
      attempt.assertOwned();
      // Not to be interrupted: given up, it may still arrive when the undoing has looked whether it is there.
      const options = { tags, contentType: 'application/json' };
      await store.create(manifestKey(prefix, address), formatManifest(manifest), options, cleanupSignal());
    } catch (error) {
      await undo(address, upload, completing && !isCode(error, 'conflict'), attempt);
      throw error;
    }
  }

  /** Removes what this upload has made. `completed`: archive and manifest may be there. */
  async function undo(address: BackupAddress, upload: Upload, completed: boolean, attempt: Attempt): Promise<void> {
    const signal = cleanupSignal();
    try {
      await store.abortUpload(upload, signal);
      if (!completed) return;
      const found = await catalog.manifest(address, signal).catch((error) => {
        if (!isCode(error, 'not-found')) throw error;
      });
      if (found && found.operation !== attempt.operation.id) return;
      if (found) await store.remove(manifestKey(prefix, address), signal);
      await store.remove(upload.key, signal);
    } catch (error) {
      attempt.log.error('left behind', { upload, error });
    }
  }

  return router;
}

function nameOf({ backup, remote, project, instance }: BackupAddress) {
  return { name: backup, remote, project, instance };
}
