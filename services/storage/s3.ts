/** The object store over S3. minio-js signs and sends requests that are built here (why: docs/adr/0002-s3-requests.md). */
import { AsyncLocalStorage } from 'node:async_hooks';
import { createHash } from 'node:crypto';
import http, { type IncomingMessage, type RequestOptions } from 'node:http';
import https from 'node:https';
import aws4 from 'aws4';
import { Client } from 'minio';
import { Places } from '../concurrency/semaphore.ts';
import { readText } from '../contract/config.ts';
import { isCode, isFault, LxstowError } from '../contract/errors.ts';
import { type Config, formatTagging } from '../contract/schemas.ts';
import { type Download, Downloader, type Waiting } from '../http/download.ts';
import type { BucketMaker, ObjectStore, Presigner } from './objectStore.ts';
import {
  bare,
  completion,
  decoded,
  escapedKey,
  formatQuery,
  location,
  meaningOf,
  openUpload,
  parseListing,
  parseTags,
  parseXml,
  storedObject,
  tagging,
  word,
  type Xml,
} from './s3Messages.ts';

interface Request {
  method: 'GET' | 'HEAD' | 'PUT' | 'POST' | 'DELETE';
  key?: string;
  query?: Record<string, string>;
  headers?: Record<string, string>;
  body?: Buffer | string;
  signal: AbortSignal;
}

/** Limit for objects that are read whole. The largest are manifests of 10 000 parts, about 3 MB. */
const smallObjectBytes = 64 * 1024 * 1024;
const errorBytes = 64 * 1024;
/** For aws4: stands for the hash of the body, which GET and HEAD do not have. */
const unsigned = 'UNSIGNED-PAYLOAD';
const noBucket = 'NoSuchBucket';
/** What to do about a refusal, by S3's error code. The answer to a HEAD has only its status. */
const advices: Record<string, string> = {
  [noBucket]: '`lxstow setup` makes it',
  SignatureDoesNotMatch: 'set s3.secretKey to the secret of s3.accessKey',
  InvalidAccessKeyId: 'set s3.accessKey to a user that the store knows',
  AccessDenied: '`lxstow doctor` says which right is missing',
  'HTTP 403': '`lxstow doctor` says what is wrong',
};
/** Per client: minio-js and the downloader. */
const mostConnections = 64;

type Keys = Pick<Config['s3'], 'accessKey' | 'secretKey'>;

/** Options of minio-js for this server. */
export function clientOptions(
  { accessKey, secretKey, region, pathStyle }: Config['s3'],
  { hostname, port, protocol }: URL,
) {
  return {
    endPoint: hostname.replace(/^\[|\]$/g, ''),
    ...(port ? { port: Number(port) } : {}),
    useSSL: protocol === 'https:',
    ...{ accessKey, secretKey, region, pathStyle },
  };
}

export interface S3Options {
  /** True when the bucket is lxstow's own, which `lxstow setup` creates. Default: true. */
  own?: boolean;
  /** Reads the configuration again. Called after a refusal (401, 403), to use changed keys from then on. */
  reread?: (() => Config['s3']) | undefined;
}

