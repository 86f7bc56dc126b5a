/** What an operation has left behind, and what a search for it needs. */
import type { Address } from '../contract/schemas.ts';
import type { LxdClient } from '../lxd/connection/client.ts';
import type { Bucket } from '../nats/bucket/bucket.ts';
import type { OperationStore } from '../operations/operationStore.ts';
import type { ObjectStore } from '../storage/objectStore.ts';
import type { Owner, Owners } from './owners.ts';

export type LeftoverKind =
  | 'lxd-backup'
  | 'instance'
  | 'mark'
  | 'upload'
  | 'archive'
  | 'reservation'
  | 'claim'
  | 'lease'
  | 'checkpoint'
  | 'operation';

export interface Leftover {
  kind: LeftoverKind;
  what: string;
  where: string;
  /** When it was made, if known; for a lease, the last renewal; for a mark, the operation's last change. */
  since: Date | undefined;
  /** Of an archive: when this janitor first found it without its manifest. */
  bareSince?: Date;
  owner: Owner;
  /** The instance whose lease the removal needs; undefined if the removal is one atomic step. */
  address?: Address;
  /** Why it must stay, if a person has to decide. */
  kept?: string;
  /** Looks up the owner again. */
  ownerNow(): Promise<Owner>;
  /** Removes it. False: it has changed or gone since it was found, and was not touched. */
  remove(signal: AbortSignal): Promise<boolean>;
}

export interface SearchTools {
  remote: string;
  prefix: string;
  bucket: string;
  lxd: LxdClient;
  lxdIdleTimeoutMs: number;
  store: ObjectStore;
  leasesBucket: Bucket;
  checkpoints: Bucket;
  operations: OperationStore;
  owners: Owners;
  /** The archives that the last run found without a manifest, by key and ETag, and when each was first found so. Kept from run to run. */
  bareArchives: Map<string, Date>;
  /** Leases and claims expire within seconds. If one was not renewed for this long, NATS has failed to expire it. */
  settledMs: number;
  signal: AbortSignal;
}

export type Search = (tools: SearchTools) => AsyncGenerator<Leftover>;
