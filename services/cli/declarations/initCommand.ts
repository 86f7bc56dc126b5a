import { type Command, Option } from 'commander';
import type { InitOptions } from '../commands/init.ts';
import { configurationSource, stopSignal } from './beside.ts';
import { examples, exiting } from './options.ts';

export function addInitCommand(program: Command): void {
  examples(
    program
      .command('init')
      .description(
        'set up lxstow on this machine: find LXD or Incus, ask where backups go, start everything; safe to repeat',
      )
      .option('-y, --yes', 'ask nothing; use the default for each question that no option answers')
      .option(
        '--store <place>',
        'where backups go: a folder, or the URL of an S3 server, such as https://s3.example.net/bucket',
      )
      .option('--access-key-file <file>', 'file with the S3 access key (default: LXSTOW_S3_ACCESS_KEY)')
      .option('--secret-key-file <file>', 'file with the S3 secret key (default: LXSTOW_S3_SECRET_KEY)')
      .option('--region <name>', 'region of the bucket (default: us-east-1)')
      .option('--ca <file>', "CA of the S3 server's certificate, PEM")
      .addOption(
        new Option('--engine <name>', 'which engine to use, if this machine has both LXD and Incus').choices([
          'lxd',
          'incus',
        ]),
      )
      .option('--nightly <time>', 'back up every instance every night at this time (default: 03:00)')
      .option('--no-nightly', 'create no schedule')
      .option('--keep-daily <n>', 'keep the backups of the last n nights (default: 14)')
      .option(
        '--backup <which>',
        'back up now: all, none, or the name of an instance (default: all; when init is run again: none)',
      )
      .option('--undo', 'stop lxstow and remove what init set up; backups, their folder or bucket, and keys stay'),
    'lxstow init',
    'lxstow init --yes --store /mnt/nas/lxstow --nightly 03:00 --keep-daily 14',
    'LXSTOW_S3_ACCESS_KEY=… LXSTOW_S3_SECRET_KEY=… lxstow init --yes --store https://s3.example.net/backups',
  ).action(
    exiting(async (options: InitOptions, command: Command) => {
      const { initCommand, undoCommand } = await import('../commands/init.ts');
      const given = { source: configurationSource(command), stop: stopSignal() };
      return options.undo ? undoCommand(given) : initCommand(options, given);
    }),
  );
}
