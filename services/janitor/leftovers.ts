/** The search for what lxstow has made and nobody owns any more. Nothing is changed here. */
import { listPrefix, manifestKey, parseArchiveKey, parseManifestKey } from '../backups/keys.ts';
import { mapInOrder } from '../concurrency/orderedMap.ts';
import { isCode } from '../contract/errors.ts';
import { type Address, type BackupAddress, faultsOf } from '../contract/schemas.ts';
import { deleteLxdBackup } from '../lxd/backups.ts';
import type { LxdClient } from '../lxd/client.ts';
import {
  changeInstance,
  deleteInstance,
  deleteStoppedInstance,
  findInstance,
  instanceExists,
  isProtected,
  nameOf,
} from '../lxd/instances.ts';
import { everyInstance, type InventoryInstance, lxdBackupsOf, operationOfLxdBackup } from '../lxd/inventory.ts';
import { parseOwnName, renamed } from '../lxd/ownNames.ts';
import type { Bucket, Entry } from '../nats/bucket.ts';
import { claimKey, parseLeaseKey } from '../nats/topology.ts';
import type { OperationStore } from '../operations/operationStore.ts';
import type { ObjectStore, OpenUpload, StoredObject } from '../storage/objectStore.ts';
import { handedBackConfig, isMarked, marks as markKeys } from '../worker/restore/identity.ts';
import { orphans } from './orphans.ts';
import { type Owner, type Owners, parseHolder } from './owners.ts';

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
  /** When it was made, as far as that can be known. */
  since: Date | undefined;
  owner: Owner;
  /** The instance whose lease is to be held while it is removed; undefined where the removal is one atomic step. */
  address?: Address;
  /** Why it must stay, where a person has to decide. */
  kept?: string;
  /** The owner, looked up again. */
  look(): Promise<Owner>;
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
  /** Leases and claims end in seconds: one that was not renewed for so long has lost its TTL. */
  settledMs: number;
  signal: AbortSignal;
}

type Search = (tools: SearchTools) => AsyncGenerator<Leftover>;

/** Each part of the search, by what it looks through: one that cannot be looked through does not hide the others. */
export const searches: Record<string, Search> = {
  'operations in NATS': orphans,
  LXD: inLxd,
  'uploads in S3': uploads,
  'archives in S3': archives,
  'leases in NATS': leases,
  'checkpoints in NATS': checkpoints,
};

const looksInFlight = 8;

async function* inLxd(tools: SearchTools): AsyncGenerator<Leftover> {
  const { lxd, owners, lxdIdleTimeoutMs, signal } = tools;
  const lookInto = async (instance: InventoryInstance) => ({
    instance,
    backups: await lxdBackupsOf(lxd, instance.address, signal),
  });
  for await (const { instance, backups } of mapInOrder(everyInstance(lxd, signal), looksInFlight, lookInto)) {
    const { address } = instance;
    for (const { name, created } of backups) {
      const operation = operationOfLxdBackup(name);
      if (!operation) continue;
      const look = () => owners.ofOperation(operation);
      const owner = await look();
      if (owner.state === 'living') continue;
      yield {
        kind: 'lxd-backup',
        what: name,
        where: nameOf(address),
        since: created,
        owner,
        address,
        look,
        async remove(removing) {
          await deleteLxdBackup(lxd, address, name, { signal: removing, idleTimeoutMs: lxdIdleTimeoutMs });
          return true;
        },
      };
    }
    const found = await leftByRestore(instance, tools);
    if (found) yield found;
    yield* marks(instance, tools);
  }
}

/** What a restore has set for a time, on an instance that has its own name: its restore has ended without taking it off. */
async function* marks(
  { address, instance }: InventoryInstance,
  { lxd, owners, signal }: SearchTools,
): AsyncGenerator<Leftover> {
  if (parseOwnName(address.instance)) return;
  for (const kind of ['restored', 'replaced'] as const) {
    const id = instance.config[markKeys[kind]];
    const restore = owners.known.find((operation) => operation.id === id && operation.kind === 'restore');
    if (id === undefined || !restore) continue;
    const look = () => owners.ofOperation(id);
    const owner = await look();
    if (owner.state === 'living') continue;
    const { checkpoint } = restore;
    const kept = (kind === 'restored' ? checkpoint?.kept : checkpoint?.replaced?.kept) ?? {};
    yield {
      kind: 'mark',
      what: address.instance,
      where: address.project === 'default' ? lxd.remote : `${lxd.remote} (project ${address.project})`,
      since: new Date(restore.updated_at),
      owner,
      address,
      look,
      async remove() {
        const config = handedBackConfig(kind, kept, instance.status !== 'Stopped');
        await changeInstance(lxd, address, isMarked(kind, id), { config }, signal);
        return true;
      },
    };
  }
}

