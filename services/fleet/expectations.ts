/** Which backups of an instance should exist according to its schedules. Pure. */
import { parseDuration } from '../contract/durations.ts';
import type { Address, InstanceRecord, Schedule } from '../contract/schemas.ts';
import { meaningOf, scheduleKey } from '../runs/selector.ts';
import { lastSlot, parseCron, type Slot } from '../schedules/cron.ts';
import { windowEnd } from '../schedules/slots.ts';

/** What a schedule expects of the instances that it covers. */
export interface Expectation {
  schedule: string;
  definition: Schedule['definition'];
  covers: (address: Address, record: InstanceRecord) => boolean;
  /** The last time it was due, if that is long enough ago that each instance should have a backup since. Absent if there is no such time yet. */
  owed?: { fromMs: number; when: string; why: string; isPaused: boolean };
  paused?: { since: string; reason?: string };
}

export interface ExpectationOptions {
  now: Date;
  /** Whether the run of the schedule's last slot has not ended. */
  isOpen: boolean;
  /** How long such a run may take before its missing backups count as overdue. */
  patienceMs: number;
  /** Whether the selector's `match` matches an instance, by its host's last answer. */
  matches: (address: Address) => boolean;
}

/** Time that a backup may take. */
const graceMs = 3_600_000;
const dayMs = 86_400_000;

export function expectationOf(schedule: Schedule, options: ExpectationOptions): Expectation {
  const { name, definition, paused } = schedule;
  const slot = owedSlot(schedule, options);
  return {
    schedule: name,
    definition,
    covers: coverOf(schedule, options.matches),
    ...(slot && {
      owed: {
        fromMs: Date.parse(slot.at),
        when: `${slot.wall.replace('T', ' ')} ${definition.zone ?? 'UTC'}`,
        ...whyNot(schedule, slot),
      },
    }),
    ...(paused && {
      paused: { since: paused.since, ...(paused.reason !== undefined && { reason: paused.reason }) },
    }),
  };
}

/** The last slot for which backups should exist by now: the time to begin and the grace are over, and its run has ended or takes too long. */
function owedSlot(
  { definition, created_at, begun = created_at, last }: Schedule,
  { now, isOpen, patienceMs }: Omit<ExpectationOptions, 'matches'>,
): Slot | undefined {
  const { cron: text, zone = 'UTC', jitter } = definition;
  const [cron, from] = [parseCron(text), new Date(begun)];
  const jitterMs = jitter === undefined ? 0 : parseDuration(jitter);
  const before = (ms: number) => (ms > from.getTime() ? lastSlot(cron, zone, from, new Date(ms)) : undefined);
  let slot = before(now.getTime() - graceMs - jitterMs);
  for (let end = slot && windowEnd(definition, slot); slot && end; end = slot && windowEnd(definition, slot)) {
    if (Date.parse(end) + graceMs <= now.getTime()) break;
    // All slots of a window end with the window; those of the previous window are a day older.
    slot = before(Math.min(Date.parse(end) - dayMs, Date.parse(slot.at)) - 1);
  }
  const isRunning = isOpen && last?.slot === slot?.wall;
  return slot && isRunning && now.getTime() - Date.parse(slot.at) < patienceMs ? before(Date.parse(slot.at) - 1) : slot;
}

/** Why an instance may have no backup since this slot. */
function whyNot({ last, paused, since }: Schedule, { at, wall }: Slot): { why: string; isPaused: boolean } {
  const due = Date.parse(at);
  const isPaused = paused !== undefined && !(last && Date.parse(last.at) >= due);
  if (isPaused) return { why: 'and is paused', isPaused };
  if (last?.slot === wall)
    return { why: `and its run made no backup of it: lxstow run show ${last.run} --children`, isPaused };
  if (last && Date.parse(last.at) > due) return { why: 'and no backup of it was made then, or since', isPaused };
  return { why: Date.parse(since) > due ? 'while it was paused' : 'and did not run', isPaused };
}

/** Whether a schedule covers an instance. For a selector with `match`, the hosts' answers decide, because the records do not contain the values to match. */
function coverOf({ name, definition }: Schedule, matches: (address: Address) => boolean): Expectation['covers'] {
  const { remotes, ...selector } = definition.selector ?? {};
  const { projects, exclude = [], match = [] } = selector;
  const means = meaningOf({
    ...(match.length === 0 ? selector : { exclude, ...(projects && { projects }) }),
    schedule: name,
  });
  return (address, { seen }) => {
    if (remotes && !remotes.includes(address.remote)) return false;
    const config = seen?.schedules && { [scheduleKey]: seen.schedules.join(',') };
    if (means({ name: address.instance, project: address.project, config })) return true;
    return match.length > 0 && matches(address);
  };
}
