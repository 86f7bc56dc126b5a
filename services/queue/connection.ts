/** The connection to NATS, and its errors in our words. */
import {
  JetStreamApiError,
  type JetStreamClient,
  type JetStreamManager,
  jetstream,
  jetstreamManager,
} from '@nats-io/jetstream';
import {
  connect,
  createInbox,
  credsAuthenticator,
  type Msg,
  type NatsConnection,
  type NodeConnectionOptions,
  NoRespondersError,
  nkeyAuthenticator,
  PermissionViolationError,
} from '@nats-io/transport-node';
import { readText } from '../config.ts';
import type { Config } from '../contract.ts';
import { LxstowError } from '../errors.ts';
import type { Log } from '../logger.ts';
import { Asking, type AskOptions } from './asking.ts';

/** NATS as the rest of lxstow holds it. */
export interface Nats extends AsyncDisposable {
  readonly connection: NatsConnection;
  readonly js: JetStreamClient;
  readonly jsm: JetStreamManager;
  readonly log: Log;
  /** See Asking. */
  ask(subject: string, payload: Uint8Array | string, options?: AskOptions): Promise<Msg>;
  tell: Asking['tell'];
  /** A subject for answers that this user may subscribe to. */
  newInbox(): string;
  /** Calls `run` whenever the connection is back, until disposed. */
  onReconnect(run: () => void): Disposable;
  /** False from the moment the connection is lost until it is back. What is published meanwhile would go out later, unseen. */
  readonly connected: boolean;
  /** Throws nats-unavailable while there is no connection. */
  assertConnected(): void;
}

/** The servers' addresses, for people: without credentials. */
export function serversOf({ servers }: Pick<Config['nats'], 'servers'>): string {
  return servers.map((server) => server.replace(/\/\/[^@/]*@/, '//')).join(', ');
}

/** The first version with all that the later features stand on; tests pin 2.15.1. */
export const oldestServer = [2, 14] as const;
const requestTimeoutMs = 5000;

/**
 * Connects, and gates on the server's version. Throws nats-unavailable or nats-unfit, naming the servers, never the credentials.
 * `timeoutMs`: how long it may take, the client's 20 s unless told.
 */
export async function connectNats(config: Config['nats'], name: string, log: Log, timeoutMs?: number): Promise<Nats> {
  const servers = serversOf(config);
  let connection: NatsConnection;
  try {
    connection = await connect({
      ...connectionOptions(config, name),
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
  let connected = true;
  const asking = new Asking(connection, config.inboxPrefix);
  const back = new Set<() => void>();
  const watching = (async () => {
    for await (const status of connection.status()) {
      if (status.type === 'disconnect') {
        connected = false;
        asking.lost();
      }
      if (status.type === 'reconnect') {
        connected = true;
        for (const run of back) run();
      }
      if (status.type === 'error') asking.refused(status.error);
      if (['disconnect', 'reconnect', 'error', 'slowConsumer', 'staleConnection'].includes(status.type)) {
        log.warn('nats', { status: status.type, servers, ...(status.type === 'error' && { error: status.error }) });
      }
    }
    connected = false;
    asking.lost();
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
      return connected;
    },
    assertConnected() {
      if (!connected) throw new LxstowError('nats-unavailable', `NATS at ${servers} cannot be reached`);
    },
    async [Symbol.asyncDispose]() {
      asking.flush();
      await connection.close();
      await watching;
    },
  };
}

function connectionOptions(config: Config['nats'], name: string): NodeConnectionOptions {
  const { user, password, token, credentials, nkey, ca, certificate, key, inboxPrefix, tlsFirst } = config;
  const tls = {
    ...(ca ? { ca: readText(ca, 'nats.ca') } : {}),
    ...(certificate ? { cert: readText(certificate, 'nats.certificate') } : {}),
    ...(key ? { key: readText(key, 'nats.key') } : {}),
    ...(tlsFirst ? { handshakeFirst: true } : {}),
  };
  return {
    servers: config.servers,
    name,
    ...(inboxPrefix ? { inboxPrefix } : {}),
    // Each request would have two stacks taken beforehand, in case that it fails.
    noAsyncTraces: true,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 500,
    pingInterval: 10_000,
    maxPingOut: 2,
    ...(user ? { user, pass: password ?? '' } : {}),
    ...(token ? { token } : {}),
    ...(credentials
      ? { authenticator: credsAuthenticator(new TextEncoder().encode(readText(credentials, 'nats.credentials'))) }
      : {}),
    ...(nkey ? { authenticator: nkeyAuthenticator(new TextEncoder().encode(readText(nkey, 'nats.nkey').trim())) } : {}),
    ...(Object.keys(tls).length > 0 ? { tls } : {}),
  };
}

/** The server's own error code (10071, …), where it answered with one. */
export function apiCode(error: unknown): number | undefined {
  return error instanceof JetStreamApiError ? error.code : undefined;
}

/** Which right this user lacks, where that is the error. */
export function violationOf(error: unknown): PermissionViolationError | undefined {
  for (let each = error; each instanceof Error; each = each.cause)
    if (each instanceof PermissionViolationError) return each;
  return undefined;
}

/** True where no JetStream was there to hear it: nothing came of it. */
export function nobodyHeard(error: unknown): boolean {
  return error instanceof NoRespondersError || (error as Error).name === 'JetStreamNotEnabled';
}

/** A failed call to NATS in our words: the server refused, or it could not be reached or did not answer in time. */
export function natsFailure(error: unknown, what: string): LxstowError {
  if (error instanceof LxstowError) return error;
  const code = apiCode(error);
  if (code === 10077 || code === 10023 || code === 10047) {
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
  if (violationOf(error))
    return new LxstowError('nats-unfit', `${what}: ${(error as Error).message}`, { cause: error });
  return new LxstowError('nats-unavailable', `${what}: NATS: ${(error as Error).message || (error as Error).name}`, {
    cause: error,
  });
}
