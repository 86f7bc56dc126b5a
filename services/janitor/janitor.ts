/**
 * The janitor removes what lxstow has left on one host, in S3 and in NATS: what an ended operation left, three lease TTLs after its end, and what no known
 * operation left, once it is older than `worker.janitorGraceHours`; an archive only once this janitor has found it without its manifest for so long. Each
 * search adds conditions of its own in `remove()`.
 */
import { setTimeout } from 'node:timers/promises';
import { jittered } from '../concurrency/jitter.ts';
import { sleep } from '../concurrency/sleep.ts';
import { asLxstowError, isCode, LxstowError } from '../contract/errors.ts';
import type { Config } from '../contract/schemas.ts';
import type { Lease, LeaseHolder, Leases } from '../coordination/leases.ts';
import type { LxdClient } from '../lxd/connection/client.ts';
import { nameOf } from '../lxd/instances.ts';
import type { Bucket } from '../nats/bucket/bucket.ts';
import { instanceLeaseKey, janitorLeaseKey } from '../nats/bucketKeys.ts';
import type { Nats } from '../nats/connection.ts';
import { OperationStore } from '../operations/operationStore.ts';
import type { ObjectStore } from '../storage/objectStore.ts';
import type { Log } from '../telemetry/logger.ts';
import type { Leftover, LeftoverKind } from './leftoverTypes.ts';
import { Owners } from './owners.ts';
import { searches } from './searches.ts';

export interface Finding {
  /** `search`: a part of the search, which failed. */
  kind: LeftoverKind | 'search';
  what: string;
  where: string;
  /** Seconds; null if unknown. */
  age: number | null;
  /** The operation that made it, if known. */
  operation?: string;
  action: 'removed' | 'would remove' | `kept: ${string}` | `failed: ${string}`;
}

interface JanitorTools {
  /** Who holds the janitor's leases. */
  worker: string;
  config: Config;
  nats: Nats;
  lxd: LxdClient;
  store: ObjectStore;
  leases: Leases;
  leasesBucket: Bucket;
  checkpoints: Bucket;
  log: Log;
}

interface RunOptions {
  signal: AbortSignal;
  /** Removes nothing; only says what it would remove. */
  dryRun?: boolean;
  /** How long to wait for another janitor of this host. */
  patienceMs?: number;
}

/** Stands for the operation in the janitor's leases. */
const ownName = 'janitor';
const askAgainMs = 500;
/** After this many TTLs, the former holder of a lease is certainly not working any more. */
const ttlsToSettle = 3;

export class Janitor {
  readonly #tools: JanitorTools;
  readonly #bareArchives = new Map<string, Date>();

  constructor(tools: JanitorTools) {
    this.#tools = tools;
  }

  /**
   * Searches everywhere, and removes what has no living owner. Throws if NATS does not tell which operations live, and instance-busy while another
   * janitor works on this host; all other failures are findings.
   */
  async run({ signal, dryRun = false, patienceMs = 0 }: RunOptions): Promise<Finding[]> {
    if (dryRun) return this.#search(signal, (leftover) => this.#judge(leftover));
    const turn = await this.#turn(patienceMs, signal);
    return this.#holding(turn, signal, (moving) => this.#search(moving, (leftover) => this.#settle(leftover, moving)));
  }

