/** Identifies the client of a connection, trusted by the trust store, the trust directory, or the CA. */
import type { X509Certificate } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { isCode, LxstowError } from '../../contract/errors.ts';
import type { Config, TrustedCertificate } from '../../contract/schemas.ts';
import type { Log } from '../../telemetry/logger.ts';
import { commonName, fingerprintOf, isInTime } from '../../trust/certificates.ts';
import type { TrustCopy } from '../../trust/trustCopy.ts';
import type { TrustDirectory } from '../../trust/trustDirectory.ts';
import type { TrustStore } from '../../trust/trustStore.ts';
import type { Client } from './apiClient.ts';
import type { Connections } from './connections.ts';
import type { RefusalLimit } from './refusalLimit.ts';

interface Sources {
  config: Config['gateway'];
  log: Log;
  copy: TrustCopy;
  /** Asked about certificates that the copy does not contain; it answers at once or not at all. */
  store: TrustStore;
  directory: TrustDirectory | undefined;
  refusals: RefusalLimit;
  enrolments: EnrolmentLimits;
  connections: Connections;
}

/** Limits of enrolment. They are separate from refusals, so that other clients at the same address cannot prevent a new client from enrolling. */
interface EnrolmentLimits {
  ofClient: RefusalLimit;
  /** A higher limit for the whole address, against clients that use many different certificates. */
  ofAddress: RefusalLimit;
}

interface Shown {
  certificate: X509Certificate;
  fingerprint: string;
}

export class Trust {
  readonly #parts: Sources;
  /** The certificate that each connection has shown in its handshake. It cannot change later (httpsServer.ts), and reading it is expensive. */
  readonly #shown = new WeakMap<TLSSocket, Shown>();

  constructor(parts: Sources) {
    this.#parts = parts;
  }

  /**
   * The client of this connection; undefined if it shows no certificate. An expired certificate is not trusted. The trust store's entry for a certificate
   * takes precedence over directory and CA, which make the client an admin.
   */
  async client(socket: TLSSocket): Promise<Client | undefined> {
    const shown = this.#shown.get(socket) ?? shownBy(socket);
    if (!shown) return undefined;
    this.#shown.set(socket, shown);
    return this.#parts.connections.whileDeciding(socket, () => this.#decide(socket, shown));
  }

  async #decide(socket: TLSSocket, { certificate, fingerprint }: Shown): Promise<Client> {
    if (!isInTime(certificate)) return stranger(fingerprint);
    const { copy, directory, config } = this.#parts;
    const known = copy.get(fingerprint);
    if (known) return granted(known);
    // `authorized` refers to our CA only if one is configured; otherwise, Node would mean the system's CAs.
    if (config.trustCa !== undefined && socket.authorized) return admin(fingerprint, certificate);
    const inDirectory = await directory?.get(fingerprint);
    if (inDirectory) return admin(fingerprint, inDirectory);
    const added = await this.#justAdded(fingerprint, socket.remoteAddress ?? '');
    return added ? granted(added) : stranger(fingerprint);
  }

  /** Looks up a certificate that another gateway may just have added: its client may be faster than our watch. */
  async #justAdded(fingerprint: string, address: string): Promise<TrustedCertificate | undefined> {
    const { copy, store, refusals, log } = this.#parts;
    if (refusals.over(address) !== undefined) return undefined;
    try {
      if (!(await store.certificate(fingerprint))) return undefined;
      await copy.refresh(fingerprint);
      return copy.get(fingerprint);
    } catch (error) {
      if (!isCode(error, 'nats-unavailable')) throw error;
      log.warn('an unknown certificate cannot be looked up', { fingerprint, error });
      return undefined;
    }
  }

  /** The certificate with this fingerprint, from the store or the directory as they are now. Certificates of a CA are in neither. */
  async known(fingerprint: string): Promise<TrustedCertificate | undefined> {
    const { copy, directory } = this.#parts;
    // Another gateway may have added it a moment ago.
    if (!copy.get(fingerprint)) await copy.refresh(fingerprint);
    const found = copy.get(fingerprint);
    if (found) return found;
    const inDirectory = await directory?.get(fingerprint);
    return inDirectory && asStored(inDirectory);
  }

  /** The certificates in the directory, in the form of the store's entries. */
  async inDirectory(): Promise<TrustedCertificate[]> {
    return ((await this.#parts.directory?.all()) ?? []).map(asStored);
  }

  /** Counts a refused call against its address. */
  refused(address: string | undefined): void {
    this.#parts.refusals.count(address ?? '');
  }

  /** Counts an attempt to enrol; a wrong token counts with its own weight. */
  enrolling({ socket }: IncomingMessage, weight?: number): void {
    const { ofClient, ofAddress } = this.#parts.enrolments;
    ofClient.count(this.#enrolling(socket), weight);
    ofAddress.count(socket.remoteAddress ?? '', weight);
  }

  /** The key by which enrolments are counted: the certificate, or the address if none is shown. */
  #enrolling(socket: Socket): string {
    return this.#shown.get(socket as TLSSocket)?.fingerprint ?? socket.remoteAddress ?? '';
  }

  /** Throws too-many-requests for an untrusted client that was refused too often in the last minute. */
  assertHeard(
    { req, res }: { req: IncomingMessage; res: ServerResponse },
    limit: 'refusals' | 'enrolments' = 'refusals',
  ): void {
    const { refusals, enrolments } = this.#parts;
    const address = req.socket.remoteAddress ?? '';
    const seconds =
      limit === 'refusals'
        ? refusals.over(address)
        : (enrolments.ofClient.over(this.#enrolling(req.socket)) ?? enrolments.ofAddress.over(address));
    if (seconds === undefined) return;
    res.setHeader('retry-after', seconds);
    throw new LxstowError('too-many-requests', `too many refused requests; try again in ${seconds} s`);
  }
}

function shownBy(socket: TLSSocket): Shown | undefined {
  const certificate = socket.getPeerX509Certificate();
  return certificate && { certificate, fingerprint: fingerprintOf(certificate) };
}

function stranger(fingerprint: string): Client {
  return { fingerprint, trusted: false, name: '', role: 'viewer', projects: [] };
}

function granted({ fingerprint, name, role, restricted, projects }: TrustedCertificate): Client {
  return { fingerprint, trusted: true, name, role, projects: restricted ? projects : undefined };
}

function admin(fingerprint: string, certificate: X509Certificate): Client {
  const name = commonName(certificate) ?? fingerprint.slice(0, 12);
  return { fingerprint, trusted: true, name, role: 'admin', projects: undefined };
}

function asStored(certificate: X509Certificate): TrustedCertificate {
  const fingerprint = fingerprintOf(certificate);
  return {
    fingerprint,
    name: commonName(certificate) ?? fingerprint.slice(0, 12),
    type: 'client',
    certificate: certificate.toString(),
    restricted: false,
    projects: [],
    role: 'admin',
    added_at: new Date(certificate.validFrom).toISOString(),
  };
}
