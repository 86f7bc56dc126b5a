/**
 * Updates the records of instances after a backup was made, deleted, or failed. A record that cannot be written fails no job: it is logged, and the
 * remote's workers are asked to compare its records with the store.
 */
import { sleep } from '../concurrency/sleep.ts';
import { isCode, type LxstowError } from '../contract/errors.ts';
import type {
  Address,
  BackupAddress,
  GoodBackup,
  InstanceRecord,
  LastBackupJob,
  Manifest,
} from '../contract/schemas.ts';
import { instanceKey } from '../nats/bucketKeys.ts';
import type { ObjectStore } from '../storage/objectStore.ts';
import type { Log } from '../telemetry/logger.ts';
import type { FleetStore, ReadRecord } from './fleetStore.ts';
import { mayBeDeleted, withGood, withLast, withRemoved, withYoungest } from './instanceRecord.ts';
import { goodOf, youngestBackups } from './youngest.ts';

const lookTimeoutMs = 30_000;
const askEveryMs = 60_000;
/** As many as a worker has slots. */
const mostRemembered = 256;

interface KeeperOptions {
  fleet: FleetStore;
  store: ObjectStore;
  /** Prefix of the keys in the store. */
  prefix: string;
  log: Log;
}

export class Keeper {
  readonly #options: KeeperOptions;
  /** What `lastGood` has read: the first change of that record need not read it again. */
  readonly #read = new Map<string, ReadRecord>();
  /** The remotes of records that could not be written, and whose workers have not been asked to compare yet. */
  readonly #behind = new Set<string>();

  constructor(options: KeeperOptions) {
    this.#options = options;
  }

  /** The newest backup in an instance's record. */
  async lastGood(address: Address): Promise<GoodBackup | undefined> {
    const read = await this.#options.fleet.read(address);
    this.#read.set(instanceKey(address), read);
    const [oldest] = this.#read.keys();
    if (this.#read.size > mostRemembered && oldest !== undefined) this.#read.delete(oldest);
    return read.record.good;
  }

  /** Call it after the manifest is stored. `job`: the backup job that made it; none for an uploaded archive. */
  async made(
    { remote, project, instance }: Address,
    manifest: Manifest,
    job?: Pick<LastBackupJob, 'operation' | 'run'>,
  ): Promise<void> {
    const address = { remote, project, instance };
    const good = goodOf(manifest);
    await this.#change(address, async (record) => {
      const next = mayBeDeleted(record, good)
        ? await this.#lookUp(record, address)
        : withGood(record, good, new Date());
      return job ? withLast(next, { ...job, at: good.at, outcome: 'success' }, new Date()) : next;
    });
  }

  /** A backup job failed. Records nothing for an instance that does not exist, unless it has a record. */
  async failed(address: Address, last: LastBackupJob, error?: LxstowError): Promise<void> {
    const missing = error !== undefined && isCode(error, 'not-found');
    await this.#change(address, (record) =>
      missing && !record.seen && !record.good ? undefined : withLast(record, last, new Date()),
    );
  }

  /** Call it after the manifest is deleted. */
  async removed({ backup, remote, project, instance }: BackupAddress): Promise<void> {
    const address = { remote, project, instance };
    const removed = new Date().toISOString();
    await this.#change(address, async (record) => {
      if (Object.keys(record).length === 0) return undefined;
      const next = withRemoved(record, removed);
      return record.good && record.good.backup !== backup ? next : this.#lookUp(next, address);
    });
  }

  /** If a record could not be written: asks the workers of its remote to compare all records with the store. Tries it again at the next call. */
  async askToCompare(): Promise<void> {
    for (const remote of this.#behind) {
      this.#behind.delete(remote);
      try {
        await this.#options.fleet.askToCompare(remote);
      } catch (error) {
        this.#behind.add(remote);
        this.#options.log.warn('could not ask the workers to compare; will try again', { remote, error });
        return;
      }
    }
  }

  /** Runs after the record was read: a process that changes the backups at the same time writes the record after us, or makes our write fail. */
  async #lookUp(record: InstanceRecord, address: Address): Promise<InstanceRecord> {
    const { store, prefix } = this.#options;
    const found = await youngestBackups(store, prefix, address, AbortSignal.timeout(lookTimeoutMs));
    return withYoungest(record, found.get(instanceKey(address))?.good);
  }

  async #change(
    address: Address,
    change: (record: InstanceRecord) => InstanceRecord | undefined | Promise<InstanceRecord | undefined>,
  ): Promise<void> {
    const known = this.#read.get(instanceKey(address));
    this.#read.delete(instanceKey(address));
    try {
      await this.#options.fleet.change(address, change, known);
    } catch (error) {
      this.#behind.add(address.remote);
      this.#options.log.warn('record of an instance not written', { ...address, error });
    }
  }
}

/** For processes that take no inventory; until `stop`. */
export async function askToCompareRegularly(keeper: Keeper, stop: AbortSignal): Promise<void> {
  while (!stop.aborted) {
    await sleep(askEveryMs, stop);
    await keeper.askToCompare();
  }
}
