/** Configuration: one file, overridden by the environment, checked against schemas/config.json. */
import { existsSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { parse as parseYaml } from 'yaml';
import schema from '../../schemas/config.json' with { type: 'json' };
import { LxstowError } from './errors.ts';
import { type Config, check } from './schemas.ts';
import { parseBandwidth } from './timetable.ts';

interface Node {
  type?: string;
  enum?: unknown[];
  properties?: Record<string, Node>;
  additionalProperties?: boolean | Node;
  $ref?: string;
  'x-secret'?: boolean;
}

const prefix = 'LXSTOW_';
/** Variables read elsewhere: the configuration's path, and those of the test lab. */
const otherVariables = /^LXSTOW_(CONFIG|LAB_.*)$/;

/** `s3.accessKey` → `LXSTOW_S3_ACCESS_KEY` */
export function variableOf(path: string[]): string {
  return prefix + path.map((word) => word.replaceAll(/[A-Z]/g, '_$&').toUpperCase()).join('_');
}

function* leaves(node: Node, path: string[] = []): Generator<{ path: string[]; node: Node }> {
  if (!node.properties) yield { path, node };
  else for (const [key, child] of Object.entries(node.properties)) yield* leaves(child, [...path, key]);
}

const variables = new Map([...leaves(schema as Node)].map(({ path, node }) => [variableOf(path), { path, node }]));

function variableNamed(name: string) {
  return variables.get(name) ?? variables.get(name.replace(/_FILE$/, ''));
}

export interface ConfigSource {
  file?: string | undefined;
  env: NodeJS.ProcessEnv;
}

/** Path of the configuration file: the named one, else the user's, else the host's; undefined if there is none. */
export function configFile({ file, env }: ConfigSource): string | undefined {
  return file ?? env[`${prefix}CONFIG`] ?? usualFiles(env).find((each) => existsSync(each));
}

function usualFiles({ XDG_CONFIG_HOME: config, HOME: home }: NodeJS.ProcessEnv): string[] {
  const folder = config || (home && join(home, '.config'));
  return [...(folder ? [join(folder, 'lxstow', 'lxstow.yaml')] : []), '/etc/lxstow/lxstow.yaml'];
}

/**
 * Returns the effective configuration. `file` is YAML or JSON; the environment overrides it.
 * Throws bad-config, naming each key or variable that is unknown or wrong.
 */
export function loadConfig(source: ConfigSource): Config {
  const { raw, file } = given(source);
  const where = file
    ? `configuration (${file} and environment)`
    : `configuration (environment only; no file at ${usualFiles(source.env).join(' or ')}, and none named by --config or LXSTOW_CONFIG)`;
  return checked(raw, where);
}

function checked(raw: unknown, where: string): Config {
  const config = check('config.json', withFolder(raw, where), where, 'bad-config');
  if (!(config.worker.remote in config.remotes)) missingRemote('worker.remote', config.worker.remote, config);
  if (!(config.gateway.defaultRemote in config.remotes))
    missingRemote('gateway.defaultRemote', config.gateway.defaultRemote, config);
  parseBandwidth(config.worker.bandwidth);
  for (const key of ['endpoints', 'allowed'] as const)
    for (const endpoint of config.notify[key])
      if (!URL.canParse(endpoint))
        throw new LxstowError('bad-config', `${where}: notify.${key} has an entry that is not a URL`);
  return config;
}

/** Placeholder for the keys of a folder's server, until they are read from standalone's files. */
export const folderKeys = { accessKey: 'lxstow', secretKey: 'kept-by-standalone' };
/** The server of a folder keeps open uploads without a time limit. */
const noMaxAgeMs = 10 * 365 * 86_400_000;

/** Fills in the store's settings if `s3.folder` is set, because standalone itself serves the folder, on loopback only. Other keys are refused. */
function withFolder(raw: unknown, where: string): unknown {
  const s3 = get(raw, ['s3']) as Record<string, unknown> | undefined;
  if (s3?.folder === undefined) return raw;
  const fail = (why: string) => {
    throw new LxstowError('bad-config', `${where}: ${why}`);
  };
  if (s3.accessKey !== undefined || s3.secretKey !== undefined)
    fail(
      's3.folder is set together with s3.accessKey or s3.secretKey: remove the keys to use the folder, or s3.folder to use an S3 server',
    );
  const { endpoint } = s3;
  if (typeof endpoint === 'string' && !/^http:\/\/(127\.0\.0\.1|localhost):\d+\/?$/.test(endpoint))
    fail('with s3.folder, s3.endpoint must be an address where standalone can serve the folder: http://127.0.0.1:PORT');
  return { ...(raw as object), s3: { uploadMaxAgeMs: noMaxAgeMs, ...s3, ...folderKeys } };
}

export interface Examined {
  /** The configuration without unknown keys; undefined if it cannot be used. */
  config: Config | undefined;
  faults: string[];
  /** Whether the file or the environment sets this path. */
  isGiven(path: string[]): boolean;
}

/** Collects every fault instead of throwing the first one; for `doctor`. */
export function examineConfig(source: ConfigSource): Examined {
  const faults: string[] = [];
  const env = { ...source.env };
  for (const name of Object.keys(env)) {
    if (!name.startsWith(prefix) || otherVariables.test(name) || variableNamed(name)) continue;
    faults.push(`unknown environment variable ${name}`);
    delete env[name];
  }
  try {
    const { raw } = given({ ...source, env });
    for (const path of unknownKeys(schema as Node, raw)) {
      faults.push(`unknown key ${path.join('.')}`);
      remove(raw, path);
    }
    const said = structuredClone(raw);
    const isGiven = (path: string[]) => get(said, path) !== undefined;
    try {
      return { config: checked(raw, 'configuration'), faults, isGiven };
    } catch (error) {
      return { config: undefined, faults: [...faults, (error as Error).message], isGiven };
    }
  } catch (error) {
    if (!(error instanceof LxstowError)) throw error;
    return { config: undefined, faults: [...faults, error.message], isGiven: () => false };
  }
}

function* unknownKeys(node: Node, value: unknown, path: string[] = []): Generator<string[]> {
  const known = node.$ref?.startsWith('#/$defs/')
    ? ((schema.$defs as Record<string, Node>)[node.$ref.slice(8)] as Node)
    : node;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return;
  const { properties = {}, additionalProperties } = known;
  for (const [key, child] of Object.entries(value)) {
    const next = properties[key] ?? (typeof additionalProperties === 'object' ? additionalProperties : undefined);
    if (next) yield* unknownKeys(next, child, [...path, key]);
    else if (additionalProperties === false) yield [...path, key];
  }
}

/** Whether the file or the environment sets `path`; otherwise it has its default. */
export function isGiven(source: ConfigSource, path: string[]): boolean {
  return get(given(source).raw, path) !== undefined;
}

function given(source: ConfigSource) {
  const { env } = source;
  const file = configFile(source);
  const raw = file ? readConfigFile(file) : {};
  for (const [name, value] of Object.entries(env)) {
    if (!name.startsWith(prefix) || otherVariables.test(name) || value === undefined) continue;
    const direct = variables.get(name);
    const variable = variableNamed(name);
    if (!variable) throw new LxstowError('bad-config', `configuration: unknown environment variable ${name}`);
    // A value takes precedence over a file with the value; the file need not exist then.
    if (!direct && env[name.replace(/_FILE$/, '')] !== undefined) continue;
    put(raw, variable.path, typed(name, direct ? value : readText(value, name).trimEnd(), variable.node));
  }
  return { raw, file };
}

/** The same configuration with every secret masked. */
export function withoutSecrets(config: Config): Config {
  const copy = structuredClone(config);
  for (const { path, node } of variables.values()) {
    if (node['x-secret'] && get(copy, path) !== undefined) put(copy, path, '********');
  }
  for (const [index, server] of copy.nats.servers.entries())
    copy.nats.servers[index] = server.replace(/\/\/[^@/]*@/, '//********@');
  copy.notify.endpoints = copy.notify.endpoints.map((endpoint) => `${new URL(endpoint).origin}/********`);
  return copy;
}

/** Directory for a process's own files: gateway.stateDir, systemd's StateDirectory, else the XDG state home. */
export function stateDir(config: Config, env: NodeJS.ProcessEnv): string {
  // A user may have no home, as with systemd's DynamicUser: then homedir() throws.
  return config.gateway.stateDir || env.STATE_DIRECTORY || join(env.XDG_STATE_HOME || stateHome(), 'lxstow');
}

function stateHome(): string {
  try {
    const home = homedir();
    if (home) return join(home, '.local', 'state');
  } catch {
    // The error is thrown below.
  }
  throw new LxstowError('bad-config', 'this user has no home directory: set gateway.stateDir, or HOME');
}

function missingRemote(key: string, name: string, config: Config): never {
  const known = Object.keys(config.remotes).join(', ');
  throw new LxstowError(
    'bad-config',
    `configuration: ${key} is ${JSON.stringify(name)}, but remotes has only: ${known}`,
  );
}

function readConfigFile(file: string): Record<string, unknown> {
  let parsed: unknown;
  try {
    parsed = parseYaml(readText(file, 'configuration')) ?? {};
  } catch (cause) {
    if (cause instanceof LxstowError) throw cause;
    throw new LxstowError('bad-config', `configuration: ${file} is not YAML or JSON: ${(cause as Error).message}`, {
      cause,
    });
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new LxstowError('bad-config', `configuration: ${file} must contain keys and values`);
  }
  return parsed as Record<string, unknown>;
}

/** Reads the file that the setting `name` points at. Throws bad-config. */
export function readText(path: string, name: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (cause) {
    throw new LxstowError('bad-config', `${name}: cannot read ${path}: ${(cause as Error).message}`, { cause });
  }
}

function typed(name: string, text: string, node: Node): unknown {
  switch (node.type) {
    case 'integer':
      return /^-?\d+$/.test(text) ? Number(text) : text;
    case 'number':
      return /^\d+(\.\d+)?$/.test(text) ? Number(text) : text;
    case 'boolean':
      return text === 'true' ? true : text === 'false' ? false : text;
    case 'array':
      return text.split(',').map((word) => word.trim());
    case 'object':
      try {
        return JSON.parse(text);
      } catch (cause) {
        throw new LxstowError('bad-config', `configuration: ${name} is not JSON`, { cause });
      }
    default:
      return text;
  }
}

function put(target: object, path: string[], value: unknown): void {
  const [key = '', ...rest] = path;
  const holder = target as Record<string, unknown>;
  if (rest.length === 0) holder[key] = value;
  else {
    if (typeof holder[key] !== 'object' || holder[key] === null) holder[key] = {};
    put(holder[key] as object, rest, value);
  }
}

function get(target: unknown, path: string[]): unknown {
  return path.reduce<unknown>((value, key) => (value as Record<string, unknown> | undefined)?.[key], target);
}

function remove(target: object, path: string[]): void {
  delete (get(target, path.slice(0, -1)) as Record<string, unknown>)[path.at(-1) ?? ''];
}

export function knownRemote(remote: string, remotes: string[]): string {
  if (!remotes.includes(remote))
    throw new LxstowError('not-found', `host ${remote} does not exist; there are: ${remotes.join(', ')}`);
  return remote;
}
