/** Schedules: runs that are made by the clock. */
import { type Request, Router } from 'express';
import { knownRemote } from '../../contract/config.ts';
import { LxstowError } from '../../contract/errors.ts';
import { check, type Schedule, type ScheduleBody } from '../../contract/schemas.ts';
import { chosenOnAll } from '../../runs/candidates.ts';
import { createRun } from '../../runs/createRun.ts';
import { runOperation, shownRun } from '../../runs/fold.ts';
import { dueMs } from '../../runs/plan.ts';
import { nextSlot, parseCron, type Slot } from '../../schedules/cron.ts';
import { runRequest, secondsOf } from '../../schedules/scheduler.ts';
import { type Client, clientOf, mayTouch } from '../access/apiClient.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { bodyOf, endpointOf, flag, parameter, query, requestorOf, traceOfRequest } from '../http/requests.ts';
import { created, started, sync } from '../http/respond.ts';
import { changeSchedule, checkSchedule, showSchedule, visibleSchedule } from '../views/scheduleView.ts';

const mostSlots = 100;

export function scheduleRoutes(parts: GatewayParts): Router {
  const { config, nats, runs, schedules } = parts;
  const router = Router();
  const tools = { nats, runs, inventoryTimeoutMs: config.gateway.inventoryTimeoutMs };
  const nameOf = (request: Request) => parameter(request, 'name', 'schedule.json#/$defs/name');
  const change = (request: Request, to: (schedule: Schedule) => Schedule) =>
    changeSchedule(schedules, nameOf(request), maySee(clientOf(request)), to);

  /** As it was written, but that a restricted client's schedule is of its projects. */
  const definitionOf = (request: Request, given: ScheduleBody): ScheduleBody => {
    checkSchedule(given);
    endpointOf(request, config.notify, given.notifyEndpoint);
    for (const remote of given.selector?.remotes ?? []) knownRemote(remote, Object.keys(config.remotes));
    const client = clientOf(request);
    const projects = given.selector?.projects ?? client.projects;
    if (projects?.some((project) => !mayTouch(client, project))) throw new LxstowError('forbidden', 'not authorized');
    return projects ? { ...given, selector: { ...given.selector, projects } } : given;
  };

  router.get('/', async (request, response) => {
    const may = maySee(clientOf(request));
    const seen = (await schedules.list()).filter(({ schedule }) => may(schedule));
    const full = (query(request, 'recursion') ?? '0') !== '0';
    sync(response, full ? seen.map((each) => showSchedule(each)) : seen.map(({ schedule }) => pathOf(schedule)));
  });

  router.post('/', async (request, response) => {
    const { name, definition } = check('http-schedules-post.json', bodyOf(request), 'body');
    const now = new Date().toISOString();
    const schedule: Schedule = {
      ...{ name, definition: definitionOf(request, definition), created_at: now, updated_at: now, since: now },
      requestor: requestorOf(request),
    };
    if (!(await schedules.create(schedule))) throw new LxstowError('conflict', `schedule ${name} already exists`);
    created(response, pathOf(schedule));
  });

  router.get('/:name', async (request, response) => {
    sync(response, showSchedule(await visibleSchedule(schedules, nameOf(request), maySee(clientOf(request)))));
  });

  router.put('/:name', async (request, response) => {
    const definition = definitionOf(request, check('http-schedule.json', bodyOf(request), 'body'));
    const now = new Date().toISOString();
    const changed = await change(request, (schedule) => ({
      ...schedule,
      ...{ definition, updated_at: now, requestor: requestorOf(request) },
      // A time that has passed is not due by a new rule; other changes leave alone what is due.
      ...(isSameTime(schedule.definition, definition) ? {} : { since: now }),
    }));
    sync(response, showSchedule(changed));
  });

  router.delete('/:name', async (request, response) => {
    const found = await visibleSchedule(schedules, nameOf(request), maySee(clientOf(request)));
    if (!(await schedules.remove(found)))
      throw new LxstowError('conflict', `schedule ${found.schedule.name} was changed meanwhile: ask again`);
    sync(response);
  });

  router.post('/:name/pause', async (request, response) => {
    const { reason, until } = check('http-schedule-pause.json', bodyOf(request), 'body');
    const paused = {
      ...{ since: new Date().toISOString(), by: clientOf(request).fingerprint },
      ...(reason !== undefined && { reason }),
      ...(until !== undefined && { until }),
    };
    sync(response, showSchedule(await change(request, (schedule) => ({ ...schedule, paused }))));
  });

  router.post('/:name/resume', async (request, response) => {
    const since = new Date().toISOString();
    const resumed = await change(request, ({ paused, ...schedule }) => (paused ? { ...schedule, since } : schedule));
    sync(response, showSchedule(resumed));
  });

  router.post('/:name/run', async (request, response) => {
    const may = maySee(clientOf(request));
    const { name, definition } = (await visibleSchedule(schedules, nameOf(request), may)).schedule;
    const { id: wanted } = check('http-retry-run.json', bodyOf(request), 'body');
    const { id: _, ...rest } = runRequest(name, definition, '');
    const remotes = definition.selector?.remotes ?? Object.keys(config.remotes);
    const asker = { requestor: requestorOf(request), trace: traceOfRequest(request) };
    const run = await createRun(tools, { ...rest, ...(wanted !== undefined && { id: wanted }) }, remotes, asker);
    const shown = shownRun(run, (_remote, project) => mayTouch(clientOf(request), project), new Date());
    if (!shown) throw new LxstowError('forbidden', 'not authorized');
    started(response, run.id, runOperation(shown));
  });

  router.get('/:name/next', async (request, response) => {
    const found = await visibleSchedule(schedules, nameOf(request), maySee(clientOf(request)));
    const { name, definition, paused } = found.schedule;
    const slots = paused ? [] : nextSlots(definition, countOf(request));
    if (!flag(request, 'instances'))
      return sync(
        response,
        slots.map(({ at }) => ({ schedule: name, at })),
      );
    const [slot] = slots;
    if (!slot) return sync(response, []);
    const remotes = definition.selector?.remotes ?? Object.keys(config.remotes);
    const { selector } = runRequest(name, definition, '');
    const { addresses, silent } = await chosenOnAll(nats, remotes, selector, tools.inventoryTimeoutMs);
    for (const [remote, { message }] of silent) response.append('warning', `199 lxstow "${remote}: ${message}"`);
    const schedule = {
      ...{ name, slot: slot.wall, starts_at: slot.at },
      ...(definition.jitter && { jitter_seconds: secondsOf(definition.jitter) }),
    };
    const children = addresses.map((address) => {
      const { remote: host, project, instance } = address;
      const at = new Date(dueMs({ schedule }, address));
      return { schedule: name, host, project, instance, at: inZone(at, slot) };
    });
    sync(
      response,
      children.sort((a, b) => (a.at < b.at ? -1 : 1)),
    );
  });

  return router;
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

function nextSlots({ cron: text, zone = 'UTC' }: ScheduleBody, count: number): Slot[] {
  const cron = parseCron(text);
  const slots: Slot[] = [];
  for (let from = new Date(); slots.length < count; ) {
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
