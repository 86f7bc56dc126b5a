/** The five endpoints of the contract: list, show, create, delete and restore backups. */
import { type Request, type Response, Router } from 'express';
import { assertUnpinned } from '../../backups/manifest.ts';
import { knownRemote } from '../../contract/config.ts';
import { isCode, LxstowError } from '../../contract/errors.ts';
import {
  type Address,
  type BackupAddress,
  type BackupJob,
  type Config,
  check,
  checkBackupName,
  type RestoreJob,
} from '../../contract/schemas.ts';
import { askLook } from '../../hosts/look.ts';
import { isFinal } from '../../operations/operation.ts';
import { clientOf, mayTouch } from '../access/apiClient.ts';
import { assertMayRestore, isLimited, limitsIn } from '../access/restricted.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import {
  addressing,
  assertNotOwn,
  bodyOf,
  checkIfMatch,
  compressionQuery,
  ended,
  endpointOf,
  flag,
  listedProject,
  placeOf,
  query,
  requestorOf,
  tagsOf,
  traceOfRequest,
} from '../http/requests.ts';
import { accepted, errorOf, operationPath, sync, toLxd } from '../http/respond.ts';
import {
  assertInstance,
  findBackup,
  look,
  showListed,
  showStored,
  unfinishedBackup,
  unlessAway,
} from '../views/backupView.ts';

const instanceName = 'names.json#/$defs/instanceName';

