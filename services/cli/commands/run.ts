/** `lxstow run`: many backups as one thing. */
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { RunChildPage, RunPage, RunSelector, ShownRun, ShownRunChild } from '../../contract/schemas.ts';
import { markdownOf } from '../../runs/report.ts';
import { heedInterrupts } from '../client/follow.ts';
import { type Gateway, Unreachable } from '../client/gatewayClient.ts';
import { Gateways } from '../client/names.ts';
import { patiently } from '../client/patience.ts';
import { CliError, type Exit, exits, inOptions } from '../exit.ts';
import { tagsIn } from '../tagOptions.ts';
import { type Format, json, print, size, time } from '../terminal/output.ts';
import { clock, openProgress, type Progress } from '../terminal/progress.ts';
import { printable, printableLines } from '../terminal/table.ts';

export interface RunOptions {
  all?: boolean;
  selector: string[];
  project: string[];
  target: string[];
  exclude: string[];
  tag: string[];
  compression?: string;
  optimized?: boolean;
  instanceOnly?: boolean;
  notify?: string;
  id?: string;
  /** For how long to ask again, ms. */
  retry?: number;
  wait?: boolean;
  quiet?: boolean;
  format: Format;
}

const lookEveryMs = 1000;
/** Where progress is lines. */
const sayEveryMs = 10_000;
/** A gateway that is away for so long is given up. */
const patienceMs = 120_000;
const pageSize = 1000;

export async function runCommand(texts: string[], options: RunOptions): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, names } = await placed(gateways, texts);
  const { selector: match, exclude, target, tag, compression, optimized, instanceOnly, notify } = options;
  const projects =
    options.project.length > 0 ? options.project : gateway.remote.project ? [gateway.remote.project] : [];
  const selector: RunSelector = {
    ...(options.all && { all: true }),
    ...(names.length > 0 && { instances: names }),
    ...(match.length > 0 && { match }),
    ...(exclude.length > 0 && { exclude }),
    ...(projects.length > 0 && { projects }),
    ...(target.length > 0 && { remotes: target }),
  };
  if (!options.all && names.length === 0 && match.length === 0)
    throw new CliError(exits.usage, 'of which instances?', { hint: 'name some, or give --all or --selector' });
  const body = {
    // One that may have been begun, because only the answer was lost, is the same when it is asked for again.
    id: options.id ?? randomUUID(),
    selector,
    ...(tag.length > 0 && { tags: Object.fromEntries(tagsIn(tag)) }),
    ...(compression !== undefined && { compression_algorithm: compression }),
    ...(optimized !== undefined && { optimized_storage: optimized }),
    ...(instanceOnly !== undefined && { instance_only: instanceOnly }),
    ...(notify !== undefined && { notifyEndpoint: notify }),
  };
  return await begun(gateway, ['runs'], body, options);
}

export async function runRetryCommand(text: string, options: RunOptions): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, id } = await named(gateways, text);
  return await begun(gateway, ['runs', id, 'retry'], { id: options.id ?? randomUUID() }, options);
}

export async function runListCommand(remote: string | undefined, { format }: { format: Format }): Promise<Exit> {
  using gateways = new Gateways();
  const gateway = await gateways.get(remote?.replace(/:$/, ''));
  const { runs }: RunPage = await gateway.ask('GET', ['runs']);
  print(format, { heading, rows: runs.map(row), raw: runs, empty: 'there are no runs' });
  return exits.ok;
}

export async function runShowCommand(
  text: string,
  { children, state, format }: { children?: boolean; state?: string; format: Format },
): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, id } = await named(gateways, text);
  const run: ShownRun = await gateway.ask('GET', ['runs', id]);
  if (!children && state === undefined) {
    print(format, { heading, rows: [row(run)], raw: run, empty: '' });
    if (format === 'table') sayTroubles(run);
    return exits.ok;
  }
  const found = await childrenOf(gateway, id, state);
  print(format, {
    heading: ['TARGET', 'PROJECT', 'INSTANCE', 'STATE', 'BACKUP', 'SIZE', 'REASON'],
    rows: found.map(({ remote, project, instance, state, backup, bytes, reason }) => {
      const stored = bytes === undefined ? '-' : size(bytes);
      return [remote, project, instance, state, backup ?? '-', stored, reason ?? '-'];
    }),
    raw: found,
    empty: 'there are none',
  });
  return exits.ok;
}

