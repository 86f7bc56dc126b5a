/** Output that cannot be written: it changes what a command's status says of the output, never what became of the operation. */
import { type Exit, exits } from '../exit.ts';

export interface Output {
  /** The status of a command that has found this: what failed goes before what could not be printed. */
  statusFor<S extends number>(found: S): S | Exit;
}

/**
 * From now on standard output's errors end nothing, but for a server. A reader that has enough (`lxstow list | head -1`) is no failure; a full disk
 * is told in a line, with status 74. Standard error is for people: one that is gone is no failure either.
 */
export function watchOutput(isServer: () => boolean): Output {
  let lost: Exit | undefined;
  const statusFor = <S extends number>(found: S): S | Exit => (found === exits.ok ? (lost ?? exits.ok) : found);
  process.stderr.on('error', () => {
    if (isServer()) process.exit(exits.io);
  });
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (isServer()) process.exit(exits.io);
    // Of all writes after it, too.
    if (lost !== undefined || error.code === 'EPIPE' || error.code === 'ERR_STREAM_DESTROYED') return;
    lost = exits.io;
    process.stderr.write(`lxstow: standard output: ${error.message}\n`);
    // It may come when the command has said its status already.
    if (process.exitCode !== undefined) process.exitCode = statusFor(Number(process.exitCode));
  });
  return { statusFor };
}
