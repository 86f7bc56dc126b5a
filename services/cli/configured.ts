/** What servers and administrative commands need first: the configuration in effect, and a log. */
import { stringify } from 'yaml';
import { isGiven, loadConfig, withoutSecrets } from '../contract/config.ts';
import type { Config } from '../contract/schemas.ts';
import { createLogger, type Log } from '../telemetry/logger.ts';
import { besideOwnNats } from './standalone/ownNats.ts';
import { besideOwnStore } from './standalone/ownStore.ts';

export interface Configured {
  config: Config;
  /** Reads the configuration again from its files. Throws bad-config. */
  reread(): Config;
  /** Whether the value at this path was set, and is not a default. */
  isGiven(path: string[]): boolean;
  log: Log;
}

interface Source {
  file: string | undefined;
  env: NodeJS.ProcessEnv;
}

export function configured(source: Source): Configured {
  const config = configuration(source);
  return {
    config,
    reread: () => configuration(source),
    isGiven: (path) => isGiven(source, path),
    log: createLogger(config.log, {}),
  };
}

/** The configuration as YAML, with secrets masked. */
export function shownConfiguration(source: Source): string {
  return stringify(withoutSecrets(configuration(source)));
}

function configuration(source: Source): Config {
  const config = besideOwnStore(loadConfig(source), source.env);
  return besideOwnNats(config, source.env, (path) => isGiven(source, path));
}
