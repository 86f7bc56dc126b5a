/** Schedules as clients see and change them. */
import { parseDuration } from '../../contract/durations.ts';
import { LxstowError } from '../../contract/errors.ts';
import type { Schedule, ScheduleBody, ShownSchedule } from '../../contract/schemas.ts';
import { checkZone } from '../../contract/zones.ts';
import { shown as originOf } from '../../notices/allowedEndpoints.ts';
import { checkRule } from '../../retention/keep.ts';
import { checkSelector } from '../../runs/selector.ts';
import { nextSlot, parseCron } from '../../schedules/cron.ts';
import { ruleTrouble, runRequest } from '../../schedules/scheduler.ts';
import type { StoredSchedule } from '../../schedules/scheduleStore.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import { ownerTrouble } from './scheduleOwner.ts';

const dayMinutes = 1440;

/** Throws bad-request for errors that the schema cannot find: rules that are never due, unknown zones, a time outside the window. */
export function checkSchedule(definition: ScheduleBody): void {
  const { cron: text, zone = 'UTC', window, keep } = definition;
  checkZone(zone, 'zone');
  const cron = parseCron(text);
  const request = runRequest('', definition, '');
  checkSelector(request.selector);
  if (keep) checkRule(request.keep ?? keep);
  if (window === undefined) return;
  for (const hour of cron.hours)
    for (const minute of cron.minutes) checkTime(hour * 60 + minute, window, definition.jitter);
}

/** Throws bad-request if this minute of the day is not in the window, or may leave it because of the jitter. */
function checkTime(due: number, window: string, jitter: string | undefined): void {
  const [begin = 0, end = 0] = window.split('-').map((time) => Number(time.slice(0, 2)) * 60 + Number(time.slice(3)));
  const left = (minutesFrom(begin, end) || dayMinutes) - minutesFrom(begin, due);
  const time = `${String(Math.floor(due / 60)).padStart(2, '0')}:${String(due % 60).padStart(2, '0')}`;
  if (left <= 0) throw new LxstowError('bad-request', `window: ${time}, when the schedule is due, is not in ${window}`);
  if (jitter !== undefined && parseDuration(jitter) > left * 60_000)
    throw new LxstowError('bad-request', `jitter: ${jitter} after ${time} is outside the window ${window}`);
}

function minutesFrom(one: number, other: number): number {
  return (other - one + dayMinutes) % dayMinutes;
}

/** `mayChange`: the client may change schedules over HTTPS. Other clients see only the origins of its URLs, whose paths may be secret; `masked` says of which. */
export async function showSchedule(
  parts: Pick<GatewayParts, 'trust' | 'config'>,
  { schedule }: StoredSchedule,
  { mayChange }: { mayChange: boolean },
): Promise<ShownSchedule> {
  const { token: _, restricted: __, begun: ___, ...stored } = schedule;
  const { definition } = stored;
  const masked = endpointFields.filter((field) => !mayChange && isCut(definition[field]));
  const shown = mayChange ? stored : { ...stored, definition: withEndpoints(definition, originOf) };
  const from = activeFrom(schedule, new Date());
  const next = from && nextSlot(parseCron(definition.cron), definition.zone ?? 'UTC', from);
  const trouble = (await ownerTrouble(parts, schedule)) ?? ruleTrouble(schedule);
  return {
    ...shown,
    ...(next && { next: next.at }),
    ...(trouble !== undefined && { owner_trouble: trouble }),
    ...(masked.length > 0 && { masked }),
  };
}

function isCut(endpoint: string | undefined): boolean {
  return endpoint !== undefined && originOf(endpoint) !== endpoint;
}

/** The definition that a client has sent, with the stored URL in place of one that is only its origin, as `showSchedule` has shown it. */
export function withStoredEndpoints(given: ScheduleBody, stored: ScheduleBody): ScheduleBody {
  return withEndpoints(given, (endpoint, field) => {
    const before = stored[field];
    return before !== undefined && endpoint === originOf(before) ? before : endpoint;
  });
}

const endpointFields = ['notifyEndpoint', 'ping'] as const;

function withEndpoints(
  definition: ScheduleBody,
  change: (endpoint: string, field: (typeof endpointFields)[number]) => string,
): ScheduleBody {
  const changed = endpointFields.flatMap((field) => {
    const endpoint = definition[field];
    return endpoint === undefined ? [] : [[field, change(endpoint, field)]];
  });
  return { ...definition, ...Object.fromEntries(changed) };
}

/** Whether everything that a schedule covers is in these projects and on these hosts. */
export function coversOnly({
  projects,
  remotes,
}: {
  projects?: ((project: string) => boolean) | undefined;
  remotes?: ((remote: string) => boolean) | undefined;
}): (schedule: Pick<Schedule, 'definition'>) => boolean {
  return ({ definition: { selector } }) =>
    (projects === undefined || (selector?.projects?.every(projects) ?? false)) &&
    (remotes === undefined || (selector?.remotes?.every(remotes) ?? false));
}

/** The time from which the schedule can be due again; undefined while it is paused without an end. */
export function activeFrom({ paused }: Schedule, now: Date): Date | undefined {
  if (!paused) return now;
  return paused.until === undefined ? undefined : new Date(Math.max(Date.parse(paused.until), now.getTime()));
}
