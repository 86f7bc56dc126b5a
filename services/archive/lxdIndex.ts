/** What an LXD archive says of its instance, in the index that is its first file. */
import { parse } from 'yaml';
import type { ManifestInstance, Profile } from '../contract.ts';
import { LxstowError } from '../errors.ts';
import { rejoined } from './decompress.ts';
import { readEntry } from './tar.ts';

export interface LxdIndex {
  /** The instance's name when it was backed up. */
  name: string;
  optimized: boolean;
  /** The names of the instance's profiles; LXD may tell less of them than that. */
  applied: string[];
  instance: ManifestInstance;
}

const indexName = 'backup/index.yaml';
/** LXD and Incus read no larger one at an import: 1 048 576 bytes are taken, one more is not (measured on each engine, docs/lxd.md). */
export const largestIndexBytes = 1024 * 1024;
/** An index has about 2 kB for each snapshot. */
const largestHeadBytes = 4 * 1024 * 1024;

/** The index, and the tar again from its first byte. Throws bad-request where there is none. */
export async function readIndex(tar: AsyncIterable<Buffer>): Promise<{ index: LxdIndex; tar: AsyncIterable<Buffer> }> {
  const chunks = tar[Symbol.asyncIterator]();
  const read: Buffer[] = [];
  let size = 0;
  let wanted = 1;
  for (;;) {
    while (size < wanted) {
      const next = wanted > largestHeadBytes ? { done: true as const } : await chunks.next();
      if (next.done) throw notLxds(`it does not begin with ${indexName}`);
      read.push(next.value);
      size += next.value.length;
    }
    const head = Buffer.concat(read);
    const found = findFile(head, indexName);
    if (typeof found === 'object') return { index: parseIndex(found), tar: rejoined(head, chunks) };
    wanted = found;
  }
}

/** The file's bytes; or, where they are not all here, how many bytes from the beginning are needed to go on. */
function findFile(head: Buffer, name: string): Buffer | number {
  for (let at = 0; ; ) {
    if (at + 512 > head.length) return at + 512;
    const entry = readEntry(head.subarray(at, at + 512));
    if (!entry) throw notLxds(`it does not begin with ${indexName}`);
    const start = at + 512;
    at = start + Math.ceil(entry.size / 512) * 512;
    if (entry.name === name) return head.length < at ? at : head.subarray(start, start + entry.size);
  }
}

type Fields = Record<string, unknown>;

/** The formats of LXD 4 to 6 differ in where the instance, its pool and its profiles are. */
export function parseIndex(text: Buffer): LxdIndex {
  let index: Fields;
  try {
    // As LXD writes it, every scalar is a string to us: "true" and "007" stay what they are.
    index = fields(parse(text.toString(), { schema: 'failsafe', maxAliasCount: 0 }));
  } catch (cause) {
    throw notLxds(`its ${indexName} is not YAML: ${(cause as Error).message}`, cause);
  }
  const config = fields(index.config);
  const instance = fields(config.instance ?? config.container);
  const pool = fields(list(config.pools)[0] ?? config.pool);
  const name = word(index.name) || word(instance.name);
  if (!name) throw notLxds(`its ${indexName} names no instance`);
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
      type: word(index.type) || word(instance.type) || 'container',
      snapshots: list(index.snapshots).map(word),
    },
  };
}

/** A profile as LXD writes it, in an index or for `lxc profile show`. Throws bad-request where it is none. */
export function parseProfile(name: string, text: Buffer): Profile {
  let profile: unknown;
  try {
    profile = parse(text.toString(), { schema: 'failsafe', maxAliasCount: 0 });
  } catch (cause) {
    throw new LxstowError('bad-request', `it is not YAML: ${(cause as Error).message}`, { cause });
  }
  if (!('config' in fields(profile) || 'devices' in fields(profile)))
    throw new LxstowError('bad-request', 'it is no profile: it has neither config nor devices');
  return readProfile(name, profile);
}

function readProfile(name: string, profile: unknown): Profile {
  const { description, config, devices: of } = fields(profile);
  return { name, description: word(description), config: words(config), devices: devices(of) };
}

function fields(value: unknown): Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : {};
}

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

function word(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

function words(value: unknown): Record<string, string> {
  return Object.fromEntries(Object.entries(fields(value)).map(([key, each]) => [key, word(each)]));
}

function devices(value: unknown): Record<string, Record<string, string>> {
  return Object.fromEntries(Object.entries(fields(value)).map(([key, each]) => [key, words(each)]));
}

function notLxds(why: string, cause?: unknown): LxstowError {
  return new LxstowError('bad-request', `this is no archive of LXD's: ${why}`, { cause });
}
