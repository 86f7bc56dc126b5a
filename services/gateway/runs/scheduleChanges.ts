/** What clients can do with schedules, for both APIs. */
import { randomBytes } from 'node:crypto';
import { checkLock } from '../../backups/protection.ts';
import { knownRemote } from '../../contract/config.ts';
import { LxstowError } from '../../contract/errors.ts';
import type { Requestor, Run, Schedule, ScheduleBody, ScheduledAt, SchedulePauseBody } from '../../contract/schemas.ts';
import { checkEndpoints } from '../../notices/allowedEndpoints.ts';
import { chosenOnAll } from '../../runs/candidates.ts';
import { createRun } from '../../runs/createRun.ts';
import { dueMs } from '../../runs/plan.ts';
import type { Slot } from '../../schedules/cron.ts';
import { hostsOf, requestFor, runRequest } from '../../schedules/scheduler.ts';
import type { ScheduleStore, StoredSchedule } from '../../schedules/scheduleStore.ts';
import { nextSlots, runScheduleOf } from '../../schedules/slots.ts';
import type { Trace } from '../../telemetry/trace.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { instanceKeeps, shownKeep } from '../views/instanceKeeps.ts';
import { runTools } from './runView.ts';
import { ownerTrouble } from './scheduleOwner.ts';
import { activeFrom, checkSchedule, withStoredEndpoints } from './scheduleView.ts';

/** The client that makes the request. */
export interface ScheduleClient {
  requestor: Requestor;
  /** Whether the client is restricted to projects: then its schedules are paused when its trust ends (scheduleOwner.ts). */
  restricted: boolean;
  /** Whether the client may use everything that the schedule covers. */
  may: (schedule: Pick<Schedule, 'definition'>) => boolean;
  trace: Trace;
}

const mostTries = 20;
/** The number is limited because gateways look at all schedules each time that one is due. */
const mostSchedules = 1000;
/** How many of these schedules restricted clients and publishers may have, so that they cannot prevent others from creating schedules. */
const mostOfLimited = mostSchedules / 2;

/** Creates a schedule. Throws conflict if there is one of this name, and queue-full if there are too many. */
export async function createSchedule(
  parts: GatewayParts,
  client: ScheduleClient,
  { name, definition }: Pick<Schedule, 'name' | 'definition'>,
): Promise<StoredSchedule> {
  checkDefinition(parts, definition);
  const now = new Date().toISOString();
  const token = randomBytes(16).toString('hex');
  const times = { created_at: now, updated_at: now, since: now, begun: now };
  const schedule = ownedBy(client, { name, definition, token, ...times });
  if (await parts.schedules.hasAtLeast(mostSchedules)) throw tooMany(`${mostSchedules} schedules`);
  if (isLimited(schedule)) {
    const limited = (await parts.schedules.list()).filter((stored) => isLimited(stored.schedule));
    if (limited.length >= mostOfLimited)
      throw tooMany(`${mostOfLimited} schedules of restricted clients and publishers`);
  }
  const revision = await parts.schedules.create(schedule);
  if (revision === undefined) throw new LxstowError('conflict', `schedule ${name} already exists`);
  return { schedule, revision };
}

/** Replaces the definition. If the rule changes, times that have passed are not due by the new rule; other changes do not affect what is due. */
export function editSchedule(
  parts: GatewayParts,
  client: ScheduleClient,
  { name, definition: given }: Pick<Schedule, 'name' | 'definition'>,
): Promise<StoredSchedule> {
  const now = new Date().toISOString();
  return change(parts, client, name, (schedule) => {
    const definition = withStoredEndpoints(given, schedule.definition);
    checkDefinition(parts, definition);
    return ownedBy(client, {
      ...schedule,
      ...{ definition, updated_at: now },
      ...(isSameTime(schedule.definition, definition) ? {} : { since: now, begun: now }),
    });
  });
}

function tooMany(what: string): LxstowError {
  return new LxstowError('queue-full', `there are ${what} already: delete some first`);
}

/** Whether a restricted client or a publisher owns the schedule. */
function isLimited({ restricted, requestor }: Pick<Schedule, 'restricted' | 'requestor'>): boolean {
  return restricted === true || requestor?.protocol === 'nats';
}

/** Makes the client the owner of the schedule that it writes or resumes. */
function ownedBy({ requestor, restricted }: ScheduleClient, { restricted: _, ...schedule }: Schedule): Schedule {
  return { ...schedule, requestor, ...(restricted && { restricted }) };
}

/** Removes a schedule. Throws conflict if it is being changed. */
export async function removeSchedule(
  parts: GatewayParts,
  client: ScheduleClient,
  name: string,
): Promise<StoredSchedule> {
  const found = await visibleSchedule(parts, client, name);
  if (await parts.schedules.remove(found)) return found;
  throw new LxstowError('conflict', `schedule ${name} was changed by another client in the meantime: try again`);
}

/** Pauses a schedule. Throws bad-request if `until` has passed. */
export async function pauseSchedule(
  parts: GatewayParts,
  client: ScheduleClient,
  name: string,
  { reason, until }: SchedulePauseBody,
): Promise<StoredSchedule> {
  if (until !== undefined && Date.parse(until) <= Date.now())
    throw new LxstowError('bad-request', `until: ${until} has passed`);
  const by = client.requestor.username;
  const paused = {
    since: new Date().toISOString(),
    ...(by && { by }),
    ...(reason !== undefined && { reason }),
    ...(until !== undefined && { until }),
  };
  return change(parts, client, name, (schedule) => {
    // The new pause may be shorter.
    if (schedule.paused) assertMayGoOn(client, schedule);
    return { ...schedule, paused };
  });
}

