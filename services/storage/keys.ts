/** Where things are in the bucket: `<prefix>/<remote>/<project>/<instance>/<backup>` and the same with `.manifest.json`. */
import { type BackupAddress, faultsOf } from '../contract.ts';

const manifestEnding = '.manifest.json';

/** The archive's key. */
export function archiveKey(prefix: string, address: BackupAddress): string {
  return `${listPrefix(prefix, address)}${address.backup}`;
}

/** The manifest's key: the backup exists when this object does. */
export function manifestKey(prefix: string, address: BackupAddress): string {
  return archiveKey(prefix, address) + manifestEnding;
}

/** Some of the backups in the bucket: what is not named may be any. */
export interface Part {
  remote?: string | undefined;
  project?: string | undefined;
  instance?: string | undefined;
}

/** Under what all backups of a remote, of one of its projects, or of one instance are; those of all remotes where none is named. */
export function listPrefix(prefix: string, { remote, project, instance }: Part): string {
  const words = [prefix, remote, remote && project, remote && project && instance];
  return words.map((word) => (word ? `${word}/` : '')).join('');
}

/**
 * Prefixes of which every key in one of `folders` has exactly one, about `most` of them where they can be told apart: listed side by
 * side they are the whole. In order. Undefined where they cannot be cut safely.
 */
export function prefixesOf(folders: string[], most: number): string[] | undefined {
  // A letter that UTF-16 has in two halves could be cut.
  if (folders.length === 0 || !folders.every((folder) => /^[ -~]+$/.test(folder))) return undefined;
  let groups = [folders];
  while (groups.length < most) {
    const largest = groups.reduce((one, other) => (other.length > one.length ? other : one));
    if (largest.length === 1) break;
    const { length } = commonStart(largest);
    const cut = Map.groupBy(largest, (folder) => folder[length]);
    groups = groups.flatMap((group) => (group === largest ? [...cut.values()] : [group]));
  }
  return groups.map(commonStart).sort();
}

function commonStart([first = '', ...others]: string[]): string {
  let { length } = first;
  for (const other of others) while (!other.startsWith(first.slice(0, length))) length--;
  return first.slice(0, length);
}

/** The key of a project's index: below no remote, for no remote's name begins with a dot. */
export function indexKey(prefix: string, of: { remote: string; project: string }): string {
  return [prefix, '.index', of.remote, `${of.project}.json.gz`].filter((word) => word).join('/');
}

/** The backup whose manifest `key` is; undefined for any other key. */
export function parseManifestKey(prefix: string, key: string): BackupAddress | undefined {
  return key.endsWith(manifestEnding) ? parseKey(prefix, key.slice(0, -manifestEnding.length)) : undefined;
}

/** The backup whose archive `key` is; undefined for a manifest's, and for keys that no archive of ours can have. */
export function parseArchiveKey(prefix: string, key: string): BackupAddress | undefined {
  const address = parseKey(prefix, key);
  if (!address) return undefined;
  for (const [name, value] of [
    ['remoteName', address.remote],
    ['projectName', address.project],
    ['instanceName', address.instance],
    ['backupName', address.backup],
  ] as const) {
    if (faultsOf(`names.json#/$defs/${name}`, value).length > 0) return undefined;
  }
  return address;
}

function parseKey(prefix: string, key: string): BackupAddress | undefined {
  if (!key.startsWith(prefix && `${prefix}/`)) return undefined;
  const words = key.slice(prefix ? prefix.length + 1 : 0).split('/');
  const [remote, project, instance, backup] = words;
  if (!remote || !project || !instance || !backup || words.length !== 4) return undefined;
  return { remote, project, instance, backup };
}
