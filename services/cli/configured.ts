/** What servers and administrative commands need first: the configuration in effect, and a log. */
import { stringify } from 'yaml';
import { type ConfigSource, isGiven, loadConfig, withoutSecrets } from '../contract/config.ts';
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

export function configured(source: ConfigSource): Configured {
  const config = configuration(source);
  return {
    config,
    reread: () => configuration(source),
    isGiven: (path) => isGiven(source, path),
    log: createLogger(config.log, {}),
  };
}

/** The configuration as YAML, with secrets masked. */
export function shownConfiguration(source: ConfigSource): string {
  return stringify(withoutSecrets(configuration(source)));
}

function configuration(source: ConfigSource): Config {
  const config = besideOwnStore(loadConfig(source), source.env);
  return besideOwnNats(config, source.env, (path) => isGiven(source, path));
}
