/** Standalone's own nats-server: its files in the state directory, by which other commands find it. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { readText, stateDir } from '../../contract/config.ts';
import type { Config } from '../../contract/schemas.ts';
import { introduced, strange } from './natsAt.ts';
import { readOwn } from './stateFiles.ts';

export interface OwnNatsFiles {
  dir: string;
  /** Made once. */
  password: string;
  /** The server's URL while it runs. */
  url: string;
}

export function ownNatsFiles(config: Config, env: NodeJS.ProcessEnv): OwnNatsFiles {
  return filesIn(stateDir(config, env));
}

function filesIn(state: string): OwnNatsFiles {
  const dir = join(state, 'nats');
  return { dir, password: join(dir, 'password'), url: join(dir, 'url') };
}

/** The server's name, made from its password: a client that knows the password recognises the server before it sends the password. */
export function ownNatsName(password: string): string {
  return `lxstow-${createHash('sha256').update(password).digest('hex').slice(0, 16)}`;
}

export function withOwnNats(config: Config, url: string, password: string): Config {
  return { ...config, nats: { ...config.nats, servers: [url], user: 'lxstow', password } };
}

/** Keys of `nats` that say which NATS to use, and how. */
const ways = ['servers', 'user', 'password', 'token', 'credentials', 'nkey'];

/** The configuration with standalone's own NATS, if that runs and no other is configured. */
export function besideOwnNats(config: Config, env: NodeJS.ProcessEnv, isGiven: (path: string[]) => boolean): Config {
  if (ways.some((way) => isGiven(['nats', way]))) return config;
  const files = ownNatsFiles(config, env);
  const read = (file: string) => readOwn(file, 'nats.servers is not configured, and the NATS of `lxstow standalone`');
  const [url, password] = [read(files.url), read(files.password)];
  return url && password ? withOwnNats(config, url, password) : config;
}

/** The port of standalone's own NATS with this state directory; undefined if that does not run. */
export async function runningOwnNats(state: string): Promise<number | undefined> {
  const files = filesIn(state);
  if (!existsSync(files.url) || !existsSync(files.password)) return undefined;
  const port = Number(new URL(readText(files.url, files.url)).port);
  const name = ownNatsName(readText(files.password, files.password));
  return (await introduced(port))?.name === name ? port : undefined;
}

/** Throws bad-config when the configuration is for the NATS of a killed `standalone`, whose port another server has by now: that must not get the password. */
export async function assertOwnNats(config: Config, env: NodeJS.ProcessEnv): Promise<void> {
  const { url, password } = ownNatsFiles(config, env);
  if (!existsSync(url)) return;
  const own = readText(url, 'the NATS of `lxstow standalone`');
  if (config.nats.servers.length !== 1 || config.nats.servers[0] !== own || config.nats.user !== 'lxstow') return;
  const port = Number(new URL(own).port);
  const there = await introduced(port);
  const name = ownNatsName(readText(password, 'the NATS of `lxstow standalone`'));
  if (there && there.name !== name) throw strange(port, there);
}
