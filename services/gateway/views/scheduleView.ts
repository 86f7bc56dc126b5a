/** Schedules as clients see and change them. */
import { LxstowError } from '../../contract/errors.ts';
import type { Schedule, ScheduleBody, ShownSchedule } from '../../contract/schemas.ts';
import { checkZone } from '../../contract/zones.ts';
import { checkRule } from '../../retention/keep.ts';
import { parseMatch } from '../../runs/selector.ts';
import { nextSlot, parseCron } from '../../schedules/cron.ts';
import { runRequest, windowEnd } from '../../schedules/scheduler.ts';
import type { ScheduleStore, StoredSchedule } from '../../schedules/scheduleStore.ts';

const mostTries = 20;

/** Throws bad-request for what the schema cannot see: rules that are never due, unknown zones, a time outside of the window. */
export function checkSchedule(definition: ScheduleBody): void {
  const { cron: text, zone = 'UTC', window, keep, selector } = definition;
  checkZone(zone, 'zone');
  const cron = parseCron(text);
  for (const match of selector?.match ?? []) parseMatch(match);
  if (keep) checkRule(runRequest('', definition, '').keep ?? keep);
  const slot = nextSlot(cron, zone, new Date());
  if (window === undefined || !slot) return;
  const [begin = '', end = ''] = window.split('-');
  const time = slot.wall.slice(11, 16);
  const isIn = begin < end ? time >= begin && time < end : time >= begin || time < end;
  if (!isIn || windowEnd(definition, slot) === undefined)
    throw new LxstowError('bad-request', `window: ${time}, when the schedule is due, is not in ${window}`);
}

export function showSchedule({ schedule }: StoredSchedule, now = new Date()): ShownSchedule {
  const { token: _, ...shown } = schedule;
  const { definition, paused } = shown;
  const next = paused ? undefined : nextSlot(parseCron(definition.cron), definition.zone ?? 'UTC', now);
  return { ...shown, ...(next && { next: next.at }) };
}

/** The schedule, if who asks may see all that it is about. Throws not-found. */
export async function visibleSchedule(
  schedules: ScheduleStore,
  name: string,
  may: (schedule: Schedule) => boolean,
): Promise<StoredSchedule> {
  const found = await schedules.find(name);
  if (!found || !may(found.schedule)) throw new LxstowError('not-found', `schedule ${name} does not exist`);
  return found;
}

/** Changes a schedule, whoever else does so. Throws not-found. */
export async function changeSchedule(
  schedules: ScheduleStore,
  name: string,
  may: (schedule: Schedule) => boolean,
  change: (schedule: Schedule) => Schedule,
): Promise<StoredSchedule> {
  for (let tries = 0; tries < mostTries; tries++) {
    const { schedule, revision } = await visibleSchedule(schedules, name, may);
    const next = change(schedule);
    if (await schedules.update(next, revision)) return { schedule: next, revision };
  }
  throw new LxstowError('conflict', `schedule ${name} is being changed by others: ask again`);
}
