/** Sends one request to a webhook. Time, answer and addresses are limited, redirects are not followed, and only the answer's head counts. */
import { lookup as resolve } from 'node:dns';
import http, { type IncomingMessage } from 'node:http';
import https from 'node:https';
import { isIP, type LookupFunction } from 'node:net';
import { hostOf, isOwn, ownAddress } from './allowedEndpoints.ts';

interface PostOptions {
  /** POST without it. */
  method?: 'GET' | 'POST';
  headers: Record<string, string>;
  body: string;
  /** CAs in PEM, instead of the system's. */
  ca?: string | undefined;
  timeoutMs: number;
  /** Whether the webhook may be at this host or in a private network. */
  mayBeOwn: boolean;
  /** Aborts the request; `post` then throws the signal's reason. */
  signal: AbortSignal;
}

/** `later`: another try may help. `afterMs`: the delay that the webhook asks for. */
export type Answer =
  | { is: 'taken'; status: number }
  | { is: 'later'; why: string; afterMs?: number }
  | { is: 'refused'; why: string };

/** A longer answer is cut off: its body is not used. */
const answerBytes = 64 * 1024;

export async function post(url: URL, options: PostOptions): Promise<Answer> {
  const { timeoutMs, mayBeOwn, signal } = options;
  const host = hostOf(url);
  if (!mayBeOwn && isIP(host) !== 0 && isOwn(host)) return { is: 'refused', why: ownAddress(host) };
  const late = AbortSignal.timeout(timeoutMs);
  try {
    const response = await send(url, options, AbortSignal.any([signal, late]));
    // A webhook may send its status while it still works: read the answer to its end, within the same time limit.
    await heard(response);
    return judge(response);
  } catch (error) {
    signal.throwIfAborted();
    if (late.aborted) return { is: 'later', why: `no answer in ${timeoutMs} ms` };
    if (error instanceof OwnAddress) return { is: 'refused', why: error.message };
    return { is: 'later', why: (error as Error).message || (error as Error).name };
  }
}

function send(
  url: URL,
  { method, headers, body, ca, mayBeOwn }: PostOptions,
  signal: AbortSignal,
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const secure = url.protocol === 'https:';
    const request = (secure ? https : http).request(url, {
      method,
      headers: { ...headers, 'content-length': Buffer.byteLength(body) },
      // A new connection: an old one may lead to an address that the name no longer has.
      agent: false,
      signal,
      ...(mayBeOwn ? {} : { lookup: elsewhere }),
      ...(secure && ca !== undefined ? { ca } : {}),
    });
    request.once('response', resolve);
    request.once('error', reject);
    request.end(body);
  });
}

/** Resolves when the answer has ended, broke off, or is too long: only its status counts. */
function heard(response: IncomingMessage): Promise<void> {
  return new Promise((resolve) => {
    let bytes = 0;
    response.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > answerBytes) response.destroy();
    });
    response.once('error', () => resolve());
    response.once('close', resolve);
  });
}

function judge({ statusCode: status = 0, headers }: IncomingMessage): Answer {
  if (status >= 200 && status < 300) return { is: 'taken', status };
  const why = `it answered ${status}`;
  if (status >= 300 && status < 400) return { is: 'refused', why: `${why}: redirects are not followed` };
  if (status >= 400 && status < 500 && status !== 408 && status !== 429) return { is: 'refused', why };
  const seconds = Number(headers['retry-after']);
  return { is: 'later', why, ...(seconds > 0 && { afterMs: seconds * 1000 }) };
}

class OwnAddress extends Error {}

/** Resolves a name, and fails if one of its addresses is not public. Done in the lookup, so that the checked address is the one connected to. */
const elsewhere: LookupFunction = (hostname, options, callback) => {
  resolve(hostname, { ...options, all: true }, (error, addresses) => {
    const found = addresses?.find(({ address }) => isOwn(address));
    if (error || found) return callback(error ?? new OwnAddress(ownAddress(`${hostname} (${found?.address})`)), []);
    if (options.all) return callback(null, addresses);
    const [first] = addresses;
    callback(null, first?.address ?? '', first?.family);
  });
};
