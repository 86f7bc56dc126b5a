/** Servers and their setup, declared. */
import { setFlagsFromString } from 'node:v8';
import { type Command, InvalidArgumentError } from 'commander';
import { beginWith } from '../beginWith.ts';
import { beside, configurationSource } from './beside.ts';

/** Commands that run until they are stopped. */
export const servers = ['gateway', 'worker', 'standalone'];

export function addServerCommands(program: Command): void {
  program
    .command('gateway')
    .description('run a gateway, which serves the HTTPS API')
    .hook('preAction', () => beginSmall(8))
    .action(beside(async (options) => (await import('../../gateway/main.ts')).runGateway(options)));
  program
    .command('worker')
    .description('run a worker, which does the jobs of one host')
    .hook('preAction', beginLean)
    .action(beside(async (options) => (await import('../../worker/main.ts')).runWorker(options)));
  program
    .command('standalone')
    .description('run a gateway and a worker in one process, with its own nats-server unless nats.servers is set')
    .option('--nats-port <port>', 'port of its own nats-server, on 127.0.0.1', portOf, 4222)
    .hook('preAction', beginLean)
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
 * Begins again with less memory for a server, and no slower (docs/adr/0026-threads.md). V8's young generation, each half of it `youngMiB`, grows to 16 for
 * short-lived objects. glibc makes a heap for each thread, and each keeps what its own threads freed.
 */
function beginSmall(youngMiB: number): void {
  beginWith([`--max-semi-space-size=${youngMiB}`], { MALLOC_ARENA_MAX: '1' });
}

/** The same where archives pass through, with an old generation that grows by a fifth. A gateway's lists are better off without that. */
function beginLean(): void {
  beginSmall(1);
  // V8 reads it at each collection, so it need not be set at the beginning. A V8 that does not know it ignores it.
  setFlagsFromString('--heap-growing-percent=20');
}

function portOf(text: string): number {
  if (/^\d{1,5}$/.test(text) && Number(text) > 0 && Number(text) < 65_536) return Number(text);
  throw new InvalidArgumentError('It is not a port.');
}