/** Makes an S3 object store without retries; `retrying` adds them. Opens no connection. */
export function createS3Store(
  config: Config['s3'],
  { own = true, reread }: S3Options = {},
): ObjectStore & Presigner & BucketMaker & Disposable {
  const url = new URL(config.endpoint);
  const outside = new URL(config.publicEndpoint ?? config.endpoint);
  const secure = url.protocol === 'https:';
  const signals = new AsyncLocalStorage<AbortSignal>();
  // The agent's timeout covers connecting, too; a request's own begins only after that.
  const agentOptions = { keepAlive: true, maxSockets: mostConnections, timeout: config.idleTimeoutMs };
  const tls = config.ca ? { ca: readText(config.ca, 's3.ca') } : {};
  const agent = secure ? new https.Agent({ ...agentOptions, ...tls }) : new http.Agent(agentOptions);
  const downloader = new Downloader({ tls });
  const downloads = new Places(mostConnections);
  const silent = () =>
    new LxstowError('s3-unavailable', `S3 at ${config.endpoint} was silent for ${config.idleTimeoutMs} ms`);

  const transport = {
    request: ((options: RequestOptions, onResponse: (response: IncomingMessage) => void) => {
      const signal = signals.getStore();
      let answer: IncomingMessage | undefined;
      const request = (secure ? https : http).request({ ...options, ...(signal ? { signal } : {}) }, (response) => {
        answer = response;
        const status = response.statusCode ?? 0;
        if (status < 300) return onResponse(response);
        // minio-js would retry some statuses and lose their codes, so drain the body and report an error. If the body cannot be read,
        // the status is enough.
        const refuse = (body?: Buffer) => {
          // Abort a request that the server refused early: the buffer of its body is about to be reused.
          if (!request.writableFinished) request.destroy();
          request.emit('error', refusal(status, body?.toString() ?? ''));
        };
        readAll(response, errorBytes).then(refuse, () => refuse());
      });
      request.setTimeout(config.idleTimeoutMs, () => {
        (answer ?? request).destroy(silent());
      });
      return request;
    }) as typeof http.request,
  };

  function clientsFor(keys: Keys) {
    const client = new Client({
      ...clientOptions({ ...config, ...keys }, url),
      transport,
      transportAgent: agent,
      retryOptions: { disableRetry: true },
    });
    // Over plain HTTP minio-js would also hash each body. Parts carry a CRC-32 on the wire instead.
    client.enableSHA256 = false;
    return { keys, client, signer: new Client(clientOptions({ ...config, ...keys }, outside)) };
  }
  let current = clientsFor(config);

  function renewKeys(): void {
    try {
      const { accessKey, secretKey } = reread?.() ?? current.keys;
      if (accessKey !== current.keys.accessKey || secretKey !== current.keys.secretKey)
        current = clientsFor({ accessKey, secretKey });
    } catch (error) {
      // The file may be half written. The next refusal reads it again.
      if (!isCode(error, 'bad-config')) throw error;
    }
  }

  function refusal(status: number, body: string): LxstowError {
    const { Code: said, Message: message, Endpoint: elsewhere } = (parseXml(body)?.Error ?? {}) as Xml;
    const code = typeof said === 'string' ? said : `HTTP ${status}`;
    // For a bucket in another region, AWS names its endpoint.
    const where = typeof elsewhere === 'string' ? `; set s3.endpoint to ${elsewhere}` : '';
    const text = `S3 at ${config.endpoint} said ${code}${typeof message === 'string' ? `: ${message}` : ''}${where}`;
    const meaning = meaningOf(code, status);
    if (meaning === 's3-denied') renewKeys();
    const advice = own && code in advices ? `: ${advices[code]}` : '';
    const isRefused = meaning === 's3-refused' || meaning === 's3-denied';
    return new LxstowError(meaning, isRefused ? `${text} (bucket ${config.bucket}${advice})` : text);
  }

  async function send(request: Request): Promise<IncomingMessage> {
    const { method, key = '', query = {}, headers = {}, body = '', signal } = request;
    signal.throwIfAborted();
    const withBody = method === 'PUT' || method === 'POST';
    try {
      return await signals.run(signal, () =>
        current.client.makeRequestStreamAsync(
          {
            method,
            bucketName: config.bucket,
            objectName: key,
            query: formatQuery(query),
            headers: { ...headers, ...(withBody ? { 'content-length': String(body.length) } : {}) },
          },
          body,
          '',
          [200, 204, 206],
          config.region,
        ),
      );
    } catch (error) {
      throw failure(error, signal);
    }
  }

  function failure(error: unknown, signal: AbortSignal): unknown {
    if (signal.aborted) return signal.reason;
    if (error instanceof LxstowError || isFault(error)) return error;
    const what = (error as Error).message || (error as Error).name;
    return new LxstowError('s3-unavailable', `S3 at ${config.endpoint}: ${what}`, { cause: error });
  }

  async function text(request: Request): Promise<{ body: Buffer; etag: string }> {
    const response = await send(request);
    try {
      return { body: await readAll(response, smallObjectBytes), etag: bare(response.headers.etag ?? '') };
    } catch (error) {
      throw failure(error, request.signal);
    }
  }

  let root: Promise<URL> | undefined;

  /** Base URL of the objects' keys. minio-js knows which servers want the bucket in the host name. */
  function objects(): Promise<URL> {
    root ??= current.client.presignedGetObject(config.bucket, 'key').then((example) => new URL('.', example));
    return root;
  }

  /**
   * Requests an object; its bytes are not copied on their way (docs/adr/0021-downloads.md). aws4 signs, because it caches the day's signing key;
   * minio-js derives it for each request.
   */
  async function object<T>(
    { method, key = '', headers = {}, signal }: Request & { method: 'GET' | 'HEAD' },
    use: (answer: Download, waiting: Waiting) => T,
  ): Promise<Awaited<T>> {
    const waiting = { signal, silence: { ms: config.idleTimeoutMs, error: silent } };
    using _place = await downloads.take(signal);
    try {
      const { origin, host, pathname } = await objects();
      const path = pathname + escapedKey(key);
      const signed = aws4.sign(
        {
          ...{ method, path, service: 's3', region: config.region },
          headers: { ...headers, host, 'x-amz-content-sha256': unsigned },
        },
        { accessKeyId: current.keys.accessKey, secretAccessKey: current.keys.secretKey },
      );
      const answer = await downloader.ask(method, origin + path, signed.headers as Record<string, string>, waiting);
      try {
        if (answer.status >= 300) throw refusal(answer.status, (await answer.body(errorBytes, waiting)).toString());
        return await use(answer, waiting);
      } finally {
        answer.destroy();
      }
    } catch (error) {
      throw failure(error, signal);
    }
  }

  /** Sends a request whose answer is XML; returns the content of its element `root`. Throws an error that came with status 200, too. */
  async function ask(root: string, request: Request, parse = parseXml): Promise<Xml> {
    const { body } = await text(request);
    const parsed = parse(body.toString());
    if (parsed?.Error) throw refusal(500, body.toString());
    const found = parsed?.[root];
    if (found === undefined) throw new LxstowError('s3-unavailable', `S3 at ${config.endpoint} sent no <${root}>`);
    return typeof found === 'object' && !Array.isArray(found) ? found : {};
  }

  /** Lists below the prefix only, because the credentials may be limited to it. */
  async function probe(signal: AbortSignal): Promise<void> {
    const query: Record<string, string> = { 'list-type': '2', 'max-keys': '1' };
    if (config.prefix) query.prefix = `${config.prefix}/`;
    await ask('ListBucketResult', { method: 'GET', query, signal });
  }

  async function* pages(query: Record<string, string>, signal: AbortSignal): AsyncGenerator<Xml> {
    const asked: Record<string, string> = { 'list-type': '2', 'encoding-type': 'url', ...query };
    for (let token: string | undefined; ; ) {
      const next = token === undefined ? asked : { ...asked, 'continuation-token': token };
      const page = await ask('ListBucketResult', { method: 'GET', query: next, signal }, parseListing);
      yield page;
      if (page.IsTruncated !== 'true') return;
      token = word(page, 'NextContinuationToken');
    }
  }

  return {
    probe,

    async ensureBucket(signal) {
      try {
        await probe(signal);
        return false;
      } catch (error) {
        if (!isNoBucket(error)) throw error;
      }
      try {
        await text({ method: 'PUT', body: location(config.region), signal });
        return true;
      } catch (error) {
        // Another process created it first.
        if (isCode(error, 's3-refused') && /BucketAlreadyOwnedByYou/.test((error as Error).message)) return false;
        throw error;
      }
    },

    async beginUpload(key, { tags, contentType, copies = false }, signal) {
      const headers: Record<string, string> = { 'content-type': contentType };
      // MinIO makes no checksum of a copied part, and refuses such a part in an upload with checksums.
      if (!copies) headers['x-amz-checksum-algorithm'] = 'CRC32';
      if (Object.keys(tags).length > 0) headers['x-amz-tagging'] = formatTagging(tags);
      const query = { uploads: '' };
      const begun = await ask('InitiateMultipartUploadResult', { method: 'POST', key, query, headers, signal });
      return { key, uploadId: word(begun, 'UploadId'), copies };
    },

    async putPart({ key, uploadId, copies = false }, number, body, crc32, signal) {
      const query = { partNumber: String(number), uploadId };
      // AWS refuses a CRC-32 in an upload that was begun without an algorithm. A bucket with Object Lock requires a checksum in each PUT.
      const headers: Record<string, string> = copies ? { 'content-md5': md5(body) } : { 'x-amz-checksum-crc32': crc32 };
      return (await text({ method: 'PUT', key, query, headers, body, signal })).etag;
    },

    async completeUpload({ key, uploadId, copies = false }, parts, signal, over) {
      const condition: Record<string, string> =
        over === undefined ? { 'if-none-match': '*' } : { 'if-match': `"${over}"` };
      const headers = { ...condition, 'content-type': 'application/xml' };
      const request = {
        method: 'POST',
        key,
        query: { uploadId },
        headers,
        body: completion(parts, !copies),
        signal,
      } as const;
      return bare(word(await ask('CompleteMultipartUploadResult', request), 'ETag'));
    },

    async copyPart({ key, uploadId }, number, { etag, start, size }, signal) {
      const headers = {
        'x-amz-copy-source': `/${config.bucket}/${escapedKey(key)}`,
        'x-amz-copy-source-range': `bytes=${start}-${start + size - 1}`,
        'x-amz-copy-source-if-match': `"${etag}"`,
      };
      const query = { partNumber: String(number), uploadId };
      const copied = await ask('CopyPartResult', { method: 'PUT', key, query, headers, signal });
      return { number, etag: bare(word(copied, 'ETag')) };
    },

    async listParts({ key, uploadId }, signal) {
      const parts: { number: number; size: number; etag: string }[] = [];
      for (let marker: string | undefined = '0'; marker !== undefined; ) {
        const query = { uploadId, 'part-number-marker': marker, 'max-parts': '1000' };
        const root = await ask('ListPartsResult', { method: 'GET', key, query, signal });
        for (const part of (root.Part ?? []) as Xml[]) {
          parts.push({
            number: Number(word(part, 'PartNumber')),
            size: Number(word(part, 'Size')),
            etag: bare(word(part, 'ETag')),
          });
        }
        marker = root.IsTruncated === 'true' ? word(root, 'NextPartNumberMarker') : undefined;
      }
      return parts;
    },

    async abortUpload({ key, uploadId }, signal) {
      await text({ method: 'DELETE', key, query: { uploadId }, signal }).catch(unlessGone);
    },

    async create(key, body, { tags = {}, contentType }, signal) {
      const headers: Record<string, string> = { 'if-none-match': '*', ...described(body, contentType) };
      if (Object.keys(tags).length > 0) headers['x-amz-tagging'] = formatTagging(tags);
      return (await text({ method: 'PUT', key, headers, body, signal })).etag;
    },

    async replace(key, etag, body, { tags, contentType }, signal) {
      const headers: Record<string, string> = { 'if-match': `"${etag}"`, ...described(body, contentType) };
      if (Object.keys(tags).length > 0) headers['x-amz-tagging'] = formatTagging(tags);
      return (await text({ method: 'PUT', key, headers, body, signal })).etag;
    },

    async tag(key, tags, signal) {
      const body = tagging(tags);
      // AWS requires a checksum here.
      const headers = { 'content-type': 'application/xml', 'content-md5': md5(body) };
      await text({ method: 'PUT', key, query: { tagging: '' }, headers, body, signal });
    },

    async tagsOf(key, signal) {
      const tags = await ask('Tagging', { method: 'GET', key, query: { tagging: '' }, signal }, parseTags);
      return tags as Record<string, string>;
    },

    read: (key, signal) =>
      object({ method: 'GET', key, signal }, async (answer, waiting) => {
        if (answer.length > smallObjectBytes)
          throw new LxstowError('s3-refused', `an object that is read whole is larger than ${smallObjectBytes} bytes`);
        return { body: await answer.body(smallObjectBytes, waiting), etag: etagOf(answer) };
      }),

    stat: (key, signal) =>
      object({ method: 'HEAD', key, signal }, (answer) => ({ size: answer.length, etag: etagOf(answer) })),

    readRange(key, etag, start, into, signal) {
      const headers = { range: `bytes=${start}-${start + into.length - 1}`, 'if-match': `"${etag}"` };
      return object({ method: 'GET', key, headers, signal }, async (answer, waiting) => {
        if (answer.length !== into.length)
          throw new LxstowError('s3-unavailable', `S3 sent ${answer.length} bytes of ${into.length}`);
        await answer.fill(into, waiting);
      });
    },

    presign(key, { expirySeconds, filename }) {
      return current.signer.presignedGetObject(config.bucket, key, expirySeconds, {
        'response-content-disposition': `attachment; filename="${filename}"`,
      });
    },

    async remove(key, signal) {
      await text({ method: 'DELETE', key, signal }).catch(unlessGone);
    },

    async *list(prefix, signal) {
      for await (const { Contents, EncodingType } of pages({ prefix }, signal))
        for (const entry of (Contents ?? []) as Xml[]) yield storedObject(entry, EncodingType === 'url');
    },

    async *folders(prefix, signal) {
      for await (const { CommonPrefixes, EncodingType } of pages({ prefix, delimiter: '/' }, signal))
        for (const entry of (CommonPrefixes ?? []) as Xml[])
          yield decoded(word(entry, 'Prefix'), EncodingType === 'url');
    },

    async *listUploads(prefix, signal) {
      // MinIO takes a prefix for a whole key: list a folder without a prefix, and filter here. Other servers do not need this.
      let asked = prefix.endsWith('/') ? '' : prefix;
      const given = new Set<string>();
      let markers: Record<string, string> = {};
      for (;;) {
        // Ask for plain keys: if asked to encode them, SeaweedFS says that it did, but does not.
        const query = { uploads: '', ...(asked ? { prefix: asked } : {}), ...markers };
        const page = await ask('ListMultipartUploadsResult', { method: 'GET', query, signal }).catch((error) => {
          // The credentials may be limited to the prefix: ask with it.
          if (asked === prefix || !isCode(error, 's3-denied')) throw error;
          return undefined;
        });
        if (page === undefined) {
          asked = prefix;
          continue;
        }
        const known = given.size;
        for (const entry of (page.Upload ?? []) as Xml[]) {
          const upload = openUpload(entry);
          const isNew = !given.has(upload.uploadId);
          given.add(upload.uploadId);
          if (isNew && upload.key.startsWith(prefix)) yield upload;
        }
        // For more than 1 000 uploads of one key, MinIO reports a truncated page and then sends the same page for ever.
        if (page.IsTruncated !== 'true' || given.size === known) return;
        markers = {
          'key-marker': word(page, 'NextKeyMarker'),
          'upload-id-marker': word(page, 'NextUploadIdMarker'),
        };
      }
    },

    [Symbol.dispose]() {
      agent.destroy();
      downloader[Symbol.dispose]();
    },
  };
}

/** True when the error says that the bucket does not exist. */
export function isNoBucket(error: unknown): boolean {
  return isCode(error, 's3-refused') && (error as Error).message.includes(noBucket);
}

/** Headers that describe a body. A bucket with Object Lock requires a checksum. */
function described(body: Buffer, contentType: string): Record<string, string> {
  return { 'content-type': contentType, 'content-md5': md5(body) };
}

function md5(body: string | Buffer): string {
  return createHash('md5').update(body).digest('base64');
}

function etagOf({ headers }: Download): string {
  return bare(headers.get('etag') ?? '');
}

function unlessGone(error: unknown): void {
  if (!(error instanceof LxstowError && error.code === 'not-found')) throw error;
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
