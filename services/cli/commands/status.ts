/** `lxstow status`: prints a line for each instance, those that need attention first. */
import { parseDuration } from '../../contract/durations.ts';
import type { InstanceStatus } from '../../contract/schemas.ts';
import { instanceStates, isRed } from '../../fleet/judge.ts';
import { Gateways } from '../client/names.ts';
import { CliError, type Exit, exits } from '../exit.ts';
import { type Format, print, say, time } from '../terminal/output.ts';
import { printable } from '../terminal/table.ts';

interface StatusOptions {
  project?: string;
  target?: string;
  olderThan?: string;
  summary?: boolean;
  format: Format;
}

const heading = ['STATE', 'HOST', 'PROJECT', 'INSTANCE', 'LAST BACKUP (UTC)', 'SCHEDULES', 'REASON'];

/** Returns 1 if an instance needs attention. */
export async function statusCommand(text: string | undefined, options: StatusOptions): Promise<Exit> {
  const { project, target, olderThan, summary = false, format } = options;
  if (olderThan !== undefined && Number.isNaN(parseDuration(olderThan, 'mhd')))
    throw new CliError(exits.usage, `--older-than: ${JSON.stringify(olderThan)} is not a time span`, {
      hint: 'give it as 26h, 90m or 8d',
    });
  using gateways = new Gateways();
  const gateway = await gateways.get(text);
  const where = project === undefined ? { 'all-projects': 'true' } : { project };
  const query = { ...where, recursion: '1', target, 'older-than': olderThan };
  const found: InstanceStatus[] = await gateway.ask('GET', ['status'], { query, onWarning: say });
  const rank = ({ state }: InstanceStatus) => instanceStates.indexOf(state);
  // Within a state, keep the gateway's order: by host, project and name.
  const sorted = found.toSorted((a, b) => rank(a) - rank(b));
  const rows = sorted.map(({ state, host, project, instance, last_success, schedules = [], reason }) => [
    ...[state, host, project, instance],
    ...[last_success === null ? '-' : time(last_success), schedules.join(','), reason],
  ]);
  if (summary) process.stdout.write(`${printable(summaryOf(sorted))}\n`);
  else print(format, { heading, rows, raw: sorted, empty: 'no instance is known yet' });
  return found.some(({ state }) => isRed(state)) ? exits.failed : exits.ok;
}

const mostNamed = 5;

/** `2 of 43 instances need attention: never web1, failing db1; 39 ok, 2 gone`: one line, for the morning's mail. */
function summaryOf(sorted: InstanceStatus[]): string {
  const states = [...Map.groupBy(sorted, ({ state }) => state)];
  const red = states.filter(([state]) => isRed(state));
  const others = states.filter(([state]) => !isRed(state)).map(([state, each]) => `${each.length} ${state}`);
  const named = red.map(([state, each]) => {
    const names = each.slice(0, mostNamed).map(({ instance }) => instance);
    const more = each.length > mostNamed ? ` and ${each.length - mostNamed} more` : '';
    return `${state} ${names.join(' ')}${more}`;
  });
  const count = red.reduce((sum, [, each]) => sum + each.length, 0);
  const of = `${count === 0 ? 'none' : count} of ${sorted.length} instances ${count > 1 ? 'need' : 'needs'} attention`;
  return [named.length > 0 ? `${of}: ${named.join(', ')}` : of, others.join(', ')].filter(Boolean).join('; ');
}
