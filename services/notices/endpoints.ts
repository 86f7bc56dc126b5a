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

/** What is only reached from this host, with its rights: itself, and the cloud's metadata at a link-local address. */
export function isOwn(address: string): boolean {
  return own.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4');
}

export function ownAddress(host: string): string {
  return `${host} is this host itself, or link-local: only notify.allowed lets requests name it`;
}

const own = new BlockList();
for (const [net, prefix] of [
  ['0.0.0.0', 8],
  ['127.0.0.0', 8],
  ['169.254.0.0', 16],
] as const)
  own.addSubnet(net, prefix, 'ipv4');
for (const [net, prefix] of [
  ['::', 127],
  ['fe80::', 10],
  ['fd00:ec2::', 32],
] as const)
  own.addSubnet(net, prefix, 'ipv6');
