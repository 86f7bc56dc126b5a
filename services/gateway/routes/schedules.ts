import type { Request, Response } from 'express';
import { mapInTurns } from '../../concurrency/mapInTurns.ts';
import { LxstowError } from '../../contract/errors.ts';
import { check, type ScheduleBody, type ShownSchedule } from '../../contract/schemas.ts';
import { runOperation, shownRun } from '../../runs/fold.ts';
import { choiceOf } from '../../runs/selector.ts';
import type { StoredSchedule } from '../../schedules/scheduleStore.ts';
import { type Client, clientOf, mayTouch, notAuthorized } from '../access/apiClient.ts';
import { noteForAudit } from '../access/audit.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { bodyOf, flag, parameter, query, requestorOf, traceOfRequest } from '../http/requests.ts';
import { created, started, sync, warn } from '../http/respond.ts';
import type { RouteGroup } from '../http/route.ts';
import * as schedules from '../runs/scheduleChanges.ts';
import { coversOnly, showSchedule } from '../runs/scheduleView.ts';

const mostSlots = 100;

const [look, change] = [
  { least: 'viewer', projects: 'checkedByRoute' },
  { least: 'operator', projects: 'checkedByRoute' },
] as const;

export const scheduleRoutes: RouteGroup = {
  path: '/1.0/schedules',
  routes: [
    { method: 'GET', path: '/', ...look, run: list },
    { method: 'POST', path: '/', ...change, run: create },
    { method: 'GET', path: '/{name}', ...look, run: show },
    { method: 'PUT', path: '/{name}', ...change, run: replace },
    { method: 'DELETE', path: '/{name}', ...change, run: remove },
    { method: 'POST', path: '/{name}/pause', ...change, run: pause },
    { method: 'POST', path: '/{name}/resume', ...change, run: resume },
    { method: 'POST', path: '/{name}/run', ...change, run: runNow },
    { method: 'GET', path: '/{name}/next', ...look, run: next },
  ],
};

async function list(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { may } = askerOf(request);
  const seen = (await parts.schedules.list()).filter(({ schedule }) => may(schedule));
  const full = (query(request, 'recursion') ?? '0') !== '0';
  const shown = full
    ? mapInTurns(seen, (each) => shownTo(parts, request, each))
    : seen.map(({ schedule }) => pathOf(schedule));
  sync(response, await shown);
}

async function create(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { name, definition } = check('http-schedules-post.json', bodyOf(request), 'body');
  noteForAudit(response, { name, ...choiceOf(definition) });
  const wanted = { name, definition: inProjects(clientOf(request), definition) };
  const { schedule } = await schedules.createSchedule(parts, askerOf(request), wanted);
  created(response, pathOf(schedule));
}

async function show(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const found = await schedules.visibleSchedule(parts, askerOf(request), nameOf(request));
  sync(response, await shownTo(parts, request, found));
}

async function replace(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const given = check('http-schedule.json', bodyOf(request), 'body');
  noteForAudit(response, choiceOf(given));
  const definition = inProjects(clientOf(request), given);
  const wanted = { name: nameOf(request), definition };
  sync(response, await shownTo(parts, request, await schedules.editSchedule(parts, askerOf(request), wanted)));
}

async function remove(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  await schedules.removeSchedule(parts, askerOf(request), nameOf(request));
  sync(response);
}

async function pause(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const body = check('http-schedule-pause.json', bodyOf(request), 'body');
  const paused = await schedules.pauseSchedule(parts, askerOf(request), nameOf(request), body);
  sync(response, await shownTo(parts, request, paused));
}

async function resume(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const resumed = await schedules.resumeSchedule(parts, askerOf(request), nameOf(request));
  sync(response, await shownTo(parts, request, resumed));
}

async function runNow(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { id } = check('http-retry-run.json', bodyOf(request), 'body');
  const run = await schedules.runScheduleNow(parts, askerOf(request), nameOf(request), id);
  const shown = shownRun(run, (_remote, project) => mayTouch(clientOf(request), project), new Date());
  if (!shown) throw notAuthorized();
  started(response, run.id, runOperation(shown));
}

async function next(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const [asker, name] = [askerOf(request), nameOf(request)];
  if (!flag(request, 'instances'))
    return sync(response, await schedules.nextTimes(parts, asker, name, countOf(request)));
  const { times, silent } = await schedules.nextInstances(parts, asker, name);
  for (const [remote, { message }] of silent) warn(response, `${remote}: ${message}`);
  sync(response, times);
}

function shownTo(parts: GatewayParts, request: Request, stored: StoredSchedule): Promise<ShownSchedule> {
  return showSchedule(parts, stored, { mayChange: clientOf(request).role !== 'viewer' });
}

function nameOf(request: Request): string {
  return parameter(request, 'name', 'schedule.json#/$defs/name');
}

/** The client, as the changes of schedules need it. It may see a schedule only if it may see all that the schedule covers. */
function askerOf(request: Request): schedules.ScheduleClient {
  const client = clientOf(request);
  return {
    requestor: requestorOf(request),
    restricted: client.projects !== undefined,
    may: coversOnly({ projects: client.projects && ((project) => mayTouch(client, project)) }),
    trace: traceOfRequest(request),
  };
}

/** The definition as it was written, but limited to a restricted client's projects. Throws forbidden if it names other projects. */
function inProjects(client: Client, given: ScheduleBody): ScheduleBody {
  const projects = given.selector?.projects ?? client.projects;
  if (projects?.some((project) => !mayTouch(client, project))) throw notAuthorized();
  return projects ? { ...given, selector: { ...given.selector, projects } } : given;
}

function pathOf({ name }: { name: string }): string {
  return `/1.0/schedules/${name}`;
}

function countOf(request: Request): number {
  const count = Number(query(request, 'count') ?? 5);
  if (Number.isInteger(count) && count >= 1 && count <= mostSlots) return count;
  throw new LxstowError('bad-request', `?count= is not a number from 1 to ${mostSlots}`);
}
