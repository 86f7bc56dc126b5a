/** Decides the next step for a schedule; the scheduler carries it out. Pure. */
import type { Schedule, ScheduleBody } from '../contract/schemas.ts';
import type { Occasion } from '../runs/createRun.ts';
import type { Slot } from './cron.ts';
import { dueSlot, resumedSince, runScheduleOf } from './slots.ts';

export type Step =
  | { is: 'wait'; untilMs: number }
  /** Store the schedule in this state, and decide again. `why` is for the log. */
  | { is: 'change'; to: Schedule; why?: string }
  /** Create the run of this slot, then store the schedule in its new state. */
  | { is: 'run'; slot: Slot; occasion: Occasion; missed: number; nextMs: number };

/** A slot that is noticed later than this was missed. */
const lateMs = 300_000;

export function nextStep(schedule: Schedule, now: Date): Step {
  const { definition, paused, since } = schedule;
  const nowMs = now.getTime();
  if (paused) {
    if (paused.until === undefined) return { is: 'wait', untilMs: Number.POSITIVE_INFINITY };
    if (Date.parse(paused.until) > nowMs) return { is: 'wait', untilMs: Date.parse(paused.until) };
    const { paused: _, ...resumed } = schedule;
    return { is: 'change', to: { ...resumed, since: resumedSince(since, paused.until) } };
  }
  if (Date.parse(since) > nowMs + lateMs)
    return { is: 'change', to: { ...schedule, since: now.toISOString() }, why: 'a clock was ahead' };
  const { due: slot, missed, next } = dueSlot(definition, new Date(since), now);
  const nextMs = next ? Date.parse(next.at) : Number.POSITIVE_INFINITY;
  if (!slot) return { is: 'wait', untilMs: nextMs };
  return { is: 'run', slot, missed, nextMs, occasion: occasionOf(schedule, slot, missed, now) };
}

/**
 * Whether a slot's run was made before the slot, while the gateway's clock was ahead. `written`: when NATS last stored the run's head, by NATS's clock. If that clock
 * was ahead too, the run appears to be made in the future.
 */
export function wasTooEarly(created: string, written: Date, slot: Slot, now: Date): boolean {
  return written.getTime() < Date.parse(slot.at) - lateMs || Date.parse(created) > now.getTime() + lateMs;
}

function occasionOf({ name, definition, last }: Schedule, slot: Slot, missed: number, now: Date): Occasion {
  const isLate = now.getTime() - Date.parse(slot.at) > lateMs;
  const schedule = runScheduleOf(name, definition, slot, isLate ? now.toISOString() : slot.at);
  const reason = isLate ? whyNotMadeUp(definition, slot, schedule.window_ends, now) : undefined;
  return {
    class: isLate ? 'catch-up' : 'scheduled',
    schedule,
    ...(last && { before: last.run }),
    ...(reason !== undefined && { missed: reason }),
    ...(missed > 0 && { note: `${missed} earlier times of schedule ${name} were missed` }),
  };
}

/** Why no run makes up for a missed slot. */
function whyNotMadeUp(
  { catch_up, window: text }: ScheduleBody,
  slot: Slot,
  window: string | undefined,
  now: Date,
): string | undefined {
  const missed = `missed ${slot.wall}: its run could not be started in time`;
  if (catch_up === 'never') return `${missed}, and catch_up is never`;
  if (window && Date.parse(window) <= now.getTime()) return `${missed}, and the window ${text} is over`;
  return undefined;
}
