/** `lxstow run`: starts, shows and cancels runs. */
import type { RunPage, ShownRun } from '../../contract/schemas.ts';
import { markdownOf } from '../../runs/report.ts';
import { type Choice, type HowToBackUp, howIn, selectorIn, tagsIn } from '../client/backupRequest.ts';
import { beginRun, type Following, printRun, untilRunEnds } from '../client/following/followRun.ts';
import { childrenOf, RunChildren } from '../client/following/runChildren.ts';
import { Gateways } from '../client/names.ts';
import { CliError, type Exit, exits } from '../exit.ts';
import { type Format, json, print, size } from '../terminal/output.ts';
import { openProgress } from '../terminal/progress.ts';
import { runHeading, runOutcome, runProgress, runRow } from '../terminal/runWords.ts';
import { printableLines } from '../terminal/table.ts';

interface RunOptions extends HowToBackUp, Choice, Following {
  ping?: string;
}

export async function runCommand(texts: string[], options: RunOptions): Promise<Exit> {
  const { all, selector: match, tag, ping } = options;
  using gateways = new Gateways();
  const { gateway, names } = await gateways.ofOne(texts);
  if (!all && names.length === 0 && match.length === 0)
    throw new CliError(exits.usage, 'which instances?', { hint: 'name some, or give --all or --selector' });
  const selector = selectorIn({ ...options, instances: names }, gateway.remote);
  const tags = tag.length > 0 && { tags: Object.fromEntries(tagsIn(tag)) };
  return await beginRun(
    gateway,
    ['runs'],
    { selector, ...howIn(options), ...tags, ...(ping !== undefined && { ping }) },
    options,
  );
}

export async function runRetryCommand(text: string, options: Following): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, id } = await gateways.withId(text);
  return await beginRun(gateway, ['runs', id, 'retry'], {}, options);
}

export async function runListCommand(remote: string | undefined, { format }: { format: Format }): Promise<Exit> {
  using gateways = new Gateways();
  const gateway = await gateways.get(remote);
  const { runs }: RunPage = await gateway.ask('GET', ['runs']);
  print(format, { heading: runHeading, rows: runs.map(runRow), raw: runs, empty: 'there are no runs' });
  return exits.ok;
}

export async function runShowCommand(
  text: string,
  { children, state, format }: { children?: boolean; state?: string; format: Format },
): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, id } = await gateways.withId(text);
  const run: ShownRun = await gateway.ask('GET', ['runs', id]);
  if (!children && state === undefined) {
    print(format, { heading: runHeading, rows: [runRow(run)], raw: run, empty: '' });
    if (format === 'table') process.stdout.write(`${run.status_code < 200 ? runProgress(run) : runOutcome(run, [])}\n`);
    return exits.ok;
  }
  const found = await childrenOf(gateway, id, state);
  print(format, {
    heading: ['HOST', 'PROJECT', 'INSTANCE', 'STATE', 'BACKUP', 'SIZE', 'REASON'],
    rows: found.map(({ remote, project, instance, state, backup, bytes, reason }) => {
      const stored = bytes === undefined ? '-' : size(bytes);
      return [remote, project, instance, state, backup ?? '-', stored, reason ?? '-'];
    }),
    raw: found,
    empty: 'no instance of the run is in this state',
  });
  return exits.ok;
}

/** Follows a run to its end. Ctrl-C does not cancel it. */
export async function runWatchCommand(text: string, options: { quiet?: boolean; format: Format }): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, id } = await gateways.withId(text);
  const stop = new AbortController();
  process.once('SIGINT', () => stop.abort());
  using progress = openProgress(options.quiet);
  using children = new RunChildren(gateway, id);
  const run = await untilRunEnds(gateway, children, progress, stop.signal, { cancel: false });
  progress[Symbol.dispose]();
  return run.status_code < 200 ? exits.interrupted : printRun(gateway, run, options.format);
}

export async function runCancelCommand(text: string): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, id } = await gateways.withId(text);
  await gateway.ask('DELETE', ['runs', id]);
  process.stdout.write(`${id} is being cancelled\n`);
  return exits.ok;
}

export async function runReportCommand(text: string, { format }: { format: 'markdown' | 'json' }): Promise<Exit> {
  using gateways = new Gateways();
  const { gateway, id } = await gateways.withId(text);
  const run: ShownRun = await gateway.ask('GET', ['runs', id]);
  const children = (await childrenOf(gateway, id)).filter(({ state }) => state !== 'success');
  const report = { ...run, children };
  process.stdout.write(format === 'json' ? `${json(report, 2)}\n` : printableLines(markdownOf(report, size)));
  return exits.ok;
}
