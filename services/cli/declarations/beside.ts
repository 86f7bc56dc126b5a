/** How commands begin that work with a configuration, beside NATS: servers, and what operators do. */
import type { Command } from 'commander';
import { LxstowError } from '../../contract/errors.ts';
import type { Configured } from '../configured.ts';

type BesideOptions = Configured & { env: NodeJS.ProcessEnv; stop: AbortSignal };

/** The file that is given, and the environment. */
export function configurationSource(command: Command) {
  return { file: command.optsWithGlobals<{ config?: string }>().config, env: process.env };
}

interface ActionOptions<A extends unknown[]> {
  /** False: the command may start the NATS that the configuration is for. Default: true. */
  besideOwnNats?: boolean;
  /** Variables of the environment that the command's options stand for; they override the configuration file. */
  variables?: (...args: A) => NodeJS.ProcessEnv;
}

/**
 * An action of a command: reads the configuration, and runs until it ends or SIGINT or SIGTERM comes. A second signal ends the process at once. A number that
 * `run` returns is the exit status.
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