  async #search(signal: AbortSignal, treat: (leftover: Leftover) => Promise<Finding['action']>): Promise<Finding[]> {
    const { config, nats, lxd, store, leasesBucket, checkpoints } = this.#tools;
    const { remote, lxdIdleTimeoutMs, leaseTtlMs } = config.worker;
    const { prefix, bucket } = config.s3;
    const settledMs = ttlsToSettle * leaseTtlMs;
    const owners = await Owners.read(nats, leasesBucket, { remote, prefix, settledMs });
    const operations = new OperationStore(nats, config.nats.operationsKeptHours);
    const bareArchives = this.#bareArchives;
    const parts = { operations, lxd, lxdIdleTimeoutMs, store, leasesBucket, checkpoints, owners, bareArchives };
    const tools = { ...parts, remote, prefix, bucket, settledMs, signal };
    const findings: Finding[] = [];
    for (const [place, search] of Object.entries(searches)) {
      try {
        for await (const leftover of search(tools)) findings.push(finding(leftover, await treat(leftover)));
      } catch (error) {
        signal.throwIfAborted();
        const action = `failed: ${asLxstowError(error).message}` as const;
        findings.push({ kind: 'search', what: place, where: remote, age: null, action });
      }
    }
    return findings;
  }

  /** Says what #settle would do. */
  async #judge(leftover: Leftover): Promise<Finding['action']> {
    const kept = this.#reasonToKeep(leftover);
    if (kept) return `kept: ${kept}`;
    const { address } = leftover;
    const holder = address && (await this.#tools.leases.holder(instanceLeaseKey(address)));
    return holder ? `kept: ${busy(nameOf(address), holder)}` : 'would remove';
  }

  async #settle(leftover: Leftover, signal: AbortSignal): Promise<Finding['action']> {
    const { leases, worker } = this.#tools;
    const kept = this.#reasonToKeep(leftover);
    if (kept) return `kept: ${kept}`;
    const { address } = leftover;
    try {
      if (!address) return await this.#remove(leftover, signal);
      const key = instanceLeaseKey(address);
      const lease = await leases.acquire(key, { worker, operation: ownName });
      if (!lease) return `kept: ${busy(nameOf(address), await leases.holder(key))}`;
      return await this.#holding(lease, signal, (moving) => this.#remove(leftover, moving));
    } catch (error) {
      signal.throwIfAborted();
      return `failed: ${asLxstowError(error).message}`;
    }
  }

  /** Looks up the owner again, now that no operation can begin, because one may have begun since the leftover was found. */
  async #remove(leftover: Leftover, signal: AbortSignal): Promise<Finding['action']> {
    const now = await leftover.ownerNow();
    if (now.state === 'living') return `kept: operation ${now.operation} has begun since`;
    signal.throwIfAborted();
    return (await leftover.remove(signal)) ? 'removed' : 'kept: it has changed, or is gone, since it was found';
  }

  #reasonToKeep({ kept, owner, since, bareSince }: Leftover): string | undefined {
    if (kept) return kept;
    if (owner.state === 'ended') return undefined;
    const { janitorGraceHours: hours } = this.#tools.config.worker;
    const isOld = (time?: Date) => time !== undefined && Date.now() - time.getTime() >= hours * 3_600_000;
    if (!isOld(since)) return `it is younger than ${hours} h, and no operation is known to have left it`;
    // A good backup may be old when it loses its manifest: a person has the grace period from then on.
    if (bareSince && !isOld(bareSince))
      return `its manifest is missing, and no operation is known to have left it; a worker removes it after ${hours} h without a manifest`;
    return undefined;
  }

  /** Takes the lease that only one janitor of a host has. */
  async #turn(patienceMs: number, signal: AbortSignal): Promise<Lease> {
    const { leases, config, worker } = this.#tools;
    const key = janitorLeaseKey(config.worker.remote);
    const until = performance.now() + patienceMs;
    for (;;) {
      const lease = await leases.acquire(key, { worker, operation: ownName });
      if (lease) return lease;
      if (performance.now() >= until) {
        const holder = await leases.holder(key);
        throw new LxstowError(
          'instance-busy',
          `another janitor is at work on host ${config.worker.remote}${holder ? `: ${holder.worker}` : ''}`,
        );
      }
      await setTimeout(askAgainMs, undefined, { signal });
    }
  }

  /** Renews the lease while `run` runs, then releases it. Its loss aborts `run`. */
  async #holding<T>(lease: Lease, signal: AbortSignal, run: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const { config, log } = this.#tools;
    const failed = (error: unknown) => log.warn('lease not kept', { lease: lease.key, error });
    const heartbeat = setInterval(() => lease.renew().catch(failed), config.worker.heartbeatMs);
    try {
      return await run(AbortSignal.any([signal, lease.lost]));
    } finally {
      clearInterval(heartbeat);
      await lease.release().catch(failed);
    }
  }
}

function finding({ kind, what, where, since, owner }: Leftover, action: Finding['action']): Finding {
  const age = since === undefined ? null : Math.max(0, Math.round((Date.now() - since.getTime()) / 1000));
  return { kind, what, where, age, ...(owner.operation ? { operation: owner.operation } : {}), action };
}

function busy(name: string, holder: LeaseHolder | undefined): string {
  return `${name} is being worked on${holder ? ` by ${holder.worker}` : ''}`;
}

/** Delay of the first run: soon after the start, because a crash may have left something, but not while everything else starts. */
const firstAfterMs = 10_000;

/** Runs the janitor at intervals until `stop`; logs what it removed, and what it could not remove. 0 minutes: never. */
export async function tidyRegularly(
  janitor: Janitor,
  { everyMinutes, log, stop }: { everyMinutes: number; log: Log; stop: AbortSignal },
): Promise<void> {
  if (everyMinutes === 0) return;
  for (let waitMs = firstAfterMs; ; waitMs = everyMinutes * 60_000) {
    await sleep(jittered(waitMs, 0.1), stop);
    if (stop.aborted) return;
    try {
      for (const finding of await janitor.run({ signal: stop })) report(finding, log);
    } catch (error) {
      if (stop.aborted) return;
      if (isCode(error, 'instance-busy')) log.debug('another worker tidies up', { error });
      else log.warn('the janitor failed', { error: asLxstowError(error) });
    }
  }
}

function report({ action, ...found }: Finding, log: Log): void {
  if (action === 'removed') log.info('leftover removed', found);
  else if (action.startsWith('failed')) log.error('leftover not removed', { ...found, action });
  else log.debug('leftover kept', { ...found, action });
}
