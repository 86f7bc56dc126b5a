#!/usr/bin/env node
/** The command line: servers and what is done beside them here, clients of a gateway in clientCommands.ts. */
import { setFlagsFromString } from 'node:v8';
import { Argument, Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { asLxstowError, LxstowError } from '../contract/errors.ts';
import { version } from '../contract/version.ts';
import { beginWith } from './beginWith.ts';
import { addClientCommands } from './clientCommands.ts';
import type { Configured } from './configured.ts';
import { CliError, exitOf, exits } from './exit.ts';
import { formatOption } from './options.ts';
import { watchOutput } from './terminal/outputErrors.ts';
import { printableLines } from './terminal/table.ts';

const oldestNode = 24;
if (Number(process.versions.node.split('.')[0]) < oldestNode) {
  process.stderr.write(`lxstow: Node.js ${process.versions.node} is too old: lxstow needs ${oldestNode} or newer\n`);
  process.exit(exits.config);
}

// What a command needs is loaded when it runs: completions, and clients in scripts, do not wait for the rest.

type Run = (options: Configured & { env: NodeJS.ProcessEnv; stop: AbortSignal }) => Promise<void>;

/**
 * For a server's memory, and no slower (docs/adr/0026-threads.md). V8's young generation, each half of it `youngMiB`, grows to 16 for what is thrown away at
 * once. Of the heaps that glibc makes for threads, each keeps what its own have given back.
 */
function beginSmall(youngMiB: number): void {
  beginWith([`--max-semi-space-size=${youngMiB}`], { MALLOC_ARENA_MAX: '1' });
}

/** The same where archives go through, and V8's old generation, which grows by a third, by less: a gateway's lists are better off as it is. */
function beginLean(): void {
  beginSmall(1);
  // Looked at with each collection, and let be by a V8 that does not know it: it need not be known at the beginning.
  setFlagsFromString('--heap-growing-percent=20');
}

const program = new Command('lxstow')
  .description('Backs LXD instances up to S3 and brings them back.')
  .version(version)
  .option('-c, --config <file>', 'configuration, YAML or JSON (else LXSTOW_CONFIG; the environment goes over it)')
  .showHelpAfterError('(--help tells more)')
  .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'lxstow: ')) })
  .exitOverride();
const servers = ['gateway', 'worker', 'standalone'];
const output = watchOutput(() => servers.includes(program.args[0] ?? ''));

program.commandsGroup('With a gateway:');
addClientCommands(program);
program.commandsGroup('Servers, and beside them (--config):');
program
  .command('gateway')
  .description('serve the HTTPS API')
  .action(() => {
    beginSmall(8);
    return long(async (options) => (await import('../gateway/main.ts')).runGateway(options))();
  });
program
  .command('worker')
  .description("do a remote's jobs, beside its LXD")
  .action(() => {
    beginLean();
    return long(async (options) => (await import('../worker/main.ts')).runWorker(options))();
  });
program
  .command('standalone')
  .description('gateway and worker in one, set up; with a nats-server of its own where nats.servers is not configured')
  .option('--nats-port <port>', 'where its own nats-server listens, on 127.0.0.1', portOf, 4222)
  .action(({ natsPort }: { natsPort: number }) => {
    beginLean();
    return long(
      async (options) => {
        const { runStandalone } = await import('./commands/standalone.ts');
        const own = !options.isGiven(['nats', 'servers']);
        await runStandalone({ ...options, natsPort: own ? natsPort : undefined });
      },
      { besideOwnNats: false },
    )();
  });
program
  .command('setup')
  .description('make what gateways and workers need: streams and buckets on NATS, the bucket in S3; safe to repeat')
  .action(long(async ({ config, log }) => (await import('./commands/setup.ts')).setUpAll(config, log)));
program
  .command('config')
  .description('print the configuration in force, secrets masked')
  .action(async () => {
    const { shownConfiguration } = await import('./configured.ts');
    process.stdout.write(shownConfiguration(configurationSource()));
  });

program
  .command('janitor')
  .description('find and remove what lxstow left on worker.remote and in S3, and nobody owns any more')
  .option('--dry-run', 'only say what would be removed', false)
  .addOption(formatOption())
  .action(({ dryRun, format }) =>
    long(async (options) => {
      const { runJanitorCommand } = await import('./commands/janitor.ts');
      process.exitCode = await runJanitorCommand({ ...options, dryRun, format });
    })(),
  );

program
  .command('rebuild')
  .description(
    "make what is known of each instance again, from the bucket in S3 and the hosts' workers; safe to repeat",
  )
  .addOption(formatOption())
  .action(({ format }) =>
    long(async (options) => {
      const { rebuildCommand } = await import('./commands/rebuild.ts');
      process.exitCode = await rebuildCommand({ ...options, format });
    })(),
  );

