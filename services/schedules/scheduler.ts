/**
 * Makes the runs of schedules when they are due. One gateway does it, the holder of a lease. What is due is found by comparing: the slots since the last
 * one with the clock. So a slot that no gateway was at work for is found by the next one, and a run's id, made of schedule and slot, keeps it from being
 * made twice (docs/adr/0039-schedules.md).
 */

import { setTimeout as delay } from 'node:timers/promises';
import { Temporal } from 'temporal-polyfill';
import { forEach } from '../concurrency/orderedMap.ts';
import { asLxstowError } from '../contract/errors.ts';
import type { CreateRunBody, Run, RunSchedule, Schedule, ScheduleBody } from '../contract/schemas.ts';
import type { Leases } from '../coordination/leases.ts';
import { serveUnderLease } from '../coordination/serveUnderLease.ts';
import { uuid5 } from '../jobs/jobs.ts';
import { schedulerLeaseKey } from '../nats/bucketKeys.ts';
import { createRun, type RunTools } from '../runs/createRun.ts';
import type { Log } from '../telemetry/logger.ts';
import { traceOf } from '../telemetry/trace.ts';
import { type Cron, nextSlot, parseCron, type Slot } from './cron.ts';
import type { ScheduleStore, StoredSchedule } from './scheduleStore.ts';

export interface SchedulerOptions extends RunTools {
  schedules: ScheduleStore;
  /** Of the configuration. */
  remotes: string[];
  leases: Leases;
  /** This gateway, as holder of the lease. */
  name: string;
  heartbeatMs: number;
  log: Log;
  /** Aborts when the gateway stops. */
  stop: AbortSignal;
}

/** Schedules that are created, changed or resumed are seen after so long. */
const lookEveryMs = 10_000;
/** A slot that is found later than this was missed. */
const lateMs = 300_000;
/** So many missed slots are counted. */
const mostCounted = 1000;
const dayMs = 86_400_000;
/** So many schedules ask the hosts at once. */
const atOnce = 16;

/** Runs until `stop`. */
export async function serveSchedules(options: SchedulerOptions): Promise<void> {
  const { leases, name, heartbeatMs, log, stop } = options;
  const serve = async (lost: AbortSignal) => {
    const over = AbortSignal.any([stop, lost]);
    while (!over.aborted) {
      const nextMs = await makeDueRuns(options, over);
      const pauseMs = Math.min(lookEveryMs, Math.max(0, nextMs - Date.now()));
      await delay(pauseMs, undefined, { signal: over, ref: false }).catch(() => undefined);
    }
  };
  const what = 'schedules wait for a moment';
  await serveUnderLease({ leases, key: schedulerLeaseKey, name, heartbeatMs, log, stop, what }, serve);
}

/** Makes what is due; returns when the next one will be. One schedule that fails does not stop the others. */
async function makeDueRuns(options: SchedulerOptions, over: AbortSignal): Promise<number> {
  let nextMs = Number.POSITIVE_INFINITY;
  // A host that does not answer must not make all schedules of the hour late.
  await forEach(await options.schedules.list(), atOnce, async (stored) => {
    if (over.aborted) return;
    try {
      const ms = await serveOne(options, stored);
      nextMs = Math.min(nextMs, ms);
    } catch (error) {
      options.log.warn('a schedule is tried again', { schedule: stored.schedule.name, error: asLxstowError(error) });
    }
  });
  return nextMs;
}

async function serveOne(options: SchedulerOptions, { schedule, revision }: StoredSchedule): Promise<number> {
  const { schedules, log } = options;
  const now = new Date();
  const { definition, paused } = schedule;
  if (paused) {
    if (paused.until === undefined || Date.parse(paused.until) > now.getTime()) return Number.POSITIVE_INFINITY;
    const { paused: _, ...resumed } = schedule;
    await schedules.update({ ...resumed, since: paused.until }, revision);
    return now.getTime();
  }
  if (Date.parse(schedule.since) > now.getTime() + lateMs) {
    log.warn('a schedule was served by a clock that was ahead', { schedule: schedule.name, since: schedule.since });
    await schedules.update({ ...schedule, since: now.toISOString() }, revision);
    return now.getTime();
  }
  const { due, missed, next } = dueSlot(definition, new Date(schedule.since), now);
  if (!due) return next ? Date.parse(next.at) : Number.POSITIVE_INFINITY;
  const run = await makeRun(options, schedule, due, missed, now);
  const last = { slot: due.wall, at: due.at, run: run.id };
  if (!(await schedules.update({ ...schedule, since: due.at, last }, revision))) return now.getTime();
  log.info('schedule due', { schedule: schedule.name, slot: due.wall, run: run.id, class: run.class, missed });
  return next ? Date.parse(next.at) : Number.POSITIVE_INFINITY;
}

