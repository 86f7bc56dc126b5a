/** gateway.trustDir: a directory of PEM files, read again when it changes. */
import { X509Certificate } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setInterval } from 'node:timers/promises';
import type { Log } from '../telemetry/logger.ts';
import { fingerprintOf, pemCertificates } from './certificates.ts';

/** A change in the directory takes effect within this time. */
const rereadAfterMs = 1000;

export async function certificateFiles(dir: string): Promise<string[]> {
  return (await readdir(dir)).filter((name) => /\.(pem|crt|cert)$/.test(name)).sort();
}

export class TrustDirectory {
  readonly #dir: string;
  readonly #log: Log;
  readonly #onRemoved: (fingerprint: string) => void;
  #certificates = new Map<string, X509Certificate>();
  #readAt = Number.NEGATIVE_INFINITY;
  #seen = '';
  #reading: Promise<void> | undefined;

  constructor(dir: string, log: Log, onRemoved: (fingerprint: string) => void) {
    this.#dir = dir;
    this.#log = log;
    this.#onRemoved = onRemoved;
  }

  async get(fingerprint: string): Promise<X509Certificate | undefined> {
    await this.#refresh();
    return this.#certificates.get(fingerprint);
  }

  async all(): Promise<X509Certificate[]> {
    await this.#refresh();
    return [...this.#certificates.values()];
  }

  /** Reads the directory regularly, so that a client whose file was removed loses its connections. */
  async follow(signal: AbortSignal): Promise<void> {
    try {
      for await (const _ of setInterval(rereadAfterMs, undefined, { signal, ref: false })) await this.#refresh();
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }

  async #refresh(): Promise<void> {
    if (performance.now() - this.#readAt < rereadAfterMs) return;
    this.#reading ??= this.#read().finally(() => {
      this.#reading = undefined;
    });
    await this.#reading;
  }

  async #read(): Promise<void> {
    const dir = this.#dir;
    try {
      const names = await certificateFiles(dir);
      const files = await Promise.all(
        names.map(async (name) => ({ path: join(dir, name), at: await stat(join(dir, name)) })),
      );
      const seen = files.map(({ path, at }) => `${path} ${at.mtimeMs} ${at.size}`).join('\n');
      if (seen !== this.#seen) {
        const found = await Promise.all(files.map(({ path }) => this.#certificatesIn(path)));
        this.#replace(found.flat());
        this.#seen = seen;
        this.#log.info('trusted certificates read', { dir, count: this.#certificates.size });
      }
    } catch (error) {
      // Trust none of them: a file that cannot be read may have been removed.
      this.#replace([]);
      this.#seen = '';
      this.#log.error('trusted certificates cannot be read', { dir, error });
    }
    this.#readAt = performance.now();
  }

  #replace(certificates: X509Certificate[]): void {
    const before = this.#certificates;
    this.#certificates = new Map(certificates.map((each) => [fingerprintOf(each), each]));
    for (const fingerprint of before.keys()) if (!this.#certificates.has(fingerprint)) this.#onRemoved(fingerprint);
  }

  async #certificatesIn(path: string): Promise<X509Certificate[]> {
    return pemCertificates(await readFile(path, 'utf8')).flatMap((certificate) => {
      try {
        return [new X509Certificate(certificate)];
      } catch (error) {
        this.#log.error('not a certificate', { path, error });
        return [];
      }
    });
  }
}
