/** Signs and sends requests for one bucket (docs/adr/0002-s3-requests.md). */

import http, { type IncomingMessage } from 'node:http';
import https from 'node:https';
import { isDeepStrictEqual } from 'node:util';
import aws4 from 'aws4';
import { Semaphore } from '../../concurrency/semaphore.ts';
import { readText } from '../../contract/config.ts';
import { isCode, isFault, LxstowError } from '../../contract/errors.ts';
import { withoutBrackets } from '../../contract/hosts.ts';
import type { Config } from '../../contract/schemas.ts';
import { type Download, Downloader } from '../../http/download.ts';
import type { Waiting } from '../../http/downloadConnection.ts';
import { bare, escapedKey, formatQuery, parseXml, type Xml } from './s3Messages.ts';
import { refusalOf } from './s3Refusals.ts';

interface S3Request {
  method: 'GET' | 'HEAD' | 'PUT' | 'POST' | 'DELETE';
  /** Default: the bucket itself. */
  key?: string;
  query?: Record<string, string>;
  headers?: Record<string, string>;
  body?: Buffer | string;
  /** The server may take long to answer. The request fails only if the server answers no other request either. */
  patient?: boolean;
  signal: AbortSignal;
}

interface S3Answer {
  headers: http.IncomingHttpHeaders;
  body: Buffer;
}

export interface S3Options {
  /** True when the bucket is lxstow's own, which `lxstow setup` creates. Default: true. */
  own?: boolean;
  /** Reads the configuration again. Called after a refusal (401, 403): the request is sent once more with changed keys. */
  reread?: (() => Config['s3']) | undefined;
}

interface Keys {
  accessKeyId: string;
  secretAccessKey: string;
  sessionToken?: string;
}

/** Limit for answers that are read whole. The largest are manifests of 10 000 parts, about 3 MB. */
export const wholeBytes = 64 * 1024 * 1024;
const errorBytes = 64 * 1024;
/** Stands for the hash of the body: parts carry a CRC-32 on the wire instead. */
const unsigned = 'UNSIGNED-PAYLOAD';
/** For requests, and again for downloads. */
const mostConnections = 64;

/** Every status from 300 up is thrown as a LxstowError with S3's own code. No retries: `retrying` adds them. */
export class S3Connection implements Disposable {
  readonly #config: Config['s3'];
  readonly #own: boolean;
  readonly #reread: S3Options['reread'];
  readonly #bucket: URL;
  readonly #agent: http.Agent;
  readonly #downloader: Downloader;
  readonly #downloads = new Semaphore(mostConnections);
  #keys: Keys;

  /** Opens no connection. */
  constructor(config: Config['s3'], { own = true, reread }: S3Options = {}) {
    this.#config = config;
    this.#own = own;
    this.#reread = reread;
    this.#bucket = bucketUrl(config.endpoint, config);
    this.#keys = keysOf(config);
    const tls = config.ca ? { ca: readText(config.ca, 's3.ca') } : {};
    // The agent's timeout covers connecting, too; a request's own begins only after that.
    const options = { keepAlive: true, maxSockets: mostConnections, timeout: config.idleTimeoutMs };
    this.#agent = this.#isSecure ? new https.Agent({ ...options, ...tls }) : new http.Agent(options);
    this.#downloader = new Downloader({ tls });
  }

