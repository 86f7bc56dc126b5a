import { type Command, Option } from 'commander';
import { beside } from './beside.ts';
import { formatOption, lazily, several, timeSpan } from './options.ts';

const commands = () => import('../commands/trust.ts');
const roles = ['admin', 'operator', 'viewer'];
const expiry = 'how long the token can be used: 30m, 12h, 7d (default: gateway.tokenExpiryHours)';
const fingerprint = '<fingerprint>';
const byFingerprint = "fingerprint of the client's certificate, or the beginning of it";

export function addTrustCommands(program: Command): void {
  const trust = program
    .command('trust')
    .description('manage the clients that may use the API, for all gateways at once');
  granted(
    trust
      .command('token')
      .description(
        'print a token that makes one client, <name>, trusted; the client uses it with `lxstow remote add` or `lxc remote add`',
      )
      .argument('<name>', 'what to call the client')
      .option('--expires <time>', expiry, timeSpan('mhd', '30m, 12h or 7d'))
      .option(
        '--gateway <host:port>',
        'address of the gateway that the client will use (default: the gateway that was started last)',
      ),
  ).action(beside(lazily(commands, 'tokenCommand')));
  granted(
    trust
      .command('add')
      .description('trust a client certificate')
      .argument('<file>', 'PEM file with the certificate')
      .option('--name <name>', "what to call the client (default: the certificate's common name)"),
  ).action(beside(lazily(commands, 'addCommand')));
  trust
    .command('list')
    .description('list the trusted clients')
    .addOption(formatOption())
    .action(beside(lazily(commands, 'listCommand')));
  trust
    .command('edit')
    .description("change a client's role, projects or name")
    .argument(fingerprint, byFingerprint)
    .option('--name <name>', 'what to call the client')
    .addOption(new Option('--role <role>', 'what the client may do').choices(roles))
    .addOption(projects('unchanged'))
    .addOption(unchecked())
    .option('--all-projects', 'lift the restriction to projects')
    .action(beside(lazily(commands, 'editCommand')));
  trust
    .command('remove')
    .description('stop trusting a client, and close its connections')
    .argument(fingerprint, byFingerprint)
    .action(beside(lazily(commands, 'removeCommand')));
  trust
    .command('list-tokens')
    .description('list the tokens that can still be used')
    .addOption(formatOption())
    .action(beside(lazily(commands, 'listTokensCommand')));
  trust
    .command('revoke-token')
    .description('revoke all tokens of a client')
    .argument('<name>', 'name of the client')
    .action(beside(lazily(commands, 'revokeTokenCommand')));
}

/** Adds the options that say what the client may do. */
function granted(command: Command): Command {
  const role = new Option('--role <role>', 'what the client may do (default: admin, or operator with --project)');
  return command.addOption(role.choices(roles)).addOption(projects('all projects')).addOption(unchecked());
}

function projects(usual: string): Option {
  return several('--project <name>', 'restrict the client to this project; repeat for more', usual);
}

function unchecked(): Option {
  return new Option('--unchecked', 'accept a project even if no worker knows it');
}
