/** Signatures by https://www.standardwebhooks.com, version 1: HMAC-SHA256 of id, time and body. Pure. */
import { createHmac } from 'node:crypto';

interface Signed {
  id: string;
  /** Time of sending. */
  time: Date;
  body: string;
}

/** The headers of a request. `secrets`: as in `notify.secret`, separated by spaces; without them there is no signature. */
export function webhookHeaders({ id, time, body }: Signed, secrets: string | undefined): Record<string, string> {
  const timestamp = String(Math.floor(time.getTime() / 1000));
  const headers = { 'webhook-id': id, 'webhook-timestamp': timestamp };
  if (secrets === undefined) return headers;
  const signatures = secrets.split(' ').map((secret) => {
    const key = Buffer.from(secret.replace(/^whsec_/, ''), 'base64');
    return `v1,${createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64')}`;
  });
  return { ...headers, 'webhook-signature': signatures.join(' ') };
}
