/** `lxstow schedule` and what belongs to it, declared. */
import { type Command, Option } from 'commander';
import { examples, exiting, formatOption, several } from './options.ts';
import { keeping } from './retentionCommands.ts';

const commands = () => import('./commands/schedule.ts');
const one = ['<schedule>', '[gateway:]name'] as const;

export function addScheduleCommands(program: Command): void {
  const schedule = program.command('schedule').description('back instances up by the clock, and delete what is old');

  examples(
    keeping(
      schedule
        .command('create')
        .description('make one; nothing begins before it is due')
        .argument(...one)
        .requiredOption('--cron <rule>', 'minute, hour, day, month, weekday: "0 3 * * *"; or @daily, @weekly …')
        .option('--zone <zone>', "whose clock is meant, as Europe/Berlin (default: this machine's)")
        .option('--description <text>', 'what it is for')
        .option('--jitter <time>', 'each instance begins up to so much later, always by the same part of it: 30m')
        .option('--window <times>', 'begin backups only between these times: 01:00-05:00')
        .addOption(
          new Option('--catch-up <how>', 'a time at which no gateway was at work is made up for').choices([
            'once',
            'never',
          ]),
        )
        .option('--all', 'every instance that this client may back up')
        .addOption(several('--instance <name>', 'this one, or those of a pattern with * and ?; again for more'))
        .addOption(
          several(
            '--selector <key=value>',
            'those it fits: status, type, name, architecture, location, or a key of their configuration; again: and',
          ),
        )
        .addOption(several('--exclude <name>', 'not this one, or not those of this pattern; again for more'))
        .addOption(several('--project <name>', 'only of this project; again for more'))
        .addOption(several('--target <host>', 'only of this host; again for more'))
        .addOption(several('--tag <key=value>', 'a tag of the backups; again for more'))
        .addOption(
          new Option('--compression <way>', "how to store them (default: the worker's)").choices([
            'gzip',
            'zstd',
            'none',
          ]),
        )
        .option('--optimized', "in the storage driver's own form: restores into that driver only")
        .option('--instance-only', 'without snapshots')
        .option('--notify <url>', 'a webhook that is told how each run ended'),
    ),
    "lxstow schedule create nightly --cron '0 3 * * *' --all --keep-daily 14 --keep-monthly 12",
    "lxstow schedule create web --cron '0 */6 * * *' --selector user.backup=web --jitter 30m",
    'lxstow schedule create mine --cron @daily       those with user.lxstow.schedule=mine',
  ).action(exiting(async (name: string, options) => (await commands()).createCommand(name, options)));

  schedule
    .command('list', { isDefault: true })
    .alias('ls')
    .description('show all')
    .argument('[gateway]', 'gateway:')
    .addOption(formatOption())
    .action(exiting(async (gateway: string | undefined, options) => (await commands()).listCommand(gateway, options)));
  schedule
    .command('show')
    .description('show one')
    .argument(...one)
    .addOption(formatOption())
    .action(exiting(async (name: string, options) => (await commands()).showCommand(name, options)));
  schedule
    .command('next')
    .description('when schedules are due, as the gateway will do it')
    .argument('[schedule]', '[gateway:]name (default: all)')
    .option('--instances', 'when each instance begins the next time')
    .option('--count <n>', 'how many times of each (default: 5)')
    .addOption(formatOption())
    .action(exiting(async (name: string | undefined, options) => (await commands()).nextCommand(name, options)));
  schedule
    .command('pause')
    .description('let nothing be due until it is resumed')
    .argument(...one)
    .option('--reason <text>', 'why; `list` shows it')
    .option('--until <time>', 'it goes on by itself then: 2026-12-24, 2026-12-24T18:00')
    .action(exiting(async (name: string, options) => (await commands()).pauseCommand(name, options)));
  schedule
    .command('resume')
    .description('go on; what was due meanwhile is not made up for')
    .argument(...one)
    .action(exiting(async (name: string) => (await commands()).resumeCommand(name)));
  schedule
    .command('run')
    .description('begin a run of one now')
    .argument(...one)
    .option('--wait', 'until it has ended; Ctrl-C then asks the gateway to cancel it')
    .option('-q, --quiet', 'no progress')
    .addOption(formatOption())
    .action(exiting(async (name: string, options) => (await commands()).runNowCommand(name, options)));
  schedule
    .command('delete')
    .alias('rm')
    .description('delete one; its runs and backups stay')
    .argument(...one)
    .action(exiting(async (name: string) => (await commands()).deleteCommand(name)));
  schedule
    .command('export')
    .description('print schedules as YAML, to be kept and edited')
    .argument('[schedule...]', '[gateway:]name (default: all)')
    .action(exiting(async (names: string[]) => (await commands()).exportCommand(names)));
  examples(
    schedule
      .command('apply')
      .description('create and change schedules as a YAML file says; others are left alone')
      .argument('<file>', '- is standard input')
      .option('--remote <gateway>', 'at this gateway (default: the default one)')
      .option('--dry-run', 'say what would change'),
    'lxstow schedule export >schedules.yaml',
    'lxstow schedule apply schedules.yaml --dry-run',
  ).action(exiting(async (file: string, options) => (await commands()).applyCommand(file, options)));
}
