/** The bucket lxstow_trust: trusted certificates, tokens, and addresses of gateways. Every change is a compare-and-set. */
import { Kvm, KvWatchInclude } from '@nats-io/kv';
import { LxstowError } from '../contract/errors.ts';
import { check, type TrustedCertificate, type TrustToken } from '../contract/schemas.ts';
import { Bucket, type Entry, parseRecord } from '../nats/bucket.ts';
import { certificateKey, gatewayKey, gatewayKeys, tokenKey } from '../nats/bucketKeys.ts';
import type { Nats } from '../nats/connection.ts';
import { natsFailure } from '../nats/failures.ts';
import { trustBucket } from '../nats/streams.ts';
import type { Log } from '../telemetry/logger.ts';
import { type GatewayPlace, secretHash } from './tokens.ts';

export interface StoredCertificate {
  certificate: TrustedCertificate;
  revision: number;
}

/** A gateway that has not announced itself for this long is forgotten. */
const gatewayKeptMs = 7 * 86_400_000;

export class TrustStore {
  readonly #nats: Nats;
  readonly #bucket: Bucket;
  readonly #log: Log;

  /** `patienceMs`: see Bucket. */
  constructor(nats: Nats, log: Log, patienceMs?: number) {
    this.#nats = nats;
    this.#log = log;
    this.#bucket = new Bucket(nats, trustBucket, patienceMs);
  }

