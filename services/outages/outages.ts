/**
 * Outages of a worker's dependencies: S3, with one record for all workers of the remote, and the worker's own LXD, with a record of its own. During an
 * outage of S3 one worker probes it; when it is back, one job begins, then two, four … (docs/adr/0032-outages.md).
 */
import { asErrorCode, LxstowError } from '../contract/errors.ts';
import type { JobKind, Outage } from '../contract/schemas.ts';
import { outageKey, returningPermits } from '../nats/bucketKeys.ts';
import { mayBeOfWrites, suspectOf } from './blame.ts';
import { concerns, describeOutage } from './outage.ts';
import { type OutagesOptions, Watch } from './watch.ts';

/** What keeps a job from beginning, or limits how many may begin. */
export interface Gate {
  outage: Outage;
  /** Prefix of the permits that the job waits for; undefined if another worker may run it at once. */
  permits: string | undefined;
}

/** What `examine` found. */
interface Examined {
  /** The outage that stops the job; undefined if there is none. */
  gate: Gate | undefined;
  /** LXD is away, or has restarted since the attempt began: that interrupted the job. */
  cut: boolean;
}

const lookAtQueueMs = 300_000;

export class Outages implements AsyncDisposable {
  readonly #s3: Watch;
  readonly #lxd: Watch;
  readonly #permits: string;
  readonly #probes: OutagesOptions['probes'];
  readonly #ended = new AbortController();
  readonly #stopping: AbortSignal;
  #paused: (() => void)[] = [];

  constructor(given: OutagesOptions) {
    const { remote, worker, onFree } = given;
    const stopping = AbortSignal.any([given.stopping, this.#ended.signal]);
    const options = { ...given, stopping };
    this.#stopping = stopping;
    this.#probes = given.probes;
    this.#permits = returningPermits(remote, 's3');
    this.#s3 = new Watch('s3', outageKey(remote, 's3'), true, options, () => onFree(`${this.#permits}.1`));
    this.#lxd = new Watch('lxd', outageKey(remote, 'lxd', worker), false, options, (allowed) => this.#resume(allowed));
    stopping.addEventListener('abort', () => this.#resume(Number.POSITIVE_INFINITY), { once: true });
  }

  /**
   * Resolves when no outage of this worker's LXD is known: then it may take transfers from the queue. Resolves every 5 min during an outage too, for jobs
   * whose patience is over.
   */
  async ready(): Promise<void> {
    if (!this.#lxd.known || this.#stopping.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#paused.push(resolve);
    using _timer = setTimeout(resolve, lookAtQueueMs);
    await promise;
  }

  /** Returns what keeps a job of this kind from beginning here; undefined if nothing does. */
  async gate(kind: JobKind): Promise<Gate | undefined> {
    const lxd = this.#lxd.known;
    if (lxd?.allowed === 0 && concerns(lxd, kind)) return { outage: lxd, permits: undefined };
    const outage = await this.#s3.current();
    return outage && concerns(outage, kind) ? { outage, permits: this.#permits } : undefined;
  }

  /**
   * Probes the dependency that the error suspects. If it answers, it is not away, and `gate` is undefined. `begun`: when the attempt began, in monotonic ms.
   */
  async examine({ code }: LxstowError, kind: JobKind, begun: number): Promise<Examined> {
    const on = suspectOf(code);
    if (on !== 's3' && on !== 'lxd') return { gate: undefined, cut: false };
    const [suspect, other] = on === 's3' ? [this.#s3, this.#lxd] : [this.#lxd, this.#s3];
    const outage = await suspect.examine(mayBeOfWrites(code));
    // One outage may hide the other, because no job gets far enough to notice it.
    if (outage?.allowed === 0) await other.examine(false);
    const cut = on === 'lxd' && (outage !== undefined || suspect.startedAgain > begun);
    if (!outage || !concerns(outage, kind)) return { gate: undefined, cut };
    return { gate: { outage, permits: on === 's3' ? this.#permits : undefined }, cut };
  }

  /** Throws the reason if a dependency is away. During a known outage it does not probe again. */
  async check(dependency: Outage['dependency'], signal: AbortSignal): Promise<void> {
    const outage = await (dependency === 's3' ? this.#s3 : this.#lxd).current();
    if (outage?.allowed === 0)
      throw new LxstowError(asErrorCode(outage.code), `${describeOutage(outage)}: ${outage.reason}`);
    await this.#probes[dependency](signal, { writes: false });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort();
    await Promise.all([this.#s3.end(), this.#lxd.end()]);
  }

  #resume(count: number): void {
    for (const resume of this.#paused.splice(0, count)) resume();
  }
}
