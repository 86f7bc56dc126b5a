/** The connection to NATS. */
import { type JetStreamClient, type JetStreamManager, jetstream, jetstreamManager } from '@nats-io/jetstream';
import {
  ConnectionError,
  connect,
  type Msg,
  type NatsConnection,
  PermissionViolationError,
  type Status,
} from '@nats-io/transport-node';
import { until } from '../concurrency/until.ts';
import { LxstowError } from '../contract/errors.ts';
import type { Config } from '../contract/schemas.ts';
import type { Log } from '../telemetry/logger.ts';
import { natsFailure } from './failures.ts';
import { connectionOptions } from './login.ts';

/** The servers' addresses without credentials, for messages. */
export function serversOf({ servers }: Pick<Config['nats'], 'servers'>): string {
  return servers.map((server) => server.replace(/\/\/[^@/]*@/, '//')).join(', ');
}

/** The oldest NATS that has every feature lxstow uses; tests pin 2.15.1. */
export const oldestServer = [2, 14] as const;
const requestTimeoutMs = 5000;

interface ConnectOptions {
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
  /** Aborts when the current connection is lost. */
  #loss = new AbortController();
  #back = Promise.withResolvers<void>();
  /** Rejects what waits for a reply. */
  readonly #waiting = new Set<(lost: Error) => void>();
  readonly #refusalListeners = new Set<(subject: string) => boolean>();
  readonly #refusedAt = new Map<string, number>();
  #lastError: string | undefined;
  #goneSince: Date | undefined;
  #servesSince = Number.NEGATIVE_INFINITY;
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

  /** Since when NATS has served us, in ms of the clock: the last reconnect, or the last failure that was noted. -Infinity if it always has. */
  get servesSince(): number {
    return this.#servesSince;
  }

  /** Notes that NATS failed at something that jobs depend on, connected or not: it had no room or no leader, or gave us no right. */
  noteFailure(): void {
    this.#servesSince = Date.now();
  }

  /**
   * Calls `heed` with the subject of each subscription that NATS ends or refuses because lxstow has no right to it. `heed` returns whether it will
   * subscribe again.
   */
  onRefusedSubscription(heed: (subject: string) => boolean): Disposable {
    this.#refusalListeners.add(heed);
    return { [Symbol.dispose]: () => void this.#refusalListeners.delete(heed) };
  }

  /** Aborts with nats-unavailable when the connection has ended for good and we did not close it. */
  get closed(): AbortSignal {
    return this.#closed.signal;
  }

  /** Aborts when the connection is lost; aborted while there is none. */
  get loss(): AbortSignal {
    return this.#loss.signal;
  }

  /** Resolves once there is a connection, or `stop` aborts. */
  async untilConnected(stop: AbortSignal): Promise<void> {
    while (!this.connected && !stop.aborted) await until(stop, this.#back.promise).catch(() => undefined);
  }

  /** Throws nats-unavailable, with since when, while there is no connection. */
  assertConnected(): void {
    if (!this.#goneSince) return;
    const since = `${this.#goneSince.toISOString().slice(0, 19)}Z`;
    throw new LxstowError('nats-unavailable', `NATS at ${this.#servers} cannot be reached, since ${since}`);
  }

  /** Makes requests that serve `what`. Throws nats-unavailable at once while there is no connection; NATS's own failures as `natsFailure` has them. */
  async ask<T>(what: string, request: () => Promise<T>): Promise<T> {
    this.assertConnected();
    try {
      return await request();
    } catch (error) {
      throw natsFailure(error, what);
    }
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
      const isNews = this.#isNews(status);
      if (status.type === 'disconnect') this.#lost();
      if (status.type === 'reconnect') this.#found();
      if (isNews && logged.includes(status.type)) {
        const error = status.type === 'error' && { error: status.error };
        this.log.warn('nats', { status: status.type, servers: this.#servers, ...error });
      }
    }
    this.#lost();
    if (this.#closing) return;
    const message = `the connection to NATS at ${this.#servers} has ended for good`;
    this.#closed.abort(new LxstowError('nats-unavailable', message));
  }

  /**
   * Whether to log it. For each refused login, the client reports a disconnect, an error and, in the end, a reconnect; and
   * `keepSubscribed` repeats a refused subscription until NATS accepts it.
   */
  #isNews(status: Status): boolean {
    if (status.type === 'disconnect') return this.connected;
    if (status.type === 'reconnect') return !this.connected;
    if (status.type !== 'error') return true;
    const { error } = status;
    if (error instanceof PermissionViolationError)
      return error.operation === 'subscription' ? this.#isNewRefusal(error.subject) : this.#isNewPublish(error.subject);
    const isSame = !this.connected && error.message === this.#lastError;
    this.#lastError = error.message;
    return !isSame;
  }

  #isNewRefusal(subject: string): boolean {
    const concerned = [...this.#refusalListeners].filter((heed) => heed(subject));
    return concerned.length === 0 || this.#isRare(subject);
  }

  /** A missing right to publish progress is refused each second, for every operation. */
  #isNewPublish(subject: string): boolean {
    return this.#isRare(`publish ${subject.split('.').slice(0, 3).join('.')}`);
  }

  #isRare(refusal: string): boolean {
    const before = this.#refusedAt.get(refusal) ?? Number.NEGATIVE_INFINITY;
    this.#refusedAt.set(refusal, performance.now());
    return performance.now() - before > sameRefusalMs;
  }

  #found(): void {
    if (this.connected) return;
    this.#goneSince = undefined;
    this.#servesSince = Date.now();
    this.#loss = new AbortController();
    this.#back.resolve();
  }

  #lost(): void {
    if (this.connected) this.#back = Promise.withResolvers();
    this.#goneSince ??= new Date();
    this.#loss.abort();
    for (const reject of this.#waiting) reject(new ConnectionError('the connection was lost before the reply'));
  }
}

/** A subscription that is refused again within this time is not logged again. */
const sameRefusalMs = 60_000;
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