/** Until it has ended, or Ctrl-C: that leaves it alone. */
export async function runWatchCommand(text: string, options: { quiet?: boolean; format: Format }): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, id } = await named(gateways, text);
  const stop = new AbortController();
  process.once('SIGINT', () => stop.abort());
  using progress = openProgress(options.quiet);
  const run = await untilEnded(gateway, id, progress, stop.signal, () => stop.signal.aborted);
  progress[Symbol.dispose]();
  return stop.signal.aborted ? exits.interrupted : told(run, options.format);
}

export async function runCancelCommand(text: string): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, id } = await named(gateways, text);
  await gateway.ask('DELETE', ['runs', id]);
  process.stdout.write(`${id} is being cancelled\n`);
  return exits.ok;
}

export async function runReportCommand(text: string, { format }: { format: 'markdown' | 'json' }): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, id } = await named(gateways, text);
  const run: ShownRun = await gateway.ask('GET', ['runs', id]);
  const children = (await childrenOf(gateway, id)).filter(({ state }) => state !== 'success');
  const report = { ...run, children };
  process.stdout.write(format === 'json' ? `${json(report, 2)}\n` : printableLines(markdownOf(report, size)));
  return exits.ok;
}

/** Asks for it, and waits where that is wanted: the first Ctrl-C has it cancelled. */
async function begun(gateway: Gateway, path: string[], body: { id: string }, options: RunOptions): Promise<Exit> {
  using progress = openProgress(options.quiet);
  const leaving = () => void process.stderr.write(`\nlxstow: left; not over yet: run ${body.id}\n`);
  using interrupts = heedInterrupts(leaving);
  const until = performance.now() + (options.retry ?? 0);
  const ask = () =>
    gateway.ask('POST', path, { body }).catch((error) => {
      if (error instanceof Unreachable) error.inDoubt = false;
      throw error;
    });
  const note = (text: string) => progress.note(text);
  await patiently(ask, { until, note, signal: interrupts.first }).catch((error) => {
    throw inOptions(error, optionsOf);
  });
  let asked = false;
  const cancelled = async () => {
    if (!interrupts.first.aborted || asked) return false;
    asked = true;
    progress.note('Asking the server to cancel. Ctrl-C once more leaves without waiting for it');
    await gateway.ask('DELETE', ['runs', body.id]);
    return false;
  };
  const run = options.wait
    ? await untilEnded(gateway, body.id, progress, interrupts.first, cancelled)
    : ((await gateway.ask('GET', ['runs', body.id])) as ShownRun);
  progress[Symbol.dispose]();
  const exit = told(run, options.format);
  return interrupts.first.aborted && exit !== exits.ok ? exits.interrupted : exit;
}

const optionsOf = { compression_algorithm: '--compression', notifyEndpoint: '--notify', tags: '--tag', id: '--id' };

/** Looks every second until it has ended, or `over` says so; a gateway that is away is asked again for two minutes. */
async function untilEnded(
  gateway: Gateway,
  id: string,
  progress: Progress,
  interrupt: AbortSignal,
  over: () => boolean | Promise<boolean>,
): Promise<ShownRun> {
  let [since, saidAt]: (number | undefined)[] = [];
  for (;;) {
    let run: ShownRun | undefined;
    try {
      const left = await over();
      run = (await gateway.ask('GET', ['runs', id])) as ShownRun;
      since = undefined;
      const ended = run.status_code >= 200;
      if (ended || process.stderr.isTTY || performance.now() - (saidAt ?? -sayEveryMs) >= sayEveryMs) {
        saidAt = performance.now();
        progress.show([{ label: `run ${id}`, state: stateOf(run), ended }]);
      }
      if (ended || left) return run;
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      if (since === undefined) progress.note(`${error.message}; still trying`);
      since ??= performance.now();
      if (performance.now() - since > patienceMs)
        throw new CliError(error.exit, error.message, { hint: `it goes on without us: lxstow run show ${id}` });
    }
    const signal = interrupt.aborted ? undefined : interrupt;
    await delay(lookEveryMs, undefined, { signal }).catch(() => undefined);
  }
}

