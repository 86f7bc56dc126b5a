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
import { isCode } from '../contract/errors.ts';
import type { Config } from '../contract/schemas.ts';

/** Options of a connection with these settings; `current` reads them again for each login. Throws bad-config. */
export function connectionOptions(
  config: Config['nats'],
  name: string,
  current: () => Config['nats'],
): NodeConnectionOptions {
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
