/** Finds the hosts that cannot do jobs now, and why. */
import { asLxstowError } from '../../contract/errors.ts';
import type { Address } from '../../contract/schemas.ts';
import { askLookUp } from '../../hosts/lookUp.ts';
import type { Bucket } from '../../nats/bucket/bucket.ts';
import type { Nats } from '../../nats/connection.ts';
import { describeOutage } from '../../outages/outage.ts';
import { listOutages } from '../../outages/recordedOutages.ts';
import { traceOf } from '../../telemetry/trace.ts';

const askTimeoutMs = 5000;

/** Asks each host about one of its instances; returns the reason for each host that is away. `leases`: the bucket with the records of outages. */
export async function remotesAway(nats: Nats, leases: Bucket, of: Address[]): Promise<Map<string, string>> {
  const away = new Map<string, string>();
  if (of.length === 0) return away;
  // A host may also have outages of LXD, one for each worker.
  const ofS3 = (await listOutages(leases)).filter(({ dependency }) => dependency === 's3');
  const outages = new Map(ofS3.map((outage) => [outage.remote, outage]));
  const look = async ({ remote, project, instance }: Address) => {
    try {
      const answer = await askLookUp(nats, remote, { project, instance }, askTimeoutMs, traceOf(undefined));
      const outage = outages.get(remote);
      if (!answer) away.set(remote, 'its LXD does not answer');
      else if (outage) away.set(remote, `it waits for ${describeOutage(outage)}`);
    } catch (error) {
      away.set(remote, asLxstowError(error).message);
    }
  };
  await Promise.all(of.map(look));
  return away;
}
