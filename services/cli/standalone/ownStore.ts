/** The files of standalone's own store in the state directory, with which other commands reach it. */
import { join } from 'node:path';
import { folderKeys, stateDir } from '../../contract/config.ts';
import type { Config } from '../../contract/schemas.ts';
import { readOwn } from './stateFiles.ts';

export interface OwnStoreFiles {
  dir: string;
  /** File with the secret key. It is made once; the folder does not depend on it. */
  secret: string;
  /** File with the folders that standalone has marked, or found marked, one per line. */
  marked: string;
  /** File with the process ids of the server and of its standalone. */
  pids: string;
  log: string;
}

export function ownStoreFiles(config: Config, env: NodeJS.ProcessEnv): OwnStoreFiles {
  const dir = join(stateDir(config, env), 'store');
  const file = (name: string) => join(dir, name);
  return { dir, secret: file('secret'), marked: file('marked'), pids: file('pids'), log: file('versitygw.log') };
}

export function withOwnStore(config: Config, secretKey: string): Config {
  return { ...config, s3: { ...config.s3, ...folderKeys, secretKey } };
}

/** The configuration with the keys of standalone's own store, if it has one and standalone has run. */
export function besideOwnStore(config: Config, env: NodeJS.ProcessEnv): Config {
  if (config.s3.folder === undefined) return config;
  const secret = readOwn(ownStoreFiles(config, env).secret, 's3.folder is configured, and the key of its server');
  return secret === undefined ? config : withOwnStore(config, secret);
}
