/** A run in words: its progress, and how it ended. */
import type { ShownRun, ShownRunChild } from '../../contract/schemas.ts';
import { size, time } from './output.ts';
import { clock } from './progress.ts';
import { namesOf, printable } from './table.ts';

export const runHeading = [
  'ID',
  'STATUS',
  'TOTAL',
  'SUCCESS',
  'FAILURE',
  'SKIPPED',
  'CANCELLED',
  'SIZE',
  'BEGUN (UTC)',
];

export function runRow({ id, status, counts, bytes, created_at }: ShownRun): string[] {
  const { total, success, failure, skipped, cancelled } = counts;
  return [id, status, ...[total, success, failure, skipped, cancelled].map(String), size(bytes), time(created_at)];
}

/** `Running: 12 of 60 done, 1 failed, 2 at work, 1.20GiB, 3:10 left` */
export function runProgress({ status, counts, bytes, seconds_left, away }: ShownRun): string {
  const { total, success, failure, skipped, cancelled, running } = counts;
  const parts = [`${success + failure + skipped + cancelled} of ${total} done`];
  parts.push(...counted([failure, 'failed'], [skipped, 'skipped'], [cancelled, 'cancelled'], [running, 'at work']));
  if (bytes > 0) parts.push(size(bytes));
  if (seconds_left !== undefined) parts.push(`${clock(seconds_left)} left`);
  for (const { remote, since, reason } of away)
    parts.push(`waits for host ${remote} since ${time(since)} UTC: ${printable(reason)}`);
  return `${status}: ${parts.join(', ')}`;
}

/** Reasons that are printed; `lxstow run report` has all. */
const mostReasons = 5;

/** `57 of 60 backed up, 2 skipped, 1 failed: web1: no space left on device`. `skipped`: some of those children. */
export function runOutcome(run: ShownRun, skipped: ShownRunChild[]): string {
  const { id, counts, excluded, failures, note } = run;
  const said = [
    `${counts.success} of ${counts.total} backed up`,
    ...counted([counts.skipped, 'skipped'], [counts.cancelled, 'cancelled'], [counts.failure, 'failed']),
    ...counted([excluded, 'excluded by user.lxstow.exclude']),
    ...(note === undefined ? [] : [printable(note)]),
  ].join(', ');
  const unlike = [...failures, ...skipped.map((child) => ({ ...child, reason: `skipped: ${child.reason}` }))];
  const places = new Set(unlike.map(({ remote, project }) => `${remote}/${project}`));
  const groups = [...Map.groupBy(unlike, ({ reason }) => reason)].map(([reason = '', those]) => {
    const names = those.map(({ remote, project, instance }) =>
      places.size > 1 ? `${instance} (${remote}, ${project})` : instance,
    );
    return printable(those[0]?.instance ? `${namesOf(names)}: ${reason}` : reason);
  });
  const reasons = groups.slice(0, mostReasons);
  if (groups.length > mostReasons || counts.failure > failures.length || counts.skipped > skipped.length)
    reasons.push(`and more: lxstow run report ${id}`);
  const [only, another] = reasons;
  if (another !== undefined) return [`${said}:`, ...reasons].join('\n  ');
  return only === undefined ? said : `${said}: ${only}`;
}

function counted(...parts: [count: number, what: string][]): string[] {
  return parts.flatMap(([count, what]) => (count > 0 ? [`${count} ${what}`] : []));
}
