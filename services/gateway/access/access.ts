/**
 * Who may do what: the one place. A call that no rule names wants a viewer to read and an operator to change, in the projects that
 * it names; a restricted client gets no further than its projects.
 */
import type { ParsedUrlQuery } from 'node:querystring';
import type { RequestHandler } from 'express';
import { LxstowError } from '../../contract/errors.ts';
import type { Role } from '../../contract/schemas.ts';
import type { OperationStore } from '../../operations/operationStore.ts';
import { shownRun } from '../../runs/fold.ts';
import type { RunStore } from '../../runs/runStore.ts';
import { type Client, clientOf, mayTouch } from './apiClient.ts';

interface Rule {
  /** Of all methods when absent. */
  method?: string;
  /** Matched against the path as it came, whatever the case. */
  path: RegExp;
  /** The least role; by default `viewer` for GET, `operator` for all else. */
  least?: Role;
  /**
   * What a restricted client's projects are held against:
   * `named`, the default: `?project=` (`default` without it) and the body's `project`; `?all-projects` is refused;
   * `filtered`: the same, but with `?all-projects` the route shows only what `mayTouch` allows;
   * `any`: no project; what the route shows of projects it asks `mayTouch`;
   * `path`: the project in the path, the pattern's first group;
   * `operation`: the project of the operation in the path, or one of the run's, the pattern's first group;
   * `none`: it is about the server, and not for restricted clients.
   */
  projects?: 'named' | 'filtered' | 'any' | 'path' | 'operation' | 'none';
}

const rules: Rule[] = [
  { method: 'GET', path: /^\/(1\.0\/?)?$/, projects: 'any' },
  // A client sees itself; the route shows the others to admins only.
  { method: 'GET', path: /^\/1\.0\/certificates(\/|$)/i, projects: 'any' },
  { path: /^\/1\.0\/certificates(\/|$)/i, least: 'admin', projects: 'none' },
  { method: 'GET', path: /^\/1\.0\/events\/?$/i, projects: 'filtered' },
  { method: 'GET', path: /^\/1\.0\/operations\/?$/i, projects: 'filtered' },
  { path: /^\/1\.0\/operations\/([^/]+)/i, projects: 'operation' },
  { path: /^\/1\.0\/runs(\/|$)/i, projects: 'any' },
  { path: /^\/1\.0\/schedules(\/|$)/i, projects: 'any' },
  { method: 'GET', path: /^\/1\.0\/instances\/?$/i, projects: 'filtered' },
  { method: 'GET', path: /^\/1\.0\/status\/?$/i, projects: 'filtered' },
  { method: 'GET', path: /^\/1\.0\/instances\/(\*|%2a|all)\/backups\/?$/i, projects: 'filtered' },
  // Whole instances, with all that is in them.
  { method: 'GET', path: /^\/1\.0\/instances\/[^/]+\/backups\/[^/]+\/export(\/url)?\/?$/i, least: 'operator' },
  { method: 'GET', path: /^\/1\.0\/projects\/?$/i, projects: 'any' },
  { method: 'GET', path: /^\/1\.0\/projects\/([^/]+)/i, projects: 'path' },
  { method: 'GET', path: /^\/1\.0\/storage-pools(\/|$)/i, projects: 'any' },
];

const ranks: Record<Role, number> = { viewer: 0, operator: 1, admin: 2 };

/** What is asked for. */
export interface Call {
  method: string;
  /** Without the query. */
  path: string;
  query: ParsedUrlQuery | Record<string, unknown>;
}

/** Throws forbidden, in LXD's words, when the client may not; not-found for another project's operation. */
export async function authorize(
  client: Client,
  call: Call,
  operations: Pick<OperationStore, 'find'>,
  runs?: Pick<RunStore, 'find'>,
): Promise<void> {
  const method = call.method === 'HEAD' ? 'GET' : call.method;
  const rule = rules.find((each) => (each.method ?? method) === method && each.path.test(call.path));
  const { least = method === 'GET' ? 'viewer' : 'operator', projects = 'named' } = rule ?? {};
  if (!client.trusted || ranks[client.role] < ranks[least]) throw refused();
  if (client.projects === undefined || projects === 'any') return;
  const inPath = rule?.path.exec(call.path)?.[1] ?? '';
  switch (projects) {
    case 'none':
      throw refused();
    case 'path':
      if (!mayTouch(client, decoded(inPath))) throw refused();
      return;
    case 'operation': {
      const id = decoded(inPath);
      const found = /^[0-9a-f-]+$/.test(id) ? await operations.find(id) : undefined;
      if (found ? !mayTouch(client, found.operation.project) : !(await seesRun(client, id, runs)))
        throw new LxstowError('not-found', `operation ${inPath} does not exist`);
      return;
    }
    case 'named':
    case 'filtered':
      if (!['', '0', 'false', undefined].includes(call.query['all-projects'] as string)) {
        if (projects === 'filtered') return;
        throw refused();
      }
      if (!mayTouch(client, (call.query.project as string) || 'default')) throw refused();
  }
}

/** Whether there is such a run, and something of it is for this client. */
async function seesRun(client: Client, id: string, runs: Pick<RunStore, 'find'> | undefined): Promise<boolean> {
  const found = /^[0-9a-f-]+$/.test(id) ? await runs?.find(id) : undefined;
  return (
    found !== undefined && shownRun(found.run, (_, project) => mayTouch(client, project), new Date()) !== undefined
  );
}

/** Lets a request go on to its route only if `authorize` does. What its body names is looked at by `bodyAuthorized`. */
export function authorized(operations: OperationStore, runs: RunStore): RequestHandler {
  return async (request, _response, next) => {
    const { method, path, query } = request;
    await authorize(clientOf(request), { method, path, query }, operations, runs);
    next();
  };
}

/** The same for the project that a body names, as a restore's does. */
export const bodyAuthorized: RequestHandler = (request, _response, next) => {
  const { project } = (request.body ?? {}) as { project?: unknown };
  if (project !== undefined && project !== '' && !mayTouch(clientOf(request), String(project))) throw refused();
  next();
};

function refused(): LxstowError {
  return new LxstowError('forbidden', 'not authorized');
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch (cause) {
    throw new LxstowError('bad-request', 'the path is not URL-encoded UTF-8', { cause });
  }
}