program
  .command('adopt')
  .description("make backups of lxmin's into backups of lxstow's, by copying; lxmin's bucket stays as it is")
  .argument('[instance...]', "those of these instances (default: all that are in lxmin's bucket)")
  .option('--dry-run', 'only say what there is, and what would be adopted', false)
  .option('--verify', 'read every byte where it is, and say what is sound; nothing is written', false)
  .addOption(new Option('--bucket <name>', "lxmin's bucket").env('LXMIN_BUCKET'))
  .addOption(new Option('--endpoint <url>', 'where it is (default: s3.endpoint)').env('LXMIN_ENDPOINT'))
  .addOption(new Option('--access-key <key>', 'whose it is (default: s3.accessKey)').env('LXMIN_ACCESS_KEY'))
  .option('--secret-key-file <file>', 'the secret for it is in this file (default: LXMIN_SECRET_KEY, or s3.secretKey)')
  .option('--region <name>', 'the region that requests are signed for (default: s3.region)')
  .option('--ca <file>', "the CA of that server's certificate (default: s3.ca)")
  .option('--target <remote>', 'the LXD server that the instances are of (default: gateway.defaultRemote)')
  .option('--project <name>', 'their project', 'default')
  .addOption(
    new Option('--compression <way>', 'how to store them (default: worker.compression)').choices([
      'gzip',
      'zstd',
      'none',
    ]),
  )
  .option('-q, --quiet', 'no progress', false)
  .addOption(formatOption())
  .addHelpText(
    'after',
    '\nExamples:\n  lxstow adopt --bucket backups --dry-run          what there is\n  lxstow adopt --bucket backups --verify c1        is it sound?\n  lxstow adopt --bucket backups                    all that is not adopted yet\n',
  )
  .action((instances, given) =>
    long(async (options) => {
      const { adoptCommand } = await import('./commands/adopt.ts');
      process.exitCode = await adoptCommand(instances, { ...options, ...given });
    })(),
  );

program
  .command('doctor')
  .description('look at certificates, NATS, S3, LXD and the configuration, and say what to do; nothing is left behind')
  .addArgument(
    new Argument('[role]', 'what runs on this host (default: as the configuration has it)').choices([
      'gateway',
      'worker',
    ]),
  )
  .option('--only <areas>', 'of configuration, gateway, nats, s3, lxd: those, separated by commas', (text) =>
    text.split(','),
  )
  .option('--strict', 'exit with status 2 when there are warnings, but no problem', false)
  .addOption(formatOption())
  .addHelpText(
    'after',
    '\nExamples:\n  lxstow doctor\n  lxstow doctor worker --only s3,lxd\n  lxstow doctor --format json | jq \'.[] | select(.level != "ok")\'\n',
  )
  .action(async (role, { only, strict, format }) => {
    const { doctorCommand } = await import('./commands/doctor.ts');
    const status = await doctorCommand({
      source: configurationSource(),
      role,
      only,
      strict,
      format,
      stop: stopSignal(),
    });
    // What hung there would keep the process.
    process.stdout.write('', () => process.exit(output.statusFor(status)));
  });

const deadLetters = program
  .command('dead-letters')
  .description('messages that no worker could do anything with, and jobs out of attempts');
deadLetters
  .command('list')
  .description('all of them, the oldest first')
  .addOption(formatOption())
  .action(({ format }) => letters((commands, options) => commands.listCommand(options, format)));
deadLetters
  .command('show <id>')
  .description('one of them, with headers and body')
  .addOption(formatOption())
  .action((id, { format }) => letters((commands, options) => commands.showCommand(options, letterId(id), format)));
deadLetters
  .command('retry [id...]')
  .description('queue them again, each as a new operation')
  .option('--all', 'every one that is there now', false)
  .option('--code <code>', 'with --all: only those that ended with this error code')
  .action((ids: string[], given: { all: boolean; code?: string }) =>
    letters((commands, options) => commands.retryCommand(options, ids.map(letterId), given)),
  );
deadLetters
  .command('discard [id...]')
  .description('throw them away')
  .option('--all', 'every one that is there now', false)
  .action((ids: string[], { all }) =>
    letters((commands, options) => commands.discardCommand(options, ids.map(letterId), all)),
  );

function portOf(text: string): number {
  if (/^\d{1,5}$/.test(text) && Number(text) > 0 && Number(text) < 65_536) return Number(text);
  throw new InvalidArgumentError('That is no port.');
}

function letterId(text: string): number {
  if (!/^[1-9]\d{0,14}$/.test(text))
    throw new LxstowError('bad-request', `${JSON.stringify(text)} is no dead letter's id`);
  return Number(text);
}

