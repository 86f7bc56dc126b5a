/** Finds the operation that owns what lxstow has made, and whether it is still unfinished. It is read again before each removal. */
import { archiveKey } from '../backups/keys.ts';
import type { Address, BackupAddress, Operation } from '../contract/schemas.ts';
import type { LeaseHolder } from '../coordination/leases.ts';
import { countQueuedJobs } from '../jobs/jobs.ts';
import { Bucket, parseRecord } from '../nats/bucket/bucket.ts';
import { scan } from '../nats/bucket/scan.ts';
import { operationKey, parseLeaseKey, reservationKey } from '../nats/bucketKeys.ts';
import type { Nats } from '../nats/connection.ts';
import { operationsBucket } from '../nats/streams.ts';
import { isFinal } from '../operations/operation.ts';

/**
 * `living`: an operation that is not final, or has just become so, or a queued job, owns or may own it. `ended`: its operation is final. `unclear`: no
 * operation is known to have owned it, or it was a good backup: it stays for the grace period.
 */
export interface Owner {
  state: 'living' | 'ended' | 'unclear';
  operation?: string;
}

const unclear: Owner = { state: 'unclear' };
/** MinIO drops uploads of that age itself, and other servers list them without their exact key. */
const forgottenMs = 48 * 3_600_000;

export class Owners {
  readonly #nats: Nats;
  readonly #prefix: string;
  readonly #settledMs: number;
  readonly #operations: Bucket;
  readonly #leases: Bucket;
  readonly #clock: () => number;
  #known: Operation[] = [];
  #leased = new Set<string>();

  private constructor(nats: Nats, leases: Bucket, clock: () => number, prefix: string, settledMs: number) {
    this.#clock = clock;
    this.#nats = nats;
    this.#prefix = prefix;
    this.#settledMs = settledMs;
    this.#operations = new Bucket(nats, operationsBucket);
    this.#leases = leases;
  }

  /**
   * Reads all operations and leases of the host, or throws. The holder of a lease that was not renewed for `settledMs` counts as dead, and what belongs
   * to an operation stays for so long after its end.
   */
  static async read(
    nats: Nats,
    leases: Bucket,
    { remote, prefix, settledMs }: { remote: string; prefix: string; settledMs: number },
  ): Promise<Owners> {
    const owners = new Owners(nats, leases, await leases.clock(), prefix, settledMs);
    for (const { key, value, written } of await leases.entries(`${remote}.>`)) {
      const holder = parseLeaseKey(key)?.kind === 'reservation' ? undefined : parseHolder(value);
      if (holder && owners.unrenewedMs(written) < settledMs) owners.#leased.add(holder.operation);
    }
    owners.#known = [...(await owners.#readAll(`${remote}.*`)).values()].flatMap((value) => readOperation(value) ?? []);
    return owners;
  }

  /** Values by key: in batches, or one by one for a NATS user that may not read in batches (an older nats.conf). */
  async #readAll(keys: string): Promise<Map<string, Buffer>> {
    const values = new Map<string, Buffer>();
    try {
      await scan(
        this.#nats,
        operationsBucket,
        (key, _, value) => void (value ? values.set(key, Buffer.from(value)) : values.delete(key)),
        { keys },
      );
    } catch {
      for (const { key, value } of await this.#operations.entries(keys)) values.set(key, value);
    }
    return values;
  }

  /** How long ago a lease was last renewed (`written`), by NATS's clock, because this machine's may differ. */
  unrenewedMs(written: Date): number {
    return this.#clock() - written.getTime();
  }

  /** The operations of this host, as they were when they were read. */
  get known(): readonly Operation[] {
    return this.#known;
  }

