/** Declares `lxstow backup` and `restore`, and the commands that list, show, delete and export backups. */
import type { Command } from 'commander';
import {
  backingUp,
  backup,
  examples,
  exiting,
  formatOption,
  instance,
  lazily,
  notify,
  quiet,
  retryOption,
  scoped,
  selectorOption,
  several,
  waiting,
} from './options.ts';

const ofBackups = () => import('../commands/backups.ts');

export function addBackupCommand(program: Command): void {
  const command = program
    .command('backup')
    .description('back up instances')
    .argument('[instance...]', 'instances, as [gateway:]name; with --all or --selector, only a gateway, such as stow:')
    .option('--all', 'back up every instance of the project, as one run')
    .addOption(selectorOption())
    .option('--name <name>', 'name of the backup; only with a single instance (default: made from the time)')
    .addOption(retryOption());
  examples(
    waiting(scoped(backingUp(command, 'backup'), "the gateway's default host; with --all or --selector, all hosts")),
    'lxstow backup c1                                     back up c1, and wait for the end',
    'lxstow backup c1 stow2:c2 --tag keep=yes             two instances, at two gateways',
    'lxstow backup --selector user.backup=daily --quiet --retry 10m   for cron',
    'lxstow backup --all --no-wait --format json          start a run of all instances',
  ).action(exiting(lazily(() => import('../commands/backup.ts'), 'backupCommand')));
}

export function addRestoreCommand(program: Command): void {
  const command = program
    .command('restore')
    .description('restore instances from backups')
    .argument('[instance]', '[gateway:]name of the instance in the backup; with --all, only a gateway, such as stow:')
    .argument('[backup]', backup[1])
    .option('--at <time>', 'restore the last backup made before this time (UTC), or before the end of this day')
    .option('--all', 'restore the latest backup of every instance of the project')
    .option('--all-projects', 'with --all: instances of every project, each restored to its own project')
    .option('--as <name>', 'restore under this name (default: the original one)')
    .option(
      '--pool <pool>',
      'restore to this storage pool (default: the original one, else that of the default profile)',
    )
    .option('--to-project <name>', 'restore to this project (default: the original one)')
    .option('--to-target <host>', 'restore to this host (default: the original one)')
    .option('--start', 'start the instance afterwards')
    .option(
      '--replace',
      'replace an existing instance of this name; the old one is deleted only after the restored one has replaced it',
    )
    .option('--keep-identity', 'keep UUID, MAC addresses and cloud-init identity, even if another instance uses them')
    .option('--no-network', 'restore without network devices, to inspect the data')
    .option('--anyway', 'try to restore a backup even if lxstow expects the host to refuse it')
    .option(...notify);
  examples(
    waiting(scoped(command)),
    'lxstow restore c1 latest                             c1 must not exist',
    'lxstow restore c1 latest --as c1-test --start        a copy next to c1, with its own UUID and MAC addresses',
    'lxstow restore c1 --at 2026-11-24 --as c1-tuesday    from the last backup of that day',
    'lxstow restore c1 backup_2026-11-23-13-4544.tar.gz --replace',
    'lxstow restore --all --target old --to-target local  everything from a lost host',
  ).action(exiting(lazily(() => import('../commands/restore.ts'), 'restoreCommand')));
}

export function addListCommands(program: Command): void {
  const list = program
    .command('list')
    .alias('ls')
    .description('list backups, by instance, oldest first')
    .argument('[instance]', '[gateway:][name] (default: all instances)')
    .option('--all', 'backups of every project and every host, including hosts that no longer exist')
    .addOption(several('--tag <key[=value]>', 'only backups with this tag; repeat for more tags, which must all match'))
    .option(
      '--before <time>',
      'only backups made before a date or time (UTC), or older than an age such as 14d or 12h',
    );
  examples(
    scoped(list).addOption(formatOption()),
    'lxstow list',
    'lxstow list --tag schedule=daily --before 14d',
    'lxstow list --all',
    'lxstow list c1 --format json | jq -r ".[-1].name"',
    'lxstow list stow2: --project web --format csv',
  ).action(exiting(lazily(ofBackups, 'listCommand')));

  const info = program
    .command('info')
    .description(
      'show a backup: sizes, compression, tags, pool, snapshots, versions; or its progress while it is being made',
    )
    .argument(...instance)
    .argument(...backup);
  examples(scoped(info).addOption(formatOption()), 'lxstow info c1 latest').action(
    exiting(lazily(ofBackups, 'infoCommand')),
  );

  const remove = program
    .command('delete')
    .alias('rm')
    .description('delete backups, without asking for confirmation')
    .argument(...instance)
    .argument('<backup...>', 'names of backups');
  examples(scoped(remove), 'lxstow delete c1 backup_2026-11-23-13-4544.tar.gz').action(
    exiting(lazily(ofBackups, 'deleteCommand')),
  );
}

export function addExportCommand(program: Command): void {
  const command = program
    .command('export')
    .description('download a backup to a file; resumes an interrupted download')
    .argument(...instance)
    .argument(...backup)
    .argument('[file]', 'file to write, or - for standard output (default: <instance>-<backup>)')
    .option('--force', 'overwrite an existing file')
    .option(...quiet);
  examples(
    scoped(command),
    'lxstow export c1 latest',
    'lxstow export c1 latest c1.tar.gz && lxc import c1.tar.gz',
    'lxstow export c1 latest - | tar -tz',
  ).action(exiting(lazily(() => import('../commands/export.ts'), 'exportCommand')));
}
