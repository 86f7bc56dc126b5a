import type { Request, Response } from 'express';
import { knownRemote } from '../../contract/config.ts';
import { LxstowError } from '../../contract/errors.ts';
import { type Address, type Config, check, type Manifest, type RestoreJob } from '../../contract/schemas.ts';
import type { Trace } from '../../telemetry/trace.ts';
import { assertContentAllowed, isLimited, limitsIn } from '../access/allowedContent.ts';
import { clientOf } from '../access/apiClient.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import {
  assertNotOwn,
  bodyOf,
  ended,
  endpointOf,
  flag,
  query,
  requestorOf,
  storedBackupOf,
  traceOfRequest,
} from '../http/requests.ts';
import { accepted } from '../http/respond.ts';
import type { RouteGroup } from '../http/route.ts';
import { lookUp, unlessAway } from '../views/backupView.ts';

const instanceName = 'names.json#/$defs/instanceName';

export const restoreRoutes: RouteGroup = {
  path: '/1.0/instances/{instance}/backups',
  routes: [{ method: 'POST', path: '/{backup}', least: 'operator', projects: 'named', run: restoreBackup }],
};

async function restoreBackup(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { config, nats, catalog, submitter } = parts;
  const remotes = Object.keys(config.remotes);
  const source = storedBackupOf(request, config);
  const {
    name = source.instance,
    project = source.project,
    target = source.remote,
    ...options
  } = restoreOptions(request, config);
  assertNotOwn(name);
  if (target === source.remote && !remotes.includes(target))
    throw new LxstowError(
      'bad-request',
      `there is no host ${target} to restore to; name another with \`target\` (--to-target): ${remotes.join(', ')}`,
    );
  const address: Address = { remote: knownRemote(target, remotes), project, instance: name };
  nats.assertConnected();
  const manifest = await unlessAway(parts, () => catalog.manifest(source, ended(response)), undefined);
  const limited = isLimited(clientOf(request), config.gateway) ? manifest : undefined;
  await assertRestorable(parts, address, { ...options, limited }, traceOfRequest(request));
  const { remote, backup } = source;
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  const body: RestoreJob = {
    backup,
    source: { remote, project: source.project, instance: source.instance },
    ...Object.fromEntries(given),
  };
  const unrestricted = !isLimited(clientOf(request), config.gateway) && { unrestricted: true as const };
  accepted(
    response,
    await submitter.submit(
      submitter.newId(),
      { kind: 'restore', address, body, ...unrestricted },
      requestorOf(request),
      traceOfRequest(request),
    ),
  );
}

/** Throws if a worker says that the restore cannot be done. `limited`: the manifest, if the client may not restore every configuration. */
async function assertRestorable(
  parts: GatewayParts,
  { remote, project, instance }: Address,
  { pool, replace, limited }: Pick<RestoreJob, 'pool' | 'replace'> & { limited: Manifest | undefined },
  trace: Trace,
): Promise<void> {
  const question = {
    project,
    instance,
    ...(pool !== undefined && { pool }),
    ...(replace && { replace }),
    ...(limited && { profiles: limited.instance.profiles.map((each) => each.name) }),
  };
  const found = await lookUp(parts, remote, question, trace);
  if (limited) assertContentAllowed(limited, limitsIn(found));
  if (!found) return;
  if (!found.project) throw new LxstowError('not-found', `project ${project} does not exist on ${remote}`);
  if (found.instance && !replace)
    throw new LxstowError(
      'conflict',
      `instance ${instance} already exists on ${remote}; it was not touched. Restore under another name, or with replace=true`,
    );
  if (found.refusal !== undefined)
    throw new LxstowError('conflict', `instance ${instance} cannot be replaced: ${found.refusal}. Nothing was done`);
  if (found.pool === false) throw new LxstowError('not-found', `storage pool ${pool} does not exist on ${remote}`);
}

/** The options of a restore, from the body, otherwise from the query. In the query, `project` and `target` name the backup, not the destination. */
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
