/** Claims on backups by their readers: a claimed backup is not deleted (docs/adr/0004-names-and-claims.md). */
import type { Log } from '../telemetry/logger.ts';
import type { Lease } from './leases.ts';

/** A claim on a backup, renewed until it is released. */
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

  /** Throws lease-lost unless the claim is certainly still ours. Call it before every step that a deletion must not interrupt. */
  assertHeld(): void {
    this.#lease?.assertHeld();
  }

  async #renew(): Promise<void> {
    // Losing the claim does not stop the reader; if the backup is deleted, its reads fail.
    await this.#lease?.renew().catch((error) => this.#log.debug('claim not renewed', { error }));
  }

  /** Releases the claim. A claim that cannot be released expires by its TTL. */
  async release(): Promise<void> {
    if (this.#released) return;
    this.#released = true;
    clearInterval(this.#heartbeat);
    await this.#lease?.release().catch((error) => this.#log.warn('claim not released; it will expire', { error }));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.release();
  }
}
