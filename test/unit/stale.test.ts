/** Leases that a NATS that was killed has forgotten to end. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { Leases } from '../../services/coordination/leases.ts';
import type { Bucket, Entry } from '../../services/nats/bucket/bucket.ts';
import { StaleEntries } from '../../services/nats/bucket/stale.ts';

const holder = { worker: 'w', operation: 'o' };

/** A bucket of one key that never ends an entry. */
function bucketThatForgets(): Bucket {
  let entry: Entry | undefined;
  const write = (key: string, value: string, ttlMs: number) => {
    const revision = (entry?.revision ?? 0) + 1;
    entry = { key, value: Buffer.from(value), revision, written: new Date(), ttlMs };
    return revision;
  };
  const bucket = {
    create: async (key: string, value: string, { ttlMs = 0 }) => (entry ? undefined : write(key, value, ttlMs)),
    put: async (key: string, value: string, expected: number, { ttlMs = 0 }) =>
      entry?.revision === expected ? write(key, value, ttlMs) : undefined,
    get: async () => ({ entry, revision: entry?.revision ?? 0 }),
    entries: async () => (entry ? [entry] : []),
  };
  return bucket as unknown as Bucket;
}

for (const [what, take] of [
  ['a lease', (leases: Leases) => leases.acquire('k.1', holder)],
  ['a permit', (leases: Leases) => leases.acquireOneOf('k', 1, holder)],
] as const)
  it(`${what} is taken when it was not renewed for two of its TTLs, and not before`, async () => {
    let now = 0;
    const bucket = bucketThatForgets();
    const held = await new Leases(bucket, 10_000).acquire('k.1', { worker: 'other', operation: 'o' });
    const leases = new Leases(bucket, 1000, undefined, new StaleEntries(() => now));
    assert.equal(await take(leases), undefined);
    now = 19_000;
    assert.equal(await take(leases), undefined);
    await held?.renew();
    now = 21_000;
    assert.equal(await take(leases), undefined);
    now = 42_000;
    assert.ok(await take(leases));
    assert.equal(await take(leases), undefined);
  });
