/** Where notices may go: which endpoints a request may name, and which addresses none of these may lead to. */
import { BlockList, isIP } from 'node:net';
import type { Config } from '../contract.ts';

/** For logs and people: path and query of an endpoint often are its secret. */
export function shown(endpoint: string): string {
  return URL.canParse(endpoint) ? new URL(endpoint).origin : '(no URL)';
}

/**
 * Why a request may not name this endpoint; undefined when it may. Where its name leads is not known before it is called: then `isOwn` has the
 * last word, unless an admin has listed it.
 */
export function refusalOf(endpoint: string, config: Config['notify']): string | undefined {
  if (!config.requests) return 'requests may not name an endpoint (notify.requests)';
  if (!URL.canParse(endpoint)) return 'the endpoint is no URL';
  const url = new URL(endpoint);
  if (isListed(url, config)) return undefined;
  if (config.allowed.length > 0) return `${url.origin} does not begin as notify.allowed has it`;
  const host = hostOf(url);
  const named = host === 'localhost' || host.endsWith('.localhost');
  if (named || (isIP(host) !== 0 && isOwn(host))) return ownAddress(host);
  return undefined;
}

/** Whether `notify.allowed` has it: the same scheme, host and port, and a path that is that one or below it. */
export function isListed(url: URL, { allowed }: Pick<Config['notify'], 'allowed'>): boolean {
  return allowed.some((text) => {
    const { origin, pathname } = new URL(text);
    return url.origin === origin && `${url.pathname}/`.startsWith(pathname.replace(/\/?$/, '/'));
  });
}

/** The host as sockets take it: an IPv6 address without brackets. */
export function hostOf({ hostname }: URL): string {
  return hostname.replace(/^\[|\]$/g, '');
}

/** What is only reached from here: this host itself, the cloud's metadata at a link-local address, private networks, and what translates to them. */
export function isOwn(address: string): boolean {
  return own.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4');
}

export function ownAddress(host: string): string {
  return `${host} is this host itself or in a private network: only notify.allowed lets requests name it`;
}

const own = new BlockList();
// IANA's special-purpose registries: what is not globally reachable.
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
  ['::', 127],
  // NAT64 and 6to4: an IPv4 address is in it.
  ['64:ff9b::', 96],
  ['64:ff9b:1::', 48],
  ['2002::', 16],
  ['fc00::', 7],
  ['fe80::', 9],
  ['ff00::', 8],
] as const)
  own.addSubnet(net, prefix, 'ipv6');
