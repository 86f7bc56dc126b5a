/** Schedules: runs that are made by the clock. */
import { randomBytes } from 'node:crypto';
import type { Request, Response } from 'express';
import { knownRemote } from '../../contract/config.ts';
import { LxstowError } from '../../contract/errors.ts';
import { check, type Schedule, type ScheduleBody } from '../../contract/schemas.ts';
import { chosenOnAll } from '../../runs/candidates.ts';
import { createRun } from '../../runs/createRun.ts';
import { runOperation, shownRun } from '../../runs/fold.ts';
import { dueMs } from '../../runs/plan.ts';
import { nextSlot, parseCron, type Slot } from '../../schedules/cron.ts';
import { runRequest, secondsOf } from '../../schedules/scheduler.ts';
import type { StoredSchedule } from '../../schedules/scheduleStore.ts';
import { type Client, clientOf, mayTouch } from '../access/apiClient.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { bodyOf, endpointOf, flag, parameter, query, requestorOf, traceOfRequest } from '../http/requests.ts';
import { created, started, sync } from '../http/respond.ts';
import type { RouteGroup } from '../http/route.ts';
import { runTools } from '../views/runView.ts';
import { activeFrom, changeSchedule, checkSchedule, showSchedule, visibleSchedule } from '../views/scheduleView.ts';

const mostSlots = 100;

