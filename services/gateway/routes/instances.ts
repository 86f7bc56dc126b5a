/** Routes that list and show instances of all hosts, and their states, as LXD shows them. */
import type { Request, Response } from 'express';
import { isCode, LxstowError } from '../../contract/errors.ts';
import { check } from '../../contract/schemas.ts';
import { askInProjects, askInventory, type InventoryQuestion } from '../../hosts/hostInventory.ts';
import type { LxdInstance, LxdObject } from '../../lxd/inventory.ts';
import { isSecretKey, maskedConfig } from '../../lxd/secretKeys.ts';
import { type Client, clientOf, mayTouch } from '../access/apiClient.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { filtered } from '../http/filter.ts';
import { ended, listedProject, parameter, query } from '../http/requests.ts';
import { sync, warn } from '../http/respond.ts';
import type { RouteGroup } from '../http/route.ts';
import { showListed } from '../views/backupView.ts';
import { askRemotes, askSome, instancePath, remotesOf } from '../views/inventoryView.ts';

/** Masks secrets for viewers, also in snapshots. */
function shownTo<T extends LxdObject>(client: Client, object: T): T {
  if (client.role !== 'viewer') return object;
  const masked = Object.entries(object).map(([field, value]) => {
    if (field === 'snapshots' && Array.isArray(value)) return [field, value.map((each) => shownTo(client, each))];
    if (!/^(expanded_)?config$/.test(field) || typeof value !== 'object' || value === null) return [field, value];
    return [field, maskedConfig(value, isSecretKey)];
  });
  return Object.fromEntries(masked) as T;
}

/** An instance's snapshots; some versions of LXD name them `c1/snapshot`. */
function snapshotsOf({ snapshots }: LxdObject): (LxdObject & { name: string })[] {
  const all = (Array.isArray(snapshots) ? snapshots : []) as (LxdObject & { name: string })[];
  return all.map((each) => ({ ...each, name: each.name.split('/').at(-1) ?? '' }));
}

export const instanceRoutes: RouteGroup = {
  path: '/1.0/instances',
  routes: [
    { method: 'GET', path: '/', least: 'viewer', projects: 'filtered', run: listInstances },
    { method: 'GET', path: '/{instance}', least: 'viewer', projects: 'named', run: showInstance },
    { method: 'GET', path: '/{instance}/snapshots', least: 'viewer', projects: 'named', run: listSnapshots },
    { method: 'GET', path: '/{instance}/snapshots/{snapshot}', least: 'viewer', projects: 'named', run: showSnapshot },
    { method: 'GET', path: '/{instance}/state', least: 'viewer', projects: 'named', run: showState },
  ],
};

async function listInstances(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { config } = parts;
  const client = clientOf(request);
  const project = listedProject(request);
  const recursion = query(request, 'recursion') ?? '0';
  const type = query(request, 'instance-type');
  const filter = query(request, 'filter');
  const projects = project === undefined ? client.projects : [project];
  const question: InventoryQuestion = { kind: 'instances', full: recursion === '2', ...(projects && { projects }) };
  // The client's projects need not exist on every host.
  const ask = project === undefined ? askInProjects : askInventory;
  const found = await askSome(parts, response, remotesOf(request, config), question, ask);
  const seen = ([...found.values()].flat() as LxdInstance[])
    .filter((instance) => mayTouch(client, instance.project) && (type === undefined || instance.type === type))
    // Mask before filtering, because a filter could reveal a secret letter by letter.
    .map((instance) => shownTo(client, instance));
  const instances = await filtered(seen, filter);
  const { defaultRemote } = config.gateway;
  if (recursion === '0')
    return sync(
      response,
      instances.map((instance) => instancePath(instance, defaultRemote)),
    );
  sync(response, recursion === '2' ? instances.map((instance) => ({ ...instance, backups: null })) : instances);
}

async function showInstance(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const full = isFull(request);
  const [remote, found] = await one(parts, request, response, (address) => ({ kind: 'instance', full, ...address }));
  const { architecture, config, devices, ephemeral, profiles } = found;
  const backups = full ? await backupsOf(parts, remote, found as LxdInstance, response) : undefined;
  sync(response, full ? { ...found, backups } : found, [architecture, config, devices, ephemeral, profiles]);
}

async function listSnapshots(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const [remote, found] = await oneInFull(parts, request, response);
  const snapshots = snapshotsOf(found);
  if (isFull(request)) return sync(response, snapshots);
  const at = instancePath({ ...(found as LxdInstance), location: remote }, parts.config.gateway.defaultRemote);
  const paths = snapshots.map(({ name }) => at.replace(/(\?|$)/, `/snapshots/${encodeURIComponent(name)}$1`));
  sync(response, paths);
}

async function showSnapshot(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const [, found] = await oneInFull(parts, request, response);
  const { instance, snapshot } = request.params;
  const wanted = snapshotsOf(found).find(({ name }) => name === snapshot);
  if (!wanted) throw new LxstowError('not-found', `snapshot ${snapshot} of instance ${instance} does not exist`);
  sync(response, wanted);
}

async function showState(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const [, found] = await one(parts, request, response, (address) => ({ kind: 'state', ...address }));
  sync(response, found);
}

function isFull(request: Request): boolean {
  return ['1', '2'].includes(query(request, 'recursion') ?? '');
}

function oneInFull(parts: GatewayParts, request: Request, response: Response): Promise<[string, LxdObject]> {
  return one(parts, request, response, (address) => ({ kind: 'instance', full: true, ...address }));
}

/** The requested instance, and its host: without `?target=`, the default host's instance, otherwise the only one of this name. */
async function one(
  parts: GatewayParts,
  request: Request,
  response: Response,
  question: (address: { project: string; instance: string }) => InventoryQuestion,
): Promise<[remote: string, found: LxdObject]> {
  const { config } = parts;
  const instance = parameter(request, 'instance', 'names.json#/$defs/instanceName');
  const project = query(request, 'project', 'names.json#/$defs/projectName') ?? 'default';
  const remotes = remotesOf(request, config);
  const { found, silent } = await askRemotes(parts, response, remotes, question({ project, instance }));
  const holders = [...found].flatMap(([remote, [item]]) => (item ? [[remote, item] as const] : []));
  const [first, second] = holders;
  if (!first) {
    const where = [...found.keys()].join(', ');
    const unheard = silent.size > 0 ? `; no answer from ${[...silent.keys()].join(', ')}` : '';
    throw (
      silent.get(remotes[0] as string) ??
      new LxstowError('not-found', `instance ${instance} does not exist on ${where}, project ${project}${unheard}`)
    );
  }
  if (second && first[0] !== config.gateway.defaultRemote) {
    const names = holders.map(([remote]) => remote).join(', ');
    throw new LxstowError('bad-request', `instance ${instance} is on ${names}: say which with ?target=`);
  }
  return [first[0], shownTo(clientOf(request), first[1])];
}

/** The instance's backups in the store, with LXD's fields; null when S3 is away. */
async function backupsOf(
  { catalog, log }: GatewayParts,
  remote: string,
  { project, name }: LxdInstance,
  response: Response,
): Promise<object[] | null> {
  const instance = check('names.json#/$defs/instanceName', name, 'name');
  try {
    const summaries = await catalog.list({ remote, project, instance }, ended(response));
    return summaries.map(showListed);
  } catch (error) {
    if (!isCode(error, 's3-unavailable')) throw error;
    log.warn('instance shown without its backups', { remote, project, instance, error });
    warn(response, 'backups are not in this answer: s3-unavailable');
    return null;
  }
}
