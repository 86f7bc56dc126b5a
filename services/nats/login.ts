/** How lxstow connects and logs in to NATS. */
import {
  type Authenticator,
  credsAuthenticator,
  type NodeConnectionOptions,
  nkeyAuthenticator,
  tokenAuthenticator,
  usernamePasswordAuthenticator,
} from '@nats-io/transport-node';
import { readText } from '../contract/config.ts';
import { LxstowError } from '../contract/errors.ts';
import type { Config } from '../contract/schemas.ts';

/** Options of a connection with these settings; `current` reads them again for each login. Throws bad-config. */
export function connectionOptions(
  config: Config['nats'],
  name: string,
  current: () => Config['nats'],
): NodeConnectionOptions {
  const { ca, certificate, key, inboxPrefix, tlsFirst } = config;
  // The client would take a password for a port.
  if (config.servers.some((server) => server.includes('@')))
    throw new LxstowError(
      'bad-config',
      'nats.servers: addresses only; give the user and password as nats.user and nats.password',
    );
  const authenticator = authenticatorOf(current);
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
    authenticator,
    ...(Object.keys(tls).length > 0 ? { tls } : {}),
  };
}

/**
 * Returns an authenticator that reads the configuration and its files at each login. While they cannot be used, for example because they are being written, it
 * logs in as before, because an authenticator that throws would end the connection for good. Throws bad-config the first time.
 */
function authenticatorOf(current: () => Config['nats']): Authenticator {
  let last = loginOf(current());
  return (nonce) => {
    try {
      const login = loginOf(current());
      const answer = login(nonce);
      last = login;
      return answer;
    } catch {
      return last(nonce);
    }
  };
}

function loginOf({ credentials, nkey, token, user, password }: Config['nats']): Authenticator {
  if (credentials) return fromFile('nats.credentials', credentials, credsAuthenticator);
  if (nkey) return fromFile('nats.nkey', nkey, nkeyAuthenticator);
  if (token) return tokenAuthenticator(token);
  return user ? usernamePasswordAuthenticator(user, password) : () => undefined;
}

/** Throws bad-config if the file cannot be read, or contains something else. */
function fromFile(name: string, path: string, make: (content: Uint8Array) => Authenticator): Authenticator {
  const text = readText(path, name).trim();
  // A .creds file must end with a line break, a seed must not.
  const login = make(new TextEncoder().encode(name === 'nats.credentials' ? `${text}\n` : text));
  try {
    login();
  } catch (cause) {
    throw new LxstowError('bad-config', `${name}: ${path} is not what it should be: ${(cause as Error).message}`, {
      cause,
    });
  }
  return login;
}
