/** Client for the REST API of LXD and Incus, over a unix socket or HTTPS: requests and envelopes. */

import http, { type ClientRequest, type IncomingMessage, type RequestOptions } from 'node:http';
import https from 'node:https';
import { isIP } from 'node:net';
import { JSONParser } from '@streamparser/json';
import { asLxstowError, isFault, LxstowError } from '../../contract/errors.ts';
import { portOf, withoutBrackets } from '../../contract/hosts.ts';
import type { RemoteConfig } from '../../contract/schemas.ts';
import { type Download, Downloader } from '../../http/download.ts';
import { isRefusal } from './refusals.ts';
import { defaultSocket } from './sockets.ts';
import { tlsOf } from './tls.ts';

export interface LxdRequest {
  method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  path: string;
  query?: Record<string, string>;
  headers?: Record<string, string>;
  body?: unknown;
  signal: AbortSignal;
}

/** LXD's envelope of a sync or async response. */
interface LxdAnswer<T = unknown> {
  type: 'sync' | 'async' | 'error';
  operation?: string;
  metadata: T;
  error?: string;
  error_code?: number;
  /** The ETag of a GET, if LXD sends one: for `If-Match`. */
  etag?: string;
}

/** A request to LXD that was answered or has failed. */
interface LxdCall {
  method: string;
  /** The path, with `*` for each name. */
  endpoint: string;
  /** The HTTP status, or the error's code. */
  result: string;
  /** Until the response began. */
  seconds: number;
}

/** Timeout of a call; long tasks are operations. */
const answerTimeoutMs = 60_000;
const recentMs = 10_000;
const longestAnswerBytes = 64 * 1024 * 1024;

/** Methods throw `not-found`, `lxd-refused` (LXD said no), `lxd-failed` (LXD failed), `lxd-unavailable`, `lxd-stalled`. */
export class LxdClient implements Disposable {
  /** The remote's name in the configuration. */
  readonly remote: string;
  readonly #where: string;
  #isIncus: boolean;
  readonly #options: RequestOptions;
  readonly #agent: http.Agent;
  readonly #transport: typeof http | typeof https;
  readonly #downloader: Downloader;
  readonly #recent = new Map<string, { metadata: unknown; at: number }>();
  /** For the Host header. */
  readonly #host: string;
  readonly #origin: string;
  /** Interval between polls of an operation. */
  readonly pollMs: number;
  readonly #onAnswer: ((call: LxdCall) => void) | undefined;

  constructor(
    remote: string,
    config: RemoteConfig,
    env: NodeJS.ProcessEnv,
    onAnswer?: (call: LxdCall) => void,
    pollMs = 1000,
  ) {
    this.remote = remote;
    this.pollMs = pollMs;
    this.#onAnswer = onAnswer;
    if (config.url) {
      const url = new URL(config.url);
      this.#where = url.origin;
      this.#transport = https;
      const tls = tlsOf(remote, config);
      // IPv6 addresses are in brackets.
      const host = withoutBrackets(url.hostname);
      this.#agent = new https.Agent({ keepAlive: true, servername: isIP(host) ? '' : host, ...tls });
      const port = portOf(config.url);
      this.#options = { host, port };
      this.#host = `${url.hostname}:${port}`;
      this.#origin = `https://${this.#host}`;
      this.#downloader = new Downloader({ tls });
    } else {
      const socketPath = config.socket ?? defaultSocket(remote, env);
      this.#where = socketPath;
      this.#transport = http;
      this.#agent = new http.Agent({ keepAlive: true });
      this.#options = { socketPath };
      this.#host = 'lxd';
      this.#origin = `http://${this.#host}`;
      this.#downloader = new Downloader({ socketPath });
    }
    this.#isIncus = /\bincus\b/.test(this.#where);
  }

  /** Incus if the server or its socket's path says so. */
  get product(): 'LXD' | 'Incus' {
    return this.#isIncus ? 'Incus' : 'LXD';
  }

  /** Name of the server's own command-line client. */
  get command(): 'lxc' | 'incus' {
    return this.#isIncus ? 'incus' : 'lxc';
  }