const [look, change] = [
  { least: 'viewer', projects: 'any' },
  { least: 'operator', projects: 'any' },
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

async function list({ schedules }: GatewayParts, request: Request, response: Response): Promise<void> {
  const may = maySee(clientOf(request));
  const seen = (await schedules.list()).filter(({ schedule }) => may(schedule));
  const full = (query(request, 'recursion') ?? '0') !== '0';
  sync(response, full ? seen.map((each) => showSchedule(each)) : seen.map(({ schedule }) => pathOf(schedule)));
}

async function create(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { name, definition } = check('http-schedules-post.json', bodyOf(request), 'body');
  const now = new Date().toISOString();
  const schedule: Schedule = {
    ...{ name, definition: definitionOf(parts, request, definition), created_at: now, updated_at: now, since: now },
    ...{ token: randomBytes(16).toString('hex'), requestor: requestorOf(request) },
  };
  if (!(await parts.schedules.create(schedule))) throw new LxstowError('conflict', `schedule ${name} already exists`);
  created(response, pathOf(schedule));
}

async function show(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  sync(response, showSchedule(await scheduleOf(parts, request)));
}

async function replace(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const definition = definitionOf(parts, request, check('http-schedule.json', bodyOf(request), 'body'));
  const now = new Date().toISOString();
  const changed = await alter(parts, request, (schedule) => ({
    ...schedule,
    ...{ definition, updated_at: now, requestor: requestorOf(request) },
    // A time that has passed is not due by a new rule; other changes leave alone what is due.
    ...(isSameTime(schedule.definition, definition) ? {} : { since: now }),
  }));
  sync(response, showSchedule(changed));
}

async function remove(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const found = await scheduleOf(parts, request);
  if (!(await parts.schedules.remove(found)))
    throw new LxstowError('conflict', `schedule ${found.schedule.name} was changed meanwhile: ask again`);
  sync(response);
}

async function pause(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { reason, until } = check('http-schedule-pause.json', bodyOf(request), 'body');
  if (until !== undefined && Date.parse(until) <= Date.now())
    throw new LxstowError('bad-request', `until: ${until} has passed`);
  const paused = {
    ...{ since: new Date().toISOString(), by: clientOf(request).fingerprint },
    ...(reason !== undefined && { reason }),
    ...(until !== undefined && { until }),
  };
  sync(response, showSchedule(await alter(parts, request, (schedule) => ({ ...schedule, paused }))));
}

async function resume(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const since = new Date().toISOString();
  const resumed = await alter(parts, request, ({ paused, ...schedule }) =>
    paused ? { ...schedule, since } : schedule,
  );
  sync(response, showSchedule(resumed));
}

async function runNow(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { name, definition } = (await scheduleOf(parts, request)).schedule;
  const { id } = check('http-retry-run.json', bodyOf(request), 'body');
  const { id: _, ...wanted } = runRequest(name, definition, '');
  const asker = { requestor: requestorOf(request), trace: traceOfRequest(request) };
  const run = await createRun(
    runTools(parts),
    { ...wanted, ...(id !== undefined && { id }) },
    hostsOf(parts, definition),
    asker,
  );
  const shown = shownRun(run, (_remote, project) => mayTouch(clientOf(request), project), new Date());
  if (!shown) throw new LxstowError('forbidden', 'not authorized');
  started(response, run.id, runOperation(shown));
}

async function next(parts: GatewayParts, request: Request, response: Response): Promise<void> {
  const { schedule: found } = await scheduleOf(parts, request);
  const { name, definition } = found;
  const count = countOf(request);
  const from = activeFrom(found, new Date());
  const slots = from ? nextSlots(definition, from, count) : [];
  if (!flag(request, 'instances')) {
    const times = slots.map(({ at }) => ({ schedule: name, at }));
    return sync(response, times);
  }
  const [slot] = slots;
  if (!slot) return sync(response, []);
  const { selector } = runRequest(name, definition, '');
  const { inventoryTimeoutMs } = parts.config.gateway;
  const hosts = hostsOf(parts, definition);
  const { addresses, silent } = await chosenOnAll(parts.nats, hosts, selector, inventoryTimeoutMs);
  for (const [remote, { message }] of silent) response.append('warning', `199 lxstow "${remote}: ${message}"`);
  const schedule = {
    ...{ name, slot: slot.wall, starts_at: slot.at },
    ...(definition.jitter && { jitter_seconds: secondsOf(definition.jitter) }),
  };
  const children = addresses.map((address) => {
    const { remote: host, project, instance } = address;
    return { schedule: name, host, project, instance, at: inZone(new Date(dueMs({ schedule }, address)), slot) };
  });
  sync(
    response,
    children.sort((a, b) => (a.at < b.at ? -1 : 1)),
  );
}

function scheduleOf({ schedules }: GatewayParts, request: Request): Promise<StoredSchedule> {
  return visibleSchedule(schedules, nameOf(request), maySee(clientOf(request)));
}

function alter(
  { schedules }: GatewayParts,
  request: Request,
  to: (schedule: Schedule) => Schedule,
): Promise<StoredSchedule> {
  return changeSchedule(schedules, nameOf(request), maySee(clientOf(request)), to);
}

function nameOf(request: Request): string {
  return parameter(request, 'name', 'schedule.json#/$defs/name');
}

/** The definition as it was written, but that a restricted client's schedule is of its projects. Throws what is wrong with it. */
function definitionOf({ config }: GatewayParts, request: Request, given: ScheduleBody): ScheduleBody {
  checkSchedule(given);
  endpointOf(request, config.notify, given.notifyEndpoint);
  for (const remote of given.selector?.remotes ?? []) knownRemote(remote, Object.keys(config.remotes));
  const client = clientOf(request);
  const projects = given.selector?.projects ?? client.projects;
  if (projects?.some((project) => !mayTouch(client, project))) throw new LxstowError('forbidden', 'not authorized');
  return projects ? { ...given, selector: { ...given.selector, projects } } : given;
}

function hostsOf({ config }: GatewayParts, { selector }: ScheduleBody): string[] {
  return selector?.remotes ?? Object.keys(config.remotes);
}

/** A schedule is for who may see all of it. */
function maySee(client: Client): (schedule: Schedule) => boolean {
  return ({ definition }) =>
    client.projects === undefined ||
    (definition.selector?.projects?.every((project) => mayTouch(client, project)) ?? false);
}

function pathOf({ name }: Schedule): string {
  return `/1.0/schedules/${name}`;
}

function isSameTime(one: ScheduleBody, other: ScheduleBody): boolean {
  return one.cron === other.cron && one.zone === other.zone;
}

function countOf(request: Request): number {
  const count = Number(query(request, 'count') ?? 5);
  if (Number.isInteger(count) && count >= 1 && count <= mostSlots) return count;
  throw new LxstowError('bad-request', `?count= is not a number from 1 to ${mostSlots}`);
}

function nextSlots({ cron: text, zone = 'UTC' }: ScheduleBody, after: Date, count: number): Slot[] {
  const cron = parseCron(text);
  const slots: Slot[] = [];
  for (let from = after; slots.length < count; ) {
    const slot = nextSlot(cron, zone, from);
    if (!slot) break;
    slots.push(slot);
    from = new Date(slot.at);
  }
  return slots;
}

/** RFC 3339 with the slot's offset. */
function inZone(at: Date, { at: slot }: Slot): string {
  const [, sign = '+', hours = '00', minutes = '00'] = /([+-])(\d\d):(\d\d)$/.exec(slot) ?? [];
  const offsetMs = (Number(hours) * 60 + Number(minutes)) * 60_000 * (sign === '-' ? -1 : 1);
  return `${new Date(at.getTime() + offsetMs).toISOString().slice(0, 19)}${sign}${hours}:${minutes}`;
}
