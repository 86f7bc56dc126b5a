/** What commands that read the configuration have in common: servers, and the commands that administer them. */
import type { Command } from 'commander';
import { LxstowError } from '../../contract/errors.ts';
import type { Configured } from '../configured.ts';

type BesideOptions = Configured & { env: NodeJS.ProcessEnv; stop: AbortSignal };

/** Where the configuration comes from: the file of --config, and the environment. */
export function configurationSource(command: Command) {
  return { file: command.optsWithGlobals<{ config?: string }>().config, env: process.env };
}

interface ActionOptions<A extends unknown[]> {
  /** False for a command that may start standalone's own NATS itself. Default: true. */
  besideOwnNats?: boolean;
  /** Environment variables that the command's options set; they override the configuration file. */
  variables?: (...args: A) => NodeJS.ProcessEnv;
}

/**
 * Makes the action of a command: it reads the configuration, and calls `run` with a signal that SIGINT and SIGTERM abort. A second such signal ends the process at
 * once. If `run` returns a number, that is the exit status.
 */
export function beside<A extends unknown[]>(
  run: (options: BesideOptions, ...args: A) => Promise<unknown>,
  { besideOwnNats = true, variables }: ActionOptions<A> = {},
): (this: Command, ...args: A) => Promise<void> {
  return async function (this: Command, ...args: A) {
    const { configured } = await import('../configured.ts');
    const { assertOwnNats } = await import('../standalone/ownNats.ts');
    const source = configurationSource(this);
    const env = { ...source.env, ...variables?.(...args) };
    const found = configured({ ...source, env });
    if (besideOwnNats) await assertOwnNats(found.config, env);
    const status = await run({ ...found, env, stop: stopSignal() }, ...args);
    if (typeof status === 'number') process.exitCode = status;
  };
}

/** Aborts at the first SIGINT or SIGTERM; a second one ends the process at once. */
export function stopSignal(): AbortSignal {
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (stop.signal.aborted) process.exit(130);
      stop.abort(new LxstowError('stopping', `stopped by ${signal}`));
    });
  }
  return stop.signal;
}
