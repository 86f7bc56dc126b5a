/** When a schedule is due: cron's five fields, in a time zone. Pure. */
import { Temporal } from 'temporal-polyfill';
import { hourMs } from '../contract/durations.ts';
import { LxstowError } from '../contract/errors.ts';

/** A parsed rule: the minutes, hours, days, months and weekdays that match. */
export interface Cron {
  minutes: number[];
  hours: number[];
  days: number[];
  months: number[];
  /** Monday is 1, Sunday 7. */
  weekdays: number[];
  /** True if both days and weekdays are given: a date then has to match only one of them. */
  either: boolean;
}

/** A time at which a schedule is due. */
export interface Slot {
  /** RFC 3339, with the zone's offset at that time. */
  at: string;
  /** The local time according to the rule, which identifies the slot: `2026-10-25T02:30`. If the rule means every hour, with the offset. */
  wall: string;
}

interface SlotTime {
  at: Temporal.ZonedDateTime;
  wall: string;
}

const words: Record<string, string> = {
  '@hourly': '0 * * * *',
  '@daily': '0 0 * * *',
  '@midnight': '0 0 * * *',
  '@weekly': '0 0 * * 0',
  '@monthly': '0 0 1 * *',
  '@yearly': '0 0 1 1 *',
  '@annually': '0 0 1 1 *',
};
const monthNames = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'];
const weekdayNames = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];
/** How far to search: a 29 February on a given weekday comes once in 28 years, or, across 2100, once in 40. */
const mostDays = 366 * 41;
const minuteMs = 60_000;

/** Throws bad-request, naming the field that is wrong. */
export function parseCron(text: string): Cron {
  const word = text.trim().toLowerCase();
  const fields = ((Object.hasOwn(words, word) && words[word]) || text).trim().split(/\s+/);
  const [minute = '', hour = '', day = '', month = '', weekday = ''] = fields;
  if (fields.length !== 5)
    throw new LxstowError(
      'bad-request',
      `cron: ${JSON.stringify(text)} has ${fields.length} fields; give five, such as 0 3 * * *, or a word, such as @daily`,
    );
  const weekdays = numbersOf(weekday, 'weekday', 0, 7, weekdayNames).map((each) => each || 7);
  const cron = {
    minutes: numbersOf(minute, 'minute', 0, 59),
    hours: numbersOf(hour, 'hour', 0, 23),
    days: numbersOf(day, 'day', 1, 31),
    months: numbersOf(month, 'month', 1, 12, monthNames, 1),
    weekdays: [...new Set(weekdays)],
    either: !day.startsWith('*') && !weekday.startsWith('*'),
  };
  if (!dayFrom(cron, new Temporal.PlainDate(1970, 1, 1)))
    throw new LxstowError('bad-request', `cron: ${text} is never due`);
  return cron;
}

function numbersOf(field: string, what: string, low: number, high: number, names: string[] = [], first = 0): number[] {
  const found = new Set<number>();
  const refuse = (part: string): never => {
    throw new LxstowError('bad-request', `cron: ${JSON.stringify(part)} is not a ${what} from ${low} to ${high}`);
  };
  for (const part of field.toLowerCase().split(',')) {
    const [, range = '', step = '1'] = /^(\*|\w+(?:-\w+)?)(?:\/([1-9]\d?))?$/.exec(part) ?? refuse(part);
    const number = (word: string) => {
      const named = names.indexOf(word);
      const value = named >= 0 ? named + first : /^\d{1,2}$/.test(word) ? Number(word) : refuse(part);
      return value >= low && value <= high ? value : refuse(part);
    };
    const [from = '', to] = range.split('-');
    const begin = range === '*' ? low : number(from);
    const end = range === '*' || (to === undefined && part.includes('/')) ? high : number(to ?? from);
    if (end < begin) refuse(part);
    for (let each = begin; each <= end; each += Number(step)) found.add(each);
  }
  return [...found].sort((a, b) => a - b);
}

/**
 * The first slot later than `after`; undefined for a rule that is never due. A time that is skipped is due at the first moment after the gap; a time that comes
 * twice is due only the first time. A rule that means every hour is due both times.
 */
export function nextSlot(cron: Cron, zone: string, after: Date): Slot | undefined {
  const from = Temporal.Instant.fromEpochMilliseconds(after.getTime()).toZonedDateTimeISO(zone);
  const found = cron.hours.length === 24 ? nextOfEachHour(cron, from) : nextOfDay(cron, from);
  return found && { at: found.at.toString({ timeZoneName: 'never', smallestUnit: 'second' }), wall: found.wall };
}