  async certificates(): Promise<StoredCertificate[]> {
    const entries = await this.#bucket.entries(certificateKey('*'));
    return entries.flatMap((entry) => this.#readCertificate(entry) ?? []);
  }

  async certificate(fingerprint: string): Promise<StoredCertificate | undefined> {
    const { entry } = await this.#bucket.get(certificateKey(fingerprint));
    return entry && this.#readCertificate(entry);
  }

  /** Finds the certificate whose fingerprint begins with `prefix`, as LXD does. Throws not-found, or bad-request when several match. */
  async find(prefix: string): Promise<StoredCertificate> {
    const found = /^[0-9a-f]{64}$/.test(prefix)
      ? [await this.certificate(prefix)].flatMap((one) => one ?? [])
      : (await this.certificates()).filter(
          ({ certificate }) => prefix !== '' && certificate.fingerprint.startsWith(prefix),
        );
    const [one, another] = found;
    if (another) throw new LxstowError('bad-request', 'More than one certificate matches');
    if (!one) throw new LxstowError('not-found', 'Certificate not found');
    return one;
  }

  /** Adds a certificate. Throws conflict, in LXD's words, when it is already there. */
  async add(certificate: TrustedCertificate): Promise<StoredCertificate> {
    const revision = await this.#bucket.create(certificateKey(certificate.fingerprint), JSON.stringify(certificate));
    if (revision === undefined) throw new LxstowError('conflict', 'Certificate already in trust store');
    return { certificate, revision };
  }

  /** Replaces this revision; undefined when it is no longer the last. */
  async update(certificate: TrustedCertificate, revision: number): Promise<StoredCertificate | undefined> {
    const next = await this.#bucket.put(certificateKey(certificate.fingerprint), JSON.stringify(certificate), revision);
    return next === undefined ? undefined : { certificate, revision: next };
  }

  /** Removes a certificate, whatever its revision. */
  async remove(fingerprint: string): Promise<void> {
    await this.#removeKey(certificateKey(fingerprint));
  }

  async addToken(token: TrustToken, secret: string): Promise<void> {
    const ttlMs = Date.parse(token.expires_at) - Date.now();
    await this.#bucket.create(tokenKey(token.id, secretHash(secret)), JSON.stringify(token), {
      ttlMs: Math.max(ttlMs, 1000),
    });
  }

  /** The tokens that have not expired. */
  async tokens(): Promise<TrustToken[]> {
    return (await this.#bucket.entries(tokenKey('*', '*'))).flatMap((entry) => this.#readToken(entry) ?? []);
  }

  async token(id: string): Promise<TrustToken | undefined> {
    const { entry } = await this.#bucket.get(tokenKey(id, '*'));
    return entry && this.#readToken(entry);
  }

  /** Removes and returns the token with this secret; only one caller gets it. Undefined when there is none. */
  async redeem(secret: string): Promise<TrustToken | undefined> {
    const { entry } = await this.#bucket.get(tokenKey('*', secretHash(secret)));
    const token = entry && this.#readToken(entry);
    if (!token || !(await this.#bucket.remove(entry.key, entry.revision))) return undefined;
    return token;
  }

  /** Removes a token; returns whether there was one. */
  async removeToken(id: string): Promise<boolean> {
    const { entry } = await this.#bucket.get(tokenKey(id, '*'));
    return entry !== undefined && (await this.#bucket.remove(entry.key, entry.revision));
  }

  /** Records where a gateway is, for the tokens that the command line makes. */
  async announce(place: GatewayPlace): Promise<void> {
    const key = gatewayKey(place.fingerprint, place.addresses[0] ?? '');
    const { revision } = await this.#bucket.get(key);
    // If this write loses a race, the winner has written the same.
    await this.#bucket.put(key, JSON.stringify(place), revision, { ttlMs: gatewayKeptMs });
  }

  /** The gateways, one per server certificate, last seen first. An address belongs to the gateway that was last seen there. */
  async gateways(): Promise<GatewayPlace[]> {
    const entries = (await this.#bucket.entries(gatewayKeys)).sort((a, b) => b.written.getTime() - a.written.getTime());
    const taken = new Set<string>();
    const places = new Map<string, GatewayPlace>();
    for (const { value } of entries) {
      const { fingerprint, addresses } = parseRecord<GatewayPlace>(value);
      const place = places.get(fingerprint) ?? { fingerprint, addresses: [] };
      place.addresses.push(...addresses.filter((address) => !taken.has(address)));
      if (place.addresses.length > 0) places.set(fingerprint, place);
      for (const address of addresses) taken.add(address);
    }
    return [...places.values()];
  }

  /** The revision of the bucket's last change of any kind. */
  async lastRevision(): Promise<number> {
    try {
      this.#nats.assertConnected();
      return (await this.#nats.jsm.streams.info(`KV_${trustBucket}`)).state.last_seq;
    } catch (error) {
      throw natsFailure(error, `reading ${trustBucket}`);
    }
  }

  /** Calls `see` with the key and revision of each change from now on, until the signal aborts or the watch ends. */
  async watch(see: (key: string, revision: number) => void, signal: AbortSignal): Promise<void> {
    const kv = await new Kvm(this.#nats.js).open(trustBucket, { allow_direct: true });
    const watch = await kv.watch({ include: KvWatchInclude.UpdatesOnly, headers_only: true });
    const end = () => watch.stop();
    signal.addEventListener('abort', end, { once: true });
    if (signal.aborted) watch.stop();
    try {
      for await (const { key, revision } of watch) see(key, revision);
    } finally {
      signal.removeEventListener('abort', end);
    }
  }

  /** Logs an error and returns undefined for an entry that does not match its schema: such an entry grants no trust. */
  #readCertificate({ key, value, revision }: Entry): StoredCertificate | undefined {
    try {
      const certificate = check('trusted-certificate.json', parseRecord(value), key, 'bad-message');
      if (certificateKey(certificate.fingerprint) !== key) throw new Error('it is under the wrong key');
      return { certificate, revision };
    } catch (error) {
      this.#log.error('trust entry cannot be read', { key, error });
      return undefined;
    }
  }

  #readToken({ key, value }: Entry): TrustToken | undefined {
    try {
      const token = check('trust-token.json', parseRecord(value), 'token', 'bad-message');
      return Date.parse(token.expires_at) > Date.now() ? token : undefined;
    } catch (error) {
      this.#log.error('trust token cannot be read', { key: key.split('.').slice(0, 2).join('.'), error });
      return undefined;
    }
  }

  async #removeKey(key: string): Promise<void> {
    for (;;) {
      const { entry, revision } = await this.#bucket.get(key);
      if (!entry || (await this.#bucket.remove(key, revision))) return;
    }
  }
}
