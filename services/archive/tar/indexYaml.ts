/** Reads `backup/index.yaml` as LXD writes it. */
import { isUtf8 } from 'node:buffer';
import { isScalar, parse, parseDocument, visit, YAMLError } from 'yaml';
import { LxstowError } from '../../contract/errors.ts';
import type { ManifestInstance, Profile } from '../../contract/schemas.ts';

export interface LxdIndex {
  /** The instance's name at the time of the backup. */
  name: string;
  optimized: boolean;
  /** The names of the instance's profiles, including those that the index does not describe. */
  applied: string[];
  instance: ManifestInstance;
  /** The instance and its snapshots, under each key under which some version of LXD reads them. */
  described: Described[];
}

export type Described = Pick<ManifestInstance, 'config' | 'devices'>;

export const indexName = 'backup/index.yaml';
/**
 * LXD and Incus refuse a larger index at an import ("input data too large"; measured on each engine, docs/lxd.md). It is enough for some 500 snapshots
 * without configuration of their own.
 */
export const largestIndexBytes = 1024 * 1024;

/** What a thread has parsed: an index or a backup.yaml. */
export interface Parsed {
  index?: LxdIndex;
  described?: Described[];
}

/** What a thread is to parse. */
export interface YamlTask {
  text: Uint8Array;
  strict: boolean;
  /** Default: the index. */
  part?: 'config';
}

type Fields = Record<string, unknown>;

const types = ['container', 'virtual-machine'];

/** Reads every scalar as a string, so "true" and "007" stay as they are. Does not check for duplicate keys, which would take quadratic time. */
const asLxdWrites = { schema: 'failsafe', maxAliasCount: 0, uniqueKeys: false, logLevel: 'error' } as const;

/** Parses an index of LXD 4 to 6. These versions differ in where the instance, its pool and its profiles are. */
export function parseIndex(text: Buffer, strict = false): LxdIndex {
  const index = parseFile(text, indexName, strict);
  const config = Object.fromEntries(mapping(index.config));
  const instance = fields(config.instance ?? config.container);
  const pool = fields(list(config.pools)[0] ?? config.pool);
  const name = word(index.name) || word(instance.name);
  if (!name) throw notLxds(`its ${indexName} names no instance`);
  // If the index has no config, LXD reads the archive's backup.yaml.
  if (!isNull(index.config) && !isFields(config.instance ?? config.container))
    throw notLxds(`its ${indexName} describes no instance`);
  const type = word(index.type) || word(instance.type) || 'container';
  if (!types.includes(type)) throw notLxds(`its ${indexName} is of a ${type}, not of an instance`);
  // YAML 1.1 has more words for true and false.
  if (strict && index.optimized !== undefined && !['true', 'false'].includes(word(index.optimized)))
    throw notLxds(`its ${indexName} has an “optimized” that is neither true nor false`);
  return {
    name,
    optimized: word(index.optimized) === 'true',
    applied: list(instance.profiles).map(word),
    instance: {
      config: words(instance.config),
      devices: devices(instance.devices),
      profiles: list(config.profiles).map((profile) => readProfile(word(fields(profile).name), profile)),
      pool: word(index.pool),
      driver: word(index.backend) || word(pool.driver),
      architecture: word(instance.architecture),
      type,
      snapshots: list(index.snapshots).map(word),
    },
    described: describedIn(config),
  };
}

/** What a `backup.yaml` describes. Throws bad-request. */
export function parseConfigFile(text: Buffer): Described[] {
  const file = parseFile(text, 'backup.yaml', true);
  if (!isFields(file.instance ?? file.container)) throw notLxds('its backup.yaml describes no instance');
  return describedIn(file);
}

function describedIn({ instance, container, snapshots }: Fields): Described[] {
  return [instance, container, ...list(snapshots)].map((each) => {
    const { config, devices: of } = fields(each);
    return { config: words(config), devices: devices(of) };
  });
}

