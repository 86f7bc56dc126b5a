/** GET /1.0/events: LXD's event stream, for one project or all. */
import type { TLSSocket } from 'node:tls';
import type { Request, Response } from 'express';
import { LxstowError } from '../../contract/errors.ts';
import { type Client, clientOf, isAdmin, mayTouch, notAuthorized } from '../access/apiClient.ts';
import { type EventType, eventTypes } from '../events/lxdEvents.ts';
import { upgradeOf } from '../events/upgrade.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { listedProject, query } from '../http/requests.ts';
import type { RouteGroup } from '../http/route.ts';

export const eventRoutes: RouteGroup = {
  path: '/1.0/events',
  routes: [{ method: 'GET', path: '/', least: 'viewer', projects: 'filtered', run: openSocket }],
};

async function openSocket({ eventSockets, trust }: GatewayParts, request: Request, response: Response): Promise<void> {
  const client = clientOf(request);
  const types = wantedTypes(request, client);
  const project = listedProject(request);
  const connection = request.socket as TLSSocket;
  const upgrade = upgradeOf(response);
  eventSockets.admit(client.fingerprint, connection);
  eventSockets.add(await upgrade(), {
    types,
    // '' is no project, but only clients that may see all projects may touch it.
    wants: (of) => (project === undefined || of === '' || of === project) && mayTouch(client, of),
    trusted: async () => sameAccess(client, await trust.client(connection)),
    connection,
    client: client.fingerprint,
  });
}

/** The event types that the client asks for; by default, all that it may see. */
function wantedTypes(request: Request, client: Client): Set<EventType> {
  const admin = isAdmin(client);
  const asked = query(request, 'type')?.split(',');
  for (const type of asked ?? []) {
    if (!eventTypes.includes(type as EventType))
      throw new LxstowError(
        'bad-request',
        `${JSON.stringify(type)} is not one of the event types ${eventTypes.join(', ')}`,
      );
    // Log lines name things in all projects.
    if (type === 'logging' && !admin) throw notAuthorized();
  }
  return new Set((asked as EventType[]) ?? eventTypes.filter((type) => type !== 'logging' || admin));
}

/** Whether the client's rights are the same as when the socket was opened. */
function sameAccess(then: Client, now: Client | undefined): boolean {
  return now?.trusted === true && now.role === then.role && String(now.projects) === String(then.projects);
}
