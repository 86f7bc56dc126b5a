/** Hosts in URLs. */

/** The host without the brackets that an IPv6 address has in a URL. */
export function withoutBrackets(host: string): string {
  return host.replace(/^\[|\]$/g, '');
}

/** The port of an https URL of LXD or of a gateway: 8443 if it names none. URL itself drops 443. */
export function portOf(url: string): number {
  return Number(new URL(url).port || (/^https:\/\/[^/?#]*:443(?:[/?#]|$)/i.test(url) ? 443 : 8443));
}
