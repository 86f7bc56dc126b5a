/** Simulates which backups a rule would have kept if they had been made and pruned regularly. Pure. */
import { Temporal } from 'temporal-polyfill';
import { parseDuration } from '../contract/durations.ts';
import { LxstowError } from '../contract/errors.ts';
import type { KeepRule } from '../contract/schemas.ts';
import { nextSlot, parseCron } from '../schedules/cron.ts';
import { type Candidate, checkRule, durationOf, judge } from './keep.ts';

/** When backups are made: by a cron rule, or at a fixed interval. */
export type Pace = { cron: string } | { every: string };

export interface Simulated extends Pick<Candidate, 'created'> {
  action: 'keep' | 'delete';
  reasons: string[];
}

/** The largest number of backups; judging more would take minutes. */
const mostBackups = 100_000;

/**
 * The backups of `span` (such as `1y` or `90d`) up to `now`, oldest first. The rule is applied once, at the end: applied after each backup, it would keep the same
 * ones. Throws bad-request.
 */
export function simulate(pace: Pace, rule: KeepRule, span: string, now: Date): Simulated[] {
  checkRule(rule);
  const { zone = 'UTC' } = rule;
  const end = Temporal.Instant.fromEpochMilliseconds(now.getTime()).toZonedDateTimeISO(zone);
  const begin = new Date(end.subtract(spanOf(span)).epochMilliseconds);
  const backups: Candidate[] = [];
  for (const at of 'cron' in pace ? byCron(pace.cron, zone, begin, now) : byPeriod(pace.every, begin, now)) {
    if (backups.length >= mostBackups)
      throw new LxstowError('bad-request', `more than ${mostBackups} backups in ${span}: simulate a shorter time`);
    const created = Temporal.Instant.from(at)
      .toZonedDateTimeISO(zone)
      .toString({ timeZoneName: 'never', smallestUnit: 'second' });
    backups.push({ name: created, created, tags: {}, pinned: false, locked_until: null });
  }
  return judge(backups, rule, now).map(({ backup: { created }, action, reasons }) => ({ created, action, reasons }));
}

function spanOf(text: string): Temporal.Duration {
  const span = durationOf(text);
  if (span.blank) throw new LxstowError('bad-request', `${text}: how long? For example 1y, 6m or 90d`);
  return span;
}

function* byCron(text: string, zone: string, begin: Date, end: Date): Generator<string> {
  const cron = parseCron(text);
  for (let from = begin; ; ) {
    const slot = nextSlot(cron, zone, from);
    if (!slot || Date.parse(slot.at) > end.getTime()) return;
    yield slot.at;
    from = new Date(slot.at);
  }
}

function* byPeriod(text: string, begin: Date, end: Date): Generator<string> {
  const stepMs = parseDuration(text, 'mhdw');
  if (!(stepMs > 0)) throw new LxstowError('bad-request', `every ${text}: give it as 30m, 6h, 1d or 2w`);
  for (let at = begin.getTime() + stepMs; at <= end.getTime(); at += stepMs) yield new Date(at).toISOString();
}