  /** The owner of a thing that has an operation's id in its name. */
  async ofOperation(id: string): Promise<Owner> {
    // On any host, because two hosts in the configuration may be the same LXD. Publishers choose ids, so two operations may have one.
    const found = await this.#operations.entries(operationKey('*', id));
    if (found.length > 0) {
      // An operation that cannot be read may be unfinished.
      const haveEnded = found.map(({ value }) => readOperation(value)).every((each) => each && this.#hasEnded(each));
      return { state: haveEnded ? 'ended' : 'living', operation: id };
    }
    return { state: this.#leased.has(id) ? 'living' : 'unclear', operation: id };
  }

  /** The owner of an upload at an archive's key, or of an archive. */
  async ofBackup(address: BackupAddress, key: string, kind: 'upload' | 'archive'): Promise<Owner> {
    const reserved = await this.ofReservation(address, address.backup);
    if (reserved.state === 'living') return reserved;
    const named: Operation[] = [];
    for (const { id, remote } of this.#known.filter((operation) => this.#names(operation, address, key))) {
      const { entry } = await this.#operations.get(operationKey(remote, id));
      const operation = entry && readOperation(entry.value);
      if (!operation) continue;
      if (!this.#hasEnded(operation)) return { state: 'living', operation: id };
      // One that was refused has not left the archive that is there.
      if (kind === 'upload' || mayHaveLeft(operation)) named.push(operation);
    }
    named.sort((a, b) => a.updated_at.localeCompare(b.updated_at));
    const last = named.at(-1);
    if (!last) return unclear;
    // An archive whose backup succeeded, and was not deleted, was good: without its manifest it stays for the grace period.
    const successful = named.findLast(({ status }) => status === 'Success');
    const wasGood = kind === 'archive' && (successful?.kind === 'backup' || successful?.kind === 'upload');
    return { state: wasGood ? 'unclear' : 'ended', operation: (successful ?? last).id };
  }

  /** The owner of a backup's name, by its reservation. The operation of a queued job may not be written yet. */
  async ofReservation(address: Address, backup: string): Promise<Owner> {
    const { entry } = await this.#leases.get(reservationKey(address, backup));
    if (!entry) return unclear;
    const owner = await this.ofOperation(entry.value.toString());
    const queued = owner.state === 'unclear' && (await countQueuedJobs(this.#nats, 'backup', address)) > 0;
    return queued ? { ...owner, state: 'living' } : owner;
  }

  /** The keys at which ended operations may have left an upload that listings do not contain. */
  archiveKeys(now: number): string[] {
    const keys = this.#known.flatMap((operation) => {
      const { kind, backup, status, updated_at, attempt } = operation;
      if ((kind !== 'backup' && kind !== 'upload') || backup === undefined || !isFinal(operation)) return [];
      // A first attempt that succeeded has completed the only upload.
      if (status === 'Success' && (attempt <= 1 || Date.parse(updated_at) < now - forgottenMs)) return [];
      return archiveKey(this.#prefix, { ...operation, backup });
    });
    return [...new Set(keys)];
  }

  /** When the operation becomes final, its worker still has to release leases and the backup's name. */
  #hasEnded(operation: Operation): boolean {
    return isFinal(operation) && Date.now() - Date.parse(operation.updated_at) >= this.#settledMs;
  }

  #names(operation: Operation, address: BackupAddress, key: string): boolean {
    if (operation.kind === 'restore' || operation.backup === undefined) return false;
    const { project, instance } = operation;
    if (project !== address.project || instance !== address.instance) return false;
    return key === archiveKey(this.#prefix, { ...operation, backup: operation.backup });
  }
}

/**
 * Whether it may have left an archive without a manifest. A backup that ended before it made anything has not: an attempt writes its checkpoint first.
 * Nor has a deletion that was refused. A deletion that failed halfway cannot be told from it, so it does not count either.
 */
function mayHaveLeft({ kind, status, checkpoint }: Operation): boolean {
  return status === 'Success' || ((kind === 'backup' || kind === 'upload') && checkpoint !== undefined);
}

/** Undefined for a record that is not valid: it must not hide the others. */
function readOperation(value: Buffer): Operation | undefined {
  try {
    return parseRecord<Operation>(value);
  } catch {
    return undefined;
  }
}

/** The holder that a lease or claim names; undefined if it is not ours. */
export function parseHolder(value: Buffer): LeaseHolder | undefined {
  try {
    const holder = parseRecord<LeaseHolder>(value);
    return typeof holder?.operation === 'string' && typeof holder.worker === 'string' ? holder : undefined;
  } catch {
    return undefined;
  }
}
