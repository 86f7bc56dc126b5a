/** Tokens in the format of LXD's clients: base64 of JSON, with a secret that only the client keeps. */
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { LxstowError } from '../contract/errors.ts';
import type { TrustToken } from '../contract/schemas.ts';
import type { Grant } from './certificates.ts';

/** The addresses of a gateway, and the fingerprint by which a client recognises it. */
export interface GatewayPlace {
  fingerprint: string;
  /** host:port */
  addresses: string[];
}

const longestDays = 366;

/** Makes a token, to be stored, and its secret, to be shown once. Throws bad-request for an expiry in the past or over 366 days ahead. */
export function newToken(
  name: string,
  grant: Grant,
  { fingerprint, addresses }: GatewayPlace,
  expires: Date,
): { token: TrustToken; secret: string } {
  const now = Date.now();
  if (!(expires.getTime() > now)) throw new LxstowError('bad-request', 'the token would have expired already');
  if (expires.getTime() > now + longestDays * 86_400_000)
    throw new LxstowError('bad-request', `a token is valid for at most ${longestDays} days`);
  const token = {
    id: randomUUID(),
    name,
    ...grant,
    fingerprint,
    addresses,
    created_at: new Date(now).toISOString(),
    expires_at: expires.toISOString(),
  };
  return { token, secret: randomBytes(32).toString('hex') };
}

export function encodeToken({ name, fingerprint, addresses, expires_at }: TrustToken, secret: string): string {
  const content = { client_name: name, fingerprint, addresses, secret, expires_at };
  return Buffer.from(JSON.stringify(content)).toString('base64');
}

/** Reads the secret, and the expiry that the token itself states; undefined for text that is not a token. */
export function decodeToken(text: string): { secret: string; expires: Date | undefined } | undefined {
  try {
    const { secret, expires_at } = JSON.parse(Buffer.from(text, 'base64').toString()) as Record<string, unknown>;
    if (typeof secret !== 'string' || secret === '') return undefined;
    const expires = new Date(typeof expires_at === 'string' ? expires_at : Number.NaN);
    return { secret, expires: Number.isNaN(expires.getTime()) ? undefined : expires };
  } catch {
    return undefined;
  }
}

/** The stored hash of a secret. Secrets are random and long, so it needs no salt and no stretching. */
export function secretHash(secret: string): string {
  return createHash('sha256').update(secret).digest('hex');
}
