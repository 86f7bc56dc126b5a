/** A token as LXD shows it: an operation of its own class, which runs until the token is used. */
import type { TrustToken } from '../../contract/schemas.ts';

/** `secret` is given only in the answer to the request that made the token; the secret itself is not stored. */
export function tokenOperation(token: TrustToken, secret = '') {
  const { id, name, role, restricted, projects, fingerprint, addresses, created_at, expires_at } = token;
  return {
    id,
    class: 'token',
    description: 'Certificate add token',
    created_at,
    updated_at: created_at,
    status: 'Running',
    status_code: 103,
    resources: {},
    metadata: {
      request: { name, type: 'client', certificate: '', token: true, role, restricted, projects },
      secret,
      fingerprint,
      addresses,
      expiresAt: expires_at,
    },
    may_cancel: true,
    err: '',
    location: 'none',
  };
}