/** The last slot that is later than `after` and not later than `until`. */
export function lastSlot(cron: Cron, zone: string, after: Date, until: Date): Slot | undefined {
  const [begin, end] = [after.getTime(), until.getTime()];
  const slotBehind = (ms: number) => {
    const next = nextSlot(cron, zone, new Date(ms));
    return next && Date.parse(next.at) <= end ? next : undefined;
  };
  const first = slotBehind(begin);
  if (!first) return undefined;
  let found: Slot | undefined;
  let [low, high] = [end, end];
  // Most rules are due often: look back a little at first.
  for (let backMs = hourMs; !found; backMs *= 8) {
    [low, high] = [Math.max(begin, end - backMs), low];
    found = low === begin ? first : slotBehind(low);
  }
  // None is later than `high`. Two slots are at least a minute apart.
  for (let middle = Date.parse(found.at); high - low >= minuteMs; middle = (low + high) / 2) {
    const next = slotBehind(middle);
    if (next) [found, low] = [next, Date.parse(next.at)];
    else high = middle;
  }
  return found;
}

/** The next slot, by local time, so that a time that comes twice counts only the first time. */
function nextOfDay(cron: Cron, after: Temporal.ZonedDateTime): SlotTime | undefined {
  const today = after.toPlainDate();
  const passed = after.hour * 60 + after.minute;
  for (let date = dayFrom(cron, today); date; date = dayFrom(cron, date.add({ days: 1 }))) {
    const isToday = date.equals(today);
    for (const hour of cron.hours)
      for (const minute of cron.minutes) {
        if (isToday && hour * 60 + minute <= passed) continue;
        const time = date.toPlainDateTime({ hour, minute });
        const at = firstAt(time, after.timeZoneId);
        if (Temporal.ZonedDateTime.compare(at, after) > 0) return { at, wall: wallOf(time) };
      }
  }
  return undefined;
}

/** The first moment at which clocks in the zone show this time, or a later one. */
function firstAt(time: Temporal.PlainDateTime, zone: string): Temporal.ZonedDateTime {
  const at = time.toZonedDateTime(zone, { disambiguation: 'earlier' });
  return at.toPlainDateTime().equals(time) ? at : (at.getTimeZoneTransition('next') ?? at);
}

function nextOfEachHour(cron: Cron, after: Temporal.ZonedDateTime): SlotTime | undefined {
  let at = after.round({ smallestUnit: 'minute', roundingMode: 'floor' }).add({ minutes: 1 });
  for (;;) {
    const date = at.toPlainDate();
    const day = dayFrom(cron, date);
    if (!day) return undefined;
    if (!day.equals(date)) at = day.toZonedDateTime(after.timeZoneId);
    else if (!cron.minutes.includes(at.minute)) {
      // Clocks that change by less than an hour do so at the end of one.
      const minute = cron.minutes.find((each) => each > at.minute) ?? 60;
      at = at.add({ minutes: minute - at.minute });
    } else return { at, wall: `${wallOf(at.toPlainDateTime())}${at.offset}` };
  }
}

/** The first matching day from this one on; undefined if no day ever matches. Calculates with plain numbers, because the day may be 15 000 days away. */
function dayFrom(cron: Cron, { year, month, day }: Temporal.PlainDate): Temporal.PlainDate | undefined {
  const date = new Date(Date.UTC(year, month - 1, day));
  for (let count = 0; count < mostDays; count++) {
    const each = { year: date.getUTCFullYear(), month: date.getUTCMonth() + 1, day: date.getUTCDate() };
    if (fitsDay(cron, each.month, each.day, date.getUTCDay() || 7)) return Temporal.PlainDate.from(each);
    if (cron.months.includes(each.month)) date.setUTCDate(each.day + 1);
    else date.setUTCMonth(each.month, 1);
  }
  return undefined;
}

function wallOf(time: Temporal.PlainDateTime): string {
  return time.toString({ smallestUnit: 'minute' });
}

function fitsDay({ days, months, weekdays, either }: Cron, month: number, day: number, weekday: number): boolean {
  if (!months.includes(month)) return false;
  const [byDay, byWeekday] = [days.includes(day), weekdays.includes(weekday)];
  return either ? byDay || byWeekday : byDay && byWeekday;
}
