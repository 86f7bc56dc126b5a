/** Handles errors of standard output. They change the exit status only if it would be 0, and never affect an operation. */
import { type Exit, exits } from '../exit.ts';

export interface Output {
  /** The exit status: a failure of the command takes precedence over lost output. */
  statusFor<S extends number>(found: S): S | Exit;
}

/**
 * From now on, errors of standard output end only servers. A reader that closes the pipe (`lxstow list | head -1`) is no failure; a full disk is reported in a
 * line, with status 74. Losing standard error is no failure.
 */
export function watchOutput(isServer: () => boolean): Output {
  let lost: Exit | undefined;
  const statusFor = <S extends number>(found: S): S | Exit => (found === exits.ok ? (lost ?? exits.ok) : found);
  process.stderr.on('error', () => {
    if (isServer()) process.exit(exits.io);
  });
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (isServer()) process.exit(exits.io);
    // Report the first error only.
    if (lost !== undefined || error.code === 'EPIPE' || error.code === 'ERR_STREAM_DESTROYED') return;
    lost = exits.io;
    process.stderr.write(`lxstow: standard output: ${error.message}\n`);
    // The error may come after the command has set its status.
    if (process.exitCode !== undefined) process.exitCode = statusFor(Number(process.exitCode));
  });
  return { statusFor };
}
