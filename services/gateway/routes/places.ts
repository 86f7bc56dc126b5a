/** Projects and storage pools of all hosts. Those with the same name are shown as one. */
import type { Request, Response } from 'express';
import { LxstowError, unlessCode } from '../../contract/errors.ts';
import type { LxdObject } from '../../lxd/inventory.ts';
import { isSecretPoolKey, maskedConfig } from '../../lxd/secretKeys.ts';
import { clientOf, mayTouch } from '../access/apiClient.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { filtered } from '../http/filter.ts';
import { parameter, query } from '../http/requests.ts';
import { sync } from '../http/respond.ts';
import type { RouteGroup } from '../http/route.ts';
import { askSome, remotesOf } from '../views/inventoryView.ts';

export const projectRoutes: RouteGroup = {
  path: '/1.0/projects',
  routes: [
    { method: 'GET', path: '/', least: 'viewer', projects: 'checkedByRoute', run: listProjects },
    { method: 'GET', path: '/{project}', least: 'viewer', projects: 'path', run: showProject },
  ],
};

export const poolRoutes: RouteGroup = {
  path: '/1.0/storage-pools',
  routes: [
    { method: 'GET', path: '/', least: 'viewer', projects: 'checkedByRoute', run: listPools },
    { method: 'GET', path: '/{pool}', least: 'viewer', projects: 'checkedByRoute', run: showPool },
  ],
};

async function listProjects(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  await list(request, response, '/1.0/projects', await projects(parts, request, response));
}

async function showProject(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const name = parameter(request, 'project', 'names.json#/$defs/projectName');
  const project = named(await projects(parts, request, response), name, 'project');
  sync(response, project, [project.description, project.config]);
}

async function listPools(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  await list(request, response, '/1.0/storage-pools', await pools(parts, request, response));
}

async function showPool(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const name = parameter(request, 'pool', 'names.json#/$defs/poolName');
  const pool = named(await pools(parts, request, response), name, 'storage pool');
  sync(response, pool, [pool.name, pool.driver, pool.config]);
}

/** The projects that the client may see. LXD's default project, and those that the client is restricted to, are always listed. */
async function projects(parts: GatewayParts, request: Request, response: Response): Promise<LxdObject[]> {
  const client = clientOf(request);
  const sure = (client.projects ?? ['default']).map((name) => ({ name, description: '', config: {}, used_by: [] }));
  const remotes = remotesOf(request, parts.config);
  const found = await unlessCode(['no-worker', 'lxd-unavailable'], () =>
    askSome(parts, response, remotes, { kind: 'projects' }),
  );
  return united([...(found?.values() ?? [])].flat().concat(sure)).filter(({ name }) => mayTouch(client, String(name)));
}

async function pools(parts: GatewayParts, request: Request, response: Response): Promise<LxdObject[]> {
  const client = clientOf(request);
  const found = await askSome(parts, response, remotesOf(request, parts.config), { kind: 'pools' });
  const located = [...found].flatMap(([remote, items]) => items.map((pool) => ({ ...pool, locations: [remote] })));
  return united(located).map((pool) => {
    // A restricted client does not learn what is in other projects, nor how pools are configured.
    if (client.projects) return { ...pool, config: {}, used_by: [] };
    return client.role === 'viewer' ? { ...pool, config: maskedConfig(pool.config ?? {}, isSecretPoolKey) } : pool;
  });
}

async function list(request: Request, response: Response, path: string, items: LxdObject[]): Promise<void> {
  const matching = await filtered(items, query(request, 'filter'));
  const full = (query(request, 'recursion') ?? '0') !== '0';
  sync(response, full ? matching : matching.map(({ name }) => `${path}/${encodeURIComponent(String(name))}`));
}

/** One item for each name, with `used_by` of all items of that name, and their hosts. */
function united(items: LxdObject[]): LxdObject[] {
  const byName = Map.groupBy(items, ({ name }) => String(name));
  return [...byName.values()].map(([first = {}, ...others]) => {
    const all = (field: string) => [first, ...others].flatMap((each) => (each[field] as string[] | null) ?? []);
    return {
      ...first,
      used_by: [...new Set(all('used_by'))],
      ...('locations' in first && { locations: all('locations') }),
    };
  });
}

function named(items: LxdObject[], name: string, what: string): LxdObject {
  const found = items.find((each) => each.name === name);
  if (!found) throw new LxstowError('not-found', `${what} ${name} does not exist`);
  return found;
}
