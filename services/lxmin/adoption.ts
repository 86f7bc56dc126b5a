/** Adopts lxmin's backups: verifies and copies them. Never changes lxmin's bucket. */
import { setTimeout as delay } from 'node:timers/promises';
import { SlotMemory } from '../archive/slotMemory.ts';
import { type LxdIndex, parseProfile } from '../archive/tar/indexYaml.ts';
import { readIndex } from '../archive/tar/lxdIndex.ts';
import { manifestKey } from '../backups/keys.ts';
import { IdleWatch } from '../concurrency/idleWatch.ts';
import { mapInOrder } from '../concurrency/orderedMap.ts';
import { LxstowError, unlessMissing } from '../contract/errors.ts';
import {
  type Address,
  type Compression,
  faultsOf,
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
import { about, type LxminBucket, readArchiveOf, urlOf, verifyArchiveOf } from './archive.ts';
import { type LxminBackup, timeInName } from './layout.ts';
import { adoptedAs, checkName, compareProfiles, lacks, type Sound, sourceOf } from './survey.ts';

interface AdoptionTools extends Omit<IntakeTools, 'onEnd' | 'threads'> {
  from: LxminBucket;
  intake: Intake;
  /** How long to wait for the claim of another run, which may have died during the same backup. */
  patienceMs: number;
  /** How long S3 may take for a range, including retries. */
  idleTimeoutMs: number;
}

interface Adopted {
  /** Its name in lxstow. */
  name: string;
  /** False if it had been adopted before. */
  fresh: boolean;
  notes: string[];
}

const profilesInFlight = 8;
const askAgainMs = 500;
const holder = 'adopt';

export class Adoption {
  readonly #tools: AdoptionTools;
  /** One is enough: backups are adopted one after the other. */
  readonly #memory = new SlotMemory();

  constructor(tools: AdoptionTools) {
    this.#tools = tools;
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
    const { archive, address } = backup;
    using idle = new IdleWatch(idleTimeoutMs, `reading ${urlOf(from, archive)}`, 's3-unavailable');
    const gone = AbortSignal.any([signal, idle.signal]);
    const profiles = await this.#profilesOf(backup, gone);
    const { tags, lost } = await this.#tagsOf(archive, gone);
    let done: Adopted | undefined;
    const there = new Error('it is there');
    const take = async (bytes: AsyncIterable<Buffer>) => {
      const { index, tar } = await readIndex(bytes);
      checkName(this.#tools, address, archive, index);
      const { missing } = compareProfiles(backup, index);
      if (missing.length > 0) throw new LxstowError('bad-request', lacks(backup, missing));
      // Only one run at a time adopts a backup.
      const lease = await this.#claim(claimKey(address, backup.name, holder), this.#idOf(backup, 1), gone);
      await using _turn = new Claim(lease, heartbeatMs, log);
      const name = await adoptedAs(this.#tools, address, backup, archive, gone);
      if (name !== undefined) {
        done = { name, fresh: false, notes: [] };
        throw there;
      }
      const operation = await intake.take({
        ...(await this.#operation(backup, gone)),
        ...{ place: address, tar, compression, tags, lease, idle, gone, memory: this.#memory },
        index: { ...index, instance: { ...index.instance, profiles: merged(profiles, index) } },
        // Uncompressed, it may be several times as large.
        length: compression === 'none' ? archive.size * 4 : archive.size,
        named: timeInName(backup.name) ?? new Date(archive.modified),
        created: new Date(archive.modified),
        notes: `adopted from ${urlOf(from, archive)}`,
        source: sourceOf(this.#tools, archive),
      });
      const notes = lost.map((key) => `tag ${JSON.stringify(key)} is not copied: lxstow does not allow it`);
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
    return await Array.fromAsync(mapInOrder(profiles, profilesInFlight, read));
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
        throw new LxstowError('conflict', `${other?.worker ?? 'another run'} is adopting it now`);
      }
      await delay(askAgainMs, undefined, { signal }).catch(() => signal.throwIfAborted());
    }
  }

  /** The operation's id, the same in every run. `time` goes up if the operation of that id has ended and must be repeated. */
  #idOf({ address, archive }: { address: Address; archive: StoredObject }, time: number): string {
    const { bucket, key, etag } = sourceOf(this.#tools, archive);
    return uuid5([holder, address.remote, address.project, address.instance, bucket, key, etag, time].join('\n'));
  }

  /** Call it only while holding the claim: then any operation found belongs to a dead run. */
  async #operation(
    backup: { address: Address; archive: StoredObject },
    signal: AbortSignal,
  ): Promise<{ id: string; left: Stored | undefined }> {
    const { operations, reservations } = this.#tools;
    for (let time = 1; ; time++) {
      const id = this.#idOf(backup, time);
      const find = () => operations.find(id, backup.address.remote);
      let found = await find();
      if (found && !isFinal(found.operation)) {
        await this.#clearUp(found.operation, signal);
        found = await find();
      }
      await reservations.releaseAll(backup.address, id);
      if (!found || !isFinal(found.operation)) return { id, left: found };
    }
  }

  /** Removes what a killed run left in the store. */
  async #clearUp(operation: Operation, signal: AbortSignal): Promise<void> {
    const { store, reservations, prefix, heartbeatMs, log } = this.#tools;
    const { id, backup, checkpoint } = operation;
    if (backup === undefined) return;
    const lease = await this.#claim(claimKey(operation, backup, id), id, signal);
    await using _claim = new Claim(lease, heartbeatMs, log);
    if (!checkpoint?.key || !checkpoint.uploadId) return;
    const { key, uploadId } = checkpoint;
    await store.abortUpload({ key, uploadId }, signal);
    // While the name is ours, an object under it is the result of that upload.
    if (!(await reservations.take(operation, backup, id))) return;
    const described = await unlessMissing(() => store.stat(manifestKey(prefix, { ...operation, backup }), signal));
    lease.assertHeld();
    if (!described) await store.remove(key, AbortSignal.any([signal, lease.lost]));
  }
}

/** The instance's profiles: lxmin's files, else the archive's copy. Ignores other profiles in the archive. */
function merged(profiles: Profile[], { applied, instance }: LxdIndex): Profile[] {
  const wanted = applied.filter((name) => !profiles.some((profile) => profile.name === name));
  return [...profiles, ...instance.profiles.filter(({ name }) => wanted.includes(name))];
}
