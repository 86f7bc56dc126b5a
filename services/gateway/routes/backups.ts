/** Routes that list, make, show, change and delete backups. Restores are in restore.ts. */

import type { Request, Response } from 'express';
import type { BackupScope } from '../../backups/keys.ts';
import { assertDeletable as assertUnprotected, checkLock } from '../../backups/protection.ts';
import type { Summary } from '../../backups/summaries.ts';
import { checkBackupName } from '../../contract/backupNames.ts';
import { knownRemote } from '../../contract/config.ts';
import { isCode, LxstowError } from '../../contract/errors.ts';
import {
  type Address,
  type BackupAddress,
  type BackupJob,
  type Compression,
  type Config,
  check,
  type ManifestBackup,
  type UpdateBackupBody,
} from '../../contract/schemas.ts';
import { askLookUp } from '../../hosts/lookUp.ts';
import { operationKey } from '../../nats/bucketKeys.ts';
import { isFinal } from '../../operations/operation.ts';
import { clientOf, mayTouch } from '../access/apiClient.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { sendLines, wantsLines } from '../http/lines.ts';
import { linkNext, pageOf } from '../http/pages.ts';
import {
  assertNotOwn,
  backupOf,
  bodyOf,
  checkIfMatch,
  compressionQuery,
  ended,
  endpointOf,
  flag,
  instanceOf,
  listedProject,
  placeOf,
  query,
  refuseLockHeaders,
  requestorOf,
  storedBackupOf,
  storedInstanceOf,
  tagsOf,
  traceOfRequest,
} from '../http/requests.ts';
import { accepted, errorOf, operationPath, sync } from '../http/respond.ts';
import type { RouteGroup } from '../http/route.ts';
import {
  assertInstance,
  findBackup,
  lookUp,
  showListed,
  showStored,
  unfinishedBackup,
  unlessAway,
} from '../views/backupView.ts';
import { shownOperation } from '../views/operationView.ts';

export const backupRoutes: RouteGroup = {
  path: '/1.0/instances/{instance}/backups',
  routes: [
    {
      method: 'GET',
      path: '/',
      least: 'viewer',
      projects: 'named',
      rightOf: ({ instance }) => (isEvery(instance) ? { projects: 'filtered' } : {}),
      run: (parts, request, response) =>
        isEvery(request.params.instance)
          ? listAllBackups(parts, request, response)
          : listBackups(parts, request, response),
    },
    { method: 'POST', path: '/', least: 'operator', projects: 'named', run: makeBackup },
    { method: 'GET', path: '/{backup}', least: 'viewer', projects: 'named', run: showBackup },
    { method: 'PUT', path: '/{backup}', least: 'operator', projects: 'named', run: changeBackup },
    { method: 'PATCH', path: '/{backup}', least: 'operator', projects: 'named', run: changeBackup },
    { method: 'DELETE', path: '/{backup}', least: 'operator', projects: 'named', run: deleteBackup },
  ],
};

/** Whether the path names all instances instead of one. */
function isEvery(instance: unknown): boolean {
  return instance === '*' || instance === 'all';
}

async function listAllBackups(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { config } = parts;
  const target = query(request, 'target');
  const remote = target === '*' ? undefined : placeOf(request, undefined, config.gateway.defaultRemote).remote;
  await sendBackups(parts, request, response, { remote, project: listedProject(request) }, () => {
    if (remote !== undefined) knownRemote(remote, Object.keys(config.remotes));
  });
}

async function listBackups(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { config } = parts;
  const address = storedInstanceOf(request, config);
  await sendBackups(parts, request, response, address, () => {
    knownRemote(address.remote, Object.keys(config.remotes));
    return assertInstance(parts, address, traceOfRequest(request));
  });
}

