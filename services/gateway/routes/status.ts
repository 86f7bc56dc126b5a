/** The state of each instance, with its reason. */
import type { Request, Response } from 'express';
import type { InstanceStatus } from '../../contract/schemas.ts';
import { clientOf, mayTouch } from '../access/apiClient.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { filtered } from '../http/filter.ts';
import { sendLines, wantsLines } from '../http/lines.ts';
import { linkNext, pageOf } from '../http/pages.ts';
import { listedProject, query } from '../http/requests.ts';
import { sync, warn } from '../http/respond.ts';
import type { RouteGroup } from '../http/route.ts';
import { coversOnly } from '../runs/scheduleView.ts';
import { instancePath, remotesOf } from '../views/inventoryView.ts';
import { instanceStates, statusCursor } from '../views/statusView.ts';

/** If an inventory is older than this, it may lack new instances, and the answer warns of that. */
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
  const { limit, after } = pageOf(request, mostOfPage);
  const lines = wantsLines(request);
  const { statuses, inventories } = await instanceStates(parts, {
    wants: (place) =>
      remotes.includes(place.remote) &&
      (project === undefined || place.project === project) &&
      mayTouch(client, place.project),
    mayName: (other) => mayTouch(client, other),
    maySee: coversOnly({ projects: client.projects && ((other) => mayTouch(client, other)) }),
    olderThan: query(request, 'older-than', 'nats-api.json#/$defs/olderThan'),
    state: query(request, 'state', 'nats-api.json#/$defs/instanceState'),
    after,
    // One more than the limit shows whether there is another page. With a filter, all must be looked at.
    ...(filter === undefined && limit !== undefined && !lines && { most: limit + 1 }),
  });
  for (const remote of remotes) {
    const at = inventories.get(remote)?.at;
    if (at !== undefined && Date.now() - Date.parse(at) < staleMs) continue;
    const since = at === undefined ? 'yet' : `since ${at}`;
    warn(response, `no worker of host ${remote} has taken an inventory ${since}`);
  }
  for (const absence of await parts.absences.known(remotes)) warn(response, absence);
  if (lines) return sendLines(parts, request, response, batchesOf(statuses));
  const matching = await filtered(statuses, filter);
  const page = matching.slice(0, limit);
  const last = page.length < matching.length ? page.at(-1) : undefined;
  linkNext(request, response, last && statusCursor(last));
  const { defaultRemote } = config.gateway;
  const pathOf = ({ host, project, instance }: InstanceStatus) =>
    instancePath({ name: instance, project, location: host }, defaultRemote);
  sync(response, full ? page : page.map(pathOf));
}

async function* batchesOf(statuses: InstanceStatus[]): AsyncGenerator<InstanceStatus[]> {
  yield statuses;
}
