/** `lxstow run` and what belongs to it, declared. */
import { type Command, Option } from 'commander';

import { examples, exiting, formatOption, retryTime, several } from './options.ts';

const childStates = ['success', 'failure', 'skipped', 'cancelled', 'running', 'pending'];
const commands = () => import('./commands/run.ts');
const id = ['<id>', '[remote:]id'] as const;

export function addRunCommands(program: Command): void {
  const run = program.command('run').description('many backups as one thing, which goes on without its client');
  const following = (command: Command) =>
    command
      .option('--id <uuid>', 'what to call it: the same again is the same run')
      .option('--wait', 'until it has ended; Ctrl-C then asks the server to cancel it')
      .option('--retry <time>', 'ask again for so long while the gateway, or what it needs, is away: 10m', retryTime)
      .option('-q, --quiet', 'no progress')
      .addOption(formatOption());

  examples(
    following(
      run
        .command('create', { isDefault: true })
        .description('begin one')
        .argument('[instance...]', '[remote:]name, or a pattern with * and ?; with --all or --selector [remote:]')
        .option('--all', 'every instance that this client may back up')
        .addOption(
          several(
            '--selector <key=value>',
            'those it fits: status, type, name, architecture, location, or a key of their configuration; again: and',
          ),
        )
        .addOption(several('--exclude <name>', 'not this one, or not those of this pattern; again for more'))
        .addOption(
          several('--project <name>', "only of this project; again for more (default: the remote's, else all)"),
        )
        .addOption(several('--target <remote>', 'only of this LXD server; again for more (default: all)'))
        .addOption(several('--tag <key=value>', 'a tag of the backups; again for more'))
        .option('--notify <url>', 'who is told how it ended, besides those that the gateway always tells')
        .addOption(
          new Option('--compression <way>', "how to store them (default: the worker's)").choices([
            'gzip',
            'zstd',
            'none',
          ]),
        )
        .option('--optimized', "in the storage driver's own form: restores into that driver only")
        .option('--instance-only', 'without snapshots'),
    ),
    'lxstow run --all --wait                              everything, until it is done',
    "lxstow run 'web-*' --exclude web-test --tag keep=yes  those of a pattern",
    'lxstow run --selector user.backup=daily --wait --quiet --retry 10m   for cron',
    'lxstow run report ID | mail -s backups root',
  ).action(exiting(async (names: string[], options) => (await commands()).runCommand(names, options)));

  run
    .command('list')
    .alias('ls')
    .description('show the newest hundred')
    .argument('[remote]', 'remote:')
    .addOption(formatOption())
    .action(exiting(async (remote: string | undefined, options) => (await commands()).runListCommand(remote, options)));
  run
    .command('show')
    .description('show one, or its children')
    .argument(...id)
    .option('--children', 'each instance of it')
    .addOption(new Option('--state <state>', 'its children in this state').choices(childStates))
    .addOption(formatOption())
    .action(exiting(async (text: string, options) => (await commands()).runShowCommand(text, options)));
  run
    .command('watch')
    .description('follow one until it has ended; Ctrl-C leaves it alone')
    .argument(...id)
    .option('-q, --quiet', 'no progress')
    .addOption(formatOption())
    .action(exiting(async (text: string, options) => (await commands()).runWatchCommand(text, options)));
  run
    .command('cancel')
    .description('cancel one, with all its children')
    .argument(...id)
    .action(exiting(async (text: string) => (await commands()).runCancelCommand(text)));
  following(
    run
      .command('retry')
      .description('begin another, of what failed in one')
      .argument(...id),
  ).action(exiting(async (text: string, options) => (await commands()).runRetryCommand(text, options)));
  run
    .command('report')
    .description('what became of one, for people or programs')
    .argument(...id)
    .addOption(new Option('-f, --format <format>', 'how to print').choices(['markdown', 'json']).default('markdown'))
    .action(exiting(async (text: string, options) => (await commands()).runReportCommand(text, options)));
}
