/** Derives an instance's state and its reason from its record, the time, and what schedules expect or the greatest age of a backup. Pure. */
import { minuteText } from '../contract/durations.ts';
import type { Address, GoodBackup, InstanceRecord, InstanceStatus, NamedInstance } from '../contract/schemas.ts';
import type { Expectation } from './expectations.ts';
import { isLater } from './instanceRecord.ts';

type InstanceState = InstanceStatus['state'];

/** States that need action, the worst first. */
const redStates = ['never', 'failing', 'overdue'] as const satisfies InstanceState[];
export const instanceStates = [...redStates, 'ok', 'excluded', 'gone'] as const satisfies InstanceState[];

interface Yardstick {
  now: Date;
  maxAgeMs: number;
  /** Whether the client may learn that this project exists. */
  mayName: (project: string) => boolean;
  /** Expectations of schedules. They replace `maxAgeMs` for the instances that they cover. */
  expectations?: Expectation[];
  /** Judge by `maxAgeMs` alone. */
  byAge?: boolean;
  /** Whether the client may see the schedule of an expectation. */
  maySee?: (expectation: Expectation) => boolean;
}

export function isRed(state: InstanceState): boolean {
  return (redStates as readonly InstanceState[]).includes(state);
}

/** The instance as `lxstow status` shows it. */
export function statusOf(address: Address, record: InstanceRecord, yardstick: Yardstick): InstanceStatus {
  const { expectations = [], maySee = () => true } = yardstick;
  const isJudged = !record.seen?.gone && !record.seen?.excluded;
  const covering = isJudged ? expectations.filter(({ covers }) => covers(address, record)) : [];
  const { state, reason } = judge(record, yardstick, address.project, covering);
  const { remote: host, project, instance } = address;
  const schedules = covering.filter(maySee).map(({ schedule }) => schedule);
  const fields = { host, project, instance, state, last_success: record.good?.at ?? null, reason };
  return { ...fields, ...(schedules.length > 0 && { schedules }) };
}

function judge(
  { seen, good, last }: InstanceRecord,
  yardstick: Yardstick,
  project: string,
  covering: Expectation[],
): Pick<InstanceStatus, 'state' | 'reason'> {
  const { now, maxAgeMs, mayName } = yardstick;
  const named = (other: NamedInstance) => {
    if (other.project === project) return other.instance;
    return mayName(other.project) ? `${other.instance} of project ${other.project}` : 'in another project';
  };
  if (seen?.gone) {
    const where = seen.renamed ? `it is ${named(seen.renamed)} now` : 'LXD does not have it';
    return { state: 'gone', reason: `${where}, since ${minuteText(seen.gone)} or a little before` };
  }
  if (seen?.excluded) return { state: 'excluded', reason: 'user.lxstow.exclude is true' };
  const before = seen?.was ? ` under this name; it was ${named(seen.was)}` : '';
  if (last?.outcome === 'failure' && !(good && isLater(good, last, now))) {
    const otherwise = good ? '' : '; it has no backup';
    return {
      state: 'failing',
      reason: `the last backup failed, ${minuteText(last.at)}: ${last.reason ?? ''}${otherwise}`,
    };
  }
  if (!good) return { state: 'never', reason: `it has no backup${before}` };
  if (isMisdated(good, yardstick))
    return { state: 'overdue', reason: `its last backup is dated ${minuteText(good.at)}, in the future` };
  if (covering.length > 0 && !yardstick.byAge) return bySchedules(good, covering, yardstick);
  const ageMs = now.getTime() - Date.parse(good.at);
  if (ageMs > maxAgeMs) return { state: 'overdue', reason: `its last backup is ${age(ageMs)} old` };
  return { state: 'ok', reason: '' };
}

/** Whether a backup is dated so far in the future, by a wrong clock, that its date does not show that it is recent. */
export function isMisdated({ at }: GoodBackup, { now, maxAgeMs }: Pick<Yardstick, 'now' | 'maxAgeMs'>): boolean {
  return Date.parse(at) - now.getTime() > maxAgeMs;
}

function bySchedules(
  good: GoodBackup,
  covering: Expectation[],
  { maySee = () => true }: Yardstick,
): Pick<InstanceStatus, 'state' | 'reason'> {
  const missed = covering.find(({ owed }) => owed && Date.parse(good.at) < owed.fromMs);
  const cause = missed ?? covering.find(({ paused }) => paused);
  if (!cause) return { state: 'ok', reason: '' };
  const { schedule, owed, paused } = cause;
  const name = maySee(cause) ? `schedule ${schedule}` : 'a schedule';
  const since = paused && maySee(cause) ? pausedSince(paused) : '';
  if (!missed) return { state: 'ok', reason: `${name} is paused${since}` };
  return { state: 'overdue', reason: `${name} was due ${owed?.when} ${owed?.why}${owed?.isPaused ? since : ''}` };
}

function pausedSince({ since, reason }: NonNullable<Expectation['paused']>): string {
  return ` since ${minuteText(since)}${reason === undefined ? '' : `: ${reason}`}`;
}

/** In ms, the time before which an instance's youngest backup is too old by the schedules that cover it; undefined if none does. */
export function expectedFrom(
  address: Address,
  record: InstanceRecord,
  expectations: Expectation[],
): number | undefined {
  const covering = expectations.filter(({ covers }) => covers(address, record));
  return covering.length === 0 ? undefined : Math.max(...covering.map(({ owed }) => owed?.fromMs ?? 0));
}

function age(ms: number): string {
  const hours = Math.floor(ms / 3_600_000);
  if (hours >= 72) return `${Math.floor(hours / 24)} days`;
  return hours >= 2 ? `${hours} h` : `${Math.floor(ms / 60_000)} min`;
}
