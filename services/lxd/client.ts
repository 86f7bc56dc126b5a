/** Client for the REST API of LXD and Incus, over a unix socket or HTTPS: requests, envelopes, operations. */
import http, { type ClientRequest, type IncomingMessage, type RequestOptions } from 'node:http';
import https from 'node:https';
import { setTimeout as delay } from 'node:timers/promises';
import { readText } from '../contract/config.ts';
import { asLxstowError, isCode, isFault, LxstowError } from '../contract/errors.ts';
import type { RemoteConfig } from '../contract/schemas.ts';
import { type Download, Downloader } from '../http/download.ts';
import { isRefusal } from './refusals.ts';
import { defaultSocket } from './sockets.ts';

export interface LxdRequest {
  method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  path: string;
  query?: Record<string, string>;
  headers?: Record<string, string>;
  body?: unknown;
  signal: AbortSignal;
}

/** LXD's envelope of a sync or async response. */
export interface LxdAnswer<T = unknown> {
  type: 'sync' | 'async' | 'error';
  operation?: string;
  metadata: T;
  error?: string;
  error_code?: number;
  /** The ETag of a GET, if LXD sends one: for `If-Match`. */
  etag?: string;
}

export interface LxdOperation {
  id: string;
  status: string;
  status_code: number;
  err: string;
  metadata: Record<string, unknown> | null;
}

