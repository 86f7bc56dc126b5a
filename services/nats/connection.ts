/** The connection to NATS. */
import { type JetStreamClient, type JetStreamManager, jetstream, jetstreamManager } from '@nats-io/jetstream';
import { ConnectionError, connect, type Msg, type NatsConnection, type Status } from '@nats-io/transport-node';
import { LxstowError } from '../contract/errors.ts';
import type { Config } from '../contract/schemas.ts';
import type { Log } from '../telemetry/logger.ts';
import { violationOf } from './failures.ts';
import { connectionOptions } from './login.ts';

/** The servers' addresses without credentials, for messages. */
export function serversOf({ servers }: Pick<Config['nats'], 'servers'>): string {
  return servers.map((server) => server.replace(/\/\/[^@/]*@/, '//')).join(', ');
}

/** The oldest NATS that has every feature lxstow uses; tests pin 2.15.1. */
export const oldestServer = [2, 14] as const;
const requestTimeoutMs = 5000;
const sayAgainMs = 60_000;

export interface ConnectOptions {
  /** How long the first connection may take; the client's 20 s by default. */
  timeoutMs?: number;
  /** Reads the configuration again. Called before each login, so that changed passwords and keys take effect. */
  reread?: (() => Config['nats']) | undefined;
}

/** Connects, and checks the server's version. Throws nats-unavailable or nats-unfit, naming the servers, never the credentials. */
export async function connectNats(
  config: Config['nats'],
  name: string,
  log: Log,
  { timeoutMs, reread }: ConnectOptions = {},
): Promise<Nats> {
  const servers = serversOf(config);
  let known = config;
  const current = (): Config['nats'] => {
    try {
      known = reread?.() ?? known;
    } catch (error) {
      log.warn('configuration not read again; the last one counts', { error });
    }
    return known;
  };
  const options = connectionOptions(config, name, current);
  let connection: NatsConnection;
  try {
    connection = await connect({ ...options, ...(timeoutMs !== undefined && { timeout: timeoutMs }) });
  } catch (cause) {
    throw new LxstowError('nats-unavailable', `cannot connect to NATS at ${servers}: ${(cause as Error).message}`, {
      cause,
    });
  }
  const version = connection.info?.version ?? '0.0.0';
  const [major = 0, minor = 0] = version.split('.').map(Number);
  if (major < oldestServer[0] || (major === oldestServer[0] && minor < oldestServer[1])) {
    await connection.close();
    throw new LxstowError(
      'nats-unfit',
      `NATS at ${servers} is ${version}; lxstow needs ${oldestServer.join('.')} or newer`,
    );
  }
  const jsm = await jetstreamManager(connection, { timeout: requestTimeoutMs, checkAPI: false });
  return new Nats(connection, jsm, servers, log);
}

/** The NATS connection as the rest of lxstow uses it. */
export class Nats implements AsyncDisposable {
  readonly connection: NatsConnection;
  readonly js: JetStreamClient;
  readonly jsm: JetStreamManager;
  readonly log: Log;
  readonly #servers: string;
  readonly #closed = new AbortController();
  readonly #watching: Promise<void>;
  /** Rejects what waits for a reply. */
  readonly #waiting = new Set<(lost: Error) => void>();
  #lastRefused = { of: '', at: 0 };
  #goneSince: Date | undefined;
  #backSince = Number.NEGATIVE_INFINITY;
  #closing = false;

  constructor(connection: NatsConnection, jsm: JetStreamManager, servers: string, log: Log) {
    this.connection = connection;
    this.js = jetstream(connection, { timeout: requestTimeoutMs });
    this.jsm = jsm;
    this.log = log;
    this.#servers = servers;
    this.#watching = this.#watch();
  }

  /** False from the loss of the connection until the reconnect. A message published in between is buffered and sent later, unnoticed. */
  get connected(): boolean {
    return this.#goneSince === undefined;
  }

  /** Time of the last reconnect, in ms of the clock; -Infinity if the connection was never lost. */
  get backSince(): number {
    return this.#backSince;
  }

  /** Aborts with nats-unavailable when the connection has ended for good and we did not close it. */
  get closed(): AbortSignal {
    return this.#closed.signal;
  }

  /** Throws nats-unavailable, with since when, while there is no connection. */
  assertConnected(): void {
    if (!this.#goneSince) return;
    const since = `${this.#goneSince.toISOString().slice(0, 19)}Z`;
    throw new LxstowError('nats-unavailable', `NATS at ${this.#servers} cannot be reached, since ${since}`);
  }

  /**
   * Makes a request. Throws nats-unavailable while there is no connection, and the client's ConnectionError as soon as the connection is lost: the
   * request may or may not have arrived, and its reply cannot come any more. The client by itself would wait for its timeout.
   */
  async whileConnected<T>(request: () => Promise<T>): Promise<T> {
    this.assertConnected();
    const { promise, reject } = Promise.withResolvers<never>();
    this.#waiting.add(reject);
    try {
      return await Promise.race([request(), promise]);
    } finally {
      this.#waiting.delete(reject);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing = true;
    await this.connection.close();
    await this.#watching;
  }

  async #watch(): Promise<void> {
    for await (const status of this.connection.status()) {
      if (status.type === 'disconnect') this.#lost();
      if (status.type === 'reconnect') {
        this.#goneSince = undefined;
        this.#backSince = Date.now();
      }
      if (logged.includes(status.type) && !this.#isRepeat(status)) {
        const error = status.type === 'error' && { error: status.error };
        this.log.warn('nats', { status: status.type, servers: this.#servers, ...error });
      }
    }
    this.#lost();
    if (this.#closing) return;
    const message = `the connection to NATS at ${this.#servers} has ended for good`;
    this.#closed.abort(new LxstowError('nats-unavailable', message));
  }

  /** A right that progress lacks is missed each second, for every operation. */
  #isRepeat(status: Status): boolean {
    const violation = status.type === 'error' ? violationOf(status.error) : undefined;
    if (!violation) return false;
    const of = `${violation.operation} ${violation.subject.split('.').slice(0, 3).join('.')}`;
    const isRepeat = of === this.#lastRefused.of && performance.now() - this.#lastRefused.at < sayAgainMs;
    if (!isRepeat) this.#lastRefused = { of, at: performance.now() };
    return isRepeat;
  }

  #lost(): void {
    this.#goneSince ??= new Date();
    for (const reject of this.#waiting) reject(new ConnectionError('the connection was lost before the reply'));
  }
}

const logged = ['disconnect', 'reconnect', 'error', 'slowConsumer', 'staleConnection'];

/**
 * Sends a reply if possible; returns whether it was sent. `message.respond` throws if the connection has closed because the process stops, or if the
 * reply is larger than NATS allows: then the requester gets no reply, and the process continues.
 */
export function respond(nats: Nats, message: Msg, data: Uint8Array | string): boolean {
  try {
    return message.respond(data);
  } catch (error) {
    if (nats.connection.isClosed() || nats.connection.isDraining()) return false;
    nats.log.warn('a request was not answered', { subject: message.subject, bytes: data.length, error });
    return false;
  }
}
