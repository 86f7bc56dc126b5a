/**
 * Makes the runs of schedules when they are due. One gateway does it, the holder of a lease. What is due is found by comparing: the slots since the last
 * one with the clock. So a slot that no gateway was at work for is found by the next one, and a run's id, made of schedule and slot, keeps it from being
 * made twice (docs/adr/0039-schedules.md).
 */

import { setTimeout as delay } from 'node:timers/promises';
import { forEach } from '../concurrency/orderedMap.ts';
import { asLxstowError } from '../contract/errors.ts';
import type { CreateRunBody, Run, Schedule, ScheduleBody } from '../contract/schemas.ts';
import { type LeaseHolder, serveUnderLease } from '../coordination/serveUnderLease.ts';
import { uuid5 } from '../jobs/jobs.ts';
import { schedulerLeaseKey } from '../nats/bucketKeys.ts';
import { createRun, type RunTools } from '../runs/createRun.ts';
import { traceOf } from '../telemetry/trace.ts';
import type { Slot } from './cron.ts';
import type { ScheduleStore, StoredSchedule } from './scheduleStore.ts';
import { dueSlot, runScheduleOf } from './slots.ts';

export interface SchedulerOptions extends RunTools, LeaseHolder {
  schedules: ScheduleStore;
  /** Of the configuration. */
  remotes: string[];
  /** Why a schedule's owner may no longer have it. */
  ownerTrouble(schedule: Schedule): Promise<string | undefined>;
}

/** Schedules that are created, changed or resumed are seen after so long. */
const lookEveryMs = 10_000;
/** A slot that is found later than this was missed. */
const lateMs = 300_000;
/** So many schedules ask the hosts at once. */
const atOnce = 16;

/** Runs until `stop`. */
export async function serveSchedules(options: SchedulerOptions): Promise<void> {
  const serve = async (lost: AbortSignal) => {
    const over = AbortSignal.any([options.stop, lost]);
    while (!over.aborted) {
      const nextMs = await makeDueRuns(options, over);
      const pauseMs = Math.min(lookEveryMs, Math.max(0, nextMs - Date.now()));
      await delay(pauseMs, undefined, { signal: over, ref: false }).catch(() => undefined);
    }
  };
  const what = 'schedules wait for a moment';
  await serveUnderLease({ ...options, key: schedulerLeaseKey, what }, serve);
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
  const trouble = schedule.restricted && (await options.ownerTrouble(schedule));
  if (trouble) {
    log.warn('a schedule is paused', { schedule: schedule.name, reason: trouble });
    await schedules.update({ ...schedule, paused: { since: now.toISOString(), reason: trouble } }, revision);
    return Number.POSITIVE_INFINITY;
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
  if ((await schedules.update({ ...schedule, since: due.at, last }, revision)) === undefined) return now.getTime();
  log.info('schedule due', { schedule: schedule.name, slot: due.wall, run: run.id, class: run.class, missed });
  return next ? Date.parse(next.at) : Number.POSITIVE_INFINITY;
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
  const schedule = runScheduleOf(name, definition, due, isLate ? now.toISOString() : due.at);
  const reason = isLate ? whyNotMadeUp(definition, due, schedule.window_ends, now) : undefined;
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