function stateOf({ status, counts, bytes, seconds_left, away }: ShownRun): string {
  const { total, success, failure, skipped, cancelled, running } = counts;
  const parts = [`${success + failure + skipped + cancelled} of ${total} done`];
  for (const [count, what] of [
    [failure, 'failed'],
    [skipped, 'skipped'],
    [cancelled, 'cancelled'],
    [running, 'at work'],
  ] as const)
    if (count > 0) parts.push(`${count} ${what}`);
  if (bytes > 0) parts.push(size(bytes));
  if (seconds_left !== undefined) parts.push(`${clock(seconds_left)} left`);
  for (const { remote } of away) parts.push(`waits for remote ${remote}, which is away`);
  return `${status}: ${parts.join(', ')}`;
}

const heading = ['ID', 'STATUS', 'TOTAL', 'SUCCESS', 'FAILURE', 'SKIPPED', 'CANCELLED', 'SIZE', 'BEGUN (UTC)'];

function row({ id, status, counts, bytes, created_at }: ShownRun): string[] {
  const { total, success, failure, skipped, cancelled } = counts;
  return [id, status, ...[total, success, failure, skipped, cancelled].map(String), size(bytes), time(created_at)];
}

/** Prints how it is; the exit status says whether that is well. */
function told(run: ShownRun, format: Format): Exit {
  print(format, { heading, rows: [row(run)], raw: run, empty: '' });
  sayTroubles(run);
  return run.status_code < 200 || run.status === 'Success' ? exits.ok : exits.failed;
}

/** On standard error: what failed, and what is waited for. */
function sayTroubles({ id, failures, counts, away }: ShownRun): void {
  const say = (text: string) => process.stderr.write(`lxstow: ${printable(text)}\n`);
  for (const { remote, project, instance, reason } of failures)
    say(instance === '' ? reason : `${instance} (${remote}, ${project}): ${reason}`);
  if (counts.failure > failures.length) say(`and ${counts.failure - failures.length} more: lxstow run report ${id}`);
  for (const { remote, since, reason } of away) say(`waits for remote ${remote} since ${time(since)}: ${reason}`);
}

async function childrenOf(gateway: Gateway, id: string, state?: string): Promise<ShownRunChild[]> {
  const found: ShownRunChild[] = [];
  let after: string | undefined;
  do {
    const query = { limit: String(pageSize), after, state };
    const page: RunChildPage = await gateway.ask('GET', ['runs', id, 'children'], { query });
    found.push(...page.children);
    after = page.next;
  } while (after !== undefined);
  return found;
}

/** `[remote:]id` */
async function named(gateways: Gateways, text: string): Promise<{ gateway: Gateway; id: string }> {
  const cut = text.indexOf(':');
  return { gateway: await gateways.get(cut < 0 ? undefined : text.slice(0, cut)), id: text.slice(cut + 1) };
}

/** `[remote:]name…`, or `remote:` alone: of one gateway. */
async function placed(gateways: Gateways, texts: string[]): Promise<{ gateway: Gateway; names: string[] }> {
  const remotes = new Set(texts.map((text) => (text.includes(':') ? text.slice(0, text.indexOf(':')) : undefined)));
  if (remotes.size > 1) throw new CliError(exits.usage, 'a run is of one gateway: name all instances as of the same');
  const names = texts.map((text) => text.slice(text.indexOf(':') + 1)).filter((name) => name !== '');
  return { gateway: await gateways.get([...remotes][0]), names };
}
