/** Open connections, by client certificate, so that requests, transfers and websockets end when the certificate is no longer trusted. */
import type { TLSSocket } from 'node:tls';
import type { Response } from 'express';
import { headLimits } from '../../telemetry/health.ts';
import { fingerprintOf } from '../../trust/certificates.ts';
import type { Client } from './apiClient.ts';

/** Timeouts of every connection, in ms, before its client is known. */
export const connectionLimits = {
  handshakeTimeout: 20_000,
  // With `requestTimeout` 0, Node.js has no limit of its own, and an untrusted client could hold connections for ever.
  ...headLimits,
  // An archive may take any time; app.ts limits the other bodies.
  requestTimeout: 0,
  // Long enough that a client that polls now and then needs no handshake each time, and that load balancers, after a minute, close first.
  keepAliveTimeout: 75_000,
} as const;

export class Connections {
  readonly #sockets = new Map<string, Set<TLSSocket>>();
  /** Connections with a request whose client is being identified. The result will reflect the trust at that moment. */
  readonly #undecided = new WeakSet<TLSSocket>();
  /** Connections to close once their client is identified. */
  readonly #missed = new WeakSet<TLSSocket>();
  /** Connections whose client was trusted at its last request. */
  readonly #trusted = new WeakSet<TLSSocket>();
  /** Connections that will end by themselves after the current answer. */
  readonly #leaving = new WeakSet<TLSSocket>();

  /** Adds a connection, after its handshake. */
  add(socket: TLSSocket): void {
    const certificate = socket.getPeerX509Certificate();
    if (!certificate) return;
    const fingerprint = fingerprintOf(certificate.raw);
    const sockets = this.#sockets.get(fingerprint) ?? new Set();
    this.#sockets.set(fingerprint, sockets.add(socket));
    socket.once('close', () => {
      sockets.delete(socket);
      if (sockets.size === 0 && this.#sockets.get(fingerprint) === sockets) this.#sockets.delete(fingerprint);
    });
  }

  /** Identifies the client; the connection is not cut in the meantime. */
  async whileDeciding(socket: TLSSocket, decide: () => Promise<Client>): Promise<Client> {
    this.#undecided.add(socket);
    try {
      for (;;) {
        this.#missed.delete(socket);
        const decided = await decide();
        if (this.#missed.has(socket)) continue;
        if (decided.trusted) this.#trusted.add(socket);
        return decided;
      }
    } finally {
      this.#undecided.delete(socket);
    }
  }

  /** For a request that may end its own client's trust: the request is answered, and then the connection ends. */
  leave(response: Response): void {
    const socket = response.req.socket as TLSSocket;
    this.#leaving.add(socket);
    response.set('connection', 'close');
    response.once('close', () => socket.destroySoon());
  }

  /** Cuts all connections of this certificate. If it is new to the store, cuts only those that were trusted by directory or CA. */
  close(fingerprint: string, isNew = false): void {
    for (const socket of this.#sockets.get(fingerprint) ?? []) {
      if (isNew && !this.#trusted.has(socket)) continue;
      if (this.#undecided.has(socket)) this.#missed.add(socket);
      else if (!this.#leaving.has(socket)) socket.destroy();
    }
  }
}