/** A request to LXD that was answered or has failed. */
export interface LxdCall {
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
/** The longest wait for an operation while LXD does not answer: longer than an upgrade of LXD takes. */
const longestOutageMs = 600_000;
const longestAnswerBytes = 64 * 1024 * 1024;

/** LXD does not know the operation: it was restarted, or the operation ended too long ago. The caller must find out the result. */
export class LostOperation extends LxstowError {}

/** Whether LXD is away, or was restarted and has lost its operation: a retry may succeed when it is back. */
export function isLxdAway(error: unknown): boolean {
  return isCode(error, 'lxd-unavailable') || error instanceof LostOperation;
}

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
      const tls = {
        ...(config.certificate ? { cert: readText(config.certificate, `remotes.${remote}.certificate`) } : {}),
        ...(config.key ? { key: readText(config.key, `remotes.${remote}.key`) } : {}),
        ...pinned(remote, config),
      };
      this.#agent = new https.Agent({ keepAlive: true, ...tls });
      this.#options = { host: url.hostname, port: url.port || 8443 };
      this.#origin = `https://${url.hostname}:${url.port || 8443}`;
      this.#downloader = new Downloader({ tls });
    } else {
      const socketPath = config.socket ?? defaultSocket(remote, env);
      this.#where = socketPath;
      this.#transport = http;
      this.#agent = new http.Agent({ keepAlive: true });
      this.#options = { socketPath };
      this.#origin = 'http://lxd';
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

  /** How long the server may say nothing amid an answer. */
  get silence(): { ms: number; error: () => LxstowError } {
    return { ms: answerTimeoutMs, error: () => this.#unavailable(`no answer in ${answerTimeoutMs} ms`) };
  }

  /** GETs a path; returns the metadata of its sync response. */
  async get<T>(path: string, query: Record<string, string>, signal: AbortSignal): Promise<T> {
    return (await this.call<T>({ path, query, signal })).metadata;
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
    outgoing.setTimeout(answerTimeoutMs, () =>
      outgoing.destroy(this.#unavailable(`no answer in ${answerTimeoutMs} ms`)),
    );
    outgoing.end(body);
    const envelope = await this.envelope<T>(await answer, request.signal);
    if (request.path === '/1.0') this.#isIncus = isIncus(envelope.metadata);
    return envelope;
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
      headers: { host: 'lxd', ...headers },
      signal,
    });
    const answer = new Promise<IncomingMessage>((resolve, reject) => {
      outgoing.once('response', resolve);
      outgoing.on('error', (error) => reject(this.failure(error, signal)));
    });
    const tell = this.#timed(request);
    // Handles the rejection, too: the caller may see the failure while it writes the body, before it awaits `answer`.
    answer.then(
      ({ statusCode }) => tell(String(statusCode)),
      (error) => tell(asLxstowError(error).code),
    );
    return { outgoing, answer };
  }

  /** Makes a GET whose body is read into the caller's memory. Throws if the status is not in `statuses`. */
  async download(request: LxdRequest & { statuses: number[] }): Promise<Download> {
    const { headers = {}, signal, statuses } = request;
    const waiting = { signal, silence: this.silence };
    const tell = this.#timed(request);
    const asked = this.#downloader.get(this.#origin + target(request), { host: 'lxd', ...headers }, waiting);
    asked.then(
      (answer) => tell(String(answer.status)),
      (error) => tell(asLxstowError(this.failure(error, signal)).code),
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

  /**
   * Waits for an operation to succeed. `onProgress` gets its metadata about once a second. Throws lxd-failed or lxd-refused with LXD's reason, and
   * lxd-stalled if its metadata has not changed for `idleTimeoutMs`: on a full disk LXD's operation runs for ever. While LXD does not answer, its
   * operation may go on: lxd-unavailable is thrown only after `idleTimeoutMs` (at most `longestOutageMs`) without an answer. Throws LostOperation, a
   * retryable lxd-failed, if LXD does not know the operation, because it was restarted or the operation ended more than 5 s ago.
   */
  async wait(
    path: string,
    options: { signal: AbortSignal; idleTimeoutMs: number; onProgress?: (metadata: Record<string, unknown>) => void },
  ): Promise<LxdOperation> {
    const { signal, idleTimeoutMs, onProgress } = options;
    let [seen, seenAt] = ['', performance.now()];
    let answeredAt = performance.now();
    for (;;) {
      const askedAt = performance.now();
      const operation = await this.#poll(path, signal).catch((error) => {
        const isLost = performance.now() - answeredAt > Math.min(idleTimeoutMs, longestOutageMs);
        if (isLost || !isCode(error, 'lxd-unavailable')) throw error;
        return undefined;
      });
      if (!operation) {
        await this.#untilNextPoll(askedAt, signal);
        continue;
      }
      answeredAt = performance.now();
      if (operation.status_code === 200) return operation;
      if (operation.status_code > 200) throw this.#failed(operation);
      const metadata = JSON.stringify(operation.metadata);
      if (metadata !== seen) [seen, seenAt] = [metadata, performance.now()];
      if (performance.now() - seenAt > idleTimeoutMs) {
        throw new LxstowError(
          'lxd-stalled',
          `${this.title}: its operation ${operation.id} has not moved for ${Math.round(idleTimeoutMs / 1000)} s; is its disk full?`,
        );
      }
      if (operation.metadata) onProgress?.(operation.metadata);
      await this.#untilNextPoll(askedAt, signal);
    }
  }

  /**
   * Returns the operation when it has ended, or after `pollMs`. If it still runs then, or has failed, LXD's `wait` answers an error since December
   * 2023, with the operation's own code or 500: only the operation itself says its state.
   */
  async #poll(path: string, signal: AbortSignal): Promise<LxdOperation> {
    try {
      return await this.get<LxdOperation>(`${path}/wait`, { timeout: String(Math.ceil(this.pollMs / 1000)) }, signal);
    } catch (error) {
      if (signal.aborted || !(error instanceof LxstowError)) throw error;
    }
    try {
      return await this.get<LxdOperation>(path, {}, signal);
    } catch (error) {
      if (!isCode(error, 'not-found')) throw error;
      const message = `${this.title} does not know its operation ${path}; was it restarted?`;
      throw new LostOperation('lxd-failed', message, { cause: error });
    }
  }

  /** Waits for the rest of `pollMs` after a poll that was answered early. */
  async #untilNextPoll(askedAt: number, signal: AbortSignal): Promise<void> {
    const restMs = this.pollMs - (performance.now() - askedAt);
    if (restMs <= 0) return;
    await delay(restMs, undefined, { signal }).catch((error) => {
      throw this.failure(error, signal);
    });
  }

  #failed({ err, status }: LxdOperation): LxstowError {
    const text = err || status;
    return new LxstowError(isRefusal(text) ? 'lxd-refused' : 'lxd-failed', `${this.title}: ${text}`);
  }

  /** Translates a failed connection to LxstowError; returns the signal's reason after an abort. */
  failure(error: unknown, signal: AbortSignal): unknown {
    if (signal.aborted) return signal.reason;
    if (error instanceof LxstowError || isFault(error)) return error;
    return this.#unavailable((error as Error).message, error);
  }

  #unavailable(why: string, cause?: unknown): LxstowError {
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

/** Returns what `get` does; undefined if LXD answers not-found. */
export async function unlessMissing<T>(get: () => Promise<T>): Promise<T | undefined> {
  try {
    return await get();
  } catch (error) {
    if (isCode(error, 'not-found')) return undefined;
    throw error;
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

/** LXD's own certificates are self-signed and pinned: the configured one is the only CA, and its name is not checked. */
function pinned(remote: string, config: RemoteConfig): https.AgentOptions {
  if (!config.serverCertificate) return {};
  return {
    ca: readText(config.serverCertificate, `remotes.${remote}.serverCertificate`),
    checkServerIdentity: () => undefined,
  };
}
