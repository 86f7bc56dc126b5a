/** Finds lxmin's backups in its bucket, and judges each by its beginning. Only reads. */
import type { LxdIndex } from '../archive/tar/indexYaml.ts';
import type { Catalog } from '../backups/catalog.ts';
import { archiveKey, parseManifestKey } from '../backups/keys.ts';
import { mapInOrder } from '../concurrency/orderedMap.ts';
import { asLxstowError, isCode, LxstowError, unlessCode } from '../contract/errors.ts';
import { type Address, faultsOf, type ManifestSource } from '../contract/schemas.ts';
import type { ObjectStore, StoredObject } from '../storage/objectStore.ts';
import { type LxminBucket, readIndexOf, urlOf } from './archive.ts';
import { isOf, type LxminBackup, readLayout } from './layout.ts';

interface SourceTools {
  from: LxminBucket;
}

/** What is needed to find copies among lxstow's own backups. */
interface CopyTools extends SourceTools {
  store: Pick<ObjectStore, 'list'>;
  catalog: Catalog;
  prefix: string;
}

interface SurveyTools extends CopyTools {
  /** Project of the adopted backups, and their host unless lxmin's bucket names a configured one. */
  to: Omit<Address, 'instance'>;
  /** The configured hosts. */
  remotes: string[];
}

/** A backup of lxmin's that can be restored, judging by its beginning. */
export interface Sound extends LxminBackup {
  archive: StoredObject;
  address: Address;
  optimized: boolean;
  /** Remarks that need no action. */
  notes: string[];
}

export type Found =
  | (Sound & { state: 'new' })
  | (Sound & { state: 'adopted'; as: string })
  /** Something is missing. */
  | (LxminBackup & { state: 'incomplete'; why: string; address?: Address | undefined })
  /** The archive cannot be read, or is damaged. */
  | (LxminBackup & { state: 'unreadable'; error: LxstowError; address?: Address | undefined });

export interface Survey {
  backups: Found[];
  /** Objects that are not lxmin's. */
  foreign: StoredObject[];
}

const looksInFlight = 8;

/** Lists all backups, or those of these instances. Reads the beginning of each archive. */
export async function takeSurvey(tools: SurveyTools, instances: string[], signal: AbortSignal): Promise<Survey> {
  const { backups, foreign } = readLayout(await Array.fromAsync(tools.from.store.list('', signal)));
  const chosen = backups.filter((backup) => instances.length === 0 || instances.some((name) => isOf(backup, name)));
  const looked = mapInOrder(chosen, looksInFlight, (backup) => look(tools, backup, signal));
  return { backups: await Array.fromAsync(looked), foreign };
}

async function look(tools: SurveyTools, backup: LxminBackup, signal: AbortSignal): Promise<Found> {
  const address = addressOf(tools, backup);
  try {
    const { archive, instance, profiles } = backup;
    if (!archive) {
      const only = `only ${profiles.length === 1 ? 'a profile' : `${profiles.length} profiles`}, no archive`;
      return { ...backup, address, state: 'incomplete', why: only };
    }
    if (!address)
      return { ...backup, address, state: 'incomplete', why: `${instance} is not a valid name of an instance` };
    const as = await adoptedAs(tools, address, backup, archive, signal);
    const index = await readIndexOf(tools.from, archive, signal);
    checkName(tools, address, archive, index);
    const { missing, notes } = compareProfiles(backup, index);
    const sound = { ...backup, archive, address, optimized: index.optimized, notes };
    if (as !== undefined) return { ...sound, state: 'adopted', as };
    if (missing.length > 0) return { ...backup, address, state: 'incomplete', why: lacks(backup, missing) };
    return { ...sound, state: 'new' };
  } catch (error) {
    signal.throwIfAborted();
    // If S3 or NATS is away, fail once, not for each backup.
    if (isCode(error, 's3-unavailable') || isCode(error, 'nats-unavailable')) throw error;
    return { ...backup, address, state: 'unreadable', error: asLxstowError(error) };
  }
}

/** Address of the backup's instance; undefined if its name is invalid. `remote:c1` is on the remote of that name, if one is configured. */
function addressOf({ to, remotes }: SurveyTools, { instance }: LxminBackup): Address | undefined {
  const [, remote = '', name = ''] = /^(?:([^:]*):)?(.*)$/.exec(instance) ?? [];
  if (faultsOf('names.json#/$defs/instanceName', name).length > 0) return undefined;
  return { ...to, ...(remotes.includes(remote) && { remote }), instance: name };
}

/** Throws archive-corrupt for an archive of another instance. */
export function checkName(
  { from }: SourceTools,
  { instance }: Address,
  archive: StoredObject,
  { name }: LxdIndex,
): void {
  if (name === instance) return;
  throw new LxstowError('archive-corrupt', `${urlOf(from, archive)}: it is an archive of ${name}, not of ${instance}`);
}

export function sourceOf({ from }: SourceTools, { key, etag, size }: StoredObject): ManifestSource {
  const { endpoint, bucket } = from;
  return { endpoint, bucket, key, etag, size };
}

/** Returns the name of the backup that is a copy of this one. */
export async function adoptedAs(
  tools: CopyTools,
  address: Address,
  { name }: LxminBackup,
  archive: StoredObject,
  signal: AbortSignal,
): Promise<string | undefined> {
  const { store, catalog, prefix } = tools;
  const wanted = sourceOf(tools, archive);
  for await (const { key } of store.list(archiveKey(prefix, { ...address, backup: name }), signal)) {
    const copy = parseManifestKey(prefix, key);
    if (!copy) continue;
    const manifest = await unlessCode(['not-found', 'bad-manifest'], () => catalog.manifest(copy, signal));
    const source = manifest?.source;
    if (source?.bucket === wanted.bucket && source.key === wanted.key && source.etag === wanted.etag)
      return copy.backup;
  }
  return undefined;
}

/** The profiles that neither the bucket nor the archive has, and notes about those that only the archive has. */
export function compareProfiles({ profiles }: LxminBackup, { applied, instance }: LxdIndex) {
  const lost = applied.filter((name) => !profiles.some((profile) => profile.name === name));
  const inArchive = lost.filter((name) => instance.profiles.some((profile) => profile.name === name));
  const notes = inArchive.map((name) => `profile ${name} is not in the bucket: taken from the archive`);
  return { missing: lost.filter((name) => !inArchive.includes(name)), notes };
}

export function lacks({ instance, name }: LxminBackup, missing: string[]): string {
  const file = `${instance}/${name}_profile_NNN_${missing[0]}.yaml`;
  return `profile ${missing.join(', ')} is neither in the bucket nor in the archive: upload the output of \`lxc profile show ${missing[0]}\` as ${file}`;
}
