/** Keys in the bucket: `<prefix>/<remote>/<project>/<instance>/<backup>`, and the same with `.manifest.json`. */
import { type BackupAddress, faultsOf } from '../contract/schemas.ts';

const manifestEnding = '.manifest.json';

export function archiveKey(prefix: string, address: BackupAddress): string {
  return `${listPrefix(prefix, address)}${address.backup}`;
}

/** The manifest's key. The backup exists if this object exists. */
export function manifestKey(prefix: string, address: BackupAddress): string {
  return archiveKey(prefix, address) + manifestEnding;
}

/** The key of the manifest that a cursor of these backups stands for: a cursor is the end of the key, after the scope's remote and project. */
export function keyOfCursor(prefix: string, of: BackupScope, cursor: string): string {
  const { remote, project } = of;
  return `${listPrefix(prefix, project === undefined ? {} : { remote, project })}${cursor}${manifestEnding}`;
}

/** Selects backups in the bucket. A missing field matches every value. */
export interface BackupScope {
  remote?: string | undefined;
  project?: string | undefined;
  instance?: string | undefined;
}

/** Key prefix of all backups of an instance, a project or a remote; without a remote, of all backups. */
export function listPrefix(prefix: string, { remote, project, instance }: BackupScope): string {
  const words = [prefix, remote, remote && project, remote && project && instance];
  return words.map((word) => (word ? `${word}/` : '')).join('');
}

/**
 * Groups `folders` by common prefix, in up to about `most` groups, and returns the prefixes, sorted. Every key in one of the folders has exactly
 * one of the prefixes, so listing them in parallel gives the whole. Undefined when the names cannot be cut safely.
 */
export function prefixesOf(folders: string[], most: number): string[] | undefined {
  // ASCII only: a cut could split a UTF-16 surrogate pair.
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

/** The key of a project's index. It is below no remote, because no remote's name begins with a dot. */
export function indexKey(prefix: string, of: { remote: string; project: string }): string {
  return [prefix, '.index', of.remote, `${of.project}.json.gz`].filter((word) => word).join('/');
}

/** The backup whose manifest has this key; undefined for any other key. */
export function parseManifestKey(prefix: string, key: string): BackupAddress | undefined {
  return key.endsWith(manifestEnding) ? parseKey(prefix, key.slice(0, -manifestEnding.length)) : undefined;
}

/** The backup whose archive has this key; undefined for a manifest's key, and for keys that none of our archives can have. */
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
