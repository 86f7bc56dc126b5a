/** The outages that the workers of all remotes have recorded. */
import type { Outage } from '../contract/schemas.ts';
import type { Bucket, Entry } from '../nats/bucket/bucket.ts';
import { outageKey } from '../nats/bucketKeys.ts';
import { parseOutage } from './outage.ts';

/** `leases`: the bucket with the records. Skips a record that this version cannot read. */
export async function listOutages(leases: Bucket): Promise<(Outage & { remote: string })[]> {
  const found = await Promise.all([leases.entries(outageKey('*', 's3')), leases.entries(outageKey('*', 'lxd', '*'))]);
  return found.flat().flatMap((entry) => {
    const { key, value } = entry;
    const outage = isForgotten(entry) ? undefined : parseOutage(value.toString());
    return outage ? [{ ...outage, remote: key.slice(0, key.indexOf('.')) }] : [];
  });
}

/** True for a record that its worker has not written for so long that the worker must have died, and that NATS did not expire (nats/bucket/stale.ts). */
function isForgotten({ ttlMs, written }: Entry): boolean {
  return ttlMs !== undefined && Date.now() - written.getTime() > 3 * ttlMs + clocksDifferMs;
}

const clocksDifferMs = 300_000;