const trust = program.command('trust').description('clients that may use the API, kept on NATS for all gateways');
const projects = () =>
  new Option('--project <name>', 'restrict it to this project; can be given again')
    .argParser((name: string, before: string[]) => [...before, name])
    .default([], 'all projects');
const unchecked = () => new Option('--unchecked', 'take projects that no worker knows, too');
const role = () =>
  new Option('--role <role>', 'what it may do (default: admin, or operator where it is restricted)').choices([
    'admin',
    'operator',
    'viewer',
  ]);
trust
  .command('token <name>')
  .description('print a token with which one client makes itself trusted, once: `lxc remote add <remote> <token>`')
  .addOption(role())
  .addOption(projects())
  .addOption(unchecked())
  .option('--expires <time>', 'when it can no longer be used: 30m, 12h, 7d (default: gateway.tokenExpiryHours)')
  .option('--gateway <host:port>', 'which gateway the client is sent to (default: the one seen last)')
  .action((name, given) => trusting((commands, options) => commands.tokenCommand(options, name, given)));
trust
  .command('add <file>')
  .description('trust a client certificate (PEM)')
  .option('--name <name>', "what to call it (default: the certificate's common name)")
  .addOption(role())
  .addOption(projects())
  .addOption(unchecked())
  .action((file, given) => trusting((commands, options) => commands.addCommand(options, file, given)));
trust
  .command('list')
  .description('who is trusted')
  .addOption(formatOption())
  .action(({ format }) => trusting((commands, options) => commands.listCommand(options, format)));
trust
  .command('edit <fingerprint>')
  .description("change a client's role, projects or name; the beginning of the fingerprint will do")
  .option('--name <name>', 'what to call it')
  .addOption(new Option('--role <role>', 'what it may do').choices(['admin', 'operator', 'viewer']))
  .addOption(projects())
  .addOption(unchecked())
  .option('--all-projects', 'restrict it no more')
  .action((fingerprint, given) => trusting((commands, options) => commands.editCommand(options, fingerprint, given)));
trust
  .command('remove <fingerprint>')
  .description('trust it no more, and cut its connections; the beginning of the fingerprint will do')
  .action((fingerprint) => trusting((commands, options) => commands.removeCommand(options, fingerprint)));
trust
  .command('list-tokens')
  .description('tokens that can be used')
  .addOption(formatOption())
  .action(({ format }) => trusting((commands, options) => commands.listTokensCommand(options, format)));
trust
  .command('revoke-token <name>')
  .description('take a token back')
  .action((name) => trusting((commands, options) => commands.revokeTokenCommand(options, name)));

type TrustCommands = typeof import('./commands/trust.ts');

function trusting(run: (commands: TrustCommands, options: Parameters<Run>[0]) => Promise<void>): Promise<void> {
  return long(async (options) => run(await import('./commands/trust.ts'), options))();
}

type LetterCommands = typeof import('./commands/deadLetters.ts');

function letters(run: (commands: LetterCommands, options: Parameters<Run>[0]) => Promise<void>): Promise<void> {
  return long(async (options) => run(await import('./commands/deadLetters.ts'), options))();
}

function configurationSource() {
  return { file: program.opts<{ config?: string }>().config, env: process.env };
}

/** Runs until it ends or SIGINT or SIGTERM comes; a second signal ends the process at once. */
function long(run: Run, { besideOwnNats = true } = {}): () => Promise<void> {
  return async () => {
    const { configured } = await import('./configured.ts');
    const { assertOwnNats } = await import('./ownNats.ts');
    const found = configured(configurationSource());
    if (besideOwnNats) await assertOwnNats(found.config, process.env);
    await run({ ...found, env: process.env, stop: stopSignal() });
  };
}

/** Aborts at the first SIGINT or SIGTERM; a second one ends the process at once. */
function stopSignal(): AbortSignal {
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (stop.signal.aborted) process.exit(130);
      stop.abort(new LxstowError('stopping', `stopped by ${signal}`));
    });
  }
  return stop.signal;
}

try {
  await program.parseAsync();
  process.exitCode = output.statusFor(Number(process.exitCode ?? exits.ok));
} catch (thrown) {
  // Commander has said it.
  if (thrown instanceof CommanderError) process.exitCode = thrown.exitCode === 0 ? exits.ok : exits.usage;
  else {
    const error = thrown instanceof CliError ? thrown : asLxstowError(thrown);
    const internal = error instanceof LxstowError && error.code === 'internal' && thrown instanceof Error;
    const hint = error instanceof CliError && error.hint ? `  ${error.hint}\n` : '';
    process.stderr.write(printableLines(`lxstow: ${internal ? thrown.stack : error.message}\n${hint}`));
    process.exitCode = exitOf(error);
  }
}
