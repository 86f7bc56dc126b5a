#!/usr/bin/env node
/** The command line. Commands are declared in declarations/, and each loads its own file of commands/ when it runs. */
import { Command, CommanderError } from 'commander';
import { asLxstowError, LxstowError } from '../contract/errors.ts';
import { oldestNode, version } from '../contract/version.ts';
import {
  addBackupCommand,
  addExportCommand,
  addListCommands,
  addRestoreCommand,
} from './declarations/backupCommands.ts';
import { addCompletionCommands } from './declarations/completionCommands.ts';
import { addInitCommand } from './declarations/initCommand.ts';
import { addRemoteCommands } from './declarations/remoteCommands.ts';
import { addRetentionCommands } from './declarations/retentionCommands.ts';
import { addRunCommands } from './declarations/runCommands.ts';
import { addScheduleCommands } from './declarations/scheduleCommands.ts';
import { addServerCommands, servers } from './declarations/serverCommands.ts';
import { addOperationCommands, addStatusCommand } from './declarations/stateCommands.ts';
import { addTrustCommands } from './declarations/trustCommands.ts';
import { addUpkeepCommands } from './declarations/upkeepCommands.ts';
import { CliError, exitOf, exits } from './exit.ts';
import { watchOutput } from './terminal/outputErrors.ts';
import { printableLines } from './terminal/table.ts';

if (Number(process.versions.node.split('.')[0]) < oldestNode) {
  process.stderr.write(`lxstow: Node.js ${process.versions.node} is too old: lxstow needs ${oldestNode} or newer\n`);
  process.exit(exits.config);
}

const program = new Command('lxstow')
  .description('Backs up LXD and Incus instances to S3 or to a folder, and restores them.')
  .version(version)
  .option(
    '-c, --config <file>',
    'configuration file, YAML or JSON (default: $LXSTOW_CONFIG, ~/.config/lxstow/lxstow.yaml, or /etc/lxstow/lxstow.yaml)',
  )
  .showHelpAfterError('(--help shows more)')
  .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'lxstow: ')) })
  .exitOverride();
const output = watchOutput(() => servers.includes(program.args[0] ?? ''));

program.commandsGroup('Clients of a gateway:');
addBackupCommand(program);
addRunCommands(program);
addScheduleCommands(program);
addRetentionCommands(program);
addRestoreCommand(program);
addListCommands(program);
addExportCommand(program);
addStatusCommand(program);
addOperationCommands(program);
addRemoteCommands(program);
addCompletionCommands(program);
program.commandsGroup('Servers and their administration (--config):');
addInitCommand(program);
addServerCommands(program);
addUpkeepCommands(program, output);
addTrustCommands(program);

try {
  await program.parseAsync();
  process.exitCode = output.statusFor(Number(process.exitCode ?? exits.ok));
} catch (thrown) {
  // Commander has printed its own errors.
  if (thrown instanceof CommanderError) process.exitCode = thrown.exitCode === 0 ? exits.ok : exits.usage;
  else {
    const error = thrown instanceof CliError ? thrown : asLxstowError(thrown);
    const internal = error instanceof LxstowError && error.code === 'internal' && thrown instanceof Error;
    const hint = error instanceof CliError && error.hint ? `  ${error.hint}\n` : '';
    process.stderr.write(printableLines(`lxstow: ${internal ? thrown.stack : error.message}\n${hint}`));
    process.exitCode = exitOf(error);
  }
}
