import { resolve } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { type Command, InvalidArgumentError } from 'commander';
import { usualNatsPort } from '../../init/ports.ts';
import { beside, configurationSource } from './beside.ts';
import { examples, lazily } from './options.ts';

/** Commands that run until they are stopped. */
export const servers = ['gateway', 'worker', 'standalone'];

export function addServerCommands(program: Command): void {
  program
    .command('gateway')
    .description('run a gateway, which serves the HTTPS API')
    .hook('preAction', () => growSlowly(50))
    .action(beside(lazily(() => import('../../gateway/main.ts'), 'runGateway')));
  program
    .command('worker')
    .description('run a worker, which does the jobs of one host')
    .hook('preAction', () => growSlowly(20))
    .action(beside(lazily(() => import('../../worker/main.ts'), 'runWorker')));
  addStandalone(program);
  program
    .command('setup')
    .description('create what gateways and workers need: streams and buckets on NATS, the bucket in S3; safe to repeat')
    .action(beside(async ({ config, log }) => (await import('../commands/setup.ts')).setUpAll(config, log)));
  addNatsConfig(program);
  program
    .command('config')
    .description('print the configuration in effect, with secrets masked')
    .action(async (_options, command: Command) => {
      const { shownConfiguration } = await import('../configured.ts');
      process.stdout.write(shownConfiguration(configurationSource(command)));
    });
}

function addStandalone(program: Command): void {
  program
    .command('standalone')
    .description('run a gateway and a worker in one process, with its own nats-server unless nats.servers is set')
    .option('--nats-port <port>', 'port of its own nats-server, on 127.0.0.1', portOf, usualNatsPort)
    .option('--store <folder>', 'keep backups in this folder; sets s3.folder for this process', folderOf)
    .hook('preAction', () => growSlowly(20))
    .action(
      beside(
        async (options, { natsPort }: { natsPort: number; store?: string }) => {
          const { runStandalone } = await import('../commands/standalone.ts');
          const own = !options.isGiven(['nats', 'servers']);
          await runStandalone({ ...options, natsPort: own ? natsPort : undefined });
        },
        {
          besideOwnNats: false,
          variables: ({ store }) => (store === undefined ? {} : { LXSTOW_S3_FOLDER: store }),
        },
      ),
    );
}

function addNatsConfig(program: Command): void {
  examples(
    program
      .command('nats-config')
      .description('write a nats-server configuration for several LXD hosts, with a certificate, users and passwords')
      .requiredOption('--hosts <names>', 'names of the LXD hosts, as in `remotes`, separated by commas', words)
      .requiredOption('--out <folder>', 'folder for the files; it must have the same path on each machine')
      .option(
        '--server <names>',
        "names and addresses of the server's machine, separated by commas; the other machines connect to the first (default: this machine's name)",
        words,
      )
      .addHelpText('after', '\nIf the folder already has one of the files, nothing is written.')
      .option('--port <port>', 'port of the server', portOf, 4222),
    'lxstow nats-config --hosts berlin,oslo --server nats.example.net --out /etc/lxstow/nats',
  ).action(async (options) => (await import('../commands/natsConfig.ts')).natsConfigCommand(options));
}

function folderOf(text: string): string {
  // `--store "$UNSET"` is not the current folder.
  if (text === '') throw new InvalidArgumentError('Give a folder.');
  return resolve(text);
}

/** Names separated by commas. */
function words(text: string): string[] {
  const found = text.split(',').map((word) => word.trim());
  if (found.every((word) => /^[\w.:-]+$/.test(word))) return found;
  throw new InvalidArgumentError('Give names, separated by commas.');
}

/**
 * Saves memory in servers (docs/adr/0026-threads.md): V8's old generation grows by at most so much of what is in use before it is collected. V8 reads this
 * flag at each collection. Flags that V8 reads only when it starts are set by the systemd units and the image: docs/install.md.
 */
function growSlowly(percent: number): void {
  setFlagsFromString(`--heap-growing-percent=${percent}`);
}

function portOf(text: string): number {
  if (/^\d{1,5}$/.test(text) && Number(text) > 0 && Number(text) < 65_536) return Number(text);
  throw new InvalidArgumentError('Give a port: 1 to 65535.');
}
