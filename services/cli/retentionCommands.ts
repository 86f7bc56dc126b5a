/** What clients of a gateway can do about which backups are kept, declared. */
import { type Command, InvalidArgumentError } from 'commander';
import { examples, exiting, formatOption, several } from './options.ts';

/** The options that say what to keep. */
export function keeping(command: Command): Command {
  return command
    .option('--keep-last <n>', 'keep the last n backups; here and below `unlimited` keeps all', count)
    .option('--keep-hourly <n>', 'of the last n hours that have backups, keep the last one of each', count)
    .option('--keep-daily <n>', 'the same by days', count)
    .option('--keep-weekly <n>', 'the same by weeks', count)
    .option('--keep-monthly <n>', 'the same by months', count)
    .option('--keep-yearly <n>', 'the same by years', count)
    .option('--keep-within <time>', 'keep those younger than 1y6m, 14d or 12h, seen from the newest one')
    .addOption(several('--keep-tag <key[=value]>', 'keep those with this tag; again for more'))
    .option('--min-good <n>', 'keep so many of the newest, whatever the rest says (default: 1)', count);
}

export function addRetentionCommands(program: Command): void {
  const placed = (command: Command) =>
    command
      .option('--project <name>', "the instances' project (default: the gateway's, else default)")
      .option('--target <host>', "the host, as the gateway's configuration names it (default: its default one)");

  const prune = keeping(
    placed(
      program
        .command('prune')
        .description("delete each instance's backups that no --keep option keeps")
        .argument('[instance...]', '[gateway:]instance (default: all that have backups, also those that are gone)'),
    ),
  )
    .option('--zone <zone>', "whose days and hours are meant, as Europe/Berlin (default: this machine's)")
    .option('--dry-run', 'delete nothing; show what becomes of each backup, and why')
    .option('-q, --quiet', 'no progress')
    .addOption(formatOption());
  examples(
    prune,
    'lxstow prune --keep-daily 14 --keep-monthly 12 --dry-run',
    'lxstow prune web db --keep-last 3',
    'lxstow prune --keep-within 30d --keep-tag keep --quiet       for cron',
  ).action(
    exiting(async (names: string[], options) => (await import('./commands/prune.ts')).pruneCommand(names, options)),
  );

  for (const [name, what, pinned] of [
    ['pin', 'keep backups from being deleted, by whatever asks for it', true],
    ['unpin', 'let backups be deleted again', false],
  ] as const) {
    examples(
      placed(
        program
          .command(name)
          .description(what)
          .argument('<instance>', '[gateway:]instance')
          .argument('<backup...>', 'their names, or latest'),
      ),
      `lxstow ${name} c1 latest`,
    ).action(
      exiting(async (instance: string, backups: string[], options) =>
        (await import('./commands/pin.ts')).pinCommand(instance, backups, pinned, options),
      ),
    );
  }
}

function count(text: string): number {
  if (text === 'unlimited') return -1;
  if (/^\d{1,5}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('Give a number, or `unlimited`.');
}
