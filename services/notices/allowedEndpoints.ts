/** Where notices may go: which endpoints a request may name, and which addresses these must not resolve to. */

import { BlockList, isIP } from 'node:net';
import { LxstowError } from '../contract/errors.ts';
import { withoutBrackets } from '../contract/hosts.ts';
import type { Config } from '../contract/schemas.ts';

/** An endpoint for logs and people: its origin only, because path and query are often secret. */
export function shown(endpoint: string): string {
  return URL.canParse(endpoint) ? new URL(endpoint).origin : '(no URL)';
}

/**
 * Why a request may not name this endpoint; undefined when it may. A host name is resolved only when the endpoint is called: `isOwn` then
 * checks its addresses, unless an admin has listed the endpoint.
 */
export function refusalOf(endpoint: string, config: Config['notify']): string | undefined {
  if (!config.requests) return 'requests may not name a webhook (notify.requests)';
  if (!URL.canParse(endpoint)) return 'the endpoint is no URL';
  const url = new URL(endpoint);
  if (isListed(url, config)) return undefined;
  if (config.allowed.length > 0) return `${url.origin} is not allowed by notify.allowed`;
  const host = hostOf(url);
  const named = host === 'localhost' || host.endsWith('.localhost');
  if (named || (isIP(host) !== 0 && isOwn(host))) return ownAddress(host);
  return undefined;
}

/** Throws forbidden for a field with an endpoint that requests may not name. The error does not contain it. */
export function checkEndpoints(given: { notifyEndpoint?: string; ping?: string }, config: Config['notify']): void {
  for (const field of ['notifyEndpoint', 'ping'] as const) {
    const endpoint = given[field];
    const refusal = endpoint === undefined ? undefined : refusalOf(endpoint, config);
    if (refusal !== undefined) throw new LxstowError('forbidden', `${field}: ${refusal}`);
  }
}

/** True when `notify.allowed` has a URL with the same scheme, host and port, and the same path or one above. */
export function isListed(url: URL, { allowed }: Pick<Config['notify'], 'allowed'>): boolean {
  return allowed.some((text) => {
    const { origin, pathname } = new URL(text);
    return url.origin === origin && `${url.pathname}/`.startsWith(pathname.replace(/\/?$/, '/'));
  });
}

/** The host in the form that sockets take: an IPv6 address has no brackets. */
export function hostOf({ hostname }: URL): string {
  return withoutBrackets(hostname);
}

/** True for addresses that are not public: this host, link-local ones (cloud metadata), private networks, and addresses that translate to these. */
export function isOwn(address: string): boolean {
  return own.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4');
}

export function ownAddress(host: string): string {
  return `${host} is this host or in a private network: requests may name it only if notify.allowed lists it`;
}

const own = new BlockList();
// From IANA's special-purpose registries: addresses that are not globally reachable.
for (const [net, prefix] of [
  ['0.0.0.0', 8],
  ['10.0.0.0', 8],
  ['100.64.0.0', 10],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
  ['172.16.0.0', 12],
  ['192.0.0.0', 24],
  ['192.168.0.0', 16],
  ['198.18.0.0', 15],
  ['224.0.0.0', 3],
] as const)
  own.addSubnet(net, prefix, 'ipv4');
for (const [net, prefix] of [
  // ::, ::1, and the rest, which embeds an IPv4 address, as translated addresses, NAT64, Teredo and 6to4 do.
  ['::', 96],
  ['::ffff:0:0:0', 96],
  ['64:ff9b::', 96],
  ['64:ff9b:1::', 48],
  ['2001::', 32],
  ['2002::', 16],
  ['fc00::', 7],
  ['fe80::', 9],
  ['ff00::', 8],
] as const)
  own.addSubnet(net, prefix, 'ipv6');
