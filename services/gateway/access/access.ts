/**
 * Who may do what. Each route in routes/ declares its right: `least` and `projects` (http/route.ts says what they mean). For a path without a route, the right of the nearest path above it is checked first, and only
 * then is it a 404, so that a path that is added later is never open by accident. A restricted client can use only its projects.
 */
import type { RequestHandler } from 'express';
import { LxstowError } from '../../contract/errors.ts';
import type { Operation, Role } from '../../contract/schemas.ts';
import type { OperationStore } from '../../operations/operationStore.ts';
import { shownRun } from '../../runs/fold.ts';
import type { RunStore } from '../../runs/runStore.ts';
import { fullPath, type Right, type Route, type RouteGroup } from '../http/route.ts';
import { type Client, clientOf, mayTouch, notAuthorized } from './apiClient.ts';

const ranks: Record<Role, number> = { viewer: 0, operator: 1, admin: 2 };

/** Looks up operations and runs, whose projects decide who may see them. */
export interface ProjectLookUp {
  operations: Pick<OperationStore, 'findAnywhere'>;
  runs: Pick<RunStore, 'find'>;
}

/** Throws forbidden, in LXD's words, if the client may not make the call; not-found if the operation belongs to another project. */
export async function authorize(
  client: Client,
  { least, projects }: Right,
  { parameters, query }: { parameters: Record<string, string>; query: Record<string, unknown> },
  projectLookUp: ProjectLookUp,
): Promise<void> {
  if (least === 'anyone') return;
  // Written so that a role or a rule that does not exist is refused.
  if (!client.trusted || !(ranks[client.role] >= ranks[least])) throw notAuthorized();
  if (client.projects === undefined || projects === 'checkedByRoute') return;
  switch (projects) {
    case 'path':
      if (!mayTouch(client, parameters.project ?? '')) throw notAuthorized();
      return;
    case 'operation': {
      const { id = '' } = parameters;
      const theirs = ({ project }: Operation) => mayTouch(client, project);
      const found = /^[0-9a-f-]+$/.test(id) ? await projectLookUp.operations.findAnywhere(id, theirs) : undefined;
      if (!found && !(await seesRun(client, id, projectLookUp)))
        throw new LxstowError('not-found', `operation ${id} does not exist`);
      return;
    }
    case 'named':
    case 'filtered':
      if (!['', '0', 'false', undefined].includes(query['all-projects'] as string)) {
        if (projects === 'filtered') return;
        throw notAuthorized();
      }
      if (!mayTouch(client, (query.project as string) || 'default')) throw notAuthorized();
      return;
    default:
      throw notAuthorized();
  }
}

/** Whether the run exists, and at least part of it is in the client's projects. */
async function seesRun(client: Client, id: string, { runs }: ProjectLookUp): Promise<boolean> {
  const found = /^[0-9a-f-]+$/.test(id) ? await runs.find(id) : undefined;
  return (
    found !== undefined && shownRun(found.run, (_, project) => mayTouch(client, project), new Date()) !== undefined
  );
}

/** Passes a request on to its route only if `authorize` allows it. `bodyAuthorized` checks what the body names. */
export function authorized(route: Route, projectLookUp: ProjectLookUp): RequestHandler {
  return async (request, _response, next) => {
    const parameters = request.params as Record<string, string>;
    await authorize(clientOf(request), rightOf(route, parameters), { parameters, query: request.query }, projectLookUp);
    next();
  };
}

/** Refuses a call that no route answers, unless `authorize` allows the nearest route's right. */
export function unansweredAuthorized(groups: RouteGroup[], projectLookUp: ProjectLookUp): RequestHandler {
  const nearest = nearestRight(groups);
  return async (request, _response, next) => {
    const { right, parameters } = nearest(request.method, request.path);
    await authorize(clientOf(request), right, { parameters, query: request.query }, projectLookUp);
    next();
  };
}

/** Refuses a request whose body names another project than the client's own, as a restore's body can. */
export const bodyAuthorized: RequestHandler = (request, _response, next) => {
  const { project } = (request.body ?? {}) as { project?: unknown };
  if (project !== undefined && project !== '' && !mayTouch(clientOf(request), String(project))) throw notAuthorized();
  next();
};

function rightOf({ least, projects, rightOf: special }: Route, parameters: Record<string, string>): Right {
  return { least, projects, ...special?.(parameters) };
}

/**
 * The right that a call needs, whether or not a route answers it, ignoring the case of its path: that of the longest route path that it begins with, with a method that reads, or changes,
 * as the call's does. If there is no such route, a viewer may read and an operator may change, in the project that the call names.
 */
export function nearestRight(
  groups: RouteGroup[],
): (method: string, path: string) => { right: Right; parameters: Record<string, string> } {
  const known = groups
    .flatMap((group) => group.routes.map((route) => ({ route, path: fullPath(group, route) })))
    // A path that anyone may see does not open the paths below it.
    .filter(({ route }) => route.least !== 'anyone')
    .sort((a, b) => b.path.split('/').length - a.path.split('/').length)
    .map(({ route, path }) => {
      const pattern = path.replaceAll('.', '\\.').replaceAll(/{(\w+)}/g, '(?<$1>[^/]+)');
      return { route, path, pattern: new RegExp(`^${pattern}(?<rest>/.*)?$`, 'is') };
    });
  return (asked, called) => {
    const method = asked === 'HEAD' ? 'GET' : asked;
    const reads = method === 'GET';
    const above = known.filter(({ route, pattern }) => (route.method === 'GET') === reads && pattern.test(called));
    const ofPath = above.filter(({ path }) => path === above[0]?.path);
    const nearest = ofPath.find(({ route }) => route.method === method) ?? ofPath[0];
    if (!nearest) return { right: { least: reads ? 'viewer' : 'operator', projects: 'named' }, parameters: {} };
    const { rest = '', ...found } = nearest.pattern.exec(called)?.groups ?? {};
    const parameters = Object.fromEntries(Object.entries(found).map(([name, value]) => [name, decoded(value)]));
    const right = rightOf(nearest.route, parameters);
    // If no route answers the call, nothing filters its answer by project.
    const answered = nearest.route.method === method && /^\/?$/.test(rest);
    return {
      right: right.projects === 'filtered' && !answered ? { ...right, projects: 'named' } : right,
      parameters,
    };
  };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch (cause) {
    throw new LxstowError('bad-request', 'the path is not URL-encoded UTF-8', { cause });
  }
}
