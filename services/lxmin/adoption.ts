/** Adopts lxmin's backups: finds, inspects, verifies and copies them. Never changes lxmin's bucket. */
import { setTimeout as delay } from 'node:timers/promises';
import { SlotMemory } from '../archive/slotMemory.ts';
import { type LxdIndex, parseProfile } from '../archive/tar/indexYaml.ts';
import { readIndex } from '../archive/tar/lxdIndex.ts';
import { archiveKey, manifestKey, parseManifestKey } from '../backups/keys.ts';
import { IdleWatch } from '../concurrency/idleWatch.ts';
import { mapInOrder } from '../concurrency/orderedMap.ts';
import { asLxstowError, isCode, LxstowError } from '../contract/errors.ts';
import {
  type Address,
  type Compression,
  faultsOf,
  type ManifestSource,
  type Operation,
  type Profile,
  type Tags,
} from '../contract/schemas.ts';
import { Claim } from '../coordination/claims.ts';
import type { Lease } from '../coordination/leases.ts';
import type { Intake, IntakeTools } from '../intake/intake.ts';
import { uuid5 } from '../jobs/jobs.ts';
import { claimKey } from '../nats/bucketKeys.ts';
import { isFinal } from '../operations/operation.ts';
import type { Stored } from '../operations/operationStore.ts';
import type { StoredObject } from '../storage/objectStore.ts';
import { about, type LxminBucket, readArchiveOf, readIndexOf, urlOf, verifyArchiveOf } from './archive.ts';
import { isOf, type LxminBackup, readLayout, timeInName } from './layout.ts';

export interface AdoptionTools extends Omit<IntakeTools, 'onEnd' | 'threads'> {
  from: LxminBucket;
  intake: Intake;
  /** Project of the adopted backups, and their remote unless lxmin's bucket names a configured one. */
  to: Omit<Address, 'instance'>;
  /** The configured remotes. */
  remotes: string[];
  /** How long to wait for the claim of another run, which may have died amid the same backup. */
  patienceMs: number;
  /** How long S3 may take for a range, retries included. */
  idleTimeoutMs: number;
}

/** A backup of lxmin's that can be restored, judging by its beginning. */
export interface Sound extends LxminBackup {
  archive: StoredObject;
  place: Address;
  optimized: boolean;
  /** Remarks that need no action. */
  notes: string[];
}

export type Found =
  | (Sound & { state: 'new' })
  | (Sound & { state: 'adopted'; as: string })
  /** A part is missing. */
  | (LxminBackup & { state: 'incomplete'; why: string; place?: Address | undefined })
  /** It cannot be read, or is damaged. */
  | (LxminBackup & { state: 'unreadable'; error: LxstowError; place?: Address | undefined });

export interface Survey {
  backups: Found[];
  /** Objects that are not lxmin's. */
  foreign: StoredObject[];
}

export interface Adopted {
  /** Its name in lxstow. */
  name: string;
  /** False if it had been adopted before. */
  fresh: boolean;
  notes: string[];
}

const looksInFlight = 8;
const askAgainMs = 500;
const holder = 'adopt';

export class Adoption {
  readonly #tools: AdoptionTools;
  /** One is enough: backups are adopted one after the other. */
  readonly #memory = new SlotMemory();

  constructor(tools: AdoptionTools) {
    this.#tools = tools;
  }

