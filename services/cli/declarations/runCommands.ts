import { type Command, Option } from 'commander';
import {
  backingUp,
  examples,
  exiting,
  formatOption,
  gateway,
  lazily,
  ping,
  quiet,
  retryOption,
  selectorOption,
  several,
} from './options.ts';

const childStates = ['success', 'failure', 'skipped', 'cancelled', 'running', 'pending'];
const commands = () => import('../commands/run.ts');
const id = ['<id>', '[gateway:]id of the run'] as const;

export function addRunCommands(program: Command): void {
  const run = program
    .command('run')
    .description('back up many instances as one run, which continues without the client')
    .addHelpText(
      'after',
      '\nWithout one of these commands, `lxstow run …` means `lxstow run create …`. For its options, see `lxstow run create --help`.',
    );
  addCreate(run);
  following(
    run
      .command('retry')
      .description('start a new run that repeats the failed backups of a run')
      .argument(...id),
  ).action(exiting(lazily(commands, 'runRetryCommand')));
  run
    .command('list')
    .alias('ls')
    .description('list the newest 100 runs')
    .argument(...gateway)
    .addOption(formatOption())
    .action(exiting(lazily(commands, 'runListCommand')));
  run
    .command('show')
    .description('show a run; with --children, each of its instances')
    .argument(...id)
    .option('--children', 'show each instance of the run')
    .addOption(new Option('--state <state>', 'only instances in this state').choices(childStates))
    .addOption(formatOption())
    .action(exiting(lazily(commands, 'runShowCommand')));
  run
    .command('watch')
    .description('follow a run to its end; Ctrl-C leaves it running')
    .argument(...id)
    .option(...quiet)
    .addOption(formatOption())
    .action(exiting(lazily(commands, 'runWatchCommand')));
  run
    .command('cancel')
    .description('cancel a run and all its unfinished backups')
    .argument(...id)
    .action(exiting(lazily(commands, 'runCancelCommand')));
  run
    .command('report')
    .description('print a report of a run')
    .argument(...id)
    .addOption(new Option('-f, --format <format>', 'output format').choices(['markdown', 'json']).default('markdown'))
    .action(exiting(lazily(commands, 'runReportCommand')));
}

function addCreate(run: Command): void {
  const create = run
    .command('create', { isDefault: true })
    .description('start a run')
    .argument(
      '[instance...]',
      'names, or patterns with * and ?, as [gateway:]name; with --all or --selector, only a gateway, such as stow:',
    )
    .option('--all', 'back up every instance of the chosen projects and hosts')
    .option(...ping)
    .addOption(selectorOption())
    .addOption(several('--exclude <name>', 'leave out this name or pattern; repeat for more'))
    .addOption(
      several(
        '--project <name>',
        'only this project; repeat for more',
        'the one given to `lxstow remote add`, else all',
      ),
    )
    .addOption(several('--target <host>', 'only this LXD or Incus host; repeat for more', 'all'));
  examples(
    following(backingUp(create, 'backups')),
    'lxstow run --all --wait                              back up everything, and wait for the end',
    "lxstow run 'web-*' --exclude web-test --tag keep=yes  all that match a pattern, but not web-test",
    'lxstow run --selector user.backup=daily --wait --quiet --retry 10m   for cron',
    'lxstow run report ID | mail -s backups root',
  ).action(exiting(lazily(commands, 'runCommand')));
}

function following(command: Command): Command {
  return command
    .option('--id <uuid>', 'id for the new run; repeating the request with the same id starts no second run')
    .option('--wait', 'wait for the end; Ctrl-C then cancels the run')
    .addOption(retryOption())
    .option(...quiet)
    .addOption(formatOption());
}
