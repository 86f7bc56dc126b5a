/** Declares `lxstow prune`, `pin` and `unpin`, and the options of a keep rule. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { backup, examples, exiting, formatOption, instance, lazily, quiet, scoped, several } from './options.ts';

/** Adds the options of a keep rule. */
export function keeping(command: Command): Command {
  return command
    .option('--keep-last <n>', 'keep the last n backups; in this and the next options, n can be `unlimited`', count)
    .option('--keep-hourly <n>', 'keep the last backup of each of the last n hours that have backups', count)
    .option('--keep-daily <n>', 'keep the last backup of each of the last n days that have backups', count)
    .option('--keep-weekly <n>', 'keep the last backup of each of the last n weeks that have backups', count)
    .option('--keep-monthly <n>', 'keep the last backup of each of the last n months that have backups', count)
    .option('--keep-yearly <n>', 'keep the last backup of each of the last n years that have backups', count)
    .option('--keep-within <time>', 'keep backups made within this time before the newest one: 1y6m, 14d, 12h')
    .addOption(several('--keep-tag <key[=value]>', 'keep backups with this tag; repeat for more tags'))
    .option('--min-good <n>', 'keep the newest n backups, whatever the other options say (default: 1)', count)
    .addOption(
      new Option(
        '--instance-keys <how>',
        'how configuration keys of an instance, such as user.lxstow.keep-daily, change these options (default: lengthen)',
      ).choices(['lengthen', 'replace', 'ignore']),
    );
}

export function addRetentionCommands(program: Command): void {
  examples(
    keeping(
      scoped(
        program
          .command('prune')
          .description('delete the backups that no --keep option keeps')
          .argument(
            '[instance...]',
            '[gateway:]name (default: all instances that have backups, including deleted instances)',
          ),
      ),
    )
      .option('--zone <zone>', "time zone of days and hours, such as Europe/Berlin (default: this machine's)")
      .option('--dry-run', 'delete nothing; show what would happen to each backup, and why')
      .option(
        '--simulate [time]',
        'delete nothing; show which backups would be left after this much time: 1y (default), 6m (months), 90d …',
      )
      .option('--cron <expression>', 'with --simulate: when backups are made (default: @daily)')
      .option(
        '--every <time>',
        'with --simulate: the time between two backups, instead of --cron: 30m (minutes), 6h, 1d or 2w',
      )
      .option(
        '--schedule <name>',
        'with --simulate: use the times and the keep rule of this schedule; --keep options replace the rule',
      )
      .option(...quiet)
      .addOption(formatOption()),
    'lxstow prune --keep-daily 14 --keep-monthly 12 --dry-run',
    'lxstow prune web db --keep-last 3',
    'lxstow prune --keep-within 30d --keep-tag keep --quiet',
    "lxstow prune --simulate --cron '0 */6 * * *' --keep-hourly 24 --keep-daily 14 --keep-monthly 12",
  ).action(exiting(lazily(() => import('../commands/prune.ts'), 'pruneCommand')));

  for (const [name, what, pinned] of [
    ['pin', 'protect backups from every deletion', true],
    ['unpin', 'allow pinned backups to be deleted', false],
  ] as const) {
    const command = program.command(name);
    if (pinned) command.option('--hold', 'also put a legal hold on them in the store, until they are unpinned');
    examples(
      scoped(
        command
          .description(what)
          .argument(...instance)
          .argument('<backup...>', backup[1]),
      ),
      `lxstow ${name} c1 latest`,
    ).action(
      exiting(async (text: string, backups: string[], options) =>
        (await import('../commands/pin.ts')).pinCommand(text, backups, pinned, options),
      ),
    );
  }
}

function count(text: string): number {
  if (text === 'unlimited') return -1;
  if (/^\d{1,5}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('Give a number, or `unlimited`.');
}