/** An instance that a restore has left under one of its two names. */
async function leftByRestore(
  { address, instance }: InventoryInstance,
  { lxd, owners, lxdIdleTimeoutMs, signal }: SearchTools,
): Promise<Leftover | undefined> {
  const own = parseOwnName(address.instance);
  if (!own) return undefined;
  const look = () => owners.ofOperation(own.operation);
  const owner = await look();
  if (owner.state === 'living') return undefined;

  const restore = owners.known.find(({ id, kind }) => id === own.operation && kind === 'restore');
  const target = renamed(address, restore?.instance ?? address.instance);
  const finding = {
    kind: 'instance',
    what: address.instance,
    where: address.project === 'default' ? lxd.remote : `${lxd.remote} (project ${address.project})`,
    since: restore && new Date(restore.updated_at),
    owner,
    address: target,
    look,
  } as const;
  const kept = (why: string): Leftover => ({ ...finding, kept: why, remove: async () => false });
  if (!restore) return kept('its operation is not known any more: look what it is');
  const succeeded = restore.status === 'Success';
  if (own.kind === 'replaced' && !succeeded)
    return kept(`it is ${target.instance} as it was before the restore: rename it back, or delete it`);
  if (own.kind === 'restored' && succeeded) return kept('its operation would not have left it: look what it is');
  if (own.kind === 'replaced' && isProtected(instance))
    return kept('it is protected: delete it when it is of no more use');
  if (instance.status !== 'Stopped') return kept(`it is ${instance.status.toLowerCase()}`);
  // What a replace has restored may be all that there is.
  const isNeeded = own.kind === 'replaced' || (restore.request as { replace?: boolean } | undefined)?.replace === true;
  if (isNeeded && !(await instanceExists(lxd, target, signal)))
    return kept(`there is no ${target.instance}: rename it, or delete it`);
  return {
    ...finding,
    async remove(removing) {
      const now = await findInstance(lxd, address, removing);
      if (now?.status !== 'Stopped' || (isNeeded && !(await instanceExists(lxd, target, removing)))) return false;
      const waiting = { signal: removing, idleTimeoutMs: lxdIdleTimeoutMs };
      if (own.kind === 'restored') await deleteInstance(lxd, address, waiting);
      else await deleteStoppedInstance(lxd, address, waiting);
      return true;
    },
  };
}

async function* uploads(tools: SearchTools): AsyncGenerator<Leftover> {
  const { store, owners, prefix, remote, checkpoints, bucket, signal } = tools;
  const found = new Map<string, OpenUpload>();
  const all = listPrefix(prefix, { remote });
  for await (const upload of store.listUploads(all, signal)) found.set(upload.uploadId, upload);
  // What MinIO has forgotten it finds by the exact key.
  const exact = async (key: string) => {
    const there: OpenUpload[] = [];
    for await (const upload of store.listUploads(key, signal)) if (upload.key === key) there.push(upload);
    return there;
  };
  const keys = new Set(owners.archiveKeys(Date.now()));
  for (const { value } of await checkpoints.entries(`${remote}.*.start`)) {
    const { upload } = JSON.parse(value.toString()) as { upload?: { key?: string } };
    if (upload?.key?.startsWith(all)) keys.add(upload.key);
  }
  for await (const there of mapInOrder(each(keys), looksInFlight, exact))
    for (const upload of there) found.set(upload.uploadId, upload);

  for (const upload of found.values()) {
    const { key, uploadId, initiated } = upload;
    const address = parseArchiveKey(prefix, key);
    if (!address) continue;
    const look = () => owners.ofBackup(address, key, 'upload');
    const owner = await look();
    if (owner.state === 'living') continue;
    yield {
      kind: 'upload',
      what: key,
      where: `s3://${bucket}`,
      since: new Date(initiated),
      owner,
      address,
      look,
      async remove(removing) {
        // Listings may tell of uploads that are gone.
        let there = false;
        for await (const open of store.listUploads(key, removing)) there ||= open.uploadId === uploadId;
        if (there) await store.abortUpload(upload, removing);
        return there;
      },
    };
  }
}

