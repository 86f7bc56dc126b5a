/**
 * Starts the runs of schedules when they are due. One gateway does this, the holder of a lease. It finds what is due by comparing the slots since the last
 * one with the clock. So a slot at which no gateway was running is found by the next gateway. A run's id is derived from schedule and slot, so it cannot be
 * created twice (docs/adr/0039-schedules.md).
 */

import { setImmediate } from 'node:timers/promises';
import { forEach } from '../concurrency/orderedMap.ts';
import { sleep } from '../concurrency/sleep.ts';
import { asLxstowError } from '../contract/errors.ts';
import type { CreateRunBody, Requestor, Run, Schedule, ScheduleBody } from '../contract/schemas.ts';
import { type LeaseTools, serveUnderLease } from '../coordination/serveUnderLease.ts';
import { uuid5 } from '../jobs/jobs.ts';
import { schedulerLeaseKey } from '../nats/bucketKeys.ts';
import { createRun, type RunTools } from '../runs/createRun.ts';
import { choiceOf } from '../runs/selector.ts';
import type { Log } from '../telemetry/logger.ts';
import { traceOf } from '../telemetry/trace.ts';
import { nextStep, type Step, wasTooEarly } from './nextStep.ts';
import type { ScheduleStore, StoredSchedule } from './scheduleStore.ts';

interface SchedulerOptions extends RunTools, LeaseTools {
  audit: Log;
  schedules: ScheduleStore;
  /** The hosts in the configuration. */
  remotes: string[];
  /** Why a schedule's owner may no longer have it. */
  ownerTrouble(schedule: Schedule): Promise<string | undefined>;
}

/** New, changed and resumed schedules are noticed after this time at the latest. */
const lookEveryMs = 10_000;
/** How many schedules are handled in parallel, each of which asks the hosts. */
const atOnce = 16;

/** Runs until `stop`. */
export async function serveSchedules(options: SchedulerOptions): Promise<void> {
  const serve = async (lost: AbortSignal) => {
    const over = AbortSignal.any([options.stop, lost]);
    while (!over.aborted) {
      const nextMs = await makeDueRuns(options, over);
      const pauseMs = Math.min(lookEveryMs, Math.max(0, nextMs - Date.now()));
      await sleep(pauseMs, over);
    }
  };
  const what = 'schedules wait for a moment';
  await serveUnderLease({ ...options, key: schedulerLeaseKey, what }, serve);
}

/** Starts the runs that are due; returns when the next one will be due. A schedule that fails does not stop the others. */
async function makeDueRuns(options: SchedulerOptions, over: AbortSignal): Promise<number> {
  let nextMs = Number.POSITIVE_INFINITY;
  // A host that does not answer must not make all schedules of the hour late.
  await forEach(await options.schedules.list(), atOnce, async (stored) => {
    // Finding what is due takes a while for many schedules, and must not hold up the lease.
    await setImmediate();
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
  const { schedules, log, audit } = options;
  const { name } = schedule;
  const now = new Date();
  const trouble = schedule.restricted && !schedule.paused && (await options.ownerTrouble(schedule));
  const step: Step = trouble
    ? { is: 'change', to: { ...schedule, paused: { since: now.toISOString(), reason: trouble } }, why: trouble }
    : nextStep(schedule, now);
  if (step.is === 'wait') return step.untilMs;
  if (step.is === 'change') {
    if (step.why !== undefined) log.warn('a schedule was changed', { schedule: name, why: step.why });
    await schedules.update(step.to, revision);
    return now.getTime();
  }
  const { slot, missed, nextMs } = step;
  const run = await makeRun(options, schedule, step);
  const last = { slot: slot.wall, at: slot.at, run: run.id };
  const written = await schedules.update({ ...schedule, since: slot.at, last }, revision);
  if (written === undefined) return now.getTime();
  const { requestor } = schedule;
  const chosen = choiceOf(run.request);
  audit.info('audit', { requestor, schedule: name, slot: slot.wall, run: run.id, ...chosen, result: 'done' });
  log.info('schedule due', { schedule: name, slot: slot.wall, run: run.id, class: run.class, missed });
  return nextMs;
}

/** The id of a slot's run: the same for every gateway and every try. A client cannot guess it, so it cannot create a run with this id. */
export function scheduledRunId({ name, token }: Pick<Schedule, 'name' | 'token'>, slot: string): string {
  return uuid5(`schedule|${name}|${token}|${slot}`);
}

async function makeRun(
  options: SchedulerOptions,
  { name, token, definition, requestor }: Schedule,
  { slot, occasion }: Extract<Step, { is: 'run' }>,
): Promise<Run> {
  const early = await options.runs.find(scheduledRunId({ name, token }, slot.wall));
  if (early && !wasTooEarly(early.run.created_at, early.written, slot, new Date())) return early.run;
  const id = scheduledRunId({ name, token }, early ? `${slot.wall}|again` : slot.wall);
  const known = early && (await options.runs.find(id));
  if (known) return known.run;
  const asker = { ...(requestor && { requestor }), trace: traceOf(undefined), occasion };
  const trouble = ruleTrouble({ definition, requestor });
  if (trouble !== undefined) options.log.warn('a schedule does not apply its rule', { schedule: name, why: trouble });
  const request = requestFor(requestor, runRequest(name, definition, id));
  return createRun(options, request, hostsOf(definition, options.remotes), asker);
}

/** The schedule's hosts that are in the configuration. */
export function hostsOf({ selector }: ScheduleBody, configured: string[]): string[] {
  return configured.filter((each) => selector?.remotes?.includes(each) ?? true);
}

/**
 * The request as this client may make it. The right to publish runs is a right to make backups, not to delete them. With a rule, each new backup could
 * cause the deletion of an older one.
 */
export function requestFor(requestor: Requestor | undefined, { keep, ...request }: CreateRunBody): CreateRunBody {
  return keep && requestor?.protocol !== 'nats' ? { ...request, keep } : request;
}

/** Why the schedule's runs do not apply its rule; undefined if they do, or if it has none. Earlier versions let clients over NATS resume such schedules. */
export function ruleTrouble({ definition, requestor }: Pick<Schedule, 'definition' | 'requestor'>): string | undefined {
  if (!definition.keep || requestFor(requestor, runRequest('', definition, '')).keep) return undefined;
  return 'its rule deletes no backups, because a client over NATS has resumed it: pause and resume it over HTTPS';
}

export function runRequest(name: string, definition: ScheduleBody, id: string): CreateRunBody {
  const { zone = 'UTC', selector, keep, ...rest } = definition;
  const { compression_algorithm, optimized_storage, instance_only, object_lock, tags, notifyEndpoint, ping } = rest;
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
    ...(ping && { ping }),
  };
}
