/** What servers and operators' commands begin with: the configuration in force, and a log. */
import { stringify } from 'yaml';
import { isGiven, loadConfig, withoutSecrets } from '../config.ts';
import type { Config } from '../contract.ts';
import { createLogger, type Log } from '../logger.ts';
import { besideStandalone } from './ownNats.ts';

export interface Configured {
  config: Config;
  /** Whether somebody said what stands at this path, or it is a default. */
  isGiven(path: string[]): boolean;
  log: Log;
}

export function configured(source: { file: string | undefined; env: NodeJS.ProcessEnv }): Configured {
  const given = (path: string[]) => isGiven(source, path);
  const config = besideStandalone(loadConfig(source), source.env, given);
  return { config, isGiven: given, log: createLogger(config.log, {}) };
}

/** Secrets masked. */
export function inYaml(config: Config): string {
  return stringify(withoutSecrets(config));
}