/** The last slot that is due, how many before it were missed, and the one behind it. Pure. */
export function dueSlot(
  { cron: text, zone = 'UTC' }: Pick<ScheduleBody, 'cron' | 'zone'>,
  since: Date,
  now: Date,
): { due?: Slot; missed: number; next: Slot | undefined } {
  const cron = parseCron(text);
  const passed = slotsUntil(cron, zone, since, now);
  // After so many, the last one is found from a day before.
  const due =
    passed.length < mostCounted
      ? passed.at(-1)
      : (slotsUntil(cron, zone, new Date(now.getTime() - dayMs), now, Number.POSITIVE_INFINITY).at(-1) ??
        passed.at(-1));
  return { ...(due && { due }), missed: Math.max(0, passed.length - 1), next: nextSlot(cron, zone, now) };
}

function slotsUntil(cron: Cron, zone: string, since: Date, now: Date, most = mostCounted): Slot[] {
  const found: Slot[] = [];
  for (let from = since; found.length < most; ) {
    const slot = nextSlot(cron, zone, from);
    if (!slot || Date.parse(slot.at) > now.getTime()) break;
    found.push(slot);
    from = new Date(slot.at);
  }
  return found;
}

/** The id of a slot's run: the same for every gateway and every try. A client cannot guess it, and so not take it. */
export function scheduledRunId({ name, token }: Pick<Schedule, 'name' | 'token'>, slot: string): string {
  return uuid5(`schedule|${name}|${token}|${slot}`);
}

async function makeRun(
  options: SchedulerOptions,
  { name, token, definition, requestor, last }: Schedule,
  due: Slot,
  missed: number,
  now: Date,
): Promise<Run> {
  const id = scheduledRunId({ name, token }, due.wall);
  const known = await options.runs.find(id);
  if (known) return known.run;
  const isLate = now.getTime() - Date.parse(due.at) > lateMs;
  const window = windowEnd(definition, due);
  const starts_at = isLate ? now.toISOString() : due.at;
  // A run that is late has less of its window left, in which each instance must have its turn.
  const leftSeconds = window
    ? Math.floor((Date.parse(window) - Date.parse(starts_at)) / 1000)
    : Number.POSITIVE_INFINITY;
  const jitter_seconds = Math.min(secondsOf(definition.jitter ?? '0s'), leftSeconds);
  const schedule: RunSchedule = {
    ...{ name, slot: due.wall, starts_at },
    ...(jitter_seconds > 0 && { jitter_seconds }),
    ...(window && { window_ends: window }),
  };
  const reason = isLate ? whyNotMadeUp(definition, due, window, now) : undefined;
  const remotes = definition.selector?.remotes ?? options.remotes;
  return createRun(
    options,
    runRequest(name, definition, id),
    remotes.filter((each) => options.remotes.includes(each)),
    {
      ...(requestor && { requestor }),
      trace: traceOf(undefined),
      occasion: {
        class: isLate ? 'catch-up' : 'scheduled',
        schedule,
        ...(last && { before: last.run }),
        ...(reason !== undefined && { missed: reason }),
        ...(missed > 0 && { note: `${missed} earlier times of schedule ${name} were missed` }),
      },
    },
  );
}

/** Why a slot that was missed is recorded only. */
function whyNotMadeUp(
  { catch_up, window: text }: ScheduleBody,
  due: Slot,
  window: string | undefined,
  now: Date,
): string | undefined {
  const missed = `missed ${due.wall}: no gateway was at work then`;
  if (catch_up === 'never') return `${missed}, and catch_up is never`;
  if (window && Date.parse(window) <= now.getTime()) return `${missed}, and the window ${text} is over`;
  return undefined;
}

/** What a run of the schedule asks for. */
export function runRequest(name: string, definition: ScheduleBody, id: string): CreateRunBody {
  const { zone = 'UTC', selector, keep, ...rest } = definition;
  const { compression_algorithm, optimized_storage, instance_only, object_lock, tags, notifyEndpoint } = rest;
  return {
    id,
    selector: { ...selector, schedule: name },
    ...(compression_algorithm && { compression_algorithm }),
    ...(optimized_storage !== undefined && { optimized_storage }),
    ...(instance_only !== undefined && { instance_only }),
    ...(object_lock && { object_lock }),
    ...(tags && { tags }),
    ...(keep && { keep: { ...keep, zone: keep.zone ?? zone } }),
    ...(notifyEndpoint && { notifyEndpoint }),
  };
}

/** When the window that the slot is in ends; undefined without a window. */
export function windowEnd(
  { window, zone = 'UTC' }: Pick<ScheduleBody, 'window' | 'zone'>,
  slot: Slot,
): string | undefined {
  if (window === undefined) return undefined;
  // By what the rule says: clocks may have skipped the rest of the window.
  const begins = slot.wall.slice(0, 16);
  const [, end = ''] = window.split('-');
  const day = Temporal.PlainDate.from(begins).add({ days: end > begins.slice(11) ? 0 : 1 });
  return new Date(day.toZonedDateTime({ timeZone: zone, plainTime: end }).epochMilliseconds).toISOString();
}

const unitSeconds: Record<string, number> = { s: 1, m: 60, h: 3600 };

/** `30m` in seconds. */
export function secondsOf(duration: string): number {
  return Number(duration.slice(0, -1)) * (unitSeconds[duration.slice(-1)] ?? 1);
}
