/** The connection to NATS, and its errors translated to LxstowError. */
import {
  JetStreamApiError,
  type JetStreamClient,
  type JetStreamManager,
  jetstream,
  jetstreamManager,
} from '@nats-io/jetstream';
import {
  type Authenticator,
  connect,
  createInbox,
  credsAuthenticator,
  type Msg,
  type NatsConnection,
  type NodeConnectionOptions,
  NoRespondersError,
  nkeyAuthenticator,
  PermissionViolationError,
  tokenAuthenticator,
  usernamePasswordAuthenticator,
} from '@nats-io/transport-node';
import { readText } from '../contract/config.ts';
import { isCode, LxstowError } from '../contract/errors.ts';
import type { Config } from '../contract/schemas.ts';
import type { Log } from '../telemetry/logger.ts';
import { Asking, type AskOptions } from './asking.ts';

/** The NATS connection as the rest of lxstow uses it. */
export interface Nats extends AsyncDisposable {
  readonly connection: NatsConnection;
  readonly js: JetStreamClient;
  readonly jsm: JetStreamManager;
  readonly log: Log;
  /** See Asking. */
  ask(subject: string, payload: Uint8Array | string, options?: AskOptions): Promise<Msg>;
  tell: Asking['tell'];
  /** Returns a reply subject that this user may subscribe to. */
  newInbox(): string;
  /** Calls `run` after each reconnect, until disposed. */
  onReconnect(run: () => void): Disposable;
  /** False from the loss of the connection until the reconnect. A message published in between is buffered and sent later, unnoticed. */
  readonly connected: boolean;
  /** Time of the last reconnect, in ms of the clock; -Infinity if the connection was never lost. */
  readonly backSince: number;
  /** Aborts with nats-unavailable when the connection has ended for good and we did not close it. */
  readonly closed: AbortSignal;
  /** Throws nats-unavailable, with since when, while there is no connection. */
  assertConnected(): void;
}

/** The servers' addresses without credentials, for messages. */
export function serversOf({ servers }: Pick<Config['nats'], 'servers'>): string {
  return servers.map((server) => server.replace(/\/\/[^@/]*@/, '//')).join(', ');
}

/** The oldest NATS that has every feature lxstow uses; tests pin 2.15.1. */
export const oldestServer = [2, 14] as const;
const requestTimeoutMs = 5000;

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
      log.warn('configuration not read again, the last one counts', { error });
    }
    return known;
  };
  const options = connectionOptions(config, name, current);
  let connection: NatsConnection;
  try {
    connection = await connect({
      ...options,
      ...(timeoutMs === undefined ? {} : { timeout: timeoutMs }),
    });
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
  let goneSince: Date | undefined;
  let backSince = Number.NEGATIVE_INFINITY;
  let closing = false;
  const closed = new AbortController();
  const asking = new Asking(connection, config.inboxPrefix);
  const back = new Set<() => void>();
  const watching = (async () => {
    for await (const status of connection.status()) {
      if (status.type === 'disconnect') {
        goneSince ??= new Date();
        asking.lost();
      }
      if (status.type === 'reconnect') {
        goneSince = undefined;
        backSince = Date.now();
        for (const run of back) run();
      }
      if (status.type === 'error') asking.refused(status.error);
      if (['disconnect', 'reconnect', 'error', 'slowConsumer', 'staleConnection'].includes(status.type)) {
        log.warn('nats', { status: status.type, servers, ...(status.type === 'error' && { error: status.error }) });
      }
    }
    goneSince ??= new Date();
    asking.lost();
    if (!closing)
      closed.abort(new LxstowError('nats-unavailable', `the connection to NATS at ${servers} has ended for good`));
  })();
  return {
    connection,
    log,
    js: jetstream(connection, { timeout: requestTimeoutMs }),
    jsm: await jetstreamManager(connection, { timeout: requestTimeoutMs, checkAPI: false }),
    ask: asking.ask.bind(asking),
    tell: asking.tell.bind(asking),
    newInbox: () => createInbox(config.inboxPrefix),
    onReconnect(run) {
      back.add(run);
      return { [Symbol.dispose]: () => void back.delete(run) };
    },
    get connected() {
      return goneSince === undefined;
    },
    get backSince() {
      return backSince;
    },
    closed: closed.signal,
    assertConnected() {
      if (!goneSince) return;
      const since = `${goneSince.toISOString().slice(0, 19)}Z`;
      throw new LxstowError('nats-unavailable', `NATS at ${servers} cannot be reached, since ${since}`);
    },
    async [Symbol.asyncDispose]() {
      closing = true;
      asking.flush();
      await connection.close();
      await watching;
    },
  };
}

