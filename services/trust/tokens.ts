/** Tokens as LXD's clients take them: base64 of JSON, with a secret that only the client keeps. */
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import type { TrustToken } from '../contract.ts';
import { LxstowError } from '../errors.ts';
import type { Grant } from './certificates.ts';

/** Where a client finds a gateway, and by what it knows it. */
export interface GatewayPlace {
  fingerprint: string;
  /** host:port */
  addresses: string[];
}

const longestDays = 366;

/** A new token, to be stored, and its secret, to be told once. */
export function newToken(
  name: string,
  grant: Grant,
  { fingerprint, addresses }: GatewayPlace,
  expires: Date,
): { token: TrustToken; secret: string } {
  const now = Date.now();
  if (!(expires.getTime() > now)) throw new LxstowError('bad-request', 'the token would have expired already');
  if (expires.getTime() > now + longestDays * 86_400_000)
    throw new LxstowError('bad-request', `a token cannot be used for more than ${longestDays} days`);
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

/** What the client is given. */
export function encodeToken({ name, fingerprint, addresses, expires_at }: TrustToken, secret: string): string {
  const content = { client_name: name, fingerprint, addresses, secret, expires_at };
  return Buffer.from(JSON.stringify(content)).toString('base64');
}

/** The secret, and the expiry as the token itself has it; undefined for what is no token. */
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

/** What is kept of a secret. It is random and long: no salt, no stretching. */
export function secretHash(secret: string): string {
  return createHash('sha256').update(secret).digest('hex');
}