  /** Lists all backups, or those of these instances. Reads the beginning of each archive. */
  async survey(instances: string[], signal: AbortSignal): Promise<Survey> {
    const objects: StoredObject[] = [];
    for await (const object of this.#tools.from.store.list('', signal)) objects.push(object);
    const { backups, foreign } = readLayout(objects);
    const found: Found[] = [];
    const chosen = backups.filter((backup) => instances.length === 0 || instances.some((name) => isOf(backup, name)));
    for await (const each of mapInOrder(all(chosen), looksInFlight, (backup) => this.#look(backup, signal)))
      found.push(each);
    return { backups: found, foreign };
  }

  async #look(backup: LxminBackup, signal: AbortSignal): Promise<Found> {
    const place = this.#placeOf(backup);
    try {
      const { archive, instance, profiles } = backup;
      if (!archive) {
        const only = `only ${profiles.length === 1 ? 'a profile' : `${profiles.length} profiles`}, no archive`;
        return { ...backup, place, state: 'incomplete', why: only };
      }
      if (!place) return { ...backup, place, state: 'incomplete', why: `${instance} is no name of an instance` };
      const as = await this.#adoptedAs(place, backup, archive, signal);
      const index = await readIndexOf(this.#tools.from, archive, signal);
      this.#checkName(place, archive, index);
      const { missing, notes } = compareProfiles(backup, index);
      const sound = { ...backup, archive, place, optimized: index.optimized, notes };
      if (as !== undefined) return { ...sound, state: 'adopted', as };
      if (missing.length > 0) return { ...backup, place, state: 'incomplete', why: lacks(backup, missing) };
      return { ...sound, state: 'new' };
    } catch (error) {
      signal.throwIfAborted();
      // If S3 or NATS is away, fail once, not for each backup.
      if (isCode(error, 's3-unavailable') || isCode(error, 'nats-unavailable')) throw error;
      return { ...backup, place, state: 'unreadable', error: asLxstowError(error) };
    }
  }

  /** Reads a backup's archive and profiles to the end. Throws archive-corrupt, naming the object. */
  async verify(backup: Sound, signal: AbortSignal, onBytes: (count: number) => void): Promise<void> {
    const { from } = this.#tools;
    await this.#profilesOf(backup, signal);
    await verifyArchiveOf(from, backup.archive, { signal, onBytes });
  }

  /** Copies a backup. Idempotent: an adopted one is found and left unchanged. */
  async adopt(
    backup: Sound,
    compression: Compression,
    signal: AbortSignal,
    onBytes: (count: number) => void,
  ): Promise<Adopted> {
    const { from, intake, idleTimeoutMs, heartbeatMs, log } = this.#tools;
    const { archive, place } = backup;
    using idle = new IdleWatch(idleTimeoutMs, `reading ${urlOf(from, archive)}`, 's3-unavailable');
    const gone = AbortSignal.any([signal, idle.signal]);
    const profiles = await this.#profilesOf(backup, gone);
    const { tags, lost } = await this.#tagsOf(archive, gone);
    let done: Adopted | undefined;
    const there = new Error('it is there');
    const take = async (bytes: AsyncIterable<Buffer>) => {
      const { index, tar } = await readIndex(bytes);
      this.#checkName(place, archive, index);
      const { missing } = compareProfiles(backup, index);
      if (missing.length > 0) throw new LxstowError('bad-request', lacks(backup, missing));
      // Only one run at a time adopts a backup.
      const lease = await this.#claim(claimKey(place, backup.name, holder), this.#idOf(backup, 1), gone);
      await using _turn = new Claim(lease, heartbeatMs, log);
      const name = await this.#adoptedAs(place, backup, archive, gone);
      if (name !== undefined) {
        done = { name, fresh: false, notes: [] };
        throw there;
      }
      const operation = await intake.take({
        ...(await this.#operation(backup, gone)),
        ...{ place, tar, compression, tags, lease, idle, gone, memory: this.#memory },
        index: { ...index, instance: { ...index.instance, profiles: merged(profiles, index) } },
        // Uncompressed, it may be several times as large.
        length: compression === 'none' ? archive.size * 4 : archive.size,
        named: timeInName(backup.name) ?? new Date(archive.modified),
        created: new Date(archive.modified),
        notes: `adopted from ${urlOf(from, archive)}`,
        source: this.#sourceOf(archive),
      });
      const notes = lost.map((key) => `tag ${JSON.stringify(key)} is left behind: lxstow takes none such`);
      done = { name: operation.backup ?? '', fresh: true, notes };
    };
    try {
      await about(from, archive, () => readArchiveOf(from, archive, { signal: gone, onBytes }, take));
    } catch (error) {
      if (error !== there) throw error;
    }
    if (!done) throw new LxstowError('archive-corrupt', `${urlOf(from, archive)}: the archive is empty`);
    return done;
  }

  /** Returns the tags that lxstow can keep, and the keys of the others. */
  async #tagsOf(archive: StoredObject, signal: AbortSignal): Promise<{ tags: Tags; lost: string[] }> {
    const { from } = this.#tools;
    const all = await about(from, archive, () => from.store.tagsOf(archive.key, signal));
    const lost = Object.entries(all)
      .filter(([key, value]) => faultsOf('names.json#/$defs/tags', { [key]: value }).length > 0)
      .map(([key]) => key);
    return { tags: Object.fromEntries(Object.entries(all).filter(([key]) => !lost.includes(key))), lost };
  }

  async #profilesOf({ profiles }: LxminBackup, signal: AbortSignal): Promise<Profile[]> {
    const { from } = this.#tools;
    const read = ({ name, object }: LxminBackup['profiles'][number]) =>
      about(from, object, async () => parseProfile(name, (await from.store.read(object.key, signal)).body));
    const found: Profile[] = [];
    for await (const profile of mapInOrder(all(profiles), looksInFlight, read)) found.push(profile);
    return found;
  }

  /** Address of the backup's instance; undefined if its name is invalid. `remote:c1` is on the remote of that name, if one is configured. */
  #placeOf({ instance }: LxminBackup): Address | undefined {
    const { to, remotes } = this.#tools;
    const [, remote = '', name = ''] = /^(?:([^:]*):)?(.*)$/.exec(instance) ?? [];
    if (faultsOf('names.json#/$defs/instanceName', name).length > 0) return undefined;
    return { ...to, ...(remotes.includes(remote) && { remote }), instance: name };
  }

  #checkName({ instance }: Address, archive: StoredObject, { name }: LxdIndex): void {
    if (name === instance) return;
    const { from } = this.#tools;
    throw new LxstowError(
      'archive-corrupt',
      `${urlOf(from, archive)}: it is an archive of ${name}, not of ${instance}`,
    );
  }

  #sourceOf({ key, etag, size }: StoredObject): ManifestSource {
    const { endpoint, bucket } = this.#tools.from;
    return { endpoint, bucket, key, etag, size };
  }