  /** `LXD (local)`, or `Incus (local)`: for messages. */
  get title(): string {
    return `${this.product} (${this.remote})`;
  }

  /** How long the server may be silent in the middle of an answer. */
  get silence(): { ms: number; error: () => LxstowError } {
    return { ms: answerTimeoutMs, error: () => this.#unavailable(`no answer in ${answerTimeoutMs} ms`) };
  }

  /** GETs a path; returns the metadata of its sync response. */
  async get<T>(path: string, query: Record<string, string>, signal: AbortSignal): Promise<T> {
    return (await this.call<T>({ path, query, signal })).metadata;
  }

  /** GETs something that hardly ever changes, such as a pool. Uses an answer of the last seconds, unless LXD was away since then. */
  async getRecent<T>(path: string, signal: AbortSignal): Promise<T> {
    const known = this.#recent.get(path);
    if (known && performance.now() - known.at < recentMs) return known.metadata as T;
    const metadata = await this.get<T>(path, {}, signal);
    this.#recent.set(path, { metadata, at: performance.now() });
    return metadata;
  }

  /** GETs a list; yields its items as they come, so that memory holds few of them. Do not wait for anything slow between two items: LXD waits, too. */
  async *items<T>(path: string, query: Record<string, string>, signal: AbortSignal): AsyncGenerator<T> {
    const { outgoing, answer } = this.open({ path, query, signal });
    this.#limitSilence(outgoing);
    outgoing.end();
    const response = await answer;
    if (response.statusCode !== 200) {
      await this.envelope(response, signal);
      throw new LxstowError('lxd-failed', `${this.title} answered ${response.statusCode}`);
    }
    const parser = new JSONParser({ paths: ['$.metadata.*'], keepStack: false });
    let found: T[] = [];
    let pending = 0;
    parser.onValue = ({ value }) => {
      found.push(value as T);
      pending = 0;
    };
    try {
      for await (const chunk of response as AsyncIterable<Buffer>) {
        pending += chunk.length;
        if (pending > longestAnswerBytes) throw new Error(`an item of more than ${longestAnswerBytes} bytes`);
        parser.write(chunk);
        yield* found;
        found = [];
      }
      if (!parser.isEnded) throw new Error('its answer is truncated');
    } catch (error) {
      throw this.failure(error, signal);
    }
  }

  /** Makes a call whose response is an envelope. */
  async call<T = unknown>(request: LxdRequest): Promise<LxdAnswer<T>> {
    const body = request.body === undefined ? undefined : JSON.stringify(request.body);
    const { outgoing, answer } = this.open({
      ...request,
      headers: {
        ...request.headers,
        ...(body === undefined
          ? {}
          : { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(body)) }),
      },
    });
    this.#limitSilence(outgoing);
    outgoing.end(body);
    const envelope = await this.envelope<T>(await answer, request.signal);
    if (request.path === '/1.0') this.#isIncus = isIncus(envelope.metadata);
    return envelope;
  }

  #limitSilence(outgoing: ClientRequest): void {
    outgoing.setTimeout(answerTimeoutMs, () =>
      outgoing.destroy(this.#unavailable(`no answer in ${answerTimeoutMs} ms`)),
    );
  }

