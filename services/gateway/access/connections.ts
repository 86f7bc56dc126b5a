/** Open connections by the certificate at their other end, so that they end with its trust: requests, transfers and websockets. */
import type { TLSSocket } from 'node:tls';
import type { Response } from 'express';
import { headLimits } from '../../telemetry/health.ts';
import { fingerprintOf } from '../../trust/certificates.ts';
import type { Client } from './apiClient.ts';

/** Timeouts of every connection, in ms, before its client is known. */
export const connectionLimits = {
  handshakeTimeout: 20_000,
  // Node.js has none of its own where `requestTimeout` is 0: a stranger could hold connections for ever.
  ...headLimits,
  // An archive takes as long as it takes; app.ts bounds the other bodies.
  requestTimeout: 0,
  // A client that polls now and then shall not need a handshake each time, and load balancers close their side after a minute.
  keepAliveTimeout: 75_000,
} as const;

export class Connections {
  readonly #sockets = new Map<string, Set<TLSSocket>>();
  /** A request has come whose client is not known yet. It will be, by what counts then. */
  readonly #undecided = new WeakSet<TLSSocket>();
  /** To be closed once the decision is made. */
  readonly #missed = new WeakSet<TLSSocket>();
  /** Its client was trusted when it was asked last. */
  readonly #trusted = new WeakSet<TLSSocket>();
  /** Ends by itself, with the answer that is under way. */
  readonly #leaving = new WeakSet<TLSSocket>();

  /** For each connection, from its handshake on. */
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

  /** Decides who the client is; the connection is not cut during that. */
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

  /** For a request that may take away its own client's trust: it is answered, and the connection ends then. */
  leave(response: Response): void {
    const socket = response.req.socket as TLSSocket;
    this.#leaving.add(socket);
    response.set('connection', 'close');
    response.once('close', () => socket.destroySoon());
  }

  /** Cuts all of this certificate's; of one that is new to the store, those that are trusted by directory or CA. */
  close(fingerprint: string, isNew = false): void {
    for (const socket of this.#sockets.get(fingerprint) ?? []) {
      if (isNew && !this.#trusted.has(socket)) continue;
      if (this.#undecided.has(socket)) this.#missed.add(socket);
      else if (!this.#leaving.has(socket)) socket.destroy();
    }
  }
}