/** Sends the backups that the client may see: all, a page, or all as lines. If there are none, calls `onNone`, which may throw. */
async function sendBackups(
  parts: GatewayParts,
  request: Request,
  response: Response,
  of: BackupScope,
  onNone: () => unknown,
): Promise<void> {
  const { catalog } = parts;
  const client = clientOf(request);
  const signal = ended(response);
  const { limit, after } = pageOf(request);
  const shown = (summaries: Summary[]) =>
    summaries.filter(({ address }) => mayTouch(client, address.project)).map(showListed);
  if (wantsLines(request)) {
    const batches = async function* (): AsyncGenerator<object[]> {
      let any = false;
      for await (const batch of catalog.batches(of, signal)) {
        any ||= batch.length > 0;
        yield shown(batch);
      }
      if (!any) await onNone();
    };
    return sendLines(parts, request, response, batches());
  }
  const page = { summaries: [] as Summary[], next: undefined as string | undefined };
  if (limit === undefined) page.summaries = await catalog.list(of, signal);
  else Object.assign(page, await catalog.page(of, { limit, after }, signal));
  if (page.summaries.length === 0 && after === undefined) await onNone();
  linkNext(request, response, page.next);
  sync(response, shown(page.summaries));
}

async function showBackup(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { backup, etag } = await findBackup(parts, storedBackupOf(request, parts.config), ended(response));
  if (etag !== undefined) response.set('etag', `"${etag}"`);
  sync(response, backup);
}

/** PUT replaces tags and notes, PATCH adds to them. */
async function changeBackup(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { config, catalog, transfers } = parts;
  const isPut = request.method === 'PUT';
  const address = backupOf(request, config);
  // Refuse an empty body: PUT would empty everything.
  const wanted = check('http-update-backup.json', request.body, 'body');
  // If the backup were deleted in between, MinIO would write its manifest again (docs/s3.md).
  await using claim = await transfers.claim(address);
  const { manifest, etag } = await catalog.change(
    address,
    (stored) => {
      claim.assertHeld();
      checkIfMatch(request, `"${stored.etag}"`);
      const { tags, notes } = isPut ? { tags: {}, notes: '' } : stored.manifest.backup;
      const merged = Object.entries({ ...tags, ...wanted.tags }).filter(([, value]) => isPut || value !== null);
      return {
        ...((isPut || wanted.tags) && {
          tags: check('names.json#/$defs/tags', Object.fromEntries(merged), 'body: tags'),
        }),
        ...((wanted.notes ?? notes) ? { notes: wanted.notes ?? notes ?? '' } : {}),
        ...pinOf(wanted, stored.manifest.backup),
      };
    },
    ended(response),
  );
  response.set('etag', `"${etag}"`);
  sync(response, showStored(manifest));
}

/** A held backup is pinned, and is released by an unpin. `held`: false only if the request says so: then a hold ends even if the manifest does not name it. */
function pinOf(
  wanted: Pick<UpdateBackupBody, 'pinned' | 'held'>,
  now: Pick<ManifestBackup, 'pinned' | 'held'>,
): Pick<ManifestBackup, 'pinned' | 'held'> {
  if (wanted.held && wanted.pinned === false)
    throw new LxstowError(
      'bad-request',
      'held: a held backup is always pinned: set pinned to true, or leave pinned out',
    );
  const held = wanted.held ?? (wanted.pinned === false ? undefined : now.held);
  return { ...((held || (wanted.pinned ?? now.pinned)) && { pinned: true }), ...(held !== undefined && { held }) };
}

async function makeBackup(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { config, nats, submitter, reservations } = parts;
  // Express ignores a slash at the end; it may come from a restore whose client has lost the backup's name.
  if (request.originalUrl.split('?', 1)[0]?.endsWith('/'))
    throw new LxstowError(
      'not-found',
      'the name of the backup is empty; to make a backup, POST without the last slash',
    );
  const address = instanceOf(request, config);
  const { name, compression, ...options } = createOptions(request, config);
  assertNotOwn(address.instance);
  nats.assertConnected();
  await assertToBackUp(parts, address, request);
  const id = submitter.newId();
  try {
    const backup = await reserve(parts, address, { name, compression, id }, ended(response));
    const body: BackupJob = { backup, compression, ...options };
    const operation = await submitter.submit(
      id,
      { kind: 'backup', address, body },
      requestorOf(request),
      traceOfRequest(request),
    );
    accepted(response, operation, { name: backup, optimized: options.optimized, compressed: compression !== 'none' });
  } catch (error) {
    if (!isCode(error, 'conflict')) await submitter.undo(id, () => reservations.releaseAll(address, id));
    throw error;
  }
}

