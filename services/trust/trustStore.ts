/** The bucket lxstow_trust: trusted certificates, tokens, and addresses of gateways. Every change is a compare-and-set. */
import { addAbortListener } from 'node:events';
import { Kvm, KvWatchInclude } from '@nats-io/kv';
import { LxstowError } from '../contract/errors.ts';
import {
  check,
  faultsOf,
  type Requestor,
  type TrustEnd,
  type TrustedCertificate,
  type TrustToken,
} from '../contract/schemas.ts';
import { Bucket, type Entry, parseRecord } from '../nats/bucket/bucket.ts';
import { certificateKey, gatewayKey, gatewayKeys, tokenKey } from '../nats/bucketKeys.ts';
import type { Nats } from '../nats/connection.ts';
import { trustBucket } from '../nats/streams.ts';
import type { Log } from '../telemetry/logger.ts';
import { type GatewayPlace, secretHash } from './tokens.ts';

export interface StoredCertificate {
  certificate: TrustedCertificate;
  revision: number;
}

/** A gateway that has not announced itself for this long is forgotten. */
const gatewayKeptMs = 7 * 86_400_000;
/** How much longer than a token its end is kept: clocks differ by less than this. */
const endKeptMs = 86_400_000;

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
    const key = certificateKey(certificate.fingerprint);
    const { entry, revision: before } = await this.#bucket.get(key);
    const revision =
      entry && !endOf(entry) ? undefined : await this.#bucket.put(key, JSON.stringify(certificate), before);
    if (revision === undefined) throw new LxstowError('conflict', 'Certificate already in trust store');
    return { certificate, revision };
  }

  /** Replaces this revision; undefined when it is no longer the last. */
  async update(certificate: TrustedCertificate, revision: number): Promise<StoredCertificate | undefined> {
    const next = await this.#bucket.put(certificateKey(certificate.fingerprint), JSON.stringify(certificate), revision);
    return next === undefined ? undefined : { certificate, revision: next };
  }

  /** Revokes a certificate, whatever its revision. The record of that stays for good, as NATS may restore a key that was removed. */
  async revoke({ fingerprint, name }: TrustedCertificate, by: Requestor): Promise<void> {
    const key = certificateKey(fingerprint);
    const end = JSON.stringify(trustEnd('revoked', name, by));
    for (;;) {
      const { entry, revision } = await this.#bucket.get(key);
      if (!entry || endOf(entry) || (await this.#bucket.put(key, end, revision)) !== undefined) return;
    }
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

  /** Uses up and returns the token with this secret; only one caller gets it. Undefined if there is none. */
  redeem(secret: string, by: Requestor): Promise<TrustToken | undefined> {
    return this.#endToken(tokenKey('*', secretHash(secret)), 'used', by);
  }

  /** Revokes a token; returns whether there was one. */
  async revokeToken(id: string, by: Requestor): Promise<boolean> {
    return (await this.#endToken(tokenKey(id, '*'), 'revoked', by)) !== undefined;
  }

  /** Writes the end over the token. It stays for longer than the token would be valid. */
  async #endToken(filter: string, state: TrustEnd['state'], by: Requestor): Promise<TrustToken | undefined> {
    const { entry } = await this.#bucket.get(filter);
    const token = entry && this.#readToken(entry);
    if (!token) return undefined;
    const ttlMs = Date.parse(token.expires_at) - Date.now() + endKeptMs;
    const end = JSON.stringify(trustEnd(state, token.name, by));
    return (await this.#bucket.put(entry.key, end, entry.revision, { ttlMs })) === undefined ? undefined : token;
  }

  /** Records the addresses of a gateway, for the tokens that the command line makes. */
  async announce(place: GatewayPlace): Promise<void> {
    const key = gatewayKey(place.fingerprint, place.addresses[0] ?? '');
    const { revision } = await this.#bucket.get(key);
    // If this write loses a race, the winner has written the same.
    await this.#bucket.put(key, JSON.stringify(place), revision, { ttlMs: gatewayKeptMs });
  }

  /** The gateways, one per server certificate, last seen first. An address belongs to the gateway that was last seen there. */
  async gateways(): Promise<GatewayPlace[]> {
    const since = Date.now() - gatewayKeptMs;
    const entries = (await this.#bucket.entries(gatewayKeys))
      .filter(({ written }) => written.getTime() > since)
      .sort((a, b) => b.written.getTime() - a.written.getTime());
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
    const ask = () => this.#nats.jsm.streams.info(`KV_${trustBucket}`);
    return (await this.#nats.ask(`reading ${trustBucket}`, ask)).state.last_seq;
  }

  /** Calls `see` with the key and revision of each change from now on, until the signal aborts or the watch ends. */
  async watch(see: (key: string, revision: number) => void, signal: AbortSignal): Promise<void> {
    const kv = await new Kvm(this.#nats.js).open(trustBucket, { allow_direct: true });
    const watch = await kv.watch({ include: KvWatchInclude.UpdatesOnly, headers_only: true });
    using _listener = addAbortListener(signal, () => watch.stop());
    for await (const { key, revision } of watch) see(key, revision);
  }

  /** Logs an error and returns undefined for an entry that does not match its schema: such an entry grants no trust. */
  #readCertificate(entry: Entry): StoredCertificate | undefined {
    const { key, value, revision } = entry;
    if (endOf(entry)) return undefined;
    try {
      const certificate = check('trusted-certificate.json', parseRecord(value), key, 'bad-message');
      if (certificateKey(certificate.fingerprint) !== key) throw new Error('it is under the wrong key');
      return { certificate, revision };
    } catch (error) {
      this.#log.error('trust entry cannot be read', { key, error });
      return undefined;
    }
  }

  #readToken(entry: Entry): TrustToken | undefined {
    const { key, value } = entry;
    if (endOf(entry)) return undefined;
    try {
      const token = check('trust-token.json', parseRecord(value), 'token', 'bad-message');
      return Date.parse(token.expires_at) > Date.now() ? token : undefined;
    } catch (error) {
      this.#log.error('trust token cannot be read', { key: key.split('.').slice(0, 2).join('.'), error });
      return undefined;
    }
  }
}

function trustEnd(state: TrustEnd['state'], name: string, by: Requestor): TrustEnd {
  return { state, name, at: new Date().toISOString(), by };
}

/** The end of a certificate's or a token's trust; undefined for any other entry. */
export function endOf({ value }: Pick<Entry, 'value'>): TrustEnd | undefined {
  let record: unknown;
  try {
    record = parseRecord(value);
  } catch {
    return undefined;
  }
  return faultsOf('trust-end.json', record).length === 0 ? (record as TrustEnd) : undefined;
}
