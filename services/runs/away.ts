/** Which remotes do nothing for their children now, and why. */
import type { Address } from '../contract.ts';
import { asLxstowError } from '../errors.ts';
import { waitingFor } from '../outage.ts';
import { listOutages } from '../queue/away.ts';
import type { Bucket } from '../queue/bucket.ts';
import type { Nats } from '../queue/connection.ts';
import { askLook } from '../queue/questions.ts';
import { traceOf } from '../trace.ts';

const askTimeoutMs = 5000;

/** Asks about an instance of each; of those that are away, why. `leases`: the bucket that the records of outages are in. */
export async function remotesAway(nats: Nats, leases: Bucket, of: Address[]): Promise<Map<string, string>> {
  const away = new Map<string, string>();
  if (of.length === 0) return away;
  const outages = new Map((await listOutages(leases)).map((outage) => [outage.remote, outage]));
  const look = async ({ remote, project, instance }: Address) => {
    try {
      const answer = await askLook(nats, remote, { project, instance }, askTimeoutMs, traceOf(undefined));
      const outage = outages.get(remote);
      if (!answer) away.set(remote, 'its LXD does not answer');
      else if (outage?.dependency === 's3') away.set(remote, waitingFor(outage));
    } catch (error) {
      away.set(remote, asLxstowError(error).message);
    }
  };
  await Promise.all(of.map(look));
  return away;
}
