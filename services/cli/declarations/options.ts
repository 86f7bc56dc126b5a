import { type Command, InvalidArgumentError, Option } from 'commander';
import { parseDuration } from '../../contract/durations.ts';
import type { Exit } from '../exit.ts';
import { formats } from '../terminal/output.ts';

export const instance = ['<instance>', '[gateway:]name'] as const;
export const backup = ['<backup>', 'name of the backup, or latest'] as const;
export const gateway = ['[gateway]', 'gateway, with a colon, such as stow: (default: the default gateway)'] as const;
export const operation = '[gateway:]id';

export const formatOption = () =>
  new Option('-f, --format <format>', 'output format').choices(formats).default('table');
export const compressionOption = (usual: string) =>
  new Option('--compression <method>', `how to compress (default: ${usual})`).choices(['gzip', 'zstd', 'none']);
export const notify = ['--notify <url>', 'POST the outcome to this URL, in addition to notify.endpoints'] as const;
export const ping = [
  '--ping <url>',
  'send a request to this URL when a run begins and when it ends, for a healthchecks.io check or an Uptime Kuma push monitor',
] as const;
export const quiet = ['-q, --quiet', 'print no progress'] as const;

/** An option that may be repeated. */
export const several = (flags: string, what: string, usual = 'none') =>
  new Option(flags, what).argParser((text: string, before: string[]) => [...before, text]).default([], usual);

export const selectorOption = () =>
  several(
    '--selector <key=value>',
    'back up instances that match: status, type, name, architecture, location, or any configuration key; repeat to narrow the choice',
  );

/** Parses a time span in these units; returns milliseconds. */
export const timeSpan = (units: string, examples: string) => (text: string) => {
  const ms = parseDuration(text, units);
  if (Number.isNaN(ms)) throw new InvalidArgumentError(`Give it as ${examples}.`);
  return ms;
};

export const retryOption = () =>
  new Option(
    '--retry <time>',
    'keep trying to start for this long, such as 10m, while the gateway, NATS or S3 is unavailable',
  ).argParser(timeSpan('smh', '90s, 10m or 1h'));

/** Adds the options that say where the instance is. */
export function scoped(command: Command, usualHost = "the gateway's default host"): Command {
  return command
    .option(
      '--project <name>',
      "the instance's project (default: the one given to `lxstow remote add`, else `default`)",
    )
    .option(
      '--target <host>',
      `the LXD or Incus host, by its name in the gateway's configuration (default: ${usualHost})`,
    );
}

/** Adds the options of commands that wait for an operation. */
export function waiting(command: Command): Command {
  return command
    .option('--wait', 'wait for the end; Ctrl-C then cancels', true)
    .option('--no-wait', 'do not wait for the end')
    .option(...quiet)
    .addOption(formatOption());
}

function days(text: string): number {
  const [, count] = /^([1-9]\d{0,4})d?$/.exec(text) ?? [];
  if (count === undefined) throw new InvalidArgumentError('Give a number of days, such as 30d.');
  return Number(count);
}

/** Adds the options that say how to back up. */
export function backingUp(command: Command, what: 'backup' | 'backups'): Command {
  return command
    .addOption(several('--tag <key=value>', `tag the ${what}; repeat for more tags`))
    .option(...notify)
    .addOption(compressionOption("the worker's setting"))
    .option(
      '--optimized',
      "use the storage driver's own format, which can be restored only to a pool with the same driver",
    )
    .option('--instance-only', 'leave out snapshots')
    .option(
      '--lock <days>',
      `have the store lock the ${what} for this many days, such as 30d; the bucket needs Object Lock`,
      days,
    )
    .addOption(
      new Option(
        '--lock-mode <mode>',
        'governance: users with special rights can end a lock early; compliance: nobody can (default: governance)',
      ).choices(['governance', 'compliance']),
    );
}

/** Makes the action of a command whose file is loaded only when it runs. It gets the arguments, then the options. */
export function lazily<M extends Record<K, (...args: never[]) => Promise<unknown>>, K extends keyof M>(
  load: () => Promise<M>,
  command: K,
): (...args: Parameters<M[K]>) => ReturnType<M[K]> {
  return (...args) => load().then((file) => file[command](...args)) as ReturnType<M[K]>;
}

/** Sets the exit status to the one that the command returns. */
export function exiting<A extends unknown[]>(run: (...args: A) => Promise<Exit>): (...args: A) => Promise<void> {
  return async (...args) => {
    process.exitCode = await run(...args);
  };
}

/** Examples at the end of a command's help. */
export function examples(command: Command, ...lines: string[]): Command {
  return command.addHelpText('after', `\nExamples:\n${lines.map((line) => `  ${line}\n`).join('')}`);
}
