import type { Command } from 'commander';
import { examples, exiting, formatOption, gateway, lazily, operation } from './options.ts';

const ofOperations = () => import('../commands/operations.ts');

export function addStatusCommand(program: Command): void {
  examples(
    program
      .command('status')
      .description(
        'show the state of each instance; instances that need attention come first. The exit status is 1 if there are any',
      )
      .argument(...gateway)
      .option('--project <name>', 'only this project (default: all that this client may see)')
      .option('--target <host>', 'only this LXD or Incus host (default: all)')
      .option('--summary', 'print one line, for cron')
      .option(
        '--older-than <time>',
        "an instance needs attention if its last backup is older than this: 26h, 8d (default: set by the instance's schedules, else by gateway.backupMaxAgeHours)",
      )
      .addOption(formatOption()),
    'lxstow status',
    'lxstow status --summary                              one line: what needs attention, and how many are ok',
    'lxstow status --older-than 8d --format csv',
    'lxstow status --format json | jq -r ".[] | select(.state == \\"never\\").instance"',
  ).action(exiting(lazily(() => import('../commands/status.ts'), 'statusCommand')));
}

export function addOperationCommands(program: Command): void {
  const operations = program.command('operations').description('show unfinished and recent operations');
  const listed = (command: Command) =>
    command
      .argument(...gateway)
      .option('--project <name>', 'only this project (default: the one given to `lxstow remote add`, else `default`)')
      .option('--all-projects', 'all projects that this client may see')
      .addOption(formatOption());
  listed(operations.command('list', { isDefault: true }).description('list operations, oldest first')).action(
    exiting(lazily(ofOperations, 'operationsCommand')),
  );
  operations
    .command('show')
    .description('show one operation')
    .argument('<operation>', operation)
    .addOption(formatOption())
    .action(exiting(lazily(ofOperations, 'showCommand')));
  listed(
    operations.command('watch').description('follow operations until Ctrl-C; in a pipe, print a line for each change'),
  ).action(exiting(lazily(ofOperations, 'watchCommand')));
  examples(
    operations,
    'lxstow operations',
    'lxstow operations watch --all-projects',
    'lxstow operations list --format json',
    'lxstow operations show 4414c3d3-52ea-43a6-aa47-23439a72fc3f',
  );
  examples(
    program.command('cancel').description('cancel backups and restores').argument('<operation...>', operation),
    'lxstow cancel 4414c3d3-52ea-43a6-aa47-23439a72fc3f',
  ).action(exiting(lazily(ofOperations, 'cancelCommand')));
}
