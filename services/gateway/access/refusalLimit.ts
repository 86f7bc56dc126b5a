/** Leaky bucket of refusals by address. It limits guessing, and the cost of clients that are not trusted. */

/** A wrong token costs more than a call without trust. */
export const wrongTokenWeight = 10;
/** How many addresses are remembered. When there are more, the one whose last refusal is oldest is forgotten. */
const mostAddresses = 10_000;

export class RefusalLimit {
  readonly #perMinute: number;
  readonly #addresses = new Map<string, { level: number; at: number }>();

  constructor(perMinute: number) {
    this.#perMinute = perMinute;
  }

  count(address: string, weight = 1, now = performance.now()): void {
    const key = network(address);
    const level = Math.min(this.#level(key, now) + weight, this.#perMinute + wrongTokenWeight);
    this.#addresses.delete(key);
    this.#addresses.set(key, { level, at: now });
    if (this.#addresses.size > mostAddresses) {
      const [quietest] = this.#addresses.keys();
      if (quietest !== undefined) this.#addresses.delete(quietest);
    }
  }

  /** Seconds until requests from the address are accepted again; undefined if they are accepted now. */
  over(address: string, now = performance.now()): number | undefined {
    const above = this.#level(network(address), now) - this.#perMinute;
    return above < 0 ? undefined : Math.max(1, Math.ceil(((above + 1) * 60) / this.#perMinute));
  }

  #level(key: string, now: number): number {
    const known = this.#addresses.get(key);
    return known ? Math.max(0, known.level - ((now - known.at) / 60_000) * this.#perMinute) : 0;
  }
}

/** An IPv4 address, or the /64 of an IPv6 address, which usually belongs to one host. */
function network(address: string): string {
  const v4 = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  if (v4 !== undefined || !address.includes(':')) return v4 ?? address;
  const [head = '', tail = ''] = address.replace(/%.*$/, '').split('::', 2);
  const [front, back] = [head, tail].map((half) => (half === '' ? [] : half.split(':'))) as [string[], string[]];
  const zeros = Array.from({ length: Math.max(0, 8 - front.length - back.length) }, () => '0');
  return [...front, ...(address.includes('::') ? zeros : []), ...back].slice(0, 4).join(':').toLowerCase();
}