function parseFile(text: Buffer, name: string, strict: boolean): Fields {
  try {
    if (strict) assertPlain(text);
    return fields(parse(text.toString(), asLxdWrites));
  } catch (cause) {
    if (cause instanceof LxstowError) throw cause;
    throw notLxds(`its ${name} is not YAML: ${faultIn(text, cause)}`);
  }
}

/** Says where the fault is, without quoting the text: it may be a secret, and others than the sender may read the error. */
function faultIn(text: Buffer, fault: unknown): string {
  if (!(fault instanceof YAMLError)) return 'it cannot be read';
  const line = text.toString().slice(0, fault.pos[0]).split('\n').length;
  return `${fault.code} at line ${line}`;
}

/** Throws for merge keys, duplicate keys, tags, aliases and other encodings: parsers understand them differently, and LXD writes none. */
function assertPlain(bytes: Buffer): void {
  const unlike = (what: string) => notLxds(`its YAML has ${what}`);
  const text = bytes.toString();
  // Go's parser takes a file with a byte order mark as UTF-16.
  if (!isUtf8(bytes) || text.includes('\ufeff')) throw unlike('another encoding than UTF-8');
  if (controls.test(text)) throw unlike('a control character');
  // These end lines in YAML 1.1 only.
  if (/[\u0085\u2028\u2029]|\r(?!\n)/.test(text)) throw unlike('an unusual end of a line');
  const document = parseDocument(text, asLxdWrites);
  visit(document, {
    Alias: () => {
      throw unlike('an alias');
    },
    Node: (_, { tag }) => {
      if (tag) throw unlike(`the tag ${tag}`);
    },
    Map: (_, { items }) => {
      const keys = items.map(({ key }) => (isScalar(key) ? String(key.value) : undefined));
      if (keys.includes('<<')) throw unlike('a merge key');
      if (keys.includes(undefined)) throw unlike('a key that is no text');
      if (new Set(keys).size < keys.length) throw unlike('a key twice');
    },
  });
  const [warning] = document.warnings;
  if (warning) throw unlike(warning.code);
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
const controls = /[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]/;

/** Parses a profile in LXD's format, as in an index or from `lxc profile show`. Throws bad-request for anything else. */
export function parseProfile(name: string, text: Buffer): Profile {
  let profile: unknown;
  if (text.length > largestIndexBytes) throw new LxstowError('bad-request', 'it is larger than 1 MiB');
  try {
    profile = parse(text.toString(), asLxdWrites);
  } catch (cause) {
    throw new LxstowError('bad-request', `it is not YAML: ${faultIn(text, cause)}`);
  }
  if (!('config' in fields(profile) || 'devices' in fields(profile)))
    throw new LxstowError('bad-request', 'it is not a profile: it has neither config nor devices');
  return readProfile(name, profile);
}

function readProfile(name: string, profile: unknown): Profile {
  const { description, config, devices: of } = fields(profile);
  return { name, description: word(description), config: words(config), devices: devices(of) };
}

function fields(value: unknown): Fields {
  return isFields(value) ? value : {};
}

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

function word(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

function words(value: unknown): Record<string, string> {
  return Object.fromEntries(
    mapping(value).map(([key, each]) => {
      if (typeof each === 'object' && each !== null) throw unreadable();
      return [key, word(each)];
    }),
  );
}

function devices(value: unknown): Record<string, Record<string, string>> {
  return Object.fromEntries(mapping(value).map(([key, each]) => [key, words(each)]));
}

/** Its keys and values. Throws for another shape, which no LXD reads. */
function mapping(value: unknown): [key: string, value: unknown][] {
  if (isNull(value)) return [];
  if (!isFields(value)) throw unreadable();
  return Object.entries(value);
}

function isNull(value: unknown): boolean {
  return value === undefined || value === null || ['', '~', 'null'].includes(value as string);
}

function unreadable(): LxstowError {
  return notLxds('a configuration or a device in it is not a mapping');
}

export function notLxds(why: string, cause?: unknown): LxstowError {
  return new LxstowError('bad-request', `this is not an LXD archive: ${why}`, { cause });
}
