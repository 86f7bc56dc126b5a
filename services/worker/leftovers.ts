/** The search for what lxstow has made and nobody owns any more. Nothing is changed here. */
import { mapInOrder } from '../archive/flow.ts';
import { type Address, type BackupAddress, faultsOf, type Operation } from '../contract.ts';
import { isCode } from '../errors.ts';
import { deleteLxdBackup } from '../lxd/backups.ts';
import type { LxdClient } from '../lxd/client.ts';
import { deleteInstance, instanceExists, isRunning, nameOf } from '../lxd/instances.ts';
import { everyInstance, type InventoryInstance, lxdBackupsOf, operationOfLxdBackup } from '../lxd/inventory.ts';
import { isFinal } from '../operations/operation.ts';
import type { OperationStore } from '../operations/store.ts';
import type { Bucket, Entry } from '../queue/bucket.ts';
import { claimKey, parseLeaseKey } from '../queue/topology.ts';
import { listPrefix, manifestKey, parseArchiveKey, parseManifestKey } from '../storage/keys.ts';
import type { ObjectStore, OpenUpload, StoredObject } from '../storage/objectStore.ts';
import { orphans } from './orphans.ts';
import { type Owner, type Owners, parseHolder } from './owners.ts';
import { asideOf, temporaryOf } from './replace.ts';

export type LeftoverKind =
  | 'lxd-backup'
  | 'instance'
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
    const found = await halfRestored(instance, tools);
    if (found) yield found;
  }
}

/** An instance that a restore with `replace` has left under one of its two names, or that LXD finished after its operation had ended. */
async function halfRestored(
  { address, status, uuid }: InventoryInstance,
  { lxd, owners, lxdIdleTimeoutMs, signal }: SearchTools,
): Promise<Leftover | undefined> {
  const restores = owners.known.filter(({ kind, project }) => kind === 'restore' && project === address.project);
  const isNamed = (nameFor: typeof asideOf) => (operation: Operation) =>
    nameFor(operation, operation.id).instance === address.instance;
  const [temporary, aside] = [restores.find(isNamed(temporaryOf)), restores.find(isNamed(asideOf))];
  const late = restores.find(({ checkpoint, instance, ...operation }) => {
    const name = checkpoint?.target ?? instance;
    const bad = isFinal(operation) && operation.status !== 'Success';
    return bad && checkpoint?.importing && name === address.instance && uuid !== '' && uuid === checkpoint.restored;
  });
  const operation = temporary ?? aside ?? late;
  if (!operation) return undefined;
  const look = () => owners.ofOperation(operation.id);
  const owner = await look();
  if (owner.state === 'living') return undefined;

  const target = { ...address, instance: operation.instance };
  const finding = {
    kind: 'instance',
    what: address.instance,
    where: address.project === 'default' ? lxd.remote : `${lxd.remote} (project ${address.project})`,
    since: new Date(operation.updated_at),
    owner,
    address: target,
    look,
  } as const;
  const kept = (why: string): Leftover => ({ ...finding, kept: why, remove: async () => false });
  if (aside) return kept(`it is ${target.instance} as it was before the restore: rename it back, or delete it`);
  if (!temporary) {
    const redone = restores.some(
      (other) =>
        other.instance === address.instance && (!isFinal(other) || other.status === 'Success') && other !== operation,
    );
    return redone
      ? undefined
      : kept('LXD finished the import after its operation had ended: it is whole; use it or delete it');
  }
  const request = operation.request as { replace?: boolean } | undefined;
  if (operation.status === 'Success' || request?.replace !== true)
    return kept('its operation would not have left it: look what it is');
  if (status !== 'Stopped') return kept(`it is ${status.toLowerCase()}`);
  if (!(await instanceExists(lxd, target, signal)))
    return kept(`there is no ${target.instance} that it was to replace: rename it, or delete it`);
  return {
    ...finding,
    async remove(removing) {
      if (!(await instanceExists(lxd, target, removing))) return false;
      if (!(await instanceExists(lxd, address, removing)) || (await isRunning(lxd, address, removing))) return false;
      await deleteInstance(lxd, address, { signal: removing, idleTimeoutMs: lxdIdleTimeoutMs });
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
