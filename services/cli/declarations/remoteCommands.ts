/** Declares `lxstow remote`, which manages the gateways that a client knows. */
import type { Command } from 'commander';
import { examples, exiting, formatOption, lazily } from './options.ts';

const ofRemotes = () => import('../commands/remote.ts');

export function addRemoteCommands(program: Command): void {
  const remote = program
    .command('remote')
    .description('manage the gateways that this client knows, as `lxc remote` does for LXD servers');
  remote
    .command('add')
    .description('add a gateway, so that it and this client trust each other')
    .argument('<new-name>', 'what to call the gateway')
    .argument(
      '[url|token]',
      'https://host:port, or a token from `lxstow trust token`; - reads it from standard input (default: LXSTOW_TOKEN; otherwise, lxstow asks for a token)',
    )
    .option('--accept-certificate', 'trust the certificate that the gateway presents, without asking')
    .option(
      '--token <token>',
      'token to use with a URL, if this client cannot reach the addresses in the token; - reads it from standard input',
    )
    .option('--project <name>', 'default project at this gateway')
    .action(exiting(lazily(ofRemotes, 'addCommand')));
  remote
    .command('list')
    .alias('ls')
    .description('list the gateways')
    .addOption(formatOption())
    .action(exiting(lazily(ofRemotes, 'listCommand')));
  remote
    .command('remove')
    .alias('rm')
    .description(
      'remove a gateway from this client; the gateway still trusts the client until `lxstow trust remove` is run there',
    )
    .argument('<name>', 'name of the gateway')
    .action(exiting(lazily(ofRemotes, 'removeCommand')));
  remote
    .command('switch')
    .description('make a gateway the default, for commands that name no gateway')
    .argument('<name>', 'name of the gateway')
    .action(exiting(lazily(ofRemotes, 'switchCommand')));
  examples(
    remote,
    'lxstow remote add stow                               asks for a token from the gateway',
    'lxstow remote add stow - <token                      with a token from a file',
    'lxstow remote add stow https://192.0.2.7:8443        with a URL; the gateway must already trust this client',
    'lxstow remote switch stow',
  );
}
