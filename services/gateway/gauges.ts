/** What a gateway says of the whole, at each scrape: the queue as NATS tells it, and the youngest backup of each instance in the store. */
import type { Address, Operation } from '../contract.ts';
import type { Log } from '../logger.ts';
import type { GatewayMetrics } from '../metrics.ts';
import { listOutages } from '../queue/away.ts';
import type { Bucket } from '../queue/bucket.ts';
import type { Nats } from '../queue/connection.ts';
import { countDeadLetters, countNotices, queueDepth, wordsFor } from '../queue/depth.ts';
import { deadLetterStream, instanceLeaseKey, noticesStream } from '../queue/topology.ts';
import type { Catalog } from './catalog.ts';
import type { OperationFeed } from './feed.ts';

/** Deletions are seen by looking into the store, at most so often; successes at once. */
const lookEveryMs = 300_000;
/** A store of very many backups takes its time. */
const lookTimeoutMs = 120_000;

export interface GaugesOptions {
  nats: Nats;
  leases: Bucket;
  remotes: string[];
  catalog: Catalog;
  feed: OperationFeed;
  metrics: GatewayMetrics;
  log: Log;
  /** Aborts when the gateway has ended. */
  ended: AbortSignal;
}

type Success = { address: Address; at: number };

export class Gauges {
  readonly #options: GaugesOptions;
  /** Those that came since the store was last looked through. */
  #meanwhile = new Map<string, Success>();
  #lookedAt = Number.NEGATIVE_INFINITY;
  #looking: Promise<void> | undefined;
  /** Dead letters at the last scrape: more of them are logged. */
  #dead = 0;

  constructor(options: GaugesOptions) {
    this.#options = options;
    options.feed.onChange((operation) => this.#see(operation));
  }

  /** Brings all of them up to date, as far as that is possible before `signal` aborts. Never throws. */
  async refresh(signal: AbortSignal): Promise<void> {
    await Promise.all([this.#askNats(signal), this.#lookIntoStore(signal)]);
  }

  async #askNats(signal: AbortSignal): Promise<void> {
    const { nats, leases, remotes, metrics, log } = this.#options;
    const { natsUp, queued, oldest, deadLetters, noticesQueued, outage } = metrics;
    try {
      const asked = [
        queueDepth(nats, remotes),
        countDeadLetters(nats),
        countNotices(nats),
        listOutages(leases),
      ] as const;
      const [depths, dead, notices, outages] = await until(signal, Promise.all(asked));
      natsUp.set(1);
      deadLetters.set({ stream: deadLetterStream }, dead);
      if (dead > this.#dead) log.warn(wordsFor(dead), { deadLetters: dead });
      this.#dead = dead;
      noticesQueued.set({ stream: noticesStream }, notices);
      outage.reset();
      // Of several workers' LXDs, the one that has been away longest.
      for (const { remote, dependency, since, allowed } of outages.toSorted((a, b) => b.since.localeCompare(a.since)))
        if (allowed === 0) outage.set({ remote, dependency }, Math.max(0, (Date.now() - Date.parse(since)) / 1000));
      for (const { remote, lane, waiting, taken, oldest: since } of depths) {
        queued.set({ remote, lane, state: 'waiting' }, waiting);
        queued.set({ remote, lane, state: 'taken' }, taken);
        oldest.set({ remote, lane }, since ? Math.max(0, (Date.now() - since.getTime()) / 1000) : 0);
      }
    } catch (error) {
      natsUp.set(0);
      for (const gauge of [queued, oldest, deadLetters, noticesQueued, outage]) gauge.reset();
      log.warn('the state of the queue is not known', { error });
    }
  }

  async #lookIntoStore(signal: AbortSignal): Promise<void> {
    if (performance.now() - this.#lookedAt > lookEveryMs)
      this.#looking ??= this.#look().finally(() => {
        this.#looking = undefined;
      });
    if (this.#looking) await until(signal, this.#looking).catch(() => undefined);
  }

  async #look(): Promise<void> {
    const { catalog, remotes, log, ended } = this.#options;
    const signal = AbortSignal.any([ended, AbortSignal.timeout(lookTimeoutMs)]);
    this.#meanwhile = new Map();
    try {
      const found = new Map<string, Success>();
      for (const remote of remotes) {
        for (const { address, backup } of await catalog.newest(remote, signal))
          found.set(instanceLeaseKey(address), { address, at: Date.parse(backup.created) });
      }
      for (const [key, success] of this.#meanwhile) found.set(key, success);
      this.#lookedAt = performance.now();
      this.#options.metrics.lastSuccess.reset();
      for (const success of found.values()) this.#show(success);
    } catch (error) {
      if (!ended.aborted)
        log.warn('the youngest backups could not be looked for; what was known is still said', { error });
    }
  }

  #see({ kind, status, remote, project, instance, updated_at }: Operation): void {
    if (status !== 'Success' || (kind !== 'backup' && kind !== 'upload')) return;
    const address = { remote, project, instance };
    const success = { address, at: Date.parse(updated_at) };
    this.#meanwhile.set(instanceLeaseKey(address), success);
    this.#show(success);
  }

  #show({ address: { remote, project, instance }, at }: Success): void {
    this.#options.metrics.lastSuccess.set({ remote, project, instance }, at / 1000);
  }
}

/** What `promise` says, unless the signal aborts first. */
function until<T>(signal: AbortSignal, promise: Promise<T>): Promise<T> {
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const abort = () => reject(signal.reason);
  if (signal.aborted) abort();
  signal.addEventListener('abort', abort, { once: true });
  return Promise.race([promise, aborted]).finally(() => signal.removeEventListener('abort', abort));
}
