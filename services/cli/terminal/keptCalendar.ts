/** A calendar of the backups that a rule keeps: a line for each month, a character for each day. */
import type { Simulated } from '../../retention/simulate.ts';

/** Kinds of reasons for which a backup is kept, those of the longest period first, recognised by how the reason begins or ends. */
const marks = [
  ['y', 'yearly', /^yearly /],
  ['m', 'monthly', /^monthly /],
  ['w', 'weekly', /^weekly /],
  ['d', 'daily', /^daily /],
  ['h', 'hourly', /^hourly /],
  ['t', 'within a time', /^within /],
  ['l', 'last', /^(last |all$)/],
  ['o', 'oldest', /^oldest, /],
  ['n', 'newest', /^newest /],
] as const;
const gone = '.';

/** `found`: the oldest first, with times in the rule's zone. */
export function keptCalendar(found: Simulated[]): string {
  const kept = found.filter(({ action }) => action === 'keep');
  const months = [...Map.groupBy(found, ({ created }) => created.slice(0, 7))];
  const lines = months.map(([month, of]) => `${month}  ${daysOf(of)}`.trimEnd());
  const used = marks.filter(([mark]) => kept.some((each) => markOf(each) === mark));
  const counts = marks
    .map(([, word, pattern]) => [word, kept.filter(({ reasons }) => reasons.some((each) => pattern.test(each))).length])
    .filter(([, count]) => count !== 0)
    .map(([word, count]) => `${count} ${word}`);
  const legend = [...used.map(([mark, word]) => `${mark} ${word}`), `${gone} deleted`];
  return [
    `         ${'1         11        21        31'}`,
    ...lines,
    '',
    `${legend.join(', ')}; a capital: several of that day`,
    `${kept.length} of ${found.length} backups are kept${counts.length > 0 ? `: ${counts.join(', ')}` : ''}`,
    '',
  ].join('\n');
}

function daysOf(of: Simulated[]): string {
  const days = Map.groupBy(of, ({ created }) => Number(created.slice(8, 10)));
  return Array.from({ length: 31 }, (_, index) => characterOf(days.get(index + 1))).join('');
}

function characterOf(day: Simulated[] | undefined): string {
  if (!day) return ' ';
  const kept = day.filter(({ action }) => action === 'keep').map(markOf);
  const longest = marks.find(([mark]) => kept.includes(mark))?.[0] ?? gone;
  return kept.length > 1 ? longest.toUpperCase() : longest;
}

/** A backup that is kept for several reasons has the mark of the longest period. */
function markOf({ reasons }: Simulated): string {
  return marks.find(([, , pattern]) => reasons.some((each) => pattern.test(each)))?.[0] ?? gone;
}