/** Throws not-found if a worker says that LXD does not have the instance. */
async function assertToBackUp(parts: GatewayParts, address: Address, request: Request): Promise<void> {
  const { remote, project, instance } = address;
  const found = await lookUp(parts, remote, { project, instance }, traceOfRequest(request));
  if (found && !found.project) throw new LxstowError('not-found', `project ${project} does not exist on ${remote}`);
  if (found && !found.instance)
    throw new LxstowError('not-found', `instance ${instance} does not exist on ${remote}, project ${project}`);
}

/** Reserves the requested name, or the next free one. Throws conflict if the requested name is taken. */
async function reserve(
  parts: GatewayParts,
  address: Address,
  { name, compression, id }: { name: string | undefined; compression: Compression; id: string },
  signal: AbortSignal,
): Promise<string> {
  const { catalog, reservations } = parts;
  const has = (backup: string) => unlessAway(parts, () => catalog.has({ ...address, backup }, signal), false);
  if (name === undefined) return reservations.takeNext(address, new Date(), compression, id, has);
  const [stored, taken] = await bothOf(has(name), reservations.take(address, name, id));
  if (stored && taken) await reservations.release(address, name, id);
  if (stored || !taken) throw new LxstowError('conflict', `backup ${address.instance}/${name} already exists`);
  return name;
}

async function deleteBackup(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { config, nats, submitter, feed, stop } = parts;
  const { backup, ...address } = backupOf(request, config);
  const name = `${address.instance}/${backup}`;
  const webhook = endpointOf(request, config.notify);
  nats.assertConnected();
  await assertDeletable(parts, { ...address, backup }, ended(response));
  const { remote, project, instance } = address;
  const trace = traceOfRequest(request);
  // If there is no worker, fail now, not after deleteTimeoutMs.
  await askLookUp(nats, remote, { project, instance }, config.gateway.askTimeoutMs, trace);
  const id = submitter.newId();
  await submitter.submit(id, { kind: 'delete', address, body: { backup, ...webhook } }, requestorOf(request), trace);
  const timeout = AbortSignal.any([AbortSignal.timeout(config.gateway.deleteTimeoutMs), stop]);
  const operation = await feed.untilEnded(operationKey(remote, id), timeout);
  if (!operation || !isFinal(operation)) {
    const waiting = operation?.metadata.waiting_for;
    const why = waiting === undefined ? 'is queued, but not done yet' : `was accepted, and waits for ${waiting}`;
    throw new LxstowError('no-worker', `the deletion of ${name} ${why}: see ${operationPath(id)}`);
  }
  if (operation.status !== 'Success') throw errorOf(operation);
  // LXD's clients read the answer as an operation, and wait for its end.
  sync(response, shownOperation(operation));
}

/** Throws not-found; or conflict if the backup is pinned, locked or still being made. A backup whose manifest cannot be read can be deleted. */
async function assertDeletable(parts: GatewayParts, address: BackupAddress, signal: AbortSignal): Promise<void> {
  const manifest = await parts.catalog.manifest(address, signal).catch(async (error) => {
    if (isCode(error, 'bad-manifest')) return undefined;
    const running = isCode(error, 'not-found') ? await unfinishedBackup(parts, address) : undefined;
    if (!running) throw error;
    const name = `backup ${address.instance}/${address.backup}`;
    throw new LxstowError('conflict', `${name} is still being made: see ${operationPath(running.id)}`);
  });
  if (manifest) assertUnprotected(manifest);
}

/** Runs both in parallel. If one fails, waits for the other to end, too, so that its effect can be undone. */
async function bothOf<A, B>(one: Promise<A>, other: Promise<B>): Promise<[A, B]> {
  await Promise.allSettled([one, other]);
  return Promise.all([one, other]);
}

function createOptions(request: Request, { worker, notify, s3 }: Config) {
  refuseLockHeaders(request, 'give object_lock in the body');
  const usual = worker.compression;
  const body = check('http-create-backup.json', bodyOf(request), 'body');
  const compression = compressionQuery(request) ?? (body.compression_algorithm || usual);
  checkLock(body.object_lock, s3);
  const name = body.name || undefined;
  if (name !== undefined) checkBackupName(name, compression);
  return {
    name,
    compression,
    optimized: flag(request, 'optimize') ?? body.optimized_storage ?? false,
    instance_only: body.instance_only ?? body.container_only ?? false,
    tags: tagsOf(request),
    ...(body.object_lock && { object_lock: body.object_lock }),
    ...endpointOf(request, notify, body.notifyEndpoint),
  };
}
