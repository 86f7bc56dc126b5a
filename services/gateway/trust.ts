/** Who may use the API: clients whose certificate is in the trust directory, or signed by the trusted CA. */
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import type { Config } from '../contract.ts';
import type { Log } from '../logger.ts';
import { fingerprintOf } from './tls.ts';

/** `operator` makes, restores and deletes backups; `viewer` looks at them. */
export type Role = 'admin' | 'operator' | 'viewer';

/** A client as its certificate shows it. */
export interface Client {
  fingerprint: string;
  trusted: boolean;
  name: string;
  role: Role;
  /** What it is restricted to; undefined: every project. */
  projects: string[] | undefined;
}

/** A change in the directory counts after so long at most. */
const rereadAfterMs = 1000;

export class Trust {
  readonly #dir: string | undefined;
  readonly #caMode: boolean;
  readonly #log: Log;
  #fingerprints = new Set<string>();
  #readAt = Number.NEGATIVE_INFINITY;
  #seen = '';
  #reading: Promise<void> | undefined;

  constructor({ trustDir, trustCa }: Config['gateway'], log: Log) {
    this.#dir = trustDir;
    this.#caMode = trustCa !== undefined;
    this.#log = log;
  }

  /** The client at the other end; undefined when it shows no certificate. An expired certificate is trusted by nobody. */
  async client(socket: TLSSocket): Promise<Client | undefined> {
    const certificate = socket.getPeerX509Certificate();
    if (!certificate) return undefined;
    const fingerprint = fingerprintOf(certificate.raw);
    const now = Date.now();
    const valid = Date.parse(certificate.validFrom) <= now && now <= Date.parse(certificate.validTo);
    // `authorized` speaks of our CA only where one is configured; else Node would mean the system's.
    if (valid && this.#caMode && socket.authorized) return admin(fingerprint);
    await this.#refresh();
    if (valid && this.#fingerprints.has(fingerprint)) return admin(fingerprint);
    return { fingerprint, trusted: false, name: '', role: 'viewer', projects: [] };
  }

  async #refresh(): Promise<void> {
    if (!this.#dir || performance.now() - this.#readAt < rereadAfterMs) return;
    this.#reading ??= this.#read(this.#dir).finally(() => {
      this.#reading = undefined;
    });
    await this.#reading;
  }

  async #read(dir: string): Promise<void> {
    try {
      const names = (await readdir(dir)).filter((name) => /\.(pem|crt|cert)$/.test(name)).sort();
      const files = await Promise.all(
        names.map(async (name) => ({ path: join(dir, name), at: await stat(join(dir, name)) })),
      );
      const seen = files.map(({ path, at }) => `${path} ${at.mtimeMs} ${at.size}`).join('\n');
      if (seen !== this.#seen) {
        const found = await Promise.all(files.map(({ path }) => this.#fingerprintsIn(path)));
        this.#fingerprints = new Set(found.flat());
        this.#seen = seen;
        this.#log.info('trusted certificates read', { dir, count: this.#fingerprints.size });
      }
    } catch (error) {
      // Rather nobody than somebody whose certificate may have been taken away.
      this.#fingerprints = new Set();
      this.#seen = '';
      this.#log.error('trusted certificates cannot be read', { dir, error });
    }
    this.#readAt = performance.now();
  }

  async #fingerprintsIn(path: string): Promise<string[]> {
    const pem =
      (await readFile(path, 'utf8')).match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
    return pem.flatMap((certificate) => {
      try {
        return [fingerprintOf(certificate)];
      } catch (error) {
        this.#log.error('not a certificate', { path, error });
        return [];
      }
    });
  }
}

/** From the directory or by the CA. */
function admin(fingerprint: string): Client {
  return { fingerprint, trusted: true, name: fingerprint.slice(0, 12), role: 'admin', projects: undefined };
}