  /** Sends a request; returns its answer, the body read whole. */
  async send(request: S3Request): Promise<S3Answer> {
    const { signal } = request;
    signal.throwIfAborted();
    try {
      const { status, headers, body } = await this.#exchange(request);
      if (status < 300) return { headers, body };
      const refusal = this.#refusal(status, body);
      if (!this.#hasOtherKeys(refusal, status)) throw refusal;
    } catch (error) {
      throw this.#failure(error, signal);
    }
    return this.send(request);
  }

  /** Sends a request whose answer is XML; returns the content of its element `root`. Throws an error that came with status 200, too. */
  async ask(root: string, request: S3Request, parse = parseXml): Promise<Xml> {
    const { body } = await this.send(request);
    const parsed = parse(body.toString());
    if (parsed?.Error) throw this.#refusal(500, body);
    const found = parsed?.[root];
    if (found === undefined) throw new LxstowError('s3-unavailable', `${this.#title} sent no <${root}>`);
    return typeof found === 'object' && !Array.isArray(found) ? found : {};
  }

  /** GETs an object and passes it to `use`; its bytes are not copied on their way (docs/adr/0021-downloads.md). */
  async download<T>(
    request: { key: string; headers?: Record<string, string>; signal: AbortSignal },
    use: (answer: Download, waiting: Waiting) => T,
  ): Promise<Awaited<T>> {
    const { signal } = request;
    const waiting = { signal, silence: { ms: this.#config.idleTimeoutMs, error: () => this.#silent() } };
    const place = await this.#downloads.take(signal);
    try {
      const { path, headers } = this.#signed({ method: 'GET', ...request });
      const answer = await this.#downloader.get(this.#bucket.origin + path, headers, waiting);
      try {
        if (answer.status < 300) return await use(answer, waiting);
        const refusal = this.#refusal(answer.status, await answer.body(errorBytes, waiting));
        if (!this.#hasOtherKeys(refusal, answer.status)) throw refusal;
      } finally {
        answer.destroy();
      }
    } catch (error) {
      throw this.#failure(error, signal);
    } finally {
      place[Symbol.dispose]();
    }
    return this.download(request, use);
  }

  /** Makes a URL, at the public endpoint, that needs no credentials to GET the object. Sends no request. */
  presign(key: string, expirySeconds: number, query: Record<string, string>): string {
    const { publicEndpoint, endpoint, region } = this.#config;
    const { origin, host, pathname } = bucketUrl(publicEndpoint ?? endpoint, this.#config);
    const path = `${pathname}${escapedKey(key)}?${formatQuery({ 'X-Amz-Expires': String(expirySeconds), ...query })}`;
    const signed = aws4.sign(
      { service: 's3', region, method: 'GET', path, headers: { host }, signQuery: true },
      this.#keys,
    );
    return origin + signed.path;
  }

  get #isSecure(): boolean {
    return this.#bucket.protocol === 'https:';
  }

  get #title(): string {
    return `S3 at ${this.#config.endpoint}`;
  }

  #signed({ method, key, query, headers = {} }: Omit<S3Request, 'signal'>): {
    path: string;
    headers: Record<string, string>;
  } {
    const { host, pathname } = this.#bucket;
    // Without a key, a bucket in the path has no slash after it.
    const place = key === undefined ? pathname.replace(/(?<=.)\/$/, '') : pathname + escapedKey(key);
    const request = {
      ...{ service: 's3', region: this.#config.region, method, path: query ? `${place}?${formatQuery(query)}` : place },
      headers: { ...headers, host, 'x-amz-content-sha256': unsigned },
    };
    const { path, headers: signed } = aws4.sign(request, this.#keys) as typeof request;
    return { path, headers: signed };
  }

  async #exchange(request: S3Request): Promise<S3Answer & { status: number }> {
    const { method, body = '', signal } = request;
    const { idleTimeoutMs } = this.#config;
    const length = { 'content-length': String(Buffer.byteLength(body)) };
    const described =
      method === 'PUT' || method === 'POST' ? { ...request.headers, ...length } : (request.headers ?? {});
    const { path, headers } = this.#signed({ ...request, headers: described });
    const { hostname: host, port } = this.#bucket;
    const address = { host: withoutBrackets(host), port, agent: this.#agent };
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    const outgoing = (this.#isSecure ? https : http).request({ ...address, method, path, headers, signal }, resolve);
    outgoing.on('error', reject);
    let response: IncomingMessage | undefined;
    const giveUp = () => (response ?? outgoing).destroy(this.#silent());
    outgoing.setTimeout(idleTimeoutMs, () => {
      if (response || !request.patient) giveUp();
      else
        this.#exchange({ method: 'HEAD', signal }).then(
          () => outgoing.setTimeout(idleTimeoutMs),
          () => response ?? giveUp(),
        );
    });
    outgoing.end(body);
    response = await promise;
    const { statusCode: status = 0, headers: answered } = response;
    try {
      if (status < 300) return { status, headers: answered, body: await readAll(response, wholeBytes) };
      // If the body of an error cannot be read, its status is enough.
      return { status, headers: answered, body: await readAll(response, errorBytes).catch(() => Buffer.alloc(0)) };
    } finally {
      // Abort a request that the server refused early: the buffer of its body is about to be reused.
      if (!outgoing.writableFinished) outgoing.destroy();
    }
  }

  #refusal(status: number, body: Buffer): LxstowError {
    const { bucket } = this.#config;
    return refusalOf(status, body.toString(), { title: this.#title, bucket, own: this.#own });
  }

  /** After a refusal: whether the configuration now has other keys; if so, they are used from now on. */
  #hasOtherKeys({ code }: LxstowError, status: number): boolean {
    // To a HEAD, AWS answers 400 and nothing more when a session token has expired.
    if (!this.#reread || (code !== 's3-denied' && !(status === 400 && this.#keys.sessionToken !== undefined)))
      return false;
    try {
      const keys = keysOf(this.#reread());
      if (isDeepStrictEqual(keys, this.#keys)) return false;
      this.#keys = keys;
      return true;
    } catch (error) {
      // The file may be half written. The next refusal reads it again.
      if (!isCode(error, 'bad-config')) throw error;
      return false;
    }
  }

  #failure(error: unknown, signal: AbortSignal): unknown {
    if (signal.aborted) return signal.reason;
    if (error instanceof LxstowError || isFault(error)) return error;
    const what = (error as Error).message || (error as Error).name;
    return new LxstowError('s3-unavailable', `${this.#title}: ${what}`, { cause: error });
  }

  #silent(): LxstowError {
    return new LxstowError('s3-unavailable', `${this.#title} did not answer for ${this.#config.idleTimeoutMs} ms`);
  }

  [Symbol.dispose](): void {
    this.#agent.destroy();
    this.#downloader[Symbol.dispose]();
  }
}

/** An answer's ETag, without its quotes. */
export function etagOf({ headers }: S3Answer): string {
  return bare(headers.etag ?? '');
}

function keysOf({ accessKey, secretKey, sessionToken }: Config['s3']): Keys {
  return { accessKeyId: accessKey, secretAccessKey: secretKey, ...(sessionToken && { sessionToken }) };
}

/**
 * Base URL of the keys. AWS's endpoint without a region stands for the region's, with the bucket in the host name. Not over https if the bucket has a
 * dot: no wildcard certificate matches then.
 */
function bucketUrl(endpoint: string, { bucket, region, pathStyle }: Config['s3']): URL {
  const url = new URL('/', endpoint);
  const isGlobal = url.hostname === 's3.amazonaws.com';
  if (isGlobal) url.hostname = `s3.${region}.amazonaws.com`;
  const inPath = (pathStyle && !isGlobal) || (url.protocol === 'https:' && bucket.includes('.'));
  if (inPath) url.pathname = `/${bucket}/`;
  else url.hostname = `${bucket}.${url.hostname}`;
  return url;
}

async function readAll(response: IncomingMessage, limit: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > limit) throw new LxstowError('s3-refused', `S3 sent more than ${limit} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}