/** Resumes a schedule, and makes the client its owner. Throws forbidden over NATS if the schedule has a rule. */
export function resumeSchedule(parts: GatewayParts, client: ScheduleClient, name: string): Promise<StoredSchedule> {
  const since = new Date().toISOString();
  return change(parts, client, name, async (schedule) => {
    const { paused, ...resumed } = schedule;
    if (!paused) return schedule;
    assertMayGoOn(client, schedule);
    // lxstow cannot see when a publisher is no longer trusted, so the schedule stays with its restricted owner while that owner may have it.
    const stays = client.requestor.protocol === 'nats' && schedule.restricted && !(await ownerTrouble(parts, schedule));
    return stays ? { ...resumed, since } : ownedBy(client, { ...resumed, since });
  });
}

/** Throws forbidden if the client may not end the schedule's pause: over NATS it may make backups, but not cause deletions. */
function assertMayGoOn({ requestor }: ScheduleClient, { definition }: Schedule): void {
  if (requestor.protocol === 'nats' && definition.keep)
    throw new LxstowError(
      'forbidden',
      'the schedule has a rule that deletes backups: resume it, or change its pause, over HTTPS',
    );
}

export async function runScheduleNow(
  parts: GatewayParts,
  client: ScheduleClient,
  name: string,
  id: string | undefined,
): Promise<Run> {
  const { definition } = (await visibleSchedule(parts, client, name)).schedule;
  const { requestor, trace } = client;
  const { id: _, ...wanted } = requestFor(requestor, runRequest(name, definition, ''));
  const request = { ...wanted, ...(id !== undefined && { id }) };
  return createRun(runTools(parts), request, hostsOf(definition, Object.keys(parts.config.remotes)), {
    requestor,
    trace,
  });
}

/** The next times at which it is due. */
export async function nextTimes(
  parts: GatewayParts,
  client: ScheduleClient,
  name: string,
  count: number,
): Promise<ScheduledAt[]> {
  const { schedule } = await visibleSchedule(parts, client, name);
  return nextOf(schedule, count).map(({ at }) => ({ schedule: name, at }));
}

/** When each instance is due next, and why hosts that did not answer are not in the list. */
export async function nextInstances(
  parts: GatewayParts,
  client: ScheduleClient,
  name: string,
): Promise<{ times: ScheduledAt[]; silent: Map<string, LxstowError> }> {
  const { schedule } = await visibleSchedule(parts, client, name);
  const { definition } = schedule;
  const [slot] = nextOf(schedule, 1);
  if (!slot) return { times: [], silent: new Map() };
  const { selector, keep } = requestFor(schedule.requestor, runRequest(name, definition, ''));
  const keysOf = await instanceKeeps(parts);
  const { remotes, gateway } = parts.config;
  const hosts = hostsOf(definition, Object.keys(remotes));
  const heard = await chosenOnAll(parts.nats, hosts, selector, gateway.inventoryTimeoutMs);
  const run = { schedule: runScheduleOf(name, definition, slot) };
  const times = heard.addresses.map((address) => {
    const { remote: host, project, instance } = address;
    const at = inZone(new Date(dueMs(run, address)), slot);
    return { schedule: name, host, project, instance, at, ...shownKeep(keep, keysOf(address)) };
  });
  return { times: times.sort((a, b) => (a.at < b.at ? -1 : 1)), silent: heard.silent };
}

/** The schedule, if the client may see everything that it covers. Throws not-found. */
export async function visibleSchedule(
  { schedules }: { schedules: ScheduleStore },
  { may }: Pick<ScheduleClient, 'may'>,
  name: string,
): Promise<StoredSchedule> {
  const found = await schedules.find(name);
  if (!found || !may(found.schedule)) throw new LxstowError('not-found', `schedule ${name} does not exist`);
  return found;
}

async function change(
  { schedules }: GatewayParts,
  client: ScheduleClient,
  name: string,
  to: (schedule: Schedule) => Schedule | Promise<Schedule>,
): Promise<StoredSchedule> {
  for (let tries = 0; tries < mostTries; tries++) {
    const { schedule, revision } = await visibleSchedule({ schedules }, client, name);
    const next = await to(schedule);
    const written = await schedules.update(next, revision);
    if (written !== undefined) return { schedule: next, revision: written };
  }
  throw new LxstowError('conflict', `schedule ${name} is being changed by other clients: try again`);
}

/** Throws if the definition is wrong, for every client. */
function checkDefinition({ config }: GatewayParts, definition: ScheduleBody): void {
  checkSchedule(definition);
  checkLock(definition.object_lock, config.s3);
  checkEndpoints(definition, config.notify);
  for (const remote of definition.selector?.remotes ?? []) knownRemote(remote, Object.keys(config.remotes));
}

function nextOf(schedule: Schedule, count: number): Slot[] {
  const from = activeFrom(schedule, new Date());
  return from ? nextSlots(schedule.definition, from, count) : [];
}

function isSameTime(one: ScheduleBody, other: ScheduleBody): boolean {
  return one.cron === other.cron && one.zone === other.zone;
}

/** RFC 3339 with the slot's offset. */
function inZone(at: Date, { at: slot }: Slot): string {
  const [, sign = '+', hours = '00', minutes = '00'] = /([+-])(\d\d):(\d\d)$/.exec(slot) ?? [];
  const offsetMs = (Number(hours) * 60 + Number(minutes)) * 60_000 * (sign === '-' ? -1 : 1);
  return `${new Date(at.getTime() + offsetMs).toISOString().slice(0, 19)}${sign}${hours}:${minutes}`;
}
