/** A route of the API: what it does, and who may call it. Tables of routes are in routes/; app.ts registers them. */
import type { Request, Response } from 'express';
import type { Role } from '../../contract/schemas.ts';
import type { GatewayParts } from '../gatewayParts.ts';

/**
 * Which project of a call must be one of a restricted client's projects:
 * `named`: `?project=` (`default` without it) and the body's `project`; `?all-projects` is refused;
 * `filtered`: the same, but with `?all-projects` the route shows only what `mayTouch` allows;
 * `checkedByRoute`: none; the route itself asks `mayTouch` about what it shows;
 * `path`: `{project}` in the path;
 * `operation`: the project of the operation `{id}`, or one of the run's;
 * `unrestrictedOnly`: it is about the server, and not for restricted clients.
 */
type ProjectRule = 'named' | 'filtered' | 'checkedByRoute' | 'path' | 'operation' | 'unrestrictedOnly';

export interface Right {
  /** `anyone`: also clients that are not trusted. */
  least: Role | 'anyone';
  projects: ProjectRule;
}

export type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';

export interface Route extends Right {
  /** GET also answers HEAD. */
  method: Method;
  /** Path below that of its group, with parameters in braces; `/` is the group's path itself. */
  path: string;
  /** Set if the right depends on what the path names. */
  rightOf?: (parameters: Record<string, string>) => Partial<Right>;
  /** The route reads the body itself. By default, the body is read before, as JSON. */
  readsBody?: true;
  run(parts: GatewayParts, request: Request, response: Response): unknown;
}

/** Routes below one path. A call must have that path in this case; what follows is matched ignoring case. */
export interface RouteGroup {
  path: string;
  routes: Route[];
}

/** The path of a route as docs/openapi.json has it. */
export function fullPath(group: RouteGroup, route: Route): string {
  return `${group.path}${route.path}`.replace(/(?<=.)\/$/, '');
}

/** `{name}` as Express writes it. */
export function expressPath(path: string): string {
  return path.replaceAll(/{(\w+)}/g, ':$1');
}
