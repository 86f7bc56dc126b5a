/** Routes that list, make, show, cancel and retry runs. */
import type { Request, Response } from 'express';
import { checkLock } from '../../backups/protection.ts';
import { type CreateRunBody, check, type Run } from '../../contract/schemas.ts';
import { checkEndpoints } from '../../notices/allowedEndpoints.ts';
import { checkRule } from '../../retention/keep.ts';
import { type Asker, createRun, retryRun } from '../../runs/createRun.ts';
import { type MaySee, runOperation, shownRun } from '../../runs/fold.ts';
import { choiceOf } from '../../runs/selector.ts';
import { type Client, clientOf, mayTouch, notAuthorized } from '../access/apiClient.ts';
import { noteForAudit } from '../access/audit.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { sendLines, wantsLines } from '../http/lines.ts';
import { pageOf } from '../http/pages.ts';
import { bodyOf, endpointOf, parameter, query, requestorOf, tagsOf, traceOfRequest } from '../http/requests.ts';
import { started, sync } from '../http/respond.ts';
import type { RouteGroup } from '../http/route.ts';
import {
  assertAllOfIt,
  cancelRun,
  childBatches,
  childPage,
  chosenRemotes,
  runBatches,
  runPage,
  runTools,
  visibleRun,
} from '../runs/runView.ts';

const usualLimit = 100;

/** What a client may see of runs: its projects, on every host. */
export function seenBy(client: Client): MaySee {
  return (_remote, project) => mayTouch(client, project);
}

export const runRoutes: RouteGroup = {
  path: '/1.0/runs',
  routes: [
    { method: 'GET', path: '/', least: 'viewer', projects: 'checkedByRoute', run: listRuns },
    { method: 'POST', path: '/', least: 'operator', projects: 'checkedByRoute', run: makeRun },
    { method: 'GET', path: '/{id}', least: 'viewer', projects: 'checkedByRoute', run: showRun },
    { method: 'DELETE', path: '/{id}', least: 'operator', projects: 'checkedByRoute', run: deleteRun },
    { method: 'GET', path: '/{id}/children', least: 'viewer', projects: 'checkedByRoute', run: listChildren },
    { method: 'POST', path: '/{id}/retry', least: 'operator', projects: 'checkedByRoute', run: repeatRun },
  ],
};

async function listRuns(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { runs } = parts;
  const may = seenBy(clientOf(request));
  const { limit = usualLimit, after } = pageOf(request);
  if (wantsLines(request)) return sendLines(parts, request, response, runBatches(runs, may));
  sync(response, await runPage(runs, { limit, after }, may));
}

async function makeRun(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { config } = parts;
  const body = check('http-create-run.json', bodyOf(request), 'body');
  noteForAudit(response, choiceOf(body));
  if (body.keep) checkRule(body.keep);
  checkLock(body.object_lock, config.s3);
  checkEndpoints(body, config.notify);
  const remotes = chosenRemotes(body.selector, config);
  const tags = body.tags ?? tagsOf(request);
  const wanted: CreateRunBody = {
    ...body,
    selector: { ...body.selector, ...projectsOf(clientOf(request), body.selector.projects) },
    ...(Object.keys(tags).length > 0 && { tags }),
    ...endpointOf(request, config.notify, body.notifyEndpoint),
  };
  accept(request, response, await createRun(runTools(parts), wanted, remotes, askerOf(request)));
}

async function showRun(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  sync(response, shownRun(await runOf(parts, request), seenBy(clientOf(request)), new Date()));
}

async function deleteRun(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  await cancelRun(parts.runs, (await wholeRunOf(parts, request)).id);
  sync(response);
}

async function listChildren(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const state = query(request, 'state', 'run.json#/$defs/state');
  const { limit = usualLimit, after } = pageOf(request);
  const asked = { limit, after, ...(state && { state: state as never }) };
  const run = await runOf(parts, request);
  const may = seenBy(clientOf(request));
  if (wantsLines(request)) return sendLines(parts, request, response, childBatches(parts.runs, run, asked, may));
  sync(response, await childPage(parts.runs, run, asked, may));
}

async function repeatRun(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { id } = check('http-retry-run.json', bodyOf(request), 'body');
  const run = await wholeRunOf(parts, request);
  accept(request, response, await retryRun(runTools(parts), run, id, askerOf(request)));
}

function runOf({ runs }: GatewayParts, request: Request): Promise<Run> {
  return visibleRun(runs, parameter(request, 'id', 'names.json#/$defs/uuid'), seenBy(clientOf(request)));
}

/** Throws forbidden if the run has children that the client may not touch. */
async function wholeRunOf(parts: GatewayParts, request: Request): Promise<Run> {
  const run = await runOf(parts, request);
  assertAllOfIt(run, seenBy(clientOf(request)));
  return run;
}

function askerOf(request: Request): Asker {
  return { requestor: requestorOf(request), trace: traceOfRequest(request) };
}

function accept(request: Request, response: Response, run: Run): void {
  const shown = shownRun(run, seenBy(clientOf(request)), new Date());
  if (!shown) throw notAuthorized();
  started(response, run.id, runOperation(shown));
}

/** Limits a restricted client's run to its projects, or to those of them that it names. */
function projectsOf(client: Client, named: string[] | undefined): { projects?: string[] } {
  const other = named?.find((project) => !mayTouch(client, project));
  if (other !== undefined) throw notAuthorized();
  const projects = named ?? client.projects;
  return projects ? { projects } : {};
}
