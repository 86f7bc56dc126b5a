/** Runs: batches of backups, each one thing. */
import { type Request, Router } from 'express';
import { knownRemote } from '../../contract/config.ts';
import { LxstowError } from '../../contract/errors.ts';
import { type CreateRunBody, check, type Run } from '../../contract/schemas.ts';
import { checkRule } from '../../retention/keep.ts';
import { createRun, retryRun } from '../../runs/createRun.ts';
import { type MaySee, runOperation, shownRun } from '../../runs/fold.ts';
import { type Client, clientOf, mayTouch } from '../access/apiClient.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { bodyOf, endpointOf, parameter, query, requestorOf, tagsOf, traceOfRequest } from '../http/requests.ts';
import { started, sync } from '../http/respond.ts';
import { assertAllOfIt, cancelRun, childPage, runPage, visibleRun } from '../views/runView.ts';

const usualLimit = 100;
const mostLimit = 1000;

/** What a client may see of runs: its projects, on whichever remote. */
export function seenBy(client: Client): MaySee {
  return (_remote, project) => mayTouch(client, project);
}

export function runRoutes(parts: GatewayParts): Router {
  const { config, nats, runs } = parts;
  const router = Router();
  const tools = { nats, runs, inventoryTimeoutMs: config.gateway.inventoryTimeoutMs };
  const asker = (request: Request) => ({ requestor: requestorOf(request), trace: traceOfRequest(request) });
  const idOf = (request: Request) => parameter(request, 'id', 'names.json#/$defs/uuid');
  const runOf = (request: Request) => visibleRun(runs, idOf(request), seenBy(clientOf(request)));

  const accept = (request: Request, run: Run) => {
    const shown = shownRun(run, seenBy(clientOf(request)), new Date());
    if (!shown) throw new LxstowError('forbidden', 'not authorized');
    started(request.res as NonNullable<typeof request.res>, run.id, runOperation(shown));
  };

  router.get('/', async (request, response) => {
    sync(response, await runPage(runs, pageOf(request), seenBy(clientOf(request))));
  });

  router.post('/', async (request) => {
    const client = clientOf(request);
    const body = check('http-create-run.json', bodyOf(request), 'body');
    if (body.keep) checkRule(body.keep);
    const known = Object.keys(config.remotes);
    const remotes = (body.selector.remotes ?? known).map((remote) => knownRemote(remote, known));
    const tags = body.tags ?? tagsOf(request);
    const wanted: CreateRunBody = {
      ...body,
      selector: { ...body.selector, ...projectsOf(client, body.selector.projects) },
      ...(Object.keys(tags).length > 0 && { tags }),
      ...endpointOf(request, config.notify, body.notifyEndpoint),
    };
    accept(request, await createRun(tools, wanted, [...new Set(remotes)], asker(request)));
  });

  router.get('/:id', async (request, response) => {
    sync(response, shownRun(await runOf(request), seenBy(clientOf(request)), new Date()));
  });

  router.delete('/:id', async (request, response) => {
    const run = await runOf(request);
    assertAllOfIt(run, seenBy(clientOf(request)));
    await cancelRun(runs, run.id);
    sync(response);
  });

  router.get('/:id/children', async (request, response) => {
    const state = query(request, 'state', 'run.json#/$defs/state');
    const asked = { ...pageOf(request), ...(state && { state: state as never }) };
    sync(response, await childPage(runs, await runOf(request), asked, seenBy(clientOf(request))));
  });

  router.post('/:id/retry', async (request) => {
    const { id } = check('http-retry-run.json', bodyOf(request), 'body');
    const run = await runOf(request);
    assertAllOfIt(run, seenBy(clientOf(request)));
    accept(request, await retryRun(tools, run, id, asker(request)));
  });

  return router;
}

/** A restricted client's run is of its projects; it may name some of them. */
function projectsOf(client: Client, named: string[] | undefined): { projects?: string[] } {
  const other = named?.find((project) => !mayTouch(client, project));
  if (other !== undefined) throw new LxstowError('forbidden', 'not authorized');
  const projects = named ?? client.projects;
  return projects ? { projects } : {};
}

function pageOf(request: Request): { limit: number; after?: string } {
  const limit = Number(query(request, 'limit') ?? usualLimit);
  if (!Number.isInteger(limit) || limit < 1 || limit > mostLimit)
    throw new LxstowError('bad-request', `?limit= is no whole number from 1 to ${mostLimit}`);
  const after = query(request, 'after');
  return { limit, ...(after !== undefined && { after }) };
}
