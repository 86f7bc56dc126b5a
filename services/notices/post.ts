/** One request to an endpoint, bounded in all: no redirect is followed, and of the answer no more counts than its status. */
import { lookup as resolve } from 'node:dns';
import http, { type IncomingMessage } from 'node:http';
import https from 'node:https';
import { isIP, type LookupFunction } from 'node:net';
import { hostOf, isOwn, ownAddress } from './endpoints.ts';

export interface PostOptions {
  headers: Record<string, string>;
  body: string;
  /** PEM: CAs in the place of the system's. */
  ca?: string | undefined;
  timeoutMs: number;
  /** Whether it may lead to this host's own addresses and into private networks. */
  mayBeOwn: boolean;
  /** Aborts when nobody waits for it any more: then it throws its reason. */
  signal: AbortSignal;
}

/** `later`: another try may help. `afterMs`: the endpoint asks for so much patience. */
export type Answer =
  | { is: 'taken'; status: number }
  | { is: 'later'; why: string; afterMs?: number }
  | { is: 'refused'; why: string };

/** Endpoints have nothing to say: what is longer is cut off. */
const answerBytes = 64 * 1024;

export async function post(url: URL, options: PostOptions): Promise<Answer> {
  const { timeoutMs, mayBeOwn, signal } = options;
  const host = hostOf(url);
  if (!mayBeOwn && isIP(host) !== 0 && isOwn(host)) return { is: 'refused', why: ownAddress(host) };
  const late = AbortSignal.timeout(timeoutMs);
  try {
    const response = await send(url, options, AbortSignal.any([signal, late]));
    // What answers as soon as it is asked may still be at its work: its answer is heard to the end, within the same time.
    await heard(response);
    return judge(response);
  } catch (error) {
    signal.throwIfAborted();
    if (late.aborted) return { is: 'later', why: `no answer in ${timeoutMs} ms` };
    if (error instanceof OwnAddress) return { is: 'refused', why: error.message };
    return { is: 'later', why: (error as Error).message || (error as Error).name };
  }
}

function send(url: URL, { headers, body, ca, mayBeOwn }: PostOptions, signal: AbortSignal): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const secure = url.protocol === 'https:';
    const request = (secure ? https : http).request(url, {
      method: 'POST',
      headers: { ...headers, 'content-length': Buffer.byteLength(body) },
      // A connection of its own: none that was opened to what the name led to before.
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

/** Resolves when the answer has ended, was cut, or is longer than anybody reads: its status has said all. */
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

/** The name's addresses, none of which may be this host's own: what is connected to is what was looked at. */
const elsewhere: LookupFunction = (hostname, options, callback) => {
  resolve(hostname, { ...options, all: true }, (error, addresses) => {
    const found = addresses?.find(({ address }) => isOwn(address));
    if (error || found) return callback(error ?? new OwnAddress(ownAddress(`${hostname} (${found?.address})`)), []);
    if (options.all) return callback(null, addresses);
    const [first] = addresses;
    callback(null, first?.address ?? '', first?.family);
  });
};
