/** Watches one dependency of a worker: probes it and keeps the record of its outage (docs/adr/0032-outages.md). */
import { sleep } from '../concurrency/sleep.ts';
import { LxstowError } from '../contract/errors.ts';
import type { Outage } from '../contract/schemas.ts';
import type { Bucket } from '../nats/bucket/bucket.ts';
import { StaleEntries } from '../nats/bucket/stale.ts';
import type { Log } from '../telemetry/logger.ts';
import { answered, failed, nextLookMs, parseOutage } from './outage.ts';
import { type Probe, WritesRefused } from './probes.ts';

export interface OutagesOptions {
  remote: string;
  worker: string;
  /** The bucket of the records. */
  bucket: Bucket;
  probes: Record<Outage['dependency'], Probe>;
  /** Called with a permit's prefix when jobs that wait for it may be called. */
  onFree: (permit: string) => void;
  log: Log;
  /** Aborts when the worker stops. */
  stopping: AbortSignal;
}

const probeTimeoutMs = 5000;
/** Reads what other workers have written this often. */
const readEveryMs = 1000;
/** A record's TTL is the time until its next write, plus this. */
const recordTtlMs = 10_000;
/** An outage that begins within this time after the last record is the same one: the worker that kept it died. */
const sameOutageMs = 60_000;

function inRecord(why: LxstowError): Pick<LxstowError, 'code' | 'message'> & Pick<Outage, 'only'> {
  return { code: why.code, message: why.message, ...(why instanceof WritesRefused && { only: 'writes' }) };
}

/** One dependency: its record and, while this worker keeps the record, the loop that probes it. */
export class Watch {
  readonly #dependency: Outage['dependency'];
  readonly #key: string;
  readonly #shared: boolean;
  readonly #options: OutagesOptions;
  readonly #onBack: (allowed: number) => void;
  #known: Outage | undefined;
  readonly #stale = new StaleEntries();
  #revision = 0;
  #readAt = Number.NEGATIVE_INFINITY;
  #last: { outage: Outage; at: number } | undefined;
  #reading: Promise<void> | undefined;
  #probing: { writes: boolean; why: Promise<LxstowError | undefined> } | undefined;
  /** From its last answer: a value that changes with each start of the dependency. */
  #start: string | undefined;
  #startedAgain = Number.NEGATIVE_INFINITY;
  #keeping: Promise<void> | undefined;

  /** `shared`: other workers write the record too. `onBack` gets how many jobs may begin, whenever that grows. */
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
    // A restart is noticed by comparing with an earlier answer.
    if (!shared) void this.#probe(false);
  }

  get known(): Outage | undefined {
    return this.#known;
  }

  /** When a restart was last noticed, in monotonic ms. A time and not a flag, because the jobs that one restart has interrupted ask one after another. */
  get startedAgain(): number {
    return this.#startedAgain;
  }

  /** The record, at most a second old. If NATS does not answer, the last known one. */
  async current(): Promise<Outage | undefined> {
    if (!this.#shared || performance.now() - this.#readAt < readEveryMs) return this.#known;
    try {
      await this.#read();
    } catch (error) {
      this.#options.log.debug('the record of an outage was not read', { error });
    }
    return this.#known;
  }

  /** Probes the dependency, unless it is known to be away; writes the record if it does not serve us. `writes`: whether a write may have been refused. */
  async examine(writes: boolean): Promise<Outage | undefined> {
    const known = await this.current();
    if (known?.allowed === 0 && !known.only) return known;
    const why = await this.#probe(writes || known?.only !== undefined);
    if (why) return this.#record(known, why);
    // A store that has just come back may still fail a request: that is not the job's fault.
    return this.#shared && known && known.allowed > 0 ? known : undefined;
  }

  async #record(known: Outage | undefined, why: LxstowError): Promise<Outage> {
    const { worker } = this.#options;
    const recent = this.#last && performance.now() - this.#last.at < sameOutageMs ? this.#last.outage : undefined;
    const before = known ?? recent;
    const by = { dependency: this.#dependency, worker: known?.worker ?? worker };
    const outage = failed(before, by, inRecord(why), new Date());
    const { since, only } = outage;
    this.#options.log.error('a dependency is away', { dependency: this.#dependency, since, only, error: why });
    await this.#write(outage);
    if (this.#known?.worker === worker) this.#keeping ??= this.#keepOn();
    return this.#known ?? outage;
  }

  /** Waits for the loop to end, which removes the record that this worker kept; other workers then probe themselves. */
  async end(): Promise<void> {
    await this.#keeping;
  }

  /** No fault in the loop ends the process, or keeps the next outage from being kept. */
  async #keepOn(): Promise<void> {
    try {
      await this.#keep();
    } catch (error) {
      this.#options.log.error('the record of an outage is not kept', { dependency: this.#dependency, error });
    } finally {
      this.#keeping = undefined;
    }
  }

  async #keep(): Promise<void> {
    const { worker, stopping, log } = this.#options;
    while (this.#known?.worker === worker) {
      await sleep(nextLookMs(this.#known, new Date()), stopping);
      if (stopping.aborted) break;
      // NATS may have lost the record while it was away, or another worker keeps it now. The next job that fails records the outage again.
      const known = this.#known as Outage | undefined;
      if (known?.worker !== worker) break;
      const why = await this.#probe(known.only !== undefined);
      const next = why ? failed(known, known, inRecord(why), new Date()) : answered(known);
      if (next) await this.#write(next);
      else if (!(await this.#remove())) {
        // Read the record again: a job of another worker may just have failed, so that the dependency is away again.
        await this.current();
        if (this.#known) continue;
      }
      if (why) continue;
      if (!next) log.info('a dependency is back', { dependency: this.#dependency, since: known.since });
      this.#onBack(next?.allowed ?? Number.POSITIVE_INFINITY);
    }
    if (stopping.aborted) await this.#remove();
  }

  /** Returns why it does not serve us; undefined if it does. One probe at a time. */
  async #probe(writes: boolean): Promise<LxstowError | undefined> {
    while (this.#probing && writes && !this.#probing.writes) await this.#probing.why;
    if (!this.#probing) {
      const why = this.#ask(writes).finally(() => {
        this.#probing = undefined;
      });
      this.#probing = { writes, why };
    }
    return this.#probing.why;
  }

  async #ask(writes: boolean): Promise<LxstowError | undefined> {
    try {
      const start = await this.#options.probes[this.#dependency](AbortSignal.timeout(probeTimeoutMs), { writes });
      if (this.#start !== undefined && start !== this.#start) this.#startedAgain = performance.now();
      this.#start = start;
      return undefined;
    } catch (error) {
      if (error instanceof LxstowError) return error;
      const silent = `${this.#dependency === 's3' ? 'S3' : 'LXD'} did not answer in ${probeTimeoutMs} ms`;
      return new LxstowError(`${this.#dependency}-unavailable`, silent, { cause: error });
    }
  }

  /** Writes the record; if another worker was faster, takes over its record. While NATS is away, only this worker knows of the outage. */
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

  /** Returns false, and leaves the record, if another worker has written it since. */
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
    if (entry && this.#stale.seenTooLong(entry)) await this.#remove();
    else if (outage) this.#remember(outage);
    else this.#known = undefined;
  }

  #remember(outage: Outage): void {
    this.#known = outage;
    this.#last = { outage, at: performance.now() };
  }
}
