/** The state of each instance, with its reason. */
import type { Request, Response } from 'express';
import { LxstowError } from '../../contract/errors.ts';
import type { InstanceStatus } from '../../contract/schemas.ts';
import { clientOf, mayTouch } from '../access/apiClient.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { filtered } from '../http/filter.ts';
import { listedProject, query } from '../http/requests.ts';
import { sync } from '../http/respond.ts';
import type { RouteGroup } from '../http/route.ts';
import { instancePath, remotesOf } from '../views/inventoryView.ts';
import { instanceStates, statusCursor } from '../views/statusView.ts';

/** An inventory that is older is not trusted to know of new instances. */
const staleMs = 900_000;
const mostOfPage = 10_000;

export const statusRoutes: RouteGroup = {
  path: '/1.0/status',
  routes: [{ method: 'GET', path: '/', least: 'viewer', projects: 'filtered', run: listStates }],
};

async function listStates(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { config } = parts;
  const client = clientOf(request);
  const project = listedProject(request);
  const remotes = remotesOf(request, config);
  const full = (query(request, 'recursion') ?? '0') !== '0';
  const filter = query(request, 'filter');
  const limit = pageLength(query(request, 'limit'));
  const { statuses, inventories } = await instanceStates(parts, {
    wants: (place) =>
      remotes.includes(place.remote) &&
      (project === undefined || place.project === project) &&
      mayTouch(client, place.project),
    mayName: (other) => mayTouch(client, other),
    olderThan: query(request, 'older-than', 'nats-api.json#/$defs/olderThan'),
    state: query(request, 'state', 'nats-api.json#/$defs/instanceState'),
    after: query(request, 'after'),
    // One more tells whether there is another page; of those that a filter takes nobody knows how many to look at.
    ...(filter === undefined && { most: limit + 1 }),
  });
  for (const remote of remotes) {
    const at = inventories.get(remote)?.at;
    if (at !== undefined && Date.now() - Date.parse(at) < staleMs) continue;
    const since = at === undefined ? 'yet' : `since ${at}`;
    response.append(
      'warning',
      `199 lxstow "no worker of remote ${remote} has looked which instances there are ${since}"`,
    );
  }
  const matching = await filtered(statuses, filter);
  const page = matching.slice(0, limit);
  const last = page.length < matching.length ? page.at(-1) : undefined;
  if (last) {
    const next = new URLSearchParams({ ...(request.query as Record<string, string>), after: statusCursor(last) });
    response.set('link', `</1.0/status?${next}>; rel="next"`);
  }
  const { defaultRemote } = config.gateway;
  const pathOf = ({ host, project, instance }: InstanceStatus) =>
    instancePath({ name: instance, project, location: host }, defaultRemote);
  sync(response, full ? page : page.map(pathOf));
}

function pageLength(text: string | undefined): number {
  if (text === undefined) return Number.POSITIVE_INFINITY;
  const limit = Number(text);
  if (Number.isInteger(limit) && limit >= 1 && limit <= mostOfPage) return limit;
  throw new LxstowError('bad-request', `?limit=${text} is not a number from 1 to ${mostOfPage}`);
}
