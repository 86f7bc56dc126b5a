/** Takes what a transfer must hold before it begins: the lease on its instance, and a permit of each limit. */
import { readManifest } from '../../backups/manifest.ts';
import { asLxstowError, isCode, LxstowError } from '../../contract/errors.ts';
import type { Config } from '../../contract/schemas.ts';
import type { Lease, LeaseHolder } from '../../coordination/leases.ts';
import type { Job, JobOf } from '../../jobs/jobs.ts';
import { defaultPool, instancePool, poolDriver } from '../../lxd/instances.ts';
import { claimKey, instanceLeaseKey, removal, transferPermits } from '../../nats/bucketKeys.ts';
import { describeOutage } from '../../outages/outage.ts';
import type { Gate } from '../../outages/outages.ts';
import type { Tools } from '../tools.ts';

/** The job must wait, because another job holds what it needs. */
export interface Wait {
  /** What to wait for: the lease's key, or the prefix of the permits' keys (`waitKey`). */
  lease: string;
  /** The same in words, for users. */
  reason: string;
}

interface Admission {
  lease?: Lease;
  permits: Lease[];
  /** Set if it could not be found out what the job needs: the attempt then fails with this error. */
  fault?: LxstowError;
}

interface AdmissionOptions {
  /** Whether an earlier job waits for the lease. */
  isBehind: (lease: string) => boolean;
  /** Whether the attempt transfers an archive; an attempt that only cleans up does not. */
  movesBytes: boolean;
  /** The name that an earlier attempt of a backup has reserved: if a backup of that name is being deleted, the job waits. */
  reserved?: string | undefined;
  /** Set while a dependency has just come back, and only a few jobs may use it. */
  returning?: Gate;
}

export type AdmissionTools = Pick<Tools, 'config' | 'leases' | 'lxd' | 'store'>;

/** Well below ack_wait, after which NATS redelivers the message. */
const lookMs = 5000;

/** Takes all leases and permits that the job needs, those of the narrowest limit first, or none. */
export async function admit(
  job: Job,
  holder: LeaseHolder,
  tools: AdmissionTools,
  { isBehind, movesBytes, reserved, returning }: AdmissionOptions,
): Promise<Admission | Wait> {
  if (job.kind === 'delete' || job.kind === 'prune') return { permits: [] };
  const { leases } = tools;
  if (reserved !== undefined) {
    const lease = claimKey(job.address, reserved, removal);
    if (await leases.holder(lease)) return { lease, reason: `deletion of backup ${job.address.instance}/${reserved}` };
  }
  let limits: Limit[] = [];
  let fault: LxstowError | undefined;
  try {
    if (movesBytes) limits = await limitsOf(job, tools);
  } catch (error) {
    fault = asLxstowError(error);
  }
  if (returning?.permits && returning.outage.allowed > 0) {
    const { permits, outage } = returning;
    limits.push({ permits, count: outage.allowed, reason: describeOutage(outage) });
  }
  const key = instanceLeaseKey(job.address);
  const wanted = [
    { lease: key, reason: `instance ${job.address.instance}`, take: () => leases.acquire(key, holder) },
    ...limits.map(({ permits, count, reason }) => ({
      lease: permits,
      reason,
      take: () => leases.acquireOneOf(permits, count, holder),
    })),
  ];
  const held: Lease[] = [];
  const giveBack = async () => {
    for (const each of held.toReversed()) await each.release();
  };
  for (const { lease, reason, take } of wanted) {
    const taken = isBehind(lease)
      ? undefined
      : await take().catch(async (error) => {
          // What cannot be given back blocks other jobs only until it expires.
          await giveBack().catch(() => undefined);
          throw error;
        });
    if (taken) held.push(taken);
    else {
      await giveBack();
      return { lease, reason };
    }
  }
  const [lease, ...permits] = held;
  return { ...(lease && { lease }), permits, ...(fault && { fault }) };
}

interface Limit {
  permits: string;
  count: number;
  reason: string;
}

async function limitsOf(job: JobOf<'backup' | 'restore'>, tools: AdmissionTools): Promise<Limit[]> {
  const { remote } = job.address;
  const config = tools.config.remotes[remote] ?? {};
  const limits: Limit[] = [];
  const pool = limitsPools(config) ? await poolOf(job, tools) : undefined;
  const ofPool = pool === undefined ? undefined : (config.pools?.[pool]?.transfers ?? config.transfersPerPool);
  if (pool !== undefined && ofPool !== undefined)
    limits.push({ permits: transferPermits(remote, pool), count: ofPool, reason: `storage pool ${pool}` });
  if (config.transfers !== undefined)
    limits.push({ permits: transferPermits(remote), count: config.transfers, reason: `remote ${remote}` });
  return limits;
}

function limitsPools({ transfersPerPool, pools = {} }: Config['remotes'][string]): boolean {
  return transfersPerPool !== undefined || Object.values(pools).some(({ transfers }) => transfers !== undefined);
}

/** The pool that is read or written. Undefined if the instance or backup does not exist: the attempt will fail with that reason. */
async function poolOf(job: JobOf<'backup' | 'restore'>, tools: AdmissionTools): Promise<string | undefined> {
  const { lxd } = tools;
  const signal = AbortSignal.timeout(lookMs);
  try {
    if (job.kind === 'backup') return await instancePool(lxd, job.address, signal);
    if (job.body.pool !== undefined) return job.body.pool;
    const source = { ...job.address, ...job.body.source, backup: job.body.backup };
    const { pool } = (await readManifest(tools.store, tools.config.s3.prefix, source, signal)).manifest.instance;
    // Like LXD: if the backup's own pool does not exist, use that of the default profile.
    if (pool && (await poolDriver(lxd, pool, signal)) !== undefined) return pool;
    return await defaultPool(lxd, job.address.project, signal);
  } catch (error) {
    if (isCode(error, 'not-found') || isCode(error, 'bad-manifest')) return undefined;
    if (!signal.aborted) throw error;
    const where = job.kind === 'backup' ? lxd.title : `${lxd.title} or the object store`;
    throw new LxstowError('lxd-unavailable', `${where} did not name the storage pool within ${lookMs} ms`, {
      cause: error,
    });
  }
}
