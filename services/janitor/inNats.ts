/** Leftovers in NATS: leases, claims and reservations of operations that have ended, and their checkpoints. */
import { faultsOf } from '../contract/schemas.ts';
import type { Bucket, Entry } from '../nats/bucket/bucket.ts';
import { parseLeaseKey } from '../nats/bucketKeys.ts';
import type { Leftover, SearchTools } from './leftoverTypes.ts';
import { type Owner, parseHolder } from './owners.ts';

export async function* leases({ owners, leasesBucket, remote, settledMs }: SearchTools): AsyncGenerator<Leftover> {
  for (const entry of await leasesBucket.entries(`${remote}.>`)) {
    const about = parseLeaseKey(entry.key);
    const operation = about?.kind === 'reservation' ? entry.value.toString() : parseHolder(entry.value)?.operation;
    if (!about || operation === undefined || faultsOf('names.json#/$defs/uuid', operation).length > 0) continue;
    const { kind, backup } = about;
    // An attempt may still work when its operation is final: then it renews its lease.
    if (kind !== 'reservation' && owners.unrenewedMs(entry.written) < settledMs) continue;
    const ownerNow =
      kind === 'reservation' && backup !== undefined
        ? () => owners.ofReservation(about, backup)
        : () => owners.ofOperation(operation);
    yield* inBucket(entry, { kind, what: entry.key, where: leasesBucket.name }, ownerNow, leasesBucket);
  }
}

export async function* checkpoints({ owners, checkpoints: bucket, remote }: SearchTools): AsyncGenerator<Leftover> {
  for (const entry of await bucket.entries(`${remote}.>`)) {
    const operation = entry.key.split('.')[1] ?? '';
    if (faultsOf('names.json#/$defs/uuid', operation).length > 0) continue;
    const ownerNow = () => owners.ofOperation(operation);
    yield* inBucket(entry, { kind: 'checkpoint', what: entry.key, where: bucket.name }, ownerNow, bucket);
  }
}

/** Removes an entry only as it was found: a process that has written it since owns it. */
async function* inBucket(
  { key, revision, written }: Entry,
  about: Pick<Leftover, 'kind' | 'what' | 'where'>,
  ownerNow: () => Promise<Owner>,
  bucket: Bucket,
): AsyncGenerator<Leftover> {
  const owner = await ownerNow();
  if (owner.state === 'living') return;
  yield { ...about, since: written, owner, ownerNow, remove: () => bucket.remove(key, revision) };
}
