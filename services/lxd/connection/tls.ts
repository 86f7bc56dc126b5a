/** TLS options for LXD over HTTPS: the worker's certificate, and LXD's own, which is self-signed. */
import type https from 'node:https';
import { readText } from '../../contract/config.ts';
import type { RemoteConfig } from '../../contract/schemas.ts';

/** Throws bad-config for a file that cannot be read. */
export function tlsOf(remote: string, { certificate, key, serverCertificate }: RemoteConfig): https.AgentOptions {
  return {
    ...(certificate ? { cert: readText(certificate, `remotes.${remote}.certificate`) } : {}),
    ...(key ? { key: readText(key, `remotes.${remote}.key`) } : {}),
    ...(serverCertificate ? pinned(readText(serverCertificate, `remotes.${remote}.serverCertificate`)) : {}),
  };
}

/** The configured certificate is the only CA, and its name is not checked. */
function pinned(ca: string): https.AgentOptions {
  return { ca, checkServerIdentity: () => undefined };
}
