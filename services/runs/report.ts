/** A run's report for people. Pure. */
import type { RunChild, ShownRun, ShownRunChild } from '../contract/schemas.ts';

/** A run, and its children that did not succeed. */
interface RunReport extends ShownRun {
  children: ShownRunChild[];
}

const headings: Partial<Record<RunChild['state'], string>> = {
  failure: 'Failed',
  skipped: 'Skipped',
  cancelled: 'Cancelled',
  running: 'At work',
  pending: 'Waiting',
};
/** Most lines for each state; the JSON has all children. */
const mostLines = 200;

/** The report as Markdown, which mail, chats and ntfy render. */
export function markdownOf({ children, ...run }: RunReport, sizeOf: (bytes: number) => string): string {
  const { id, status, counts, bytes, created_at, ended_at, away, excluded, note } = run;
  const seconds = Math.round((Date.parse(ended_at ?? run.updated_at) - Date.parse(created_at)) / 1000);
  const lines = [
    `# Backups: ${status}, ${counts.success} of ${counts.total}`,
    '',
    `Run ${id}, begun ${created_at.slice(0, 19)}Z, ${ended_at ? `ended after ${seconds} s` : `${seconds} s so far`}, ${sizeOf(bytes)} stored.`,
    '',
    '| success | failure | skipped | cancelled | running | pending |',
    '|--:|--:|--:|--:|--:|--:|',
    `| ${counts.success} | ${counts.failure} | ${counts.skipped} | ${counts.cancelled} | ${counts.running} | ${counts.pending} |`,
  ];
  if (excluded > 0) lines.push('', `${excluded} left out: user.lxstow.exclude=true.`);
  if (note !== undefined) lines.push('', `${escaped(note)}.`);
  const remotes = run.failures.filter(({ instance }) => instance === '');
  for (const { reason } of remotes) lines.push('', `**${escaped(reason)}**`);
  for (const { remote, since, reason } of away)
    lines.push('', `Waits for host ${remote} since ${since.slice(0, 19)}Z: ${escaped(reason)}`);
  for (const [state, heading] of Object.entries(headings)) {
    const those = children.filter((child) => child.state === state);
    if (those.length === 0) continue;
    lines.push('', `## ${heading}`, '');
    for (const { remote, project, instance, reason } of those.slice(0, mostLines))
      lines.push(`- ${instance} (${remote}, ${project})${reason ? `: ${escaped(reason)}` : ''}`);
    if (those.length > mostLines) lines.push(`- and ${those.length - mostLines} more`);
  }
  return `${lines.join('\n')}\n`;
}

/** Escapes text from elsewhere for one line of Markdown. */
function escaped(text: string): string {
  return text.replaceAll(/\s+/g, ' ').replaceAll(/[\\`*_[\]<>|#]/g, '\\$&');
}
