/** The slots of a schedule: which are due, which come next, and what a run stores about its slot. Pure. */
import { Temporal } from 'temporal-polyfill';
import { parseDuration } from '../contract/durations.ts';
import type { RunSchedule, Schedule, ScheduleBody } from '../contract/schemas.ts';
import { type Cron, lastSlot, nextSlot, parseCron, type Slot } from './cron.ts';

type Rule = Pick<ScheduleBody, 'cron' | 'zone'>;

/** Missed slots are counted up to this number. */
const mostCounted = 1000;

/** The last slot that is due, the number of missed slots before it, and the next slot after it. */
export function dueSlot(
  { cron: text, zone = 'UTC' }: Rule,
  since: Date,
  now: Date,
): { due?: Slot; missed: number; next: Slot | undefined } {
  const cron = parseCron(text);
  const passed = slotsUntil(cron, zone, since, now);
  const due = passed.length < mostCounted ? passed.at(-1) : lastSlot(cron, zone, since, now);
  return { ...(due && { due }), missed: Math.max(0, passed.length - 1), next: nextSlot(cron, zone, now) };
}

function slotsUntil(cron: Cron, zone: string, since: Date, now: Date): Slot[] {
  const found: Slot[] = [];
  for (const slot of slotsAfter(cron, zone, since)) {
    if (found.length === mostCounted || Date.parse(slot.at) > now.getTime()) break;
    found.push(slot);
  }
  return found;
}

/** The first slot that is not handled yet; if it is in the past, it waits for a gateway. Undefined while the schedule is paused. */
export function dueNext({ definition, since, paused }: Schedule): Slot | undefined {
  if (paused && paused.until === undefined) return undefined;
  return nextSlot(parseCron(definition.cron), definition.zone ?? 'UTC', new Date(resumedSince(since, paused?.until)));
}

/** The time from which a schedule can be due after its pause has ended by itself. If it was edited during the pause, times before the edit do not count. */
export function resumedSince(since: string, until: string | undefined): string {
  return until !== undefined && Date.parse(until) > Date.parse(since) ? until : since;
}

export function nextSlots({ cron, zone = 'UTC' }: Rule, after: Date, count: number): Slot[] {
  return slotsAfter(parseCron(cron), zone, after).take(count).toArray();
}

function* slotsAfter(cron: Cron, zone: string, after: Date): Generator<Slot, undefined> {
  for (let from = after; ; ) {
    const slot = nextSlot(cron, zone, from);
    if (!slot) return;
    yield slot;
    from = new Date(slot.at);
  }
}

/** What a run stores about its slot and schedule. If a run starts late, less of its window is left, so the jitter is cut to fit. */
export function runScheduleOf(
  name: string,
  definition: Pick<ScheduleBody, 'jitter' | 'window' | 'zone'>,
  slot: Slot,
  starts_at = slot.at,
): RunSchedule {
  const { jitter } = definition;
  const window_ends = windowEnd(definition, slot);
  const leftMs = window_ends ? Date.parse(window_ends) - Date.parse(starts_at) : Number.POSITIVE_INFINITY;
  const jitter_seconds = jitter === undefined ? 0 : Math.floor(Math.min(parseDuration(jitter), leftMs) / 1000);
  return {
    ...{ name, slot: slot.wall, starts_at },
    ...(jitter_seconds > 0 && { jitter_seconds }),
    ...(window_ends && { window_ends }),
  };
}

/** When the slot's window ends; undefined if there is no window. */
export function windowEnd(
  { window, zone = 'UTC' }: Pick<ScheduleBody, 'window' | 'zone'>,
  slot: Slot,
): string | undefined {
  if (window === undefined) return undefined;
  // Use the local time of the rule, because clocks may have skipped the rest of the window.
  const begins = slot.wall.slice(0, 16);
  const [, end = ''] = window.split('-');
  const day = Temporal.PlainDate.from(begins).add({ days: end > begins.slice(11) ? 0 : 1 });
  const endMs = day.toZonedDateTime({ timeZone: zone, plainTime: end }).epochMilliseconds;
  const atMs = Date.parse(slot.at);
  // If clocks have skipped the rest of the window, the window stays open after the slot for as long as was left of it.
  const leftMs = day.toPlainDateTime(end).since(begins).total('milliseconds');
  return new Date(endMs > atMs ? endMs : atMs + leftMs).toISOString();
}
