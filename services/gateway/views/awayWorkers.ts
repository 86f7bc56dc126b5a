/**
 * Shows that queued jobs wait for an LXD that is away. No worker takes such a job, so none writes this into its operation; it is added when
 * the operation is shown.
 */
import type { Operation } from '../../contract/schemas.ts';
import { isAsked } from '../../jobs/queueDepth.ts';
import type { Bucket } from '../../nats/bucket/bucket.ts';
import type { Nats } from '../../nats/connection.ts';
import type { OperationStore } from '../../operations/operationStore.ts';
import { describeOutage } from '../../outages/outage.ts';
import { listOutages } from '../../outages/recordedOutages.ts';
import type { Log } from '../../telemetry/logger.ts';

interface AwayWorkersOptions {
  nats: Nats;
  /** The bucket that the workers' records are in. */
  leases: Bucket;
  operations: OperationStore;
  log: Log;
}

export class AwayWorkers {
  readonly #options: AwayWorkersOptions;

  constructor(options: AwayWorkersOptions) {
    this.#options = options;
  }

  /** Adds `waiting_for` to the operations that wait for an LXD. Changes nothing if NATS does not answer. */
  async explain(shown: Operation[]): Promise<Operation[]> {
    if (!shown.some(isSilent)) return shown;
    try {
      const waits = await this.#waits(new Set(shown.filter(isSilent).map(({ remote }) => remote)));
      if (waits.size === 0) return shown;
      return shown.map((operation) => {
        const waiting_for = isSilent(operation) ? waits.get(operation.remote) : undefined;
        return waiting_for === undefined
          ? operation
          : { ...operation, metadata: { ...operation.metadata, waiting_for } };
      });
    } catch (error) {
      this.#options.log.debug('it is not known whether workers are without their LXD', { error });
      return shown;
    }
  }

  /** For each host of which no worker reaches its LXD: what the host's jobs wait for. */
  async #waits(remotes: Set<string>): Promise<Map<string, string>> {
    const { nats, leases, operations } = this.#options;
    const away = (await listOutages(leases)).filter(
      ({ dependency, allowed, remote }) => dependency === 'lxd' && allowed === 0 && remotes.has(remote),
    );
    const waits = new Map<string, string>();
    if (away.length === 0) return waits;
    const all = await operations.list();
    for (const [remote, outages = []] of Map.groupBy(away, (outage) => outage.remote)) {
      const workers = new Set(outages.map(({ worker }) => worker));
      // A worker that reaches its LXD asks for jobs, or is busy in all its slots.
      const others = all.some(
        ({ remote: of, status, owner }) =>
          of === remote && status === 'Running' && owner !== undefined && !workers.has(owner),
      );
      const [first] = outages.toSorted((a, b) => a.since.localeCompare(b.since));
      if (first && !others && !(await isAsked(nats, remote, 'transfer'))) waits.set(remote, describeOutage(first));
    }
    return waits;
  }
}

/** Whether an operation is queued for a job that needs LXD, and does not say yet what it waits for. */
function isSilent({ kind, status, metadata }: Operation): boolean {
  return status === 'Pending' && metadata.waiting_for === undefined && (kind === 'backup' || kind === 'restore');
}
