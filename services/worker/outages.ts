/**
 * What a worker's jobs need and do not get: S3, known to all workers of the remote by one record, and the worker's own LXD, known to itself and shown to
 * others. One worker at a time asks whether S3 is back; jobs then begin one, two, four … (docs/adr/0032-outages.md).
 */
import { setTimeout as delay } from 'node:timers/promises';
import { suspectOf } from '../blame.ts';
import type { JobKind, Outage } from '../contract.ts';
import { asErrorCode, LxstowError } from '../errors.ts';
import type { Log } from '../logger.ts';
import { answered, failed, nextLookMs, parseOutage, waitingFor } from '../outage.ts';
import type { Bucket } from '../queue/bucket.ts';
import { outageKey, returningPermits } from '../queue/topology.ts';

/** Throws, in our words, why it does not serve us. */
export type Probe = (signal: AbortSignal) => Promise<void>;

export interface OutagesOptions {
  remote: string;
  worker: string;
  /** Where the records are. */
  bucket: Bucket;
  probes: Record<Outage['dependency'], Probe>;
  /** Told when jobs that wait for this permit may be called. */
  onFree: (permit: string) => void;
  log: Log;
  /** Aborts when the worker stops. */
  stopping: AbortSignal;
}

/** What `gate` says of a job that cannot begin now, or of which only so many may. */
export interface Gate {
  outage: Outage;
  /** What it waits for, on the queue; undefined where another worker may do it at once. */
  permits: string | undefined;
}

