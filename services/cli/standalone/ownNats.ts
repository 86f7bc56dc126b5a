/** The files of standalone's own nats-server in the state directory, with which other commands find it. */
import { createHash } from 'node:crypto';
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { readText, stateDir } from '../../contract/config.ts';
import type { Config } from '../../contract/schemas.ts';
import { usersListening } from './listeners.ts';
import { introduced, strange } from './natsAt.ts';
import { readOwn } from './stateFiles.ts';

export interface OwnNatsFiles {
  dir: string;
  /** Made once. */
  password: string;
  /** The server's URL while it runs. */
  url: string;
  /** File with the server's process id, which the server writes. */
  pid: string;
}

export function ownNatsFiles(config: Config, env: NodeJS.ProcessEnv): OwnNatsFiles {
  return filesIn(stateDir(config, env));
}

function filesIn(state: string): OwnNatsFiles {
  const dir = join(state, 'nats');
  return { dir, password: join(dir, 'password'), url: join(dir, 'url'), pid: join(dir, 'pid') };
}

/**
 * The server's name, derived from its password, so that a client that knows the password recognises the server before it sends the password. This is no
 * proof: everybody can read the name.
 */
export function ownNatsName(password: string): string {
  return `lxstow-${createHash('sha256').update(password).digest('hex').slice(0, 16)}`;
}

/**
 * Whether standalone's own server listens on the port; false if nothing does. Throws bad-config for any other server, which must get neither password nor
 * jobs, even if it has the right name but belongs to another user.
 */
export async function isOwnNatsAt(port: number, password: string, files: OwnNatsFiles): Promise<boolean> {
  const there = await introduced(port);
  if (!there) return false;
  const trusted = [0, statSync(files.password).uid];
  const stranger = (await usersListening(port)).find((uid) => !trusted.includes(uid));
  if (there.name !== ownNatsName(password) || stranger !== undefined) throw strange(port, there, stranger);
  return true;
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

/** The port of standalone's own NATS with this state directory; undefined if it does not run. */
export async function runningOwnNats(state: string): Promise<number | undefined> {
  const files = filesIn(state);
  if (!existsSync(files.url) || !existsSync(files.password)) return undefined;
  const port = Number(new URL(readText(files.url, files.url)).port);
  const isOwn = await isOwnNatsAt(port, readText(files.password, files.password), files).catch(() => false);
  return isOwn ? port : undefined;
}

/** Throws bad-config if the configuration is for the NATS of a killed `standalone`, and another server uses its port by now: that server must not get the password. */
export async function assertOwnNats(config: Config, env: NodeJS.ProcessEnv): Promise<void> {
  const files = ownNatsFiles(config, env);
  const { url, password } = files;
  if (!existsSync(url)) return;
  const own = readText(url, 'the NATS of `lxstow standalone`');
  if (config.nats.servers.length !== 1 || config.nats.servers[0] !== own || config.nats.user !== 'lxstow') return;
  await isOwnNatsAt(Number(new URL(own).port), readText(password, 'the NATS of `lxstow standalone`'), files);
}
