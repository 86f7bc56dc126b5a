/** What the workers of all remotes have recorded to be away. */
import type { Outage } from '../contract.ts';
import { parseOutage } from '../outage.ts';
import type { Bucket } from './bucket.ts';
import { outageKey } from './topology.ts';

export interface RemoteOutage extends Outage {
  remote: string;
}

/** `leases`: the bucket that the records are in. A record of a version that we do not know is left out. */
export async function listOutages(leases: Bucket): Promise<RemoteOutage[]> {
  const found = await Promise.all([leases.entries(outageKey('*', 's3')), leases.entries(outageKey('*', 'lxd', '*'))]);
  return found.flat().flatMap(({ key, value }) => {
    const outage = parseOutage(value.toString());
    return outage ? [{ ...outage, remote: key.slice(0, key.indexOf('.')) }] : [];
  });
}
