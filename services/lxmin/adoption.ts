/** Backups of lxmin's become backups of lxstow's: found, looked into, verified, copied. lxmin's bucket stays as it is. */
import { setTimeout as delay } from 'node:timers/promises';
import { mapInOrder } from '../archive/flow.ts';
import { IdleWatch } from '../archive/idleWatch.ts';
import { type LxdIndex, parseProfile, readIndex } from '../archive/lxdIndex.ts';
import { SlotMemory } from '../archive/slotMemory.ts';
import {
  type Address,
  type Compression,
  faultsOf,
  type ManifestSource,
  type Operation,
  type Profile,
  type Tags,
} from '../contract.ts';
import { asLxstowError, isCode, LxstowError } from '../errors.ts';
import type { Intake, IntakeTools } from '../gateway/intake.ts';
import { Claim } from '../gateway/transfers.ts';
import { isFinal } from '../operations/operation.ts';
import type { Stored } from '../operations/store.ts';
import { uuid5 } from '../queue/jobs.ts';
import type { Lease } from '../queue/leases.ts';
import { claimKey } from '../queue/topology.ts';
import { archiveKey, manifestKey, parseManifestKey } from '../storage/keys.ts';
import type { StoredObject } from '../storage/objectStore.ts';
import { about, type LxminBucket, readArchiveOf, readIndexOf, urlOf, verifyArchiveOf } from './archive.ts';
import { isOf, type LxminBackup, readLayout, timeInName } from './layout.ts';

export interface AdoptionTools extends Omit<IntakeTools, 'onEnd' | 'threads'> {
  from: LxminBucket;
  intake: Intake;
  /** Where instances go of which lxmin's bucket does not say it. */
  to: Omit<Address, 'instance'>;
  /** Those that are configured. */
  remotes: string[];
  /** How long somebody is waited for who may have died amid the same backup. */
  patienceMs: number;
  /** How long S3 may take for a range, retries included. */
  idleTimeoutMs: number;
}

/** A backup of lxmin's that can be restored, as far as that can be seen from its beginning. */
export interface Sound extends LxminBackup {
  archive: StoredObject;
  place: Address;
  optimized: boolean;
  /** What nobody needs to do anything about. */
  notes: string[];
}

export type Found =
  | (Sound & { state: 'new' })
  | (Sound & { state: 'adopted'; as: string })
  /** Something is missing. */
  | (LxminBackup & { state: 'incomplete'; why: string; place?: Address | undefined })
  /** Something is wrong. */
  | (LxminBackup & { state: 'unreadable'; error: LxstowError; place?: Address | undefined });

export interface Survey {
  backups: Found[];
  /** Objects that are none of lxmin's. */
  foreign: StoredObject[];
}

export interface Adopted {
  /** Its name in lxstow. */
  name: string;
  /** False: it was there already. */
  fresh: boolean;
  notes: string[];
}

const looksInFlight = 8;
const askAgainMs = 500;
const holder = 'adopt';

export class Adoption {
  readonly #tools: AdoptionTools;
  /** Backups are adopted one after the other. */
  readonly #memory = new SlotMemory();

  constructor(tools: AdoptionTools) {
    this.#tools = tools;
  }

  /** All that there is, or what there is of these instances. Reads the beginning of each archive. */
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
      // Who cannot reach the bucket at all learns it once.
      if (isCode(error, 's3-unavailable') || isCode(error, 'nats-unavailable')) throw error;
      return { ...backup, place, state: 'unreadable', error: asLxstowError(error) };
    }
  }

  /** Reads all of a backup: archive and profiles. Throws archive-corrupt, and names the object. */
  async verify(backup: Sound, signal: AbortSignal, onBytes: (count: number) => void): Promise<void> {
    const { from } = this.#tools;
    await this.#profilesOf(backup, signal);
    await verifyArchiveOf(from, backup.archive, { signal, onBytes });
  }

  /** Copies a backup. Twice is once: one that is there is found, and left alone. */
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
      // One at a time adopts a backup.
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
        // What is not compressed may be several times as large.
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

  /** The tags that lxstow can keep, and the keys of those that it cannot. */
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

  /** Where its instance belongs; undefined where that cannot be an instance. `remote:c1` is on the remote of that name, if there is one. */
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

  /** The name of the backup that is a copy of this one. */
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

  /** Takes a claim. Who was killed has his for some seconds more; who lives is left alone. */
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

  /** The operation's id, the same for everybody who begins; another one when it has ended and must be done again. */
  #idOf({ place, archive }: { place: Address; archive: StoredObject }, time: number): string {
    const { bucket, key, etag } = this.#sourceOf(archive);
    return uuid5([holder, place.remote, place.project, place.instance, bucket, key, etag, time].join('\n'));
  }

  /** To be called by who has the turn: whatever is found then belongs to nobody who lives. */
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

  /** Removes what a run that was killed has left in the store. */
  async #clearUp(operation: Operation, signal: AbortSignal): Promise<void> {
    const { store, reservations, prefix, heartbeatMs, log } = this.#tools;
    const { id, backup, checkpoint } = operation;
    if (backup === undefined) return;
    await using claim = new Claim(await this.#claim(claimKey(operation, backup, id), id, signal), heartbeatMs, log);
    if (!checkpoint?.key || !checkpoint.uploadId) return;
    const { key, uploadId } = checkpoint;
    await store.abortUpload({ key, uploadId }, signal);
    // While the name is ours, the object under it, if there is one, is what that upload became.
    if (!(await reservations.take(operation, backup, id))) return;
    const described = await store.stat(manifestKey(prefix, { ...operation, backup }), signal).catch((error) => {
      if (!isCode(error, 'not-found')) throw error;
    });
    claim.assertHeld();
    if (!described) await store.remove(key, signal);
  }
}

/** The contents of the instance's profiles: lxmin's files, and for want of one, what the archive says, which may have others, too. */
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
