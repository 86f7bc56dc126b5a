/** The client that sent a request, and what it may touch. */
import type { Request } from 'express';
import { LxstowError } from '../../contract/errors.ts';
import type { Role } from '../../contract/schemas.ts';

/** A client as its certificate shows it. */
export interface Client {
  fingerprint: string;
  trusted: boolean;
  name: string;
  role: Role;
  /** The projects that the client is restricted to; undefined: every project. */
  projects: string[] | undefined;
}

/** The client that the trust check has identified. */
export function clientOf(request: Request): Client {
  const client: Client | undefined = request.res?.locals.client;
  if (!client) throw notAuthorized();
  return client;
}

/** True when the client may see and use what is in this project. */
export function mayTouch(client: Client, project: string): boolean {
  return client.trusted && (client.projects === undefined || client.projects.includes(project));
}

/** True for an admin who is not restricted to projects. */
export function isAdmin(client: Client): boolean {
  return client.trusted && client.role === 'admin' && client.projects === undefined;
}

/** The refusal of a client that may not do what it asks, in LXD's words. */
export function notAuthorized(): LxstowError {
  return new LxstowError('forbidden', 'not authorized');
}
