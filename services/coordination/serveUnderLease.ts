/** Runs a task in one process at a time: the holder of a lease runs it until the lease is lost, and then another process does. */
import { sleep } from '../concurrency/sleep.ts';
import { asLxstowError } from '../contract/errors.ts';
import type { Log } from '../telemetry/logger.ts';
import type { Lease, Leases } from './leases.ts';

/** What a process needs to take leases. */
export interface LeaseTools {
  leases: Leases;
  /** This process, as holder of a lease. */
  name: string;
  heartbeatMs: number;
  log: Log;
  /** Aborts when the process stops. */
  stop: AbortSignal;
}

interface ServeOptions extends LeaseTools {
  key: string;
  /** What the log says when `serve` throws. */
  what: string;
}

/** How long to wait before trying again if another process has the lease. */
const askAgainMs = 2000;

/** Calls `serve` whenever this process holds the lease, until `stop`. `serve` gets a signal that aborts when the lease is lost. */
export async function serveUnderLease(
  { leases, key, name, heartbeatMs, log, what, stop }: ServeOptions,
  serve: (lost: AbortSignal, lease: Lease) => Promise<void>,
): Promise<void> {
  while (!stop.aborted) {
    let lease: Lease | undefined;
    try {
      lease = await leases.acquire(key, { worker: name, operation: '' });
      if (lease) {
        const held = lease;
        using _heartbeat = setInterval(() => void held.renew(), heartbeatMs);
        await serve(held.lost, held);
      }
    } catch (error) {
      if (!stop.aborted) log.warn(what, { error: asLxstowError(error) });
    }
    await lease?.release().catch((error) => log.debug('the lease ends by itself', { key, error }));
    await sleep(askAgainMs, stop);
  }
}
