/** Servers and their setup, declared. */
import { setFlagsFromString } from 'node:v8';
import { type Command, InvalidArgumentError } from 'commander';
import { beside, configurationSource } from './beside.ts';

/** Commands that run until they are stopped. */
export const servers = ['gateway', 'worker', 'standalone'];

export function addServerCommands(program: Command): void {
  program
    .command('gateway')
    .description('run a gateway, which serves the HTTPS API')
    .action(beside(async (options) => (await import('../../gateway/main.ts')).runGateway(options)));
  program
    .command('worker')
    .description('run a worker, which does the jobs of one host')
    .hook('preAction', growSlowly)
    .action(beside(async (options) => (await import('../../worker/main.ts')).runWorker(options)));
  program
    .command('standalone')
    .description('run a gateway and a worker in one process, with its own nats-server unless nats.servers is set')
    .option('--nats-port <port>', 'port of its own nats-server, on 127.0.0.1', portOf, 4222)
    .hook('preAction', growSlowly)
    .action(
      beside(
        async (options, { natsPort }: { natsPort: number }) => {
          const { runStandalone } = await import('../commands/standalone.ts');
          const own = !options.isGiven(['nats', 'servers']);
          await runStandalone({ ...options, natsPort: own ? natsPort : undefined });
        },
        { besideOwnNats: false },
      ),
    );
  program
    .command('setup')
    .description('create what gateways and workers need: streams and buckets on NATS, the bucket in S3; safe to repeat')
    .action(beside(async ({ config, log }) => (await import('../commands/setup.ts')).setUpAll(config, log)));
  program
    .command('config')
    .description('print the configuration in effect, with secrets masked')
    .action(async (_options, command: Command) => {
      const { shownConfiguration } = await import('../configured.ts');
      process.stdout.write(shownConfiguration(configurationSource(command)));
    });
}

/**
 * For a server's memory, where archives pass through (docs/adr/0026-threads.md): V8's old generation, which grows by a third, grows by less. V8 reads this
 * flag at each collection. Flags that V8 reads at its start are set by units and image: docs/install.md.
 */
function growSlowly(): void {
  setFlagsFromString('--heap-growing-percent=20');
}

function portOf(text: string): number {
  if (/^\d{1,5}$/.test(text) && Number(text) > 0 && Number(text) < 65_536) return Number(text);
  throw new InvalidArgumentError('It is not a port.');
}
