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
  selectorOption,
  several,
} from './options.ts';
import { keeping } from './retentionCommands.ts';

const commands = () => import('../commands/schedule.ts');
const one = ['<schedule>', '[gateway:]name of the schedule'] as const;

export function addScheduleCommands(program: Command): void {
  const schedule = program
    .command('schedule')
    .description('back up instances at fixed times, and delete their old backups');
  addCreate(schedule);
  addQuestions(schedule);
  addChanges(schedule);
}

/** Commands that change nothing. */
function addQuestions(schedule: Command): void {
  schedule
    .command('list', { isDefault: true })
    .alias('ls')
    .description('list all schedules')
    .argument(...gateway)
    .addOption(formatOption())
    .action(exiting(lazily(commands, 'listCommand')));
  schedule
    .command('show')
    .description('show a schedule')
    .argument(...one)
    .addOption(formatOption())
    .action(exiting(lazily(commands, 'showCommand')));
  schedule
    .command('next')
    .description('show when schedules are due next')
    .argument('[schedule]', '[gateway:]name of the schedule (default: all)')
    .option('--instances', 'show when the next backup of each instance begins')
    .option('--count <n>', 'show the next n times of each schedule (default: 5)')
    .addOption(formatOption())
    .action(exiting(lazily(commands, 'nextCommand')));
  examples(
    schedule
      .command('edit')
      .description('edit a schedule in $VISUAL or $EDITOR, or replace it with the YAML on standard input')
      .argument(...one),
    'lxstow schedule edit nightly',
    'lxstow schedule edit nightly <nightly.yaml',
  ).action(exiting(lazily(() => import('../commands/scheduleEdit.ts'), 'editCommand')));
  schedule
    .command('export')
    .description('print schedules as YAML, for `schedule apply`')
    .argument('[schedule...]', '[gateway:]names of schedules (default: all)')
    .action(exiting(lazily(commands, 'exportCommand')));
}

function addChanges(schedule: Command): void {
  schedule
    .command('pause')
    .description('pause a schedule until it is resumed')
    .argument(...one)
    .option('--reason <text>', 'why it is paused; `schedule list` shows it')
    .option('--until <time>', 'resume automatically at this time (UTC): 2026-12-24, 2026-12-24T18:00')
    .action(exiting(lazily(commands, 'pauseCommand')));
  schedule
    .command('resume')
    .description('resume a paused schedule, without making up for the times that it missed')
    .argument(...one)
    .action(exiting(lazily(commands, 'resumeCommand')));
  schedule
    .command('run')
    .description('start a run of a schedule now')
    .argument(...one)
    .option('--wait', 'wait for the end; Ctrl-C then cancels the run')
    .option(...quiet)
    .addOption(formatOption())
    .action(exiting(lazily(commands, 'runNowCommand')));
  schedule
    .command('delete')
    .alias('rm')
    .description('delete a schedule; its runs and backups stay')
    .argument(...one)
    .action(exiting(lazily(commands, 'deleteCommand')));
  examples(
    schedule
      .command('apply')
      .description('create or change the schedules in a YAML file; other schedules stay as they are')
      .argument('<file>', 'file to read, or - for standard input')
      .option('--remote <gateway>', 'gateway of the schedules (default: the default gateway)')
      .option('--dry-run', 'change nothing; print what would change'),
    'lxstow schedule export >schedules.yaml',
    'lxstow schedule apply schedules.yaml --dry-run',
  ).action(exiting(lazily(commands, 'applyCommand')));
}

function addCreate(schedule: Command): void {
  examples(
    keeping(
      backingUp(
        schedule
          .command('create')
          .description('create a schedule; its first run starts at the next time that --cron matches')
          .argument(...one)
          .requiredOption('--cron <expression>', 'minute, hour, day, month, weekday: "0 3 * * *"; or @daily, @weekly …')
          .option(
            '--zone <zone>',
            "time zone of --cron, --window and the --keep options, such as Europe/Berlin (default: this machine's)",
          )
          .option('--description <text>', 'what the schedule is for')
          .option(...ping)
          .option(
            '--jitter <time>',
            'spread the backups over this much time, such as 30m; the delay of an instance is the same in every run',
          )
          .option('--window <times>', 'start backups only between these times: 01:00-05:00')
          .addOption(
            new Option(
              '--catch-up <how>',
              'whether to make up for times at which no gateway was running (default: once)',
            ).choices(['once', 'never']),
          )
          .option('--all', 'back up every instance of the chosen projects and hosts')
          .addOption(
            several(
              '--instance <name>',
              'back up this instance, or those that match a pattern with * and ?; repeat for more',
            ),
          )
          .addOption(selectorOption())
          .addOption(several('--exclude <name>', 'leave out this name or pattern; repeat for more'))
          .addOption(
            several(
              '--project <name>',
              'only instances of this project; repeat for more',
              'the one given to `lxstow remote add`, else all',
            ),
          )
          .addOption(several('--target <host>', 'only instances of this host; repeat for more', 'all')),
        'backups',
      ),
    ),
    "lxstow schedule create nightly --cron '0 3 * * *' --all --keep-daily 14 --keep-monthly 12",
    "lxstow schedule create web --cron '0 */6 * * *' --selector user.backup=web --jitter 30m",
    'lxstow schedule create mine --cron @daily       back up instances with user.lxstow.schedule=mine',
  ).action(exiting(lazily(commands, 'createCommand')));
}
