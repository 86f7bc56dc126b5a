/** What is away. Tells it to clients that ask for states, and adds to an outage's errors since when it has lasted, and that nothing was started. */
import { until } from '../../concurrency/until.ts';
import { LxstowError } from '../../contract/errors.ts';
import type { Bucket } from '../../nats/bucket/bucket.ts';
import { suspectOf } from '../../outages/blame.ts';
import { describeOutage } from '../../outages/outage.ts';
import { listOutages } from '../../outages/recordedOutages.ts';
import type { Log } from '../../telemetry/logger.ts';

/** How long an error answer waits for these records. */
const lookTimeoutMs = 1000;
/** Failures that are further apart count as two outages. */
const sameOutageMs = 60_000;

export class Absences {
  readonly #leases: Bucket;
  readonly #log: Log;
  #seen: { since: Date; lastAt: number } | undefined;

  /** `leases`: the bucket that the workers' records are in. */
  constructor(leases: Bucket, log: Log) {
    this.#leases = leases;
    this.#log = log;
  }

  /**
   * Adds to the error's text since when S3 or LXD has been away: as a worker has recorded it, or, for S3, since this gateway first noticed. `changes`:
   * whether the request would have changed something. Other errors are returned unchanged.
   */
  async explain(error: LxstowError, changes: boolean): Promise<LxstowError> {
    const dependency = suspectOf(error.code);
    if (error.status !== 503 || (dependency !== 's3' && dependency !== 'lxd')) return error;
    const since = await this.#since(dependency, error.message);
    const parts = [
      error.message,
      since && `${dependency === 's3' ? 'S3' : 'LXD'} has been away since ${since.slice(0, 19)}Z`,
      changes && 'nothing was started',
    ];
    return new LxstowError(error.code, parts.filter(Boolean).join('; '), { cause: error });
  }

  /** The recorded outages of these hosts, each as a sentence with its reason. Empty if NATS does not answer in time. */
  async known(remotes: string[]): Promise<string[]> {
    return (await this.#recorded())
      .filter(({ remote }) => remotes.includes(remote))
      .map((outage) => `jobs of host ${outage.remote} wait for ${describeOutage(outage)}: ${outage.reason}`);
  }

  async #since(dependency: 's3' | 'lxd', message: string): Promise<string | undefined> {
    const met = dependency === 's3' ? this.#meet().toISOString() : undefined;
    const [recorded] = (await this.#recorded())
      .filter((outage) => outage.dependency === dependency && outage.allowed === 0)
      // There is one S3, and an LXD for each remote: which one, the error names.
      .filter(({ remote }) => dependency === 's3' || message.includes(`LXD (${remote})`))
      .map(({ since }) => since)
      .sort();
    return recorded ?? met;
  }

  async #recorded(): ReturnType<typeof listOutages> {
    try {
      return await until(AbortSignal.timeout(lookTimeoutMs), listOutages(this.#leases));
    } catch (error) {
      this.#log.debug('the records of what is away were not read', { error });
      return [];
    }
  }

  #meet(): Date {
    const now = performance.now();
    const isSame = this.#seen !== undefined && now - this.#seen.lastAt < sameOutageMs;
    const since = isSame && this.#seen ? this.#seen.since : new Date();
    this.#seen = { since, lastAt: now };
    return since;
  }
}