  /** Starts a request: the caller writes its body and reads its response. */
  open(request: LxdRequest): { outgoing: ClientRequest; answer: Promise<IncomingMessage> } {
    const { method = 'GET', headers = {}, signal } = request;
    signal.throwIfAborted();
    const outgoing = this.#transport.request({
      ...this.#options,
      agent: this.#agent,
      method,
      path: target(request),
      headers: { host: this.#host, ...headers },
      signal,
    });
    const answer = new Promise<IncomingMessage>((resolve, reject) => {
      outgoing.once('response', resolve);
      outgoing.on('error', (error) => reject(this.failure(error, signal)));
    });
    const observe = this.#timed(request);
    // Handles the rejection, too: the caller may see the failure while it writes the body, before it awaits `answer`.
    answer.then(
      ({ statusCode }) => observe(String(statusCode)),
      (error) => observe(asLxstowError(error).code),
    );
    return { outgoing, answer };
  }

  /** Makes a GET whose body is read into the caller's memory. Throws if the status is not in `statuses`. */
  async download(request: LxdRequest & { statuses: number[] }): Promise<Download> {
    const { headers = {}, signal, statuses } = request;
    const waiting = { signal, silence: this.silence };
    const observe = this.#timed(request);
    const asked = this.#downloader.get(this.#origin + target(request), { host: this.#host, ...headers }, waiting);
    asked.then(
      (answer) => observe(String(answer.status)),
      (error) => observe(asLxstowError(this.failure(error, signal)).code),
    );
    try {
      const answer = await asked;
      if (statuses.includes(answer.status)) return answer;
      throw this.#notWanted(answer.status, await answer.body(longestAnswerBytes, waiting));
    } catch (error) {
      throw this.failure(error, signal);
    }
  }

  /** The error for an unexpected status, with LXD's own reason if there is one. */
  #notWanted(status: number, body: Buffer): LxstowError {
    try {
      const { type, error, error_code: code } = JSON.parse(body.toString()) as LxdAnswer;
      if (type === 'error') return this.#refusal(code ?? status, error ?? 'no reason given');
    } catch {
      // Not LXD's envelope: a proxy's page, or Go's own.
    }
    return new LxstowError('lxd-failed', `${this.title} answered ${status}`);
  }

  #timed({ method = 'GET', path }: LxdRequest): (result: string) => void {
    const begun = performance.now();
    return (result) =>
      this.#onAnswer?.({ method, endpoint: endpointOf(path), result, seconds: (performance.now() - begun) / 1000 });
  }

  /** Reads a response as an envelope; throws the error in it. */
  async envelope<T>(response: IncomingMessage, signal: AbortSignal): Promise<LxdAnswer<T>> {
    const chunks: Buffer[] = [];
    let size = 0;
    let parsed: LxdAnswer<T>;
    try {
      for await (const chunk of response as AsyncIterable<Buffer>) {
        size += chunk.length;
        if (size > longestAnswerBytes) throw new Error(`an answer of more than ${longestAnswerBytes} bytes`);
        chunks.push(chunk);
      }
      parsed = JSON.parse(Buffer.concat(chunks).toString()) as LxdAnswer<T>;
    } catch (error) {
      throw this.failure(error, signal);
    }
    if (parsed.type === 'error')
      throw this.#refusal(parsed.error_code ?? response.statusCode ?? 500, parsed.error ?? 'no reason given');
    const { etag } = response.headers;
    return etag === undefined ? parsed : { ...parsed, etag };
  }

  /** Translates a failed connection to LxstowError; returns the signal's reason after an abort. */
  failure(error: unknown, signal: AbortSignal): unknown {
    if (signal.aborted) return signal.reason;
    if (error instanceof LxstowError || isFault(error)) return error;
    return this.#unavailable((error as Error).message, error);
  }

  #unavailable(why: string, cause?: unknown): LxstowError {
    this.#recent.clear();
    return new LxstowError('lxd-unavailable', `${this.title} at ${this.#where}: ${why}`, { cause });
  }

  #refusal(code: number, text: string): LxstowError {
    const message = `${this.title}: ${text}`;
    if (code === 404) return new LxstowError('not-found', message);
    if (code === 503) return new LxstowError('lxd-unavailable', message);
    return new LxstowError(code >= 500 && !isRefusal(text) ? 'lxd-failed' : 'lxd-refused', message);
  }

  [Symbol.dispose](): void {
    this.#agent.destroy();
    this.#downloader[Symbol.dispose]();
  }
}

/** Whether this answer to `GET /1.0` is from an Incus. */
function isIncus(server: unknown): boolean {
  return (server as { environment?: { server?: string } } | null)?.environment?.server === 'incus';
}

function target({ path, query = {} }: LxdRequest): string {
  const search = new URLSearchParams(query).toString();
  return search ? `${path}?${search}` : path;
}

/** Replaces the names in a path by `*`: words and names alternate in LXD's paths. */
function endpointOf(path: string): string {
  const [version = '', ...rest] = path.split('/').slice(1);
  return ['', version, ...rest.map((word, index) => (index % 2 === 0 ? word : '*'))].join('/');
}
