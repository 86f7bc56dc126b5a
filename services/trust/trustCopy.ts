/**
 * Cache of the bucket's trusted certificates. A watch reports changes; comparing with the bucket's last revision finds changes that the
 * watch missed.
 */
import { setTimeout } from 'node:timers/promises';
import { LxstowError } from '../contract/errors.ts';
import type { TrustedCertificate } from '../contract/schemas.ts';
import { parseCertificateKey } from '../nats/bucketKeys.ts';
import type { Log } from '../telemetry/logger.ts';
import { sameGrant } from './certificates.ts';
import type { TrustStore } from './trustStore.ts';

const lookEveryMs = 2000;
/** After this time a copy may miss that a client was revoked. */
const usuallyStaleAfterMs = 30_000;
const watchAgainMs = 500;

interface CopyOptions {
  /** Called when a client is added (`isNew`), revoked, or given other rights. */
  onChange: (fingerprint: string, isNew: boolean) => void;
  /** How long the copy stays valid while it cannot be compared with the bucket. Default: 30 000. */
  staleAfterMs?: number;
}

export class TrustCopy {
  readonly #store: TrustStore;
  readonly #log: Log;
  readonly #onChange: CopyOptions['onChange'];
  readonly #staleAfterMs: number;
  #entries = new Map<string, TrustedCertificate>();
  #upTo = -1;
  #comparedAt = Number.NEGATIVE_INFINITY;
  /** Reads run one after another, so that the last result is the newest. */
  #reads: Promise<unknown> = Promise.resolve();

  private constructor(store: TrustStore, log: Log, { onChange, staleAfterMs = usuallyStaleAfterMs }: CopyOptions) {
    this.#store = store;
    this.#log = log;
    this.#onChange = onChange;
    this.#staleAfterMs = staleAfterMs;
  }

  /** Resolves once the bucket is read. Throws nats-unavailable, or nats-unfit when `lxstow setup` has not made the bucket. */
  static async open(store: TrustStore, log: Log, options: CopyOptions, signal: AbortSignal): Promise<TrustCopy> {
    const copy = new TrustCopy(store, log, options);
    await copy.#compare();
    void copy.#follow(signal);
    void copy.#compareForEver(signal);
    return copy;
  }

  /** Undefined for a client that is not trusted. Throws nats-unavailable for a trusted one when the copy is too old. */
  get(fingerprint: string): TrustedCertificate | undefined {
    const found = this.#entries.get(fingerprint);
    if (found && performance.now() - this.#comparedAt > this.#staleAfterMs)
      throw new LxstowError(
        'nats-unavailable',
        'the list of trusted clients is out of date because NATS is unreachable; try again',
      );
    return found;
  }

  get isEmpty(): boolean {
    return this.#entries.size === 0;
  }

  /** Reads one certificate from the bucket: after a change made by this gateway, and for an unknown client. */
  async refresh(fingerprint: string): Promise<void> {
    await this.#read(async () => {
      this.#apply(fingerprint, (await this.#store.certificate(fingerprint))?.certificate);
    });
  }

  async #compare(): Promise<void> {
    const last = await this.#store.lastRevision();
    if (last !== this.#upTo) {
      await this.#read(async () => {
        const present = new Map(
          (await this.#store.certificates()).map(({ certificate }) => [certificate.fingerprint, certificate]),
        );
        for (const fingerprint of new Set([...this.#entries.keys(), ...present.keys()]))
          this.#apply(fingerprint, present.get(fingerprint));
      });
      this.#upTo = last;
    }
    this.#comparedAt = performance.now();
  }

  async #compareForEver(signal: AbortSignal): Promise<void> {
    while (await pause(lookEveryMs, signal)) {
      try {
        await this.#compare();
      } catch (error) {
        this.#log.warn('the list of trusted clients was not compared with NATS', { error });
      }
    }
  }

  async #follow(signal: AbortSignal): Promise<void> {
    do {
      try {
        // The next comparison finds what changed between the last one and the start of the watch.
        await this.#store.watch((key, revision) => this.#see(key, revision), signal);
      } catch (error) {
        this.#log.warn('the watch of trusted clients broke; starting another', { error });
      }
      this.#upTo = -1;
    } while (await pause(watchAgainMs, signal));
  }

  #see(key: string, revision: number): void {
    if (revision === this.#upTo + 1) this.#upTo = revision;
    const fingerprint = parseCertificateKey(key);
    if (fingerprint === undefined) return;
    this.refresh(fingerprint).catch((error) => {
      this.#upTo = -1;
      this.#log.warn('a changed certificate was not read', { fingerprint, error });
    });
  }

  #apply(fingerprint: string, now: TrustedCertificate | undefined): void {
    const before = this.#entries.get(fingerprint);
    if (now) this.#entries.set(fingerprint, now);
    else this.#entries.delete(fingerprint);
    if (before && now && sameGrant(before, now)) return;
    if (!before && !now) return;
    const word = !before ? 'client trusted' : !now ? 'client no longer trusted' : "client's rights changed";
    this.#log.info(word, { fingerprint, name: (now ?? before)?.name });
    this.#onChange(fingerprint, !before);
  }

  #read(run: () => Promise<void>): Promise<void> {
    const read = this.#reads.then(run);
    this.#reads = read.catch(() => undefined);
    return read;
  }
}

/** Resolves with false when the signal has aborted. */
async function pause(ms: number, signal: AbortSignal): Promise<boolean> {
  try {
    await setTimeout(ms, undefined, { signal, ref: false });
    return true;
  } catch {
    return false;
  }
}
