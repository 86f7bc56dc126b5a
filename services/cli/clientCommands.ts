/** What clients of a gateway can do, declared; each is in a file of its own, loaded when it is used. */
import { Argument, type Command, Option } from 'commander';
import { examples, exiting, formatOption, retryTime, several } from './options.ts';
import { addRunCommands } from './runCommands.ts';
import type { Format } from './terminal/output.ts';

const instance = '<instance>';

export function addClientCommands(program: Command): void {
  const placed = (command: Command) =>
    command
      .option('--project <name>', "the instance's project (default: the remote's, else default)")
      .option(
        '--target <remote>',
        "the LXD server, as the gateway's configuration names it (default: its default one)",
      );
  const waiting = (command: Command) =>
    command
      .option('--wait', 'until it has ended; Ctrl-C then asks the server to cancel', true)
      .option('--no-wait', 'only begin it')
      .option('-q, --quiet', 'no progress')
      .addOption(formatOption());

  examples(
    waiting(
      placed(
        program
          .command('backup')
          .description('back instances up')
          .argument('[instance...]', '[remote:]instance; with --all or --selector [remote:]'),
      )
        .option('--all', 'every instance of the project, as one run')
        .addOption(
          several(
            '--selector <key=value>',
            'those it fits: status, type, name, architecture, location, or a key of their configuration; again: and',
          ),
        )
        .addOption(several('--tag <key=value>', 'a tag of the backup; again for more'))
        .option('--notify <url>', 'who is told how it ended, besides those that the gateway always tells')
        .option('--retry <time>', 'ask again for so long while the gateway, or what it needs, is away: 10m', retryTime)
        .option('--name <name>', 'what to call the backup (default: by the time)')
        .addOption(
          new Option('--compression <way>', "how to store it (default: the worker's)").choices([
            'gzip',
            'zstd',
            'none',
          ]),
        )
        .option('--optimized', "in the storage driver's own form: restores into that driver only")
        .option('--instance-only', 'without snapshots'),
    ),
    'lxstow backup c1                                     one, until it is done',
    'lxstow backup c1 stow2:c2 --tag keep=yes             two, of two gateways',
    'lxstow backup --selector user.backup=daily --quiet --retry 10m   those with this key; for cron',
    'lxstow backup --all --no-wait --format csv           all, without waiting',
  ).action(
    exiting(async (instances: string[], options) =>
      (await import('./commands/backup.ts')).backupCommand(instances, options),
    ),
  );

  addRunCommands(program);

  examples(
    waiting(
      placed(
        program
          .command('restore')
          .description('bring an instance back')
          .argument('[instance]', '[remote:]instance whose backup it is; with --all [remote:]')
          .argument('[backup]', 'its name, or latest'),
      )
        .option('--at <time>', 'the latest one at a date or time (UTC): of 2026-11-24 its last one, or the one before')
        .option('--all', 'the latest backup of every instance of the project')
        .option('--all-projects', 'and of every project, each into its own')
        .option('--as <name>', 'restore it under this name')
        .option('--pool <pool>', 'into this storage pool (default: where it was)')
        .option('--to-project <name>', 'into this project (default: where it was)')
        .option('--to-target <remote>', 'onto this LXD server (default: where it was)')
        .option('--start', 'start it then')
        .option('--replace', 'in the place of the instance of this name, which is kept until the restored one runs')
        .option('--keep-identity', 'keep UUID, MACs and cloud-init identity, although another instance has them')
        .option('--no-network', 'without its network devices, for a look inside')
        .option('--anyway', 'send it although the server is known not to take it')
        .option('--notify <url>', 'who is told how it ended, besides those that the gateway always tells'),
    ),
    'lxstow restore c1 latest                             it must be gone',
    'lxstow restore c1 latest --as c1-test --start        beside it, with a UUID and MACs of its own',
    'lxstow restore c1 --at 2026-11-24 --as c1-tuesday    as it was at the end of that day',
    'lxstow restore c1 backup_2026-11-23-13-4544.tar.gz --replace',
    'lxstow restore --all --target web --to-target local  all of a host that is no more',
  ).action(
    exiting(async (name: string | undefined, backup: string | undefined, options) =>
      (await import('./commands/restore.ts')).restoreCommand(name, backup, options),
    ),
  );

  examples(
    placed(
      program
        .command('list')
        .alias('ls')
        .description('show backups, the oldest first')
        .argument('[instance]', '[remote:][instance] (default: all)'),
    )
      .option('--all', 'all that are stored: of every LXD server, also one that is no more, and of every project')
      .addOption(several('--tag <key[=value]>', 'those with this tag; again: and'))
      .option('--before <time>', 'those made before a date or time (UTC), or longer ago than 14d, 12h')
      .addOption(formatOption()),
    'lxstow list',
    'lxstow list --tag schedule=daily --before 14d',
    'lxstow list --all',
    'lxstow list c1 --format json | jq -r ".[-1].name"',
    'lxstow list stow2: --project web --format csv',
  ).action(
    exiting(async (name: string | undefined, options) =>
      (await import('./commands/backups.ts')).listCommand(name, options),
    ),
  );

  examples(
    placed(
      program
        .command('info')
        .description(
          'show one backup: sizes, compression, tags, pool, snapshots, versions; one in the making, with how far it is',
        )
        .argument(instance, '[remote:]instance')
        .argument('<backup>', 'its name, or latest'),
    ).addOption(formatOption()),
    'lxstow info c1 latest',
  ).action(
    exiting(async (name: string, backup: string, options) =>
      (await import('./commands/backups.ts')).infoCommand(name, backup, options),
    ),
  );

  examples(
    placed(
      program
        .command('delete')
        .alias('rm')
        .description('delete backups, without asking')
        .argument(instance, '[remote:]instance')
        .argument('<backup...>', 'their names'),
    ),
    'lxstow delete c1 backup_2026-11-23-13-4544.tar.gz',
  ).action(
    exiting(async (name: string, backups: string[], options) =>
      (await import('./commands/backups.ts')).deleteCommand(name, backups, options),
    ),
  );

  examples(
    placed(
      program
        .command('export')
        .description('write a backup to a file; what was cut is gone on with')
        .argument(instance, '[remote:]instance')
        .argument('<backup>', 'its name, or latest')
        .argument('[file]', '- is standard output (default: <instance>-<backup>)'),
    )
      .option('--force', 'write over a file that is there')
      .option('-q, --quiet', 'no progress'),
    'lxstow export c1 latest',
    'lxstow export c1 latest c1.tar.gz && lxc import c1.tar.gz',
    'lxstow export c1 latest - | tar -tz',
  ).action(
    exiting(async (name: string, backup: string, file: string | undefined, options) =>
      (await import('./commands/export.ts')).exportCommand(name, backup, file, options),
    ),
  );

  examples(
    program
      .command('status')
      .description('the state of each instance, those that want something done first; exit status 1 if there is one')
      .argument('[remote]', 'remote:')
      .option('--project <name>', 'of this project (default: all that this client may see)')
      .option('--target <remote>', "of this LXD server, as the gateway's configuration names it (default: all)")
      .option('--summary', 'one line for all of them, for cron')
      .option('--older-than <time>', 'a last backup this old is too old: 26h, 8d (default: gateway.backupMaxAgeHours)')
      .addOption(formatOption()),
    'lxstow status',
    'lxstow status --summary                              one line: what wants something done, and how many are ok',
    'lxstow status --older-than 8d --format csv',
    'lxstow status --format json | jq -r ".[] | select(.state == \\"never\\").instance"',
  ).action(
    exiting(async (remote: string | undefined, options) =>
      (await import('./commands/status.ts')).statusCommand(remote, options),
    ),
  );

  const operations = program.command('operations').description('what is under way, and what has ended of late');
  const listed = (command: Command) =>
    command
      .argument('[remote]', 'remote:')
      .option('--project <name>', "of this project (default: the remote's, else default)")
      .option('--all-projects', 'of all that this client may see')
      .addOption(formatOption());
  listed(operations.command('list', { isDefault: true }).description('all of them, the oldest first')).action(
    exiting(async (remote: string | undefined, options) =>
      (await import('./commands/operations.ts')).operationsCommand(remote, options),
    ),
  );
  operations
    .command('show')
    .description('show one')
    .argument('<operation>', '[remote:]id')
    .addOption(formatOption())
    .action(
      exiting(async (id: string, options) => (await import('./commands/operations.ts')).showCommand(id, options)),
    );
  listed(
    operations.command('watch').description('follow them until Ctrl-C; when piped, a line for each change'),
  ).action(
    exiting(async (remote: string | undefined, options) =>
      (await import('./commands/operations.ts')).watchCommand(remote, options),
    ),
  );
  examples(
    operations,
    'lxstow operations',
    'lxstow operations watch --all-projects',
    'lxstow operations list --format json',
    'lxstow operations show 4414c3d3-52ea-43a6-aa47-23439a72fc3f',
  );

  examples(
    program.command('cancel').description('cancel backups and restores').argument('<operation...>', '[remote:]id'),
    'lxstow cancel 4414c3d3-52ea-43a6-aa47-23439a72fc3f',
  ).action(exiting(async (ids: string[]) => (await import('./commands/operations.ts')).cancelCommand(ids)));

  const remote = program.command('remote').description('gateways that this client knows');
  remote
    .command('add')
    .description('trust a gateway, and be trusted by it')
    .argument('<as>', 'what to call it')
    .argument('<url|token>', 'https://host:port, or what `lxstow trust token` printed')
    .option('--accept-certificate', 'take the certificate that it shows, unseen')
    .option('--token <token>', 'a token, where its own addresses are not the right ones from here')
    .option('--project <name>', 'of which everything is, unless --project says another')
    .action(
      exiting(async (name: string, address: string, options) =>
        (await import('./commands/remote.ts')).addCommand(name, address, options),
      ),
    );
  remote
    .command('list')
    .alias('ls')
    .description('show them')
    .addOption(formatOption())
    .action(
      exiting(async ({ format }: { format: Format }) => (await import('./commands/remote.ts')).listCommand(format)),
    );
  remote
    .command('remove')
    .alias('rm')
    .description('forget one; it still trusts this client: `lxstow trust remove` there')
    .argument('<name>')
    .action(exiting(async (name: string) => (await import('./commands/remote.ts')).removeCommand(name)));
  remote
    .command('switch')
    .description('make one the default, which is meant where none is named')
    .argument('<name>')
    .action(exiting(async (name: string) => (await import('./commands/remote.ts')).switchCommand(name)));
  examples(
    remote,
    'lxstow remote add stow eyJjbGllbnRfbmFtZSI6…          with a token; nothing to compare',
    'lxstow remote add stow https://192.0.2.7:8443        where the client is trusted already',
    'lxstow remote switch stow',
  );

  examples(
    program
      .command('completion')
      .description('print the completion script of a shell')
      .addArgument(new Argument('<shell>').choices(['bash', 'zsh', 'fish'])),
    'source <(lxstow completion bash)',
    'lxstow completion fish | source',
  ).action(async (shell) => (await import('./commands/completion.ts')).completionCommand(shell));
  program
    .command('__complete', { hidden: true })
    .argument('[words...]')
    .action(async (words: string[]) => {
      const found = await (await import('./commands/completion.ts')).complete(program, words);
      process.stdout.write(found.map((word) => `${word}\n`).join(''));
    });
}
