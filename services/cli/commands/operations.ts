/** `lxstow operations` and `cancel`. */
import { sleep } from '../../concurrency/sleep.ts';
import { listOperations, WatchedOperations } from '../client/following/watchedOperations.ts';
import { type ShownOperation, Unreachable } from '../client/gatewayClient.ts';
import { Gateways, subjectOf } from '../client/names.ts';
import { CliError, type Exit, exits } from '../exit.ts';
import { type Format, json, people, print, say, size, time } from '../terminal/output.ts';
import { clock } from '../terminal/progress.ts';
import { printable } from '../terminal/table.ts';

interface OperationsOptions {
  project?: string;
  allProjects?: boolean;
  format: Format;
}

const heading = ['ID', 'STATUS', 'DESCRIPTION', 'OF', 'PROGRESS', 'CREATED (UTC)'];
const lookEveryMs = 1000;

export async function operationsCommand(remote: string | undefined, options: OperationsOptions): Promise<Exit> {
  using gateways = new Gateways();
  const found = await listOperations(await gateways.get(remote), options, say);
  print(options.format, { ...tableOf(found), raw: found, empty: 'there are no operations' });
  return exits.ok;
}

/** The table of operations; it has a column for hosts if there are several. */
export function tableOf(found: ShownOperation[]): { heading: string[]; rows: string[][] } {
  // Tokens have no host.
  const hosts = new Set(found.map(({ location }) => location).filter((location) => location !== 'none'));
  if (hosts.size <= 1) return { heading, rows: found.map(row) };
  return { heading: ['HOST', ...heading], rows: found.map((each) => [each.location ?? '-', ...row(each)]) };
}

/** Shows one operation with all its fields. */
export async function showCommand(text: string, { format }: { format: Format }): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, id } = await gateways.withId(text);
  const found: ShownOperation = await gateway.ask('GET', ['operations', id]);
  if (format === 'table') process.stdout.write(people(found));
  else print(format, { heading, rows: [row(found)], raw: found, empty: '' });
  return exits.ok;
}

/** Follows operations until Ctrl-C: on a terminal, redraws the unfinished ones; elsewhere, prints a line or JSON for each change. */
export async function watchCommand(remote: string | undefined, options: OperationsOptions): Promise<Exit> {
  using gateways = new Gateways();
  const gateway = await gateways.get(remote);
  using operations = new WatchedOperations(gateway, options);
  const stop = new AbortController();
  process.once('SIGINT', () => stop.abort());
  const show = process.stdout.isTTY && process.env.TERM !== 'dumb' ? screen() : changes(options.format);
  // The reader may be gone: `lxstow operations watch | head -1`.
  while (!stop.signal.aborted && !process.stdout.errored) {
    try {
      show(await operations.current());
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      say(`${error.message}; still trying`);
    }
    await sleep(lookEveryMs, stop.signal);
  }
  return process.stdout.errored ? exits.ok : exits.interrupted;
}

function screen(): (found: ShownOperation[]) => void {
  return (found) => {
    const open = found.filter(({ status_code }) => status_code < 200);
    process.stdout.write('\x1b[H\x1b[J');
    print('table', { heading, rows: open.map(row), raw: open, empty: 'nothing is under way' });
  };
}

function changes(format: Format): (found: ShownOperation[]) => void {
  const said = new Map<string, string>();
  let first = true;
  return (found) => {
    for (const each of found) {
      const { stage, waiting_for } = each.metadata;
      const what = stage ?? (waiting_for === undefined ? '' : `waiting for ${waiting_for}`);
      const now = `${each.status} ${each.status_code < 200 ? what : ''}`.trim();
      const before = said.get(each.id);
      said.set(each.id, now);
      // Operations that had ended before are not printed.
      if (before === now || (first && each.status_code >= 200)) continue;
      if (format === 'json') process.stdout.write(`${json(each)}\n`);
      else if (format === 'table') process.stdout.write(`${printable(line(each, now))}\n`);
      else print(format, { heading, rows: [row(each)], raw: [each], empty: '' });
    }
    first = false;
  };
}

export async function cancelCommand(ids: string[]): Promise<Exit> {
  using gateways = new Gateways();
  let worst: Exit = exits.ok;
  for (const text of ids) {
    const { gateway, id } = await gateways.withId(text);
    try {
      await gateway.ask('DELETE', ['operations', id]);
      process.stdout.write(`${id} is being cancelled\n`);
    } catch (error) {
      if (!(error instanceof CliError)) throw error;
      const named = new CliError(error.exit, error.message.includes(id) ? error.message : `${id}: ${error.message}`, {
        hint: error.hint ?? 'lxstow operations',
        cause: error,
      });
      if (ids.length === 1) throw named;
      say(named.message);
      worst = exits.failed;
    }
  }
  return worst;
}

function row(operation: ShownOperation): string[] {
  const { id, status, description, created_at } = operation;
  return [id, status, description, subject(operation), progress(operation), time(created_at)];
}

function line(operation: ShownOperation, state: string): string {
  const { updated_at, id, description, err } = operation;
  return `${time(updated_at)}  ${id}  ${description} ${subject(operation)}: ${state} ${err}`.trim();
}

/** `c1`, and in other projects `c1 (web)`. */
function subject(operation: ShownOperation): string {
  const { instance, project } = subjectOf(operation) ?? { instance: '-', project: 'default' };
  return project === 'default' ? instance : `${instance} (${project})`;
}

function progress({ status, metadata }: ShownOperation): string {
  const { stage, bytes_done: done, bytes_total: total, bytes_per_second: rate, waiting_for } = metadata ?? {};
  if (status === 'Pending' && waiting_for !== undefined) return `waiting for ${waiting_for}`;
  if (status !== 'Running' || !stage) return '-';
  if (done === undefined || !total) return stage;
  const left = rate ? `, ${size(rate)}/s, ${clock((total - done) / rate)} left` : '';
  return `${stage} ${Math.floor((done * 100) / total)}%${left}`;
}
