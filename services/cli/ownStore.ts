/** Standalone's own store, over a folder: its files in the state directory, by which other commands reach it. */
import { join } from 'node:path';
import { folderKeys, readText, stateDir } from '../contract/config.ts';
import { LxstowError, systemCode } from '../contract/errors.ts';
import type { Config } from '../contract/schemas.ts';

export interface OwnStoreFiles {
  dir: string;
  /** The secret key. Made once; with another one, the folder is the same. */
  secret: string;
  /** The folder that standalone has marked, or found marked. */
  marked: string;
  /** Process ids of the server and of its standalone. */
  pids: string;
  log: string;
}

export function ownStoreFiles(config: Config, env: NodeJS.ProcessEnv): OwnStoreFiles {
  const dir = join(stateDir(config, env), 'store');
  const file = (name: string) => join(dir, name);
  return { dir, secret: file('secret'), marked: file('marked'), pids: file('pids'), log: file('versitygw.log') };
}

export function withSecret(config: Config, secretKey: string): Config {
  return { ...config, s3: { ...config.s3, ...folderKeys, secretKey } };
}

/** The configuration with the keys of standalone's own store, if it has one and standalone has run. */
export function besideOwnStore(config: Config, env: NodeJS.ProcessEnv): Config {
  if (config.s3.folder === undefined) return config;
  try {
    return withSecret(
      config,
      readText(ownStoreFiles(config, env).secret, 's3.folder is configured, and the key of its server'),
    );
  } catch (error) {
    const why = systemCode((error as Error).cause);
    if (why === 'ENOENT' || why === 'ENOTDIR') return config;
    const what = `${(error as Error).message}: run this command as the user who runs standalone`;
    throw new LxstowError('bad-config', what, { cause: error });
  }
}
