import type { Request, Response } from 'express';
import { LxstowError } from '../../contract/errors.ts';
import type { Operation, Run } from '../../contract/schemas.ts';
import { countDeadLetters, wordsFor } from '../../jobs/queueDepth.ts';
import { operationKey } from '../../nats/bucketKeys.ts';
import { runOperation, shownRun } from '../../runs/fold.ts';
import { type Client, clientOf, isAdmin, mayTouch } from '../access/apiClient.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { filtered } from '../http/filter.ts';
import { sendLines, wantsLines } from '../http/lines.ts';
import { linkNext, pageOf } from '../http/pages.ts';
import { ended, listedProject, parameter, query, requestorOf } from '../http/requests.ts';
import { operationPath, sync, warn } from '../http/respond.ts';
import type { RouteGroup } from '../http/route.ts';
import { assertAllOfIt, cancelRun } from '../runs/runView.ts';
import { cancelOperation, missingOperation } from '../views/cancelOperation.ts';
import { shownOperation } from '../views/operationView.ts';
import { tokenOperation } from '../views/tokenOperation.ts';
import { seenBy } from './runs.ts';

const longestWaitMs = 2 ** 31 - 1;

export const operationRoutes: RouteGroup = {
  path: '/1.0/operations',
  routes: [
    { method: 'GET', path: '/', least: 'viewer', projects: 'filtered', run: listOperations },
    { method: 'GET', path: '/{id}', least: 'viewer', projects: 'operation', run: showOperation },
    { method: 'DELETE', path: '/{id}', least: 'operator', projects: 'operation', run: deleteOperation },
    { method: 'GET', path: '/{id}/wait', least: 'viewer', projects: 'operation', run: waitForOperation },
  ],
};

async function listOperations(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { operations, awayWorkers, progress } = parts;
  const project = listedProject(request);
  const filter = query(request, 'filter');
  const full = (query(request, 'recursion') ?? '0') !== '0';
  const { limit, after } = pageOf(request);
  const client = clientOf(request);
  const wants = (each: string) => (project === undefined || each === project) && mayTouch(client, each);
  const theirs = (each: Operation) => wants(each.project);
  if (isAdmin(client)) await warnOfDeadLetters(parts, response);
  if (wantsLines(request)) return sendLines(parts, request, response, operationBatches(parts, client, wants));
  let found: Operation[];
  if (limit === undefined) found = (await operations.list()).filter(theirs);
  else {
    const page = await operations.page(theirs, { limit, before: revisionOf(after) });
    linkNext(request, response, page.next?.toString());
    found = page.operations;
  }
  const others = after === undefined ? await otherOperations(parts, client, wants) : [];
  const latest = (await awayWorkers.explain(found)).map((each) => shownOperation(progress.latest(each)));
  const all = await filtered([...latest, ...others], filter);
  const shown = Object.entries(Object.groupBy(all, ({ status }) => status.toLowerCase())).map(([status, each = []]) => [
    status,
    full ? each : each.map(({ id }) => operationPath(id)),
  ]);
  sync(response, Object.fromEntries(shown));
}

/** All operations, in batches. An operation may come twice; the later line is current. */
async function* operationBatches(
  parts: GatewayParts,
  client: Client,
  wants: (project: string) => boolean,
): AsyncGenerator<object[]> {
  yield await otherOperations(parts, client, wants);
  for await (const batch of parts.operations.batches()) {
    const theirs = batch.map(({ operation }) => operation).filter(({ project }) => wants(project));
    yield (await parts.awayWorkers.explain(theirs)).map((each) => shownOperation(parts.progress.latest(each)));
  }
}