async function* archives(tools: SearchTools): AsyncGenerator<Leftover> {
  const { store, owners, prefix, remote, bucket, leasesBucket, signal } = tools;
  const objects = new Map<string, { object: StoredObject; address: BackupAddress }>();
  const whole = new Set<string>();
  for await (const object of store.list(listPrefix(prefix, { remote }), signal)) {
    const described = parseManifestKey(prefix, object.key);
    if (described) whole.add(object.key);
    const address = described ? undefined : parseArchiveKey(prefix, object.key);
    // Ours are made of parts, and S3 says so in the ETag: what somebody has put there in one piece is not.
    if (address && /-\d+$/.test(object.etag)) objects.set(object.key, { object, address });
  }
  for (const [key, { object, address }] of objects) {
    if (whole.has(manifestKey(prefix, address))) continue;
    const look = () => owners.ofBackup(address, key, 'archive');
    const owner = await look();
    if (owner.state === 'living') continue;
    yield {
      kind: 'archive',
      what: key,
      where: `s3://${bucket}`,
      since: new Date(object.modified),
      owner,
      address,
      look,
      async remove(removing) {
        if (await etagOf(store, manifestKey(prefix, address), removing)) return false;
        if ((await leasesBucket.keys(claimKey(address, address.backup, '*'))).length > 0) return false;
        if ((await etagOf(store, key, removing)) !== object.etag) return false;
        await store.remove(key, removing);
        return true;
      },
    };
  }
}

async function etagOf(store: ObjectStore, key: string, signal: AbortSignal): Promise<string | undefined> {
  try {
    return (await store.stat(key, signal)).etag;
  } catch (error) {
    if (isCode(error, 'not-found')) return undefined;
    throw error;
  }
}

async function* leases({ owners, leasesBucket, remote, settledMs }: SearchTools): AsyncGenerator<Leftover> {
  for (const entry of await leasesBucket.entries(`${remote}.>`)) {
    const about = parseLeaseKey(entry.key);
    const operation = about?.kind === 'reservation' ? entry.value.toString() : parseHolder(entry.value)?.operation;
    if (!about || operation === undefined || faultsOf('names.json#/$defs/uuid', operation).length > 0) continue;
    const { kind, backup } = about;
    // An attempt may still be at work when its operation is final: it has its lease then, and renews it.
    if (kind !== 'reservation' && Date.now() - entry.written.getTime() < settledMs) continue;
    const look =
      kind === 'reservation' && backup !== undefined
        ? () => owners.ofReservation(about, backup)
        : () => owners.ofOperation(operation);
    yield* inBucket(entry, { kind, what: entry.key, where: leasesBucket.name }, look, leasesBucket);
  }
}

async function* checkpoints({ owners, checkpoints: bucket, remote }: SearchTools): AsyncGenerator<Leftover> {
  for (const entry of await bucket.entries(`${remote}.>`)) {
    const operation = entry.key.split('.')[1] ?? '';
    if (faultsOf('names.json#/$defs/uuid', operation).length > 0) continue;
    const look = () => owners.ofOperation(operation);
    yield* inBucket(entry, { kind: 'checkpoint', what: entry.key, where: bucket.name }, look, bucket);
  }
}

/** Goes only as it was found: whoever has written it since is its owner. */
async function* inBucket(
  { key, revision, written }: Entry,
  about: Pick<Leftover, 'kind' | 'what' | 'where'>,
  look: () => Promise<Owner>,
  bucket: Bucket,
): AsyncGenerator<Leftover> {
  const owner = await look();
  if (owner.state === 'living') return;
  yield { ...about, since: written, owner, look, remove: () => bucket.remove(key, revision) };
}

async function* each<T>(items: Iterable<T>): AsyncGenerator<T> {
  yield* items;
}
