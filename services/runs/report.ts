/** What became of a run, for people. Pure. */
import type { RunChild, ShownRun, ShownRunChild } from '../contract/schemas.ts';

/** A run, and of its children those that are not a success. */
export interface RunReport extends ShownRun {
  children: ShownRunChild[];
}

const headings: Partial<Record<RunChild['state'], string>> = {
  failure: 'Failed',
  skipped: 'Skipped',
  cancelled: 'Cancelled',
  running: 'At work',
  pending: 'Waiting',
};
/** Of each state; the JSON has all. */
const mostLines = 200;

/** As Markdown, which mail, chats and ntfy show. */
export function markdownOf({ children, ...run }: RunReport, sizeOf: (bytes: number) => string): string {
  const { id, status, counts, bytes, created_at, ended_at, away, excluded } = run;
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
  const remotes = run.failures.filter(({ instance }) => instance === '');
  for (const { reason } of remotes) lines.push('', `**${escaped(reason)}**`);
  for (const { remote, since, reason } of away)
    lines.push('', `Waits for remote ${remote} since ${since.slice(0, 19)}Z: ${escaped(reason)}`);
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

/** Text from elsewhere, on one line, that is not taken for Markdown. */
function escaped(text: string): string {
  return text.replaceAll(/\s+/g, ' ').replaceAll(/[\\`*_[\]<>|#]/g, '\\$&');
}
