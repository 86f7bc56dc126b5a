/** Claims on backups: who reads one, so that nobody deletes it meanwhile (docs/adr/0004-names-and-claims.md). */
import type { Log } from '../telemetry/logger.ts';
import type { Lease } from './leases.ts';

/** A claim on a backup, renewed until it is given back. */
export class Claim implements AsyncDisposable {
  readonly #lease: Lease | undefined;
  readonly #log: Log;
  readonly #heartbeat: NodeJS.Timeout;
  #released = false;

  constructor(lease: Lease | undefined, heartbeatMs: number, log: Log) {
    this.#lease = lease;
    this.#log = log;
    this.#heartbeat = setInterval(() => void this.#renew(), heartbeatMs);
  }

  /** Throws lease-lost unless the claim is surely still ours: before every step that a deletion must not cross. */
  assertHeld(): void {
    this.#lease?.assertHeld();
  }

  async #renew(): Promise<void> {
    // Lost, a reading goes on: what is deleted then cuts it.
    await this.#lease?.renew().catch((error) => this.#log.debug('claim not renewed', { error }));
  }

  /** Gives the claim back. One that cannot be given back ends by its TTL. */
  async release(): Promise<void> {
    if (this.#released) return;
    this.#released = true;
    clearInterval(this.#heartbeat);
    await this.#lease?.release().catch((error) => this.#log.warn('claim not given back, it will expire', { error }));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.release();
  }
}