  /** Returns the name of the backup that is a copy of this one. */
  async #adoptedAs(
    place: Address,
    { name }: LxminBackup,
    archive: StoredObject,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const { store, catalog, prefix } = this.#tools;
    const wanted = this.#sourceOf(archive);
    for await (const { key } of store.list(archiveKey(prefix, { ...place, backup: name }), signal)) {
      const address = parseManifestKey(prefix, key);
      if (!address) continue;
      const manifest = await catalog.manifest(address, signal).catch((error) => {
        if (!isCode(error, 'not-found') && !isCode(error, 'bad-manifest')) throw error;
      });
      const source = manifest?.source;
      if (source?.bucket === wanted.bucket && source.key === wanted.key && source.etag === wanted.etag)
        return address.backup;
    }
    return undefined;
  }

  /** Acquires a claim. Waits for that of a killed run, which lasts some seconds. Throws conflict if another run keeps it. */
  async #claim(key: string, operation: string, signal: AbortSignal): Promise<Lease> {
    const { leases, name, patienceMs } = this.#tools;
    const until = performance.now() + patienceMs;
    for (;;) {
      const lease = await leases.acquire(key, { worker: name, operation });
      if (lease) return lease;
      if (performance.now() >= until) {
        const other = await leases.holder(key);
        throw new LxstowError('conflict', `${other?.worker ?? 'somebody else'} is adopting it now`);
      }
      await delay(askAgainMs, undefined, { signal }).catch(() => signal.throwIfAborted());
    }
  }

  /** The operation's id, the same in every run. `time` goes up if the operation of that id has ended and must be repeated. */
  #idOf({ place, archive }: { place: Address; archive: StoredObject }, time: number): string {
    const { bucket, key, etag } = this.#sourceOf(archive);
    return uuid5([holder, place.remote, place.project, place.instance, bucket, key, etag, time].join('\n'));
  }

  /** Call it only while holding the claim: then any operation found belongs to a dead run. */
  async #operation(
    backup: { place: Address; archive: StoredObject },
    signal: AbortSignal,
  ): Promise<{ id: string; left: Stored | undefined }> {
    const { operations, reservations } = this.#tools;
    for (let time = 1; ; time++) {
      const id = this.#idOf(backup, time);
      const find = () => operations.find(id, backup.place.remote);
      let found = await find();
      if (found && !isFinal(found.operation)) {
        await this.#clearUp(found.operation, signal);
        found = await find();
      }
      await reservations.releaseAll(backup.place, id);
      if (!found || !isFinal(found.operation)) return { id, left: found };
    }
  }

  /** Removes what a killed run left in the store. */
  async #clearUp(operation: Operation, signal: AbortSignal): Promise<void> {
    const { store, reservations, prefix, heartbeatMs, log } = this.#tools;
    const { id, backup, checkpoint } = operation;
    if (backup === undefined) return;
    await using claim = new Claim(await this.#claim(claimKey(operation, backup, id), id, signal), heartbeatMs, log);
    if (!checkpoint?.key || !checkpoint.uploadId) return;
    const { key, uploadId } = checkpoint;
    await store.abortUpload({ key, uploadId }, signal);
    // While the name is ours, an object under it is the result of that upload.
    if (!(await reservations.take(operation, backup, id))) return;
    const described = await store.stat(manifestKey(prefix, { ...operation, backup }), signal).catch((error) => {
      if (!isCode(error, 'not-found')) throw error;
    });
    claim.assertHeld();
    if (!described) await store.remove(key, signal);
  }
}

/** The instance's profiles: lxmin's files, else the archive's copy. Ignores other profiles in the archive. */
function merged(profiles: Profile[], { applied, instance }: LxdIndex): Profile[] {
  const wanted = applied.filter((name) => !profiles.some((profile) => profile.name === name));
  return [...profiles, ...instance.profiles.filter(({ name }) => wanted.includes(name))];
}

function compareProfiles({ profiles }: LxminBackup, { applied, instance }: LxdIndex) {
  const lost = applied.filter((name) => !profiles.some((profile) => profile.name === name));
  const inArchive = lost.filter((name) => instance.profiles.some((profile) => profile.name === name));
  const notes = inArchive.map((name) => `profile ${name} is not in the bucket: taken from the archive`);
  return { missing: lost.filter((name) => !inArchive.includes(name)), notes };
}

function lacks({ instance, name }: LxminBackup, missing: string[]): string {
  const file = `${instance}/${name}_profile_NNN_${missing[0]}.yaml`;
  return `profile ${missing.join(', ')} is neither in the bucket nor in the archive: put what \`lxc profile show ${missing[0]}\` says there, as ${file}`;
}

async function* all<T>(items: T[]): AsyncGenerator<T> {
  yield* items;
}
