/** Decides which backups of one instance a rule keeps, and why, as restic's `forget` does. Pure. */
import { Temporal } from 'temporal-polyfill';
import { isAhead, minuteText } from '../contract/durations.ts';
import { LxstowError } from '../contract/errors.ts';
import type { KeepRule, Tags } from '../contract/schemas.ts';
import { checkZone } from '../contract/zones.ts';

/** The facts about a backup that a rule considers. */
export interface Candidate {
  name: string;
  /** RFC 3339. */
  created: string;
  tags: Tags;
  pinned: boolean;
  /** RFC 3339; null if the backup was never locked. */
  locked_until: string | null;
}

export interface Verdict<C extends Candidate> {
  backup: C;
  action: 'keep' | 'delete';
  /** Why the backup is kept; empty if nothing keeps it. */
  reasons: string[];
}

type Time = Temporal.ZonedDateTime;

const two = (number: number) => String(number).padStart(2, '0');
const periods = [
  // With the offset, because the same hour comes twice when clocks go back.
  ['keep_hourly', 'hourly', (t: Time) => `${t.toPlainDate()} ${two(t.hour)}h ${t.offset}`],
  ['keep_daily', 'daily', (t: Time) => `${t.toPlainDate()}`],
  ['keep_weekly', 'weekly', (t: Time) => `${t.yearOfWeek}-W${two(t.weekOfYear ?? 0)}`],
  ['keep_monthly', 'monthly', (t: Time) => `${t.toPlainDate().toPlainYearMonth()}`],
  ['keep_yearly', 'yearly', (t: Time) => `${t.year}`],
] as const;

/** Throws bad-request for a rule that keeps nothing, and for an unknown time zone. */
export function checkRule(rule: KeepRule): void {
  const { keep_last = 0, keep_tags = [] } = rule;
  const counts = periods.map(([key]) => rule[key] ?? 0);
  const keeps =
    [keep_last, ...counts].some((count) => count !== 0) || keep_tags.length > 0 || !durationOf(rule.keep_within).blank;
  if (!keeps)
    throw new LxstowError('bad-request', 'keep: the rule keeps nothing; say what to keep, for example keep_daily: 14');
  checkZone(rule.zone ?? 'UTC', 'keep.zone');
}

/**
 * Judges the complete backups of one instance, in any order; returns them from the oldest to the newest. A period counts only if it has backups,
 * and its last backup is kept; the oldest backup of all stays while a count is not used up. A backup dated later than `now` stays and does not count, because a
 * wrong clock must not make the others look old. `rule` must have passed `checkRule`.
 */
export function judge<C extends Candidate>(backups: C[], rule: KeepRule, now: Date): Verdict<C>[] {
  const { zone = 'UTC', keep_last = 0, keep_within, keep_tags = [], min_good = 1 } = rule;
  const all = backups
    .map((backup) => ({
      backup,
      at: Temporal.Instant.from(backup.created).toZonedDateTimeISO(zone),
      reasons: protections(backup, now),
    }))
    .sort((a, b) => Temporal.ZonedDateTime.compare(b.at, a.at) || (a.backup.name < b.backup.name ? 1 : -1));
  const isFuture = ({ at }: { at: Time }) => isAhead(at.epochMilliseconds, now);
  for (const { reasons } of all.filter(isFuture)) reasons.push('created in the future');
  const newestFirst = all.filter((each) => !isFuture(each));
  const newest = newestFirst[0]?.at;
  const youngest = newest?.subtract(durationOf(keep_within));

  for (const [index, { backup, at, reasons }] of newestFirst.entries()) {
    if (keep_last < 0 || index < keep_last) reasons.push(keep_last < 0 ? 'all' : `last ${keep_last}`);
    if (youngest && Temporal.ZonedDateTime.compare(at, youngest) > 0) reasons.push(`within ${keep_within}`);
    for (const tag of keep_tags) if (hasTag(backup.tags, tag)) reasons.push(`tag ${tag}`);
  }
  for (const [key, word, periodOf] of periods) {
    let left = rule[key] ?? 0;
    let previous: string | undefined;
    for (const [index, { at, reasons }] of newestFirst.entries()) {
      if (left === 0) break;
      const period = periodOf(at);
      const isOldest = index === newestFirst.length - 1;
      if (period === previous && !isOldest) continue;
      reasons.push(period === previous ? `oldest, ${word}` : `${word} ${period}`);
      previous = period;
      left--;
    }
  }
  for (const { reasons } of newestFirst.slice(0, min_good))
    if (reasons.length === 0) reasons.push(`newest ${min_good}`);
  return all
    .map(({ backup, reasons }): Verdict<C> => ({ backup, action: reasons.length > 0 ? 'keep' : 'delete', reasons }))
    .reverse();
}

/** The time that `keep_within` counts back from; undefined without a backup. */
export function newestOf(backups: Candidate[], { zone = 'UTC' }: KeepRule, now: Date): Time | undefined {
  const times = backups
    .map(({ created }) => Temporal.Instant.from(created))
    .filter((at) => !isAhead(at.epochMilliseconds, now));
  return times.toSorted(Temporal.Instant.compare).at(-1)?.toZonedDateTimeISO(zone);
}

function protections({ pinned, locked_until }: Candidate, now: Date): string[] {
  const isLocked = locked_until !== null && Date.parse(locked_until) > now.getTime();
  return [...(pinned ? ['pinned'] : []), ...(isLocked ? [`locked until ${minuteText(locked_until)}`] : [])];
}

/** Parses `1y6m`, `14d`, `7d12h`; other text gives an empty duration. */
export function durationOf(text = '0h'): Temporal.Duration {
  const [, years, months, days, hours] =
    /^(?:(\d{1,4})y)?(?:(\d{1,4})m)?(?:(\d{1,4})d)?(?:(\d{1,4})h)?$/.exec(text)?.map((text = '0') => Number(text)) ??
    [];
  return new Temporal.Duration(years, months, 0, days, hours);
}

function hasTag(tags: Tags, wanted: string): boolean {
  const cut = wanted.indexOf('=');
  if (cut < 0) return Object.hasOwn(tags, wanted);
  return Object.hasOwn(tags, wanted.slice(0, cut)) && tags[wanted.slice(0, cut)] === wanted.slice(cut + 1);
}