const probeTimeoutMs = 5000;
/** What other workers have written is seen after so long. */
const readEveryMs = 1000;
/** A record is kept for so much longer than until it is written next. */
const recordTtlMs = 10_000;
/** An outage that begins so soon after the last is the same one: the worker that kept its record has died. */
const sameOutageMs = 60_000;
const lookAtQueueMs = 300_000;
const needsLxd: readonly JobKind[] = ['backup', 'restore'];

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
   * Resolves when this worker's LXD serves it, as far as it knows: then transfers may be taken from the queue. Also every 5 min, for a job whose patience
   * may be over.
   */
  async ready(): Promise<void> {
    if (!this.#lxd.known || this.#stopping.aborted) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#paused.push(resolve);
    const timer = setTimeout(resolve, lookAtQueueMs);
    await promise;
    clearTimeout(timer);
  }

  /** What keeps a job of this kind from beginning here; undefined when nothing does. */
  async gate(kind: JobKind): Promise<Gate | undefined> {
    const lxd = needsLxd.includes(kind) ? this.#lxd.known : undefined;
    if (lxd?.allowed === 0) return { outage: lxd, permits: undefined };
    const outage = await this.#s3.look();
    return outage && { outage, permits: this.#permits };
  }

  /** Looks whether a dependency is away that the error speaks of. What answers is not away: undefined then. */
  async examine({ code }: LxstowError): Promise<Gate | undefined> {
    const on = suspectOf(code);
    if (on !== 's3' && on !== 'lxd') return undefined;
    const outage = await (on === 's3' ? this.#s3 : this.#lxd).examine();
    return outage && { outage, permits: on === 's3' ? this.#permits : undefined };
  }

  /** Throws why a dependency does not serve us. One that is known to be away is not asked: that is done already. */
  async check(dependency: Outage['dependency'], signal: AbortSignal): Promise<void> {
    const outage = await (dependency === 's3' ? this.#s3 : this.#lxd).look();
    if (outage?.allowed === 0)
      throw new LxstowError(asErrorCode(outage.code), `${waitingFor(outage)}: ${outage.reason}`);
    await this.#probes[dependency](signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort();
    await Promise.all([this.#s3.end(), this.#lxd.end()]);
  }

  #resume(count: number): void {
    for (const resume of this.#paused.splice(0, count)) resume();
  }
}

/** One dependency: its record, and while this worker keeps that, the loop that asks whether it is back. */
class Watch {
  readonly #dependency: Outage['dependency'];
  readonly #key: string;
  readonly #shared: boolean;
  readonly #options: OutagesOptions;
  readonly #onBack: (allowed: number) => void;
  #known: Outage | undefined;
  #revision = 0;
  #readAt = Number.NEGATIVE_INFINITY;
  #last: { outage: Outage; at: number } | undefined;
  #reading: Promise<void> | undefined;
  #probing: Promise<LxstowError | undefined> | undefined;
  #keeping: Promise<void> | undefined;

  /** `shared`: others write the record too. `onBack` is told when more jobs may begin, and how many. */
  constructor(
    dependency: Outage['dependency'],
    key: string,
    shared: boolean,
    options: OutagesOptions,
    onBack: (allowed: number) => void,
  ) {
    this.#dependency = dependency;
    this.#key = key;
    this.#shared = shared;
    this.#options = options;
    this.#onBack = onBack;
  }

  get known(): Outage | undefined {
    return this.#known;
  }

  /** The record, as it was a second ago at most. What NATS does not tell stays as it was. */
  async look(): Promise<Outage | undefined> {
    if (!this.#shared || performance.now() - this.#readAt < readEveryMs) return this.#known;
    try {
      await this.#read();
    } catch (error) {
      this.#options.log.debug('the record of an outage was not read', { error });
    }
    return this.#known;
  }

  /** Asks the dependency, unless it is known to be away; writes the record when it does not serve us. */
  async examine(): Promise<Outage | undefined> {
    const known = await this.look();
    if (known?.allowed === 0) return known;
    const why = await this.#probe();
    if (!why) return undefined;
    const { worker } = this.#options;
    const recent = this.#last && performance.now() - this.#last.at < sameOutageMs ? this.#last.outage : undefined;
    const before = known ?? recent;
    const outage = failed(before, { dependency: this.#dependency, worker: known?.worker ?? worker }, why, new Date());
    this.#options.log.error('a dependency is away', { dependency: this.#dependency, since: outage.since, error: why });
    await this.#write(outage);
    if (this.#known?.worker === worker) this.#keeping ??= this.#keep();
    return this.#known ?? outage;
  }

  /** Waits until the loop has ended. A record that this worker kept is removed: others find out for themselves. */
  async end(): Promise<void> {
    await this.#keeping;
  }

  async #keep(): Promise<void> {
    const { worker, stopping, log } = this.#options;
    while (this.#known?.worker === worker) {
      await delay(nextLookMs(this.#known, new Date()), undefined, { signal: stopping }).catch(() => undefined);
      if (stopping.aborted) break;
      const known = this.#known;
      const why = await this.#probe();
      const next = why ? failed(known, known, why, new Date()) : answered(known);
      if (next) await this.#write(next);
      else if (!(await this.#remove())) {
        // A job of another worker has just failed by it: it is away again.
        await this.look();
        if (this.#known) continue;
      }
      if (why) continue;
      if (!next) log.info('a dependency is back', { dependency: this.#dependency, since: known.since });
      this.#onBack(next?.allowed ?? Number.POSITIVE_INFINITY);
    }
    if (stopping.aborted) await this.#remove();
    this.#keeping = undefined;
  }

  /** Undefined when it serves us. One probe at a time. */
  async #probe(): Promise<LxstowError | undefined> {
    this.#probing ??= this.#ask().finally(() => {
      this.#probing = undefined;
    });
    return this.#probing;
  }

  async #ask(): Promise<LxstowError | undefined> {
    try {
      await this.#options.probes[this.#dependency](AbortSignal.timeout(probeTimeoutMs));
      return undefined;
    } catch (error) {
      if (error instanceof LxstowError) return error;
      const silent = `${this.#dependency === 's3' ? 'S3' : 'LXD'} did not answer in ${probeTimeoutMs} ms`;
      return new LxstowError(`${this.#dependency}-unavailable`, silent, { cause: error });
    }
  }

  /** Writes over what is known; where another worker was faster, that is known then. Without NATS this worker knows it alone. */
  async #write(outage: Outage): Promise<void> {
    const ttlMs = nextLookMs(outage, new Date()) + probeTimeoutMs + recordTtlMs;
    this.#remember(outage);
    try {
      const { bucket } = this.#options;
      const revision = await bucket.put(this.#key, JSON.stringify(outage), this.#revision, { ttlMs });
      if (revision !== undefined) this.#revision = revision;
      else if (this.#shared) await this.#read();
      else this.#revision = (await bucket.get(this.#key)).revision;
    } catch (error) {
      this.#options.log.warn('the record of an outage was not written', { error });
    }
  }

  /** False when another worker has written it since, and it stays. */
  async #remove(): Promise<boolean> {
    try {
      const removed = await this.#options.bucket.remove(this.#key, this.#revision);
      if (!removed && this.#shared) {
        this.#readAt = Number.NEGATIVE_INFINITY;
        return false;
      }
    } catch (error) {
      this.#options.log.warn('the record of an outage was not removed, it will expire', { error });
    }
    this.#known = undefined;
    this.#last = undefined;
    return true;
  }

  #read(): Promise<void> {
    this.#reading ??= this.#readNow().finally(() => {
      this.#reading = undefined;
    });
    return this.#reading;
  }

  async #readNow(): Promise<void> {
    const { entry, revision } = await this.#options.bucket.get(this.#key);
    this.#readAt = performance.now();
    this.#revision = revision;
    const outage = entry && parseOutage(entry.value.toString());
    if (outage) this.#remember(outage);
    else this.#known = undefined;
  }

  #remember(outage: Outage): void {
    this.#known = outage;
    this.#last = { outage, at: performance.now() };
  }
}
