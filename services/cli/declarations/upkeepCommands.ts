/** Declares the administrative commands: janitor, rebuild, adopt, doctor and dead-letters. */
import { Argument, type Command, Option } from 'commander';
import type { Format } from '../terminal/output.ts';
import type { Output } from '../terminal/outputErrors.ts';
import { beside, configurationSource, stopSignal } from './beside.ts';
import { compressionOption, examples, formatOption, lazily, quiet } from './options.ts';

export function addUpkeepCommands(program: Command, output: Output): void {
  program
    .command('janitor')
    .description('find and remove leftovers of failed operations, in S3 and on the host that worker.remote names')
    .option('--dry-run', 'only print what would be removed', false)
    .addOption(formatOption())
    .action(
      beside(async (options, given: { dryRun: boolean; format: Format }) =>
        (await import('../commands/janitor.ts')).runJanitorCommand({ ...options, ...given }),
      ),
    );
  program
    .command('rebuild')
    .description(
      'rebuild the records of all instances from the bucket in S3 and the hosts, and find backups that something other than lxstow deleted; safe to repeat',
    )
    .option('--yes', 'bring back the deleted backups that are found, by removing the delete markers that hide them')
    .option(
      '--deleted-since <time>',
      'also find backups that were deleted since this time (UTC), even if lxstow itself may have deleted them',
    )
    .addOption(formatOption())
    .action(
      beside(async (options, given: { yes?: boolean; deletedSince?: string; format: Format }) =>
        (await import('../commands/rebuild.ts')).rebuildCommand({ ...options, ...given }),
      ),
    );
  addAdopt(program);
  addDoctor(program, output);
  addDeadLetters(program);
}

function addAdopt(program: Command): void {
  examples(
    program
      .command('adopt')
      .description(
        "copy lxmin's backups into lxstow's bucket; lxmin's bucket is only read. Adopted backups cannot be locked; `lxstow pin --hold` protects them",
      )
      .argument('[instance...]', "adopt only the backups of these instances (default: all in lxmin's bucket)")
      .option('--dry-run', 'only print which backups exist, and which would be adopted', false)
      .option('--verify', 'read every archive to its end, and print which are intact; write nothing', false)
      .addOption(new Option('--bucket <name>', "lxmin's bucket").env('LXMIN_BUCKET'))
      .addOption(
        new Option('--endpoint <url>', 'S3 endpoint of that bucket (default: s3.endpoint)').env('LXMIN_ENDPOINT'),
      )
      .addOption(
        new Option('--access-key <key>', 'access key for that bucket (default: s3.accessKey)').env('LXMIN_ACCESS_KEY'),
      )
      .option(
        '--secret-key-file <file>',
        'file with the secret key for that bucket (default: LXMIN_SECRET_KEY, or s3.secretKey)',
      )
      .option('--region <name>', 'region of that bucket (default: s3.region)')
      .option('--ca <file>', "CA of that endpoint's certificate (default: s3.ca)")
      .option('--target <host>', 'host that the instances belong to (default: gateway.defaultRemote)')
      .option('--project <name>', 'project that the instances belong to', 'default')
      .addOption(compressionOption('worker.compression'))
      .option(...quiet)
      .addOption(formatOption()),
    'lxstow adopt --bucket backups --dry-run          list the backups that exist',
    'lxstow adopt --bucket backups --verify c1        check the backups of c1',
    'lxstow adopt --bucket backups                    copy all backups that are not adopted yet',
  ).action(
    beside(async (options, instances: string[], given) =>
      (await import('../commands/adopt.ts')).adoptCommand(instances, { ...options, ...given }),
    ),
  );
}

function addDoctor(program: Command, output: Output): void {
  examples(
    program
      .command('doctor')
      .description(
        'check certificates, NATS, S3, LXD and the configuration, and say what to do about each problem; safe to run at any time',
      )
      .addArgument(
        new Argument(
          '[role]',
          'role of this machine (default: each role that has a section in the configuration; both if neither has one, or with standalone)',
        ).choices(['gateway', 'worker']),
      )
      .option(
        '--only <areas>',
        'check only these areas, separated by commas: configuration, gateway, nats, s3, lxd',
        (text) => text.split(','),
      )
      .option('--strict', 'exit with status 2 if there are warnings but no problems', false)
      .addOption(formatOption()),
    'lxstow doctor',
    'lxstow doctor worker --only s3,lxd',
    'lxstow doctor --format json | jq \'.[] | select(.level != "ok")\'',
  ).action(async (role, given, command: Command) => {
    const { doctorCommand } = await import('../commands/doctor.ts');
    const status = await doctorCommand({
      ...given,
      role,
      source: configurationSource(command),
      stop: stopSignal(),
    });
    // Exits explicitly, because a check that hangs would keep the process alive.
    process.stdout.write('', () => process.exit(output.statusFor(status)));
  });
}

function addDeadLetters(program: Command): void {
  const commands = () => import('../commands/deadLetters.ts');
  const letters = program
    .command('dead-letters')
    .description('list, retry or discard jobs that failed for good, and messages that no worker could read');
  letters
    .command('list')
    .description('list dead letters, oldest first')
    .addOption(formatOption())
    .action(beside(lazily(commands, 'listCommand')));
  letters
    .command('show <id>')
    .description('show a dead letter, with headers and body')
    .addOption(formatOption())
    .action(beside(lazily(commands, 'showCommand')));
  letters
    .command('retry [id...]')
    .description('put jobs back on the queue, each as a new operation')
    .option('--all', 'every dead letter that exists now', false)
    .option('--code <code>', 'with --all: only jobs that failed with this error code')
    .action(beside(lazily(commands, 'retryCommand')));
  letters
    .command('discard [id...]')
    .description('discard dead letters')
    .option('--all', 'every dead letter that exists now', false)
    .action(beside(lazily(commands, 'discardCommand')));
}
