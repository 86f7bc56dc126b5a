/**
 * Keeps the records of instances true, for who makes, deletes or fails to make a backup. No job fails for a record that cannot be written: that
 * is logged, and the next inventory holds all records of the remote against the store.
 */
import { isCode, type LxstowError } from '../contract/errors.ts';
import type { Address, BackupAddress, InstanceRecord, LastBackupJob, Manifest } from '../contract/schemas.ts';
import { instanceKey } from '../nats/bucketKeys.ts';
import type { ObjectStore } from '../storage/objectStore.ts';
import type { Log } from '../telemetry/logger.ts';
import type { FleetStore } from './fleetStore.ts';
import { mayBeDeleted, withGood, withLast, withRemoved, withYoungest } from './instanceRecord.ts';
import { goodOf, youngestBackups } from './youngest.ts';

const lookTimeoutMs = 30_000;

export interface KeeperOptions {
  fleet: FleetStore;
  store: ObjectStore;
  /** Of the keys in the store. */
  prefix: string;
  log: Log;
}

export class Keeper {
  readonly #options: KeeperOptions;
  /** A record could not be written since the records were last held against the store. */
  behind = false;

  constructor(options: KeeperOptions) {
    this.#options = options;
  }

  /** To be called behind the manifest. `job`: the backup job that made it; none for an archive from elsewhere. */
  async made(
    { remote, project, instance }: Address,
    manifest: Manifest,
    job?: Pick<LastBackupJob, 'operation' | 'run'>,
  ): Promise<void> {
    const address = { remote, project, instance };
    const good = goodOf(manifest);
    await this.#change(address, async (record) => {
      const next = mayBeDeleted(record, good) ? await this.#lookUp(record, address) : withGood(record, good);
      return job ? withLast(next, { ...job, at: good.at, outcome: 'success' }) : next;
    });
  }

  /** A backup job ended without a backup. Of an instance that is not there nothing is recorded, unless it is known. */
  async ended(address: Address, last: LastBackupJob, error?: LxstowError): Promise<void> {
    const missing = error !== undefined && isCode(error, 'not-found');
    await this.#change(address, (record) =>
      missing && !record.seen && !record.good ? undefined : withLast(record, last),
    );
  }

  /** To be called when the manifest is deleted. */
  async removed({ backup, remote, project, instance }: BackupAddress): Promise<void> {
    const address = { remote, project, instance };
    const removed = new Date().toISOString();
    await this.#change(address, async (record) => {
      if (Object.keys(record).length === 0) return undefined;
      const next = withRemoved(record, removed);
      return record.good && record.good.backup !== backup ? next : this.#lookUp(next, address);
    });
  }

  /** After the record was read: who changes the backups meanwhile writes it behind us, or has us do this again. */
  async #lookUp(record: InstanceRecord, address: Address): Promise<InstanceRecord> {
    const { store, prefix } = this.#options;
    const found = await youngestBackups(store, prefix, address, AbortSignal.timeout(lookTimeoutMs));
    return withYoungest(record, found.get(instanceKey(address))?.good);
  }

  async #change(
    address: Address,
    change: (record: InstanceRecord) => InstanceRecord | undefined | Promise<InstanceRecord | undefined>,
  ): Promise<void> {
    try {
      await this.#options.fleet.change(address, change);
    } catch (error) {
      this.behind = true;
      this.#options.log.warn('record of an instance not written', { ...address, error });
    }
  }
}