export function backupRoutes(parts: GatewayParts): Router {
  const { config, nats, catalog, submitter, reservations, transfers, feed, stop } = parts;
  const remotes = Object.keys(config.remotes);
  const router = Router({ mergeParams: true });

  const { instanceOf, backupOf, storedInstanceOf, storedBackupOf } = addressing(config);

  router.get('/', async (request, response) => {
    const { instance } = request.params as { instance: string };
    const signal = ended(response);
    if (instance === '*' || instance === 'all') {
      const target = query(request, 'target');
      const remote = target === '*' ? undefined : placeOf(request, undefined, config.gateway.defaultRemote).remote;
      const summaries = await catalog.list({ remote, project: listedProject(request) }, signal);
      if (remote !== undefined && summaries.length === 0) knownRemote(remote, remotes);
      const client = clientOf(request);
      return sync(response, summaries.filter(({ address }) => mayTouch(client, address.project)).map(showListed));
    }
    const address = storedInstanceOf(request);
    const summaries = await catalog.list(address, signal);
    if (summaries.length === 0) {
      knownRemote(address.remote, remotes);
      await assertInstance(parts, address, traceOfRequest(request));
    }
    sync(response, summaries.map(showListed));
  });

  router.get('/:backup', async (request, response) => {
    const { backup, etag } = await findBackup(parts, storedBackupOf(request), ended(response));
    if (etag !== undefined) response.set('etag', `"${etag}"`);
    sync(response, backup);
  });

  /** PUT takes the place of tags and notes, PATCH adds to them. */
  const change = (method: 'PUT' | 'PATCH') => async (request: Request, response: Response) => {
    const address = backupOf(request);
    // An empty body is refused: a PUT of it would empty everything.
    const wanted = check('http-update-backup.json', request.body, 'body');
    // MinIO would write a manifest anew whose backup was deleted meanwhile (docs/s3.md).
    await using claim = await transfers.claim(address);
    const { manifest, etag } = await catalog.change(
      address,
      (stored) => {
        claim.assertHeld();
        checkIfMatch(request, `"${stored.etag}"`);
        const { tags, notes } = method === 'PUT' ? { tags: {}, notes: '' } : stored.manifest.backup;
        const merged = Object.entries({ ...tags, ...wanted.tags }).filter(
          ([, value]) => method === 'PUT' || value !== null,
        );
        return {
          tags: check('names.json#/$defs/tags', Object.fromEntries(merged), 'body: tags'),
          ...((wanted.notes ?? notes) ? { notes: wanted.notes ?? notes ?? '' } : {}),
          ...((wanted.pinned ?? stored.manifest.backup.pinned) && { pinned: true }),
        };
      },
      ended(response),
    );
    response.set('etag', `"${etag}"`);
    sync(response, showStored(manifest));
  };
  router.put('/:backup', change('PUT'));
  router.patch('/:backup', change('PATCH'));

  router.post('/', async (request, response) => {
    const address = instanceOf(request);
    const wanted = createOptions(request, config);
    assertNotOwn(address.instance);
    nats.assertConnected();
    const found = await look(
      parts,
      address.remote,
      { project: address.project, instance: address.instance },
      traceOfRequest(request),
    );
    if (found && !found.project)
      throw new LxstowError('not-found', `project ${address.project} does not exist on ${address.remote}`);
    if (found && !found.instance)
      throw new LxstowError(
        'not-found',
        `instance ${address.instance} does not exist on ${address.remote}, project ${address.project}`,
      );

    const id = submitter.newId();
    const signal = ended(response);
    const has = (backup: string) => unlessAway(parts, () => catalog.has({ ...address, backup }, signal), false);
    const { name, compression, ...options } = wanted;
    try {
      if (name !== undefined) {
        const [stored, taken] = await bothOf(has(name), reservations.take(address, name, id));
        if (stored && taken) await reservations.release(address, name, id);
        if (stored || !taken) throw new LxstowError('conflict', `backup ${address.instance}/${name} already exists`);
      }
      const backup = name ?? (await reservations.takeNext(address, new Date(), compression, id, has));
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
  });

  router.post('/:backup', async (request, response) => {
    const source = storedBackupOf(request);
    const {
      name = source.instance,
      project = source.project,
      target = source.remote,
      pool,
      replace,
      ...options
    } = restoreOptions(request, config);
    assertNotOwn(name);
    if (target === source.remote && !remotes.includes(target))
      throw new LxstowError(
        'bad-request',
        `remote ${target} is not there to restore to; \`target\` (--to-target) names another, of: ${remotes.join(', ')}`,
      );
    const address: Address = { remote: knownRemote(target, remotes), project, instance: name };
    nats.assertConnected();
    const manifest = await unlessAway(parts, () => catalog.manifest(source, ended(response)), undefined);
    const limited = isLimited(clientOf(request), config.gateway);
    const profiles = limited && manifest ? { profiles: manifest.instance.profiles.map((each) => each.name) } : {};
    const found = await look(
      parts,
      address.remote,
      {
        project,
        instance: name,
        ...(pool === undefined ? {} : { pool }),
        ...(replace ? { replace } : {}),
        ...profiles,
      },
      traceOfRequest(request),
    );
    if (limited && manifest) assertMayRestore(manifest, limitsIn(found));
    if (found && !found.project)
      throw new LxstowError('not-found', `project ${project} does not exist on ${address.remote}`);
    if (found?.instance && !replace)
      throw new LxstowError(
        'conflict',
        `instance ${name} already exists on ${address.remote}; it was not touched. Restore under another name, or with replace=true`,
      );
    if (found?.refusal !== undefined)
      throw new LxstowError('conflict', `instance ${name} cannot be replaced: ${found.refusal}. Nothing was done`);
    if (found?.pool === false)
      throw new LxstowError('not-found', `storage pool ${pool} does not exist on ${address.remote}`);

    const { remote, backup } = source;
    const given = Object.entries({ pool, replace, ...options }).filter(([, value]) => value !== undefined);
    const body: RestoreJob = {
      backup,
      source: { remote, project: source.project, instance: source.instance },
      ...Object.fromEntries(given),
    };
    accepted(
      response,
      await submitter.submit(
        submitter.newId(),
        { kind: 'restore', address, body, ...(!limited && { unrestricted: true as const }) },
        requestorOf(request),
        traceOfRequest(request),
      ),
    );
  });

  router.delete('/:backup', async (request, response) => {
    const { backup, ...address } = backupOf(request);
    const told = endpointOf(request, config.notify);
    nats.assertConnected();
    await assertDeletable(parts, { ...address, backup }, ended(response));
    // No worker up: better said now than after the time is over.
    await askLook(
      nats,
      address.remote,
      { project: address.project, instance: address.instance },
      config.gateway.askTimeoutMs,
      traceOfRequest(request),
    );
    const id = submitter.newId();
    await submitter.submit(
      id,
      { kind: 'delete', address, body: { backup, ...told } },
      requestorOf(request),
      traceOfRequest(request),
    );
    const timeout = AbortSignal.any([AbortSignal.timeout(config.gateway.deleteTimeoutMs), stop]);
    const operation = await feed.untilFinal(id, timeout);
    if (!operation || !isFinal(operation)) {
      const waiting = operation?.metadata.waiting_for;
      const why = waiting === undefined ? 'is queued, but not done yet' : `was accepted, and waits for ${waiting}`;
      throw new LxstowError(
        'no-worker',
        `the deletion of ${address.instance}/${backup} ${why}: see ${operationPath(id)}`,
      );
    }
    if (operation.status !== 'Success') throw errorOf(operation);
    // LXD's clients take it for an operation, and wait until it has ended.
    sync(response, toLxd(operation));
  });

  return router;
}

/** Throws not-found, and conflict for a backup that is still being made, or pinned. One whose manifest cannot be read can be deleted. */
async function assertDeletable(parts: GatewayParts, address: BackupAddress, signal: AbortSignal): Promise<void> {
  const manifest = await parts.catalog.manifest(address, signal).catch(async (error) => {
    if (isCode(error, 'bad-manifest')) return undefined;
    const running = isCode(error, 'not-found') ? await unfinishedBackup(parts, address) : undefined;
    if (!running) throw error;
    const name = `backup ${address.instance}/${address.backup}`;
    throw new LxstowError('conflict', `${name} is still being made: see ${operationPath(running.id)}`);
  });
  if (manifest) assertUnpinned(manifest);
}

/** Side by side; where one fails, the other has ended too: what it has done can be undone. */
async function bothOf<A, B>(one: Promise<A>, other: Promise<B>): Promise<[A, B]> {
  await Promise.allSettled([one, other]);
  return Promise.all([one, other]);
}

function createOptions(request: Request, { worker, notify }: Config) {
  const usual = worker.compression;
  const body = check('http-create-backup.json', bodyOf(request), 'body');
  const compression = compressionQuery(request) ?? (body.compression_algorithm || usual);
  const name = body.name || undefined;
  if (name !== undefined) checkBackupName(name, compression);
  return {
    name,
    compression,
    optimized: flag(request, 'optimize') ?? body.optimized_storage ?? false,
    instance_only: body.instance_only ?? body.container_only ?? false,
    tags: tagsOf(request),
    ...endpointOf(request, notify, body.notifyEndpoint),
  };
}

/** Where to restore to: from the body, else from the query, where `project` and `target` say whose backup it is. */
function restoreOptions(request: Request, { notify }: Config) {
  const { notifyEndpoint, ...body } = check('http-restore-backup.json', bodyOf(request), 'body');
  return {
    ...body,
    name: body.name ?? query(request, 'name', instanceName),
    pool: body.pool ?? query(request, 'pool', 'names.json#/$defs/poolName'),
    start: body.start ?? flag(request, 'start'),
    replace: body.replace ?? flag(request, 'replace'),
    ...endpointOf(request, notify, notifyEndpoint),
  };
}