/** Runs, and for admins tokens, which LXD's clients see as operations. */
async function otherOperations(
  { runs, trustStore }: GatewayParts,
  client: Client,
  wants: (project: string) => boolean,
): Promise<(ReturnType<typeof runOperation> | ReturnType<typeof tokenOperation>)[]> {
  // As in LXD, a token belongs to the default project.
  const tokens = isAdmin(client) && wants('default') ? await trustStore.tokens() : [];
  const batches = (await runs.list()).flatMap(({ run }) => {
    const shown = shownRun(run, (_, each) => (each === '' ? mayTouch(client, each) : wants(each)), new Date());
    return shown ? [runOperation(shown)] : [];
  });
  return [...batches, ...tokens.map((token) => tokenOperation(token))];
}

function revisionOf(cursor: string | undefined): number | undefined {
  if (cursor === undefined) return undefined;
  if (/^\d{1,15}$/.test(cursor)) return Number(cursor);
  throw new LxstowError('bad-request', `?after=${cursor} is not a cursor of this list`);
}

async function showOperation(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { operations, awayWorkers, progress, runs, trustStore } = parts;
  const id = idOf(request);
  const found = await operations.findAnywhere(id, seenIn(request));
  const [operation] = await awayWorkers.explain(found ? [found.operation] : []);
  if (operation) return sync(response, shownOperation(progress.latest(operation)));
  const run = shownToClient(request, (await runs.find(id))?.run);
  if (run) return sync(response, run);
  const token = isAdmin(clientOf(request)) ? await trustStore.token(id) : undefined;
  if (!token) throw missingOperation(id);
  sync(response, tokenOperation(token));
}

async function deleteOperation(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { operations, runs, trustStore } = parts;
  const id = idOf(request);
  const run = (await runs.find(id))?.run;
  if (run && shownToClient(request, run)) {
    assertAllOfIt(run, seenBy(clientOf(request)));
    await cancelRun(runs, id);
    return sync(response);
  }
  const isToken = isAdmin(clientOf(request)) && (await trustStore.revokeToken(id, requestorOf(request)));
  if (isToken) return sync(response);
  const found = await operations.findAnywhere(id, seenIn(request));
  if (!found) throw missingOperation(id);
  await cancelOperation(parts, found.operation);
  sync(response);
}

async function waitForOperation(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { feed, operations, progress, runs, runFeed, stop } = parts;
  const id = idOf(request);
  const seconds = Number(query(request, 'timeout') ?? -1);
  if (!Number.isFinite(seconds)) throw new LxstowError('bad-request', '?timeout= is not a number of seconds');
  const over = AbortSignal.timeout(seconds < 0 ? longestWaitMs : Math.min(Math.ceil(seconds * 1000), longestWaitMs));
  const until = AbortSignal.any([over, ended(response), stop]);
  if (shownToClient(request, (await runs.find(id))?.run))
    return sync(response, shownToClient(request, (await runFeed.untilEnded(id, until))?.run));
  const now = await operations.findAnywhere(id, seenIn(request));
  const found = now && (await feed.untilEnded(operationKey(now.operation.remote, id), until));
  if (!found) throw missingOperation(id);
  sync(response, shownOperation(progress.latest(found)));
}

/** Whether the client may see an operation. */
function seenIn(request: Request): (operation: Operation) => boolean {
  const client = clientOf(request);
  return ({ project }) => mayTouch(client, project);
}

function idOf(request: Request): string {
  return parameter(request, 'id', 'names.json#/$defs/uuid');
}

/** Says in a header how many dead letters there are, because LXD's clients do not expect this in the body. */
async function warnOfDeadLetters({ nats, log }: GatewayParts, response: Response): Promise<void> {
  try {
    const count = await countDeadLetters(nats);
    if (count > 0) warn(response, wordsFor(count));
  } catch (error) {
    log.debug('dead letters were not counted', { error });
  }
}

/** A run as an operation, as far as the client may see it. */
function shownToClient(request: Request, run: Run | undefined): object | undefined {
  const shown = run && shownRun(run, seenBy(clientOf(request)), new Date());
  return shown && runOperation(shown);
}
