/** Starts runs and follows them to their end. */
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import type { CreateRunBody, ShownRun } from '../../../contract/schemas.ts';
import { CliError, type Exit, exits, inOptions } from '../../exit.ts';
import { type Format, print } from '../../terminal/output.ts';
import { openProgress, type Progress } from '../../terminal/progress.ts';
import { runHeading, runOutcome, runProgress, runRow } from '../../terminal/runWords.ts';
import { backupOptions } from '../backupRequest.ts';
import { type Gateway, Unreachable } from '../gatewayClient.ts';
import { askingToCancel, heedInterrupts, sayWarnings } from './follow.ts';
import { patiently, throughOutage } from './patience.ts';
import { childrenOf, RunChildren } from './runChildren.ts';

export interface Following {
  /** The run's id, if the user gives one. */
  id?: string;
  /** How long to repeat the request, in ms. */
  retry?: number;
  wait?: boolean;
  quiet?: boolean;
  format: Format;
}

const lookEveryMs = 1000;
const mostSkippedShown = 50;

/** Starts a run, and waits for its end if requested. The first Ctrl-C cancels it. */
export async function beginRun(
  gateway: Gateway,
  path: string[],
  request: Omit<CreateRunBody, 'id' | 'selector'> & Partial<Pick<CreateRunBody, 'selector'>>,
  options: Following,
): Promise<Exit> {
  // With an id, a request whose answer was lost can be repeated without starting a second run.
  const id = options.id ?? randomUUID();
  using progress = openProgress(options.quiet);
  using interrupts = heedInterrupts(
    () => void process.stderr.write(`\nlxstow: left before its end: run ${id}; lxstow run watch ${id}\n`),
  );
  using children = new RunChildren(gateway, id);
  const ask = async () => {
    await children.listen();
    return gateway.ask('POST', path, { body: { id, ...request } }).catch((error) => {
      if (error instanceof Unreachable) error.inDoubt = false;
      throw error;
    });
  };
  const patience = { until: performance.now() + (options.retry ?? 0), signal: interrupts.first };
  await patiently(ask, { ...patience, note: (text) => progress.note(text) }).catch((error) => {
    throw inOptions(error, { ...backupOptions, id: '--id' });
  });
  const follows = options.wait || interrupts.first.aborted;
  const run = follows
    ? await untilRunEnds(gateway, children, progress, interrupts.first, { cancel: true })
    : ((await gateway.ask('GET', ['runs', id])) as ShownRun);
  progress[Symbol.dispose]();
  sayWarnings(children.warned());
  const exit = await printRun(gateway, run, options.format);
  return interrupts.first.aborted && exit !== exits.ok ? exits.interrupted : exit;
}

/** Follows a run to its end. With `cancel`, an interrupt cancels the run. */
export async function untilRunEnds(
  gateway: Gateway,
  children: RunChildren,
  progress: Progress,
  interrupt: AbortSignal,
  { cancel }: { cancel: boolean },
): Promise<ShownRun> {
  const id = children.run;
  const throughout = <T>(ask: () => Promise<T>) =>
    throughOutage(ask, (text) => progress.note(text), `the run continues without this client: lxstow run watch ${id}`);
  let asked = false;
  for (;;) {
    if (interrupt.aborted && cancel && !asked) {
      asked = true;
      progress.note(askingToCancel);
      await throughout(() => gateway.ask('DELETE', ['runs', id]).catch(unlessEnded));
    }
    const run: ShownRun = await throughout(() => gateway.ask('GET', ['runs', id]));
    const ended = run.status_code >= 200;
    progress.show([{ label: `run ${id}`, state: runProgress(run), ended, heading: true }, ...(await children.steps())]);
    if (ended || (interrupt.aborted && !cancel)) return run;
    await delay(lookEveryMs, undefined, { signal: interrupt.aborted ? undefined : interrupt }).catch(() => undefined);
  }
}

/** Ignores the error that the run has ended in the meantime. */
function unlessEnded(error: unknown): void {
  if (!(error instanceof CliError) || error.exit !== exits.usage) throw error;
}

/** Prints a run: how it ended, or its current state if the command does not wait. Failures go to standard error. Returns 1 unless the run succeeded. */
export async function printRun(gateway: Gateway, run: ShownRun, format: Format): Promise<Exit> {
  const ended = run.status_code >= 200;
  const bad = ended && run.status !== 'Success';
  if (format !== 'table' || !ended) print(format, { heading: runHeading, rows: [runRow(run)], raw: run, empty: '' });
  if (!ended || (!bad && format !== 'table')) return exits.ok;
  const skipped = run.counts.skipped > 0 ? await childrenOf(gateway, run.id, 'skipped', mostSkippedShown) : [];
  const outcome = runOutcome(run, skipped);
  const retry = run.counts.failure > 0 ? `  lxstow run retry ${run.id} repeats what failed\n` : '';
  if (bad) process.stderr.write(`lxstow: ${outcome}\n${retry}`);
  else process.stdout.write(`${outcome}\n`);
  return bad ? exits.failed : exits.ok;
}
