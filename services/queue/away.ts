/** The outages that the workers of all remotes have recorded. */
import type { Outage } from '../contract.ts';
import { parseOutage } from '../outage.ts';
import type { Bucket } from './bucket.ts';
import { outageKey } from './topology.ts';

export interface RemoteOutage extends Outage {
  remote: string;
}

/** `leases`: the bucket with the records. Skips a record that this version cannot read. */
export async function listOutages(leases: Bucket): Promise<RemoteOutage[]> {
  const found = await Promise.all([leases.entries(outageKey('*', 's3')), leases.entries(outageKey('*', 'lxd', '*'))]);
  return found.flat().flatMap(({ key, value }) => {
    const outage = parseOutage(value.toString());
    return outage ? [{ ...outage, remote: key.slice(0, key.indexOf('.')) }] : [];
  });
}