function connectionOptions(config: Config['nats'], name: string, current: () => Config['nats']): NodeConnectionOptions {
  const { ca, certificate, key, inboxPrefix, tlsFirst } = config;
  const authenticator = authenticatorOf(config, current);
  // The client reads these files for each connection. Reading them once here reports an unreadable one early.
  for (const [name, path] of Object.entries({ ca, certificate, key })) if (path) readText(path, `nats.${name}`);
  const tls = {
    ...(ca ? { caFile: ca } : {}),
    ...(certificate ? { certFile: certificate } : {}),
    ...(key ? { keyFile: key } : {}),
    ...(tlsFirst ? { handshakeFirst: true } : {}),
  };
  return {
    servers: config.servers,
    name,
    ...(inboxPrefix ? { inboxPrefix } : {}),
    // Otherwise the client captures two stacks for each request, in case it fails.
    noAsyncTraces: true,
    maxReconnectAttempts: -1,
    // Otherwise two refused logins end the connection, but a server that reloads its users or answers late refuses too.
    ignoreAuthErrorAbort: true,
    reconnectTimeWait: 500,
    pingInterval: 10_000,
    maxPingOut: 2,
    ...(authenticator ? { authenticator } : {}),
    ...(Object.keys(tls).length > 0 ? { tls } : {}),
  };
}

/** Returns the authenticator, which reads the configuration and its files at each login; undefined if the first configuration has no credentials. */
function authenticatorOf(first: Config['nats'], current: () => Config['nats']): Authenticator | undefined {
  if (first.credentials) return credsAuthenticator(contentOf('nats.credentials', () => current().credentials));
  if (first.nkey) return nkeyAuthenticator(contentOf('nats.nkey', () => current().nkey));
  if (first.token) return tokenAuthenticator(() => current().token ?? '');
  if (!first.user) return undefined;
  return usernamePasswordAuthenticator(
    () => current().user ?? '',
    () => current().password ?? '',
  );
}

/**
 * Returns a reader of the file. While the file cannot be read (it is being replaced, say), the last content counts. Throws bad-config the first time.
 */
function contentOf(name: string, path: () => string | undefined): () => Uint8Array {
  const read = () => new TextEncoder().encode(readText(path() ?? '', name).trim());
  let last = read();
  return () => {
    try {
      last = read();
    } catch (error) {
      if (!isCode(error, 'bad-config')) throw error;
    }
    return last;
  };
}

/**
 * Sends a reply if possible; returns whether it was sent. `message.respond` throws if the connection has closed because the process stops, or if the
 * reply is larger than NATS allows: then the requester gets no reply, and the process continues.
 */
export function respond(nats: Nats, message: Msg, data: Uint8Array | string): boolean {
  try {
    return message.respond(data);
  } catch (error) {
    if (nats.connection.isClosed() || nats.connection.isDraining()) return false;
    nats.log.warn('a question was not answered', { subject: message.subject, bytes: data.length, error });
    return false;
  }
}

/** Returns the server's own error code (10071, …) if it answered with one. */
export function apiCode(error: unknown): number | undefined {
  return error instanceof JetStreamApiError ? error.code : undefined;
}

/** Returns the missing permission if that is the error or a cause of it. */
export function violationOf(error: unknown): PermissionViolationError | undefined {
  for (let each = error; each instanceof Error; each = each.cause)
    if (each instanceof PermissionViolationError) return each;
  return undefined;
}

/** Whether no JetStream received the request: then it had no effect. */
export function nobodyHeard(error: unknown): boolean {
  return error instanceof NoRespondersError || (error as Error).name === 'JetStreamNotEnabled';
}

/** The stream is full, the server is (disk or memory), or the account has reached its limit for them: 10002 and 10028. */
const noRoom = [10077, 10023, 10047, 10002, 10028];

/** Translates a failed call to NATS: the server refused it, could not be reached, or did not answer in time. */
export function natsFailure(error: unknown, what: string): LxstowError {
  if (error instanceof LxstowError) return error;
  const code = apiCode(error);
  if (code !== undefined && noRoom.includes(code)) {
    return new LxstowError('queue-full', `${what}: NATS has no room: ${(error as Error).message}`, { cause: error });
  }
  if (code === 10059 || code === 10014) {
    return new LxstowError('nats-unfit', `${what}: NATS lacks our stream or consumer: run \`lxstow setup\``, {
      cause: error,
    });
  }
  if (nobodyHeard(error)) {
    const why = 'JetStream is off or choosing a leader, or `lxstow setup` was not run';
    return new LxstowError('nats-unavailable', `${what}: nobody at NATS takes it: ${why}`, { cause: error });
  }
  // The client throws this itself, before it sends anything.
  if (/max_payload/.test((error as Error).message))
    return new LxstowError('too-large', `${what}: larger than a message may be on this NATS: max_payload`, {
      cause: error,
    });
  if (violationOf(error))
    return new LxstowError('nats-unfit', `${what}: ${(error as Error).message}`, { cause: error });
  return new LxstowError('nats-unavailable', `${what}: NATS: ${(error as Error).message || (error as Error).name}`, {
    cause: error,
  });
}
