/** A client of a gateway: sends requests with the client's certificate, and reads answers and errors in LXD's envelope. */
import { X509Certificate } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import https from 'node:https';
import type { PeerCertificate } from 'node:tls';
import type { WebSocket } from 'ws';
import type * as schemas from '../../contract/schemas.ts';
import { textLines } from '../../contract/textLines.ts';
import { CliError, exitOfStatus, exits } from '../exit.ts';
import { printable } from '../terminal/table.ts';
import type { Identity, Remote } from './remotes.ts';

/** An operation as the API shows it. */
export interface ShownOperation extends Omit<schemas.ShownOperation, 'description' | 'metadata'> {
  description: string;
  metadata: schemas.Operation['metadata'] & { code?: string; run?: string; source?: Source };
}

/** The backup that a restore reads. */
type Source = Pick<schemas.ListedBackup, 'location' | 'project' | 'instance' | 'name'>;

interface RequestOptions {
  query?: Record<string, string | undefined>;
  /** Sent as JSON. */
  body?: object;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
  /** Called with each warning that comes with the answer. */
  onWarning?: (text: string) => void;
}

/** The gateway could not be reached, or did not answer; a later try may succeed. */
export class Unreachable extends CliError {
  /** True if the request may have been accepted, and only the answer was lost. */
  inDoubt = false;
}

const usualPatience = {
  /** Until the answer's headers. Longer than gateway.deleteTimeoutMs (30 s), for which a deletion waits. */
  headMs: 90_000,
  /** From the headers to the end: enough for the longest answer at 220 KiB a second. */
  bodyMs: 300_000,
};
const mostSockets = 16;
const longestAnswerBytes = 64 * 1024 * 1024;
/** Of a list that is sent as lines. */
const longestLine = 1024 * 1024;
const ndjson = 'application/x-ndjson';

/** A connection of one client to a gateway. */
export class Gateway implements Disposable {
  readonly remote: Remote;
  /** The gateway's clock at its last answer, in ms; 0 if it has not told. */
  clockMs = 0;
  readonly #agent: https.Agent;
  readonly #patience: typeof usualPatience;

  constructor(remote: Remote, { cert, key }: Identity, patience = usualPatience) {
    const { certificate } = remote;
    this.remote = remote;
    this.#patience = patience;
    const pin = certificate === undefined ? {} : pinned(certificate);
    this.#agent = new https.Agent({ keepAlive: true, maxSockets: mostSockets, cert, key, ...pin });
  }

  /** Returns the metadata of the answer. Encodes each element of `path`. Throws CliError with the gateway's message. */
  // biome-ignore lint/suspicious/noExplicitAny: the caller knows what it asked for
  async ask(method: string, path: string[], options?: RequestOptions): Promise<any> {
    const call = `${method} ${path.map(encodeURIComponent).join('/')}`;
    const schema = answers.find(([pattern]) => pattern.test(call))?.[1];
    // Load the schemas while the gateway works on the answer.
    const validators = schema && import('../../contract/schemas.ts');
    const response = await this.open(method, path, options);
    for (const [, text = ''] of (response.headers.warning ?? '').matchAll(/199 lxstow "([^"]*)"/g))
      options?.onWarning?.(printable(text));
    const metadata = await this.#metadata(response, method);
    const fault = schema && (await validators)?.faultsOf(schema, metadata)[0];
    if (fault !== undefined) throw notOurs(this.remote, `${call}: ${fault}`);
    return metadata;
  }

  /** Yields the items of a list as the gateway sends them, however many there are. Throws as `ask`. */
  // biome-ignore lint/suspicious/noExplicitAny: the caller knows what it asked for
  async *list(path: string[], query: RequestOptions['query'], schema: schemas.SchemaName): AsyncGenerator<any> {
    const response = await this.open('GET', path, { query, headers: { accept: ndjson } });
    const { faultsOf } = await import('../../contract/schemas.ts');
    const call = `GET ${path.join('/')}`;
    if (response.headers['content-type']?.startsWith(ndjson) !== true) {
      // An older gateway sends one array.
      const metadata = await this.#metadata(response, 'GET');
      const [fault] = faultsOf(schema, metadata);
      if (fault !== undefined) throw notOurs(this.remote, `${call}: ${fault}`);
      return yield* metadata as unknown[];
    }
    const { bodyMs } = this.#patience;
    response.setTimeout(bodyMs, () => response.destroy(new Error(`it has sent nothing for ${bodyMs / 1000} s`)));
    try {
      const pieces = textLines(response.setEncoding('utf8'), longestLine, (what) =>
        notOurs(this.remote, `${call}: ${what}`),
      );
      for await (const lines of pieces)
        for (const line of lines) {
          const item = parsed(line);
          const fault = item === undefined ? JSON.stringify(line.slice(0, 80)) : faultsOf(schema, [item])[0];
          if (fault !== undefined) throw notOurs(this.remote, `${call}: ${fault}`);
          yield item;
        }
    } catch (error) {
      throw error instanceof CliError ? error : connectionError(error as Error, this.remote);
    }
  }

  /** Returns an answer other than JSON, for the caller to read. Throws as `ask`. */
  async open(method: string, path: string[], options: RequestOptions = {}): Promise<IncomingMessage> {
    const response = await this.#send(method, path, options);
    const { statusCode = 0 } = response;
    if (statusCode < 400) return response;
    const envelope = method === 'HEAD' ? undefined : await this.#envelope(response, method);
    const said = typeof envelope?.error === 'string' ? envelope.error : `${this.remote.name} answers ${statusCode}`;
    const refused = refusal(statusCode, said, response);
    throw namesOperation.test(said) ? inDoubt(method, refused) : refused;
  }

  /** Opens a websocket of the gateway's events, of all projects that this client may see. */
  async events(type: 'operation'): Promise<WebSocket> {
    const { WebSocket } = await import('ws');
    const address = new URL(`/1.0/events?type=${type}&all-projects=true`, this.remote.url.replace(/^https/, 'wss'));
    const limits = { handshakeTimeout: this.#patience.headMs, maxPayload: longestAnswerBytes };
    return new WebSocket(address, { agent: this.#agent, ...limits });
  }

  #send(method: string, path: string[], options: RequestOptions): Promise<IncomingMessage> {
    // These would make it the path of another call: that of all backups instead of one, for example.
    const empty = path.find((word) => ['', '.', '..'].includes(word));
    if (empty !== undefined)
      throw new CliError(exits.usage, `${JSON.stringify(empty)} cannot be a name`, {
        hint: 'is a variable of a script empty?',
      });
    const { body, headers = {}, signal } = options;
    const target = new URL(['', '1.0', ...path.map(encodeURIComponent)].join('/'), this.remote.url);
    for (const [key, value] of Object.entries(options.query ?? {}))
      if (value !== undefined) target.searchParams.set(key, value);
    const text = body === undefined ? undefined : JSON.stringify(body);
    const ofBody =
      text === undefined
        ? {}
        : { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(text)) };
    return new Promise((resolve, reject) => {
      const request = https.request(target, {
        method,
        agent: this.#agent,
        signal,
        headers: { ...headers, ...ofBody },
      });
      const { headMs } = this.#patience;
      const timer = setTimeout(() => request.destroy(new Error(`no answer in ${headMs / 1000} s`)), headMs);
      request.on('close', () => clearTimeout(timer));
      request.on('response', (response) => {
        clearTimeout(timer);
        this.clockMs = Date.parse(response.headers.date ?? '') || 0;
        resolve(response);
      });
      request.on('error', (error: NodeJS.ErrnoException) => {
        // The gateway may close an idle connection just when a request is sent on it.
        if (request.reusedSocket && error.code === 'ECONNRESET' && method === 'GET')
          resolve(this.#send(method, path, options));
        else reject(signal?.aborted ? signal.reason : inDoubt(method, connectionError(error, this.remote)));
      });
      request.end(text);
    });
  }

  async #metadata(response: IncomingMessage, method: string): Promise<unknown> {
    const { type, metadata } = await this.#envelope(response, method);
    if (type !== 'sync' && type !== 'async') throw notOurs(this.remote, `type ${JSON.stringify(type)}`);
    return metadata;
  }

  async #envelope(
    response: IncomingMessage,
    method: string,
  ): Promise<{ type?: unknown; error?: unknown; metadata?: unknown }> {
    const chunks: Buffer[] = [];
    let size = 0;
    const { bodyMs } = this.#patience;
    const tooSlow = new Error(`its answer is not complete after ${bodyMs / 1000} s`);
    using _timer = setTimeout(() => response.destroy(tooSlow), bodyMs);
    try {
      for await (const chunk of response as AsyncIterable<Buffer>) {
        size += chunk.length;
        if (size > longestAnswerBytes) throw notOurs(this.remote, 'too long');
        chunks.push(chunk);
      }
    } catch (error) {
      throw error instanceof CliError ? error : inDoubt(method, connectionError(error as Error, this.remote));
    }
    const text = Buffer.concat(chunks).toString();
    const envelope = parsed(text);
    if (envelope) return envelope;
    throw notOurs(this.remote, `status ${response.statusCode}, ${JSON.stringify(text.slice(0, 80))}`);
  }

  [Symbol.dispose](): void {
    this.#agent.destroy();
  }
}

/** The object that this JSON is; undefined if it is none. */
function parsed(text: string): object | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}

/** The schema of each call's metadata. Answers to other calls are not checked. */
const answers: [call: RegExp, schemas.SchemaName][] = [
  [/^GET $/, 'read-answers.json#/$defs/server'],
  [/^GET certificates\/[^/]+$/, 'read-answers.json#/$defs/certificate'],
  [/^GET instances$/, 'read-answers.json#/$defs/instances'],
  [/^GET instances\/[^/]+\/backups$/, 'read-answers.json#/$defs/backups'],
  [/^GET instances\/[^/]+\/backups\/[^/]+$/, 'nats-api.json#/$defs/backup'],
  [/^POST instances\/[^/]+\/backups$/, 'read-answers.json#/$defs/newBackup'],
  [/^POST instances\/[^/]+\/backups\/[^/]+$/, 'read-answers.json#/$defs/operation'],
  [/^GET operations$/, 'read-answers.json#/$defs/operations'],
  [/^GET operations\/[^/]+(\/wait)?$/, 'read-answers.json#/$defs/operation'],
  [/^GET runs$/, 'run-answers.json#/$defs/runPage'],
  [/^GET runs\/[^/]+$/, 'run-answers.json#/$defs/run'],
  [/^GET runs\/[^/]+\/children$/, 'run-answers.json#/$defs/childPage'],
  [/^GET schedules$/, 'read-answers.json#/$defs/schedules'],
  [/^(GET|PUT) schedules\/[^/]+$/, 'nats-api.json#/$defs/schedule'],
  [/^GET schedules\/[^/]+\/next$/, 'read-answers.json#/$defs/scheduledTimes'],
  [/^GET status$/, 'read-answers.json#/$defs/statuses'],
];

/** Trusts only this certificate, and ignores the names in it, because the gateway may be reached by another name. */
function pinned(certificate: string): https.AgentOptions {
  const der = firstIn(certificate);
  return {
    ca: certificate,
    allowPartialTrustChain: true,
    checkServerIdentity: (_host: string, { raw }: PeerCertificate) =>
      raw.equals(der)
        ? undefined
        : Object.assign(new Error('another certificate'), { code: 'ERR_TLS_CERT_ALTNAME_INVALID' }),
  };
}

/** The first certificate of a chain; empty if the text has none, so that it fits no gateway's. */
function firstIn(chain: string): Buffer {
  try {
    return new X509Certificate(chain).raw;
  } catch {
    return Buffer.alloc(0);
  }
}

function notOurs({ name, url }: Remote, what: string): CliError {
  return new CliError(exits.protocol, `${name} does not answer like an lxstow gateway: ${printable(what)}`, {
    hint: `is ${url} the right address? See: lxstow remote list`,
  });
}

function refusal(status: number, error: string, response: IncomingMessage): CliError {
  const text = printable(error || `status ${status}`);
  const exit = exitOfStatus(status);
  const hints: Record<number, string> = {
    403: "this client's certificate may not do that, or not in this project (--project); `lxstow trust list`, on the gateway's machine, shows its rights",
    429: `try again in ${response.headers['retry-after'] ?? 'some'} s`,
    500: "see the gateway's log",
    503: 'try again later; nothing was started, unless the message names an operation',
  };
  return exit === exits.unavailable
    ? new Unreachable(exit, text, { hint: hints[status] })
    : new CliError(exit, text, { hint: hints[status] });
}

/** In a 503: this operation may have been started all the same. */
const namesOperation = /\boperation [\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}\b/;

/** Marks a POST whose answer was lost, or is a 503 that names an operation: the gateway may have accepted it. */
function inDoubt(method: string, error: CliError): CliError {
  const cause = error.cause as NodeJS.ErrnoException | undefined;
  if (
    method !== 'POST' ||
    !(error instanceof Unreachable) ||
    cause?.syscall === 'connect' ||
    cause?.syscall === 'getaddrinfo'
  )
    return error;
  const unsure = new Unreachable(error.exit, error.message, {
    hint: 'it may have been started all the same; to see whether: lxstow operations',
    cause,
  });
  unsure.inDoubt = true;
  return unsure;
}

const untrusted =
  /^(ERR_TLS_CERT_ALTNAME_INVALID|DEPTH_ZERO_SELF_SIGNED_CERT|SELF_SIGNED_CERT_IN_CHAIN|UNABLE_TO_.*|CERT_.*)$/;

export function connectionError(cause: NodeJS.ErrnoException, { name, url }: Pick<Remote, 'name' | 'url'>): CliError {
  const { code = '', message } = cause;
  if (code === 'CERT_HAS_EXPIRED')
    return new CliError(exits.refused, `the certificate of ${name} (${url}) has expired`, { cause });
  if (untrusted.test(code))
    return new CliError(exits.refused, `${name} (${url}) presents a different certificate than when it was added`, {
      hint: `if it was replaced on purpose, run lxstow remote remove ${name} and add the gateway again; if not, the connection may be intercepted`,
      cause,
    });
  const words: Record<string, string> = {
    ECONNREFUSED: 'nothing listens there',
    ENOTFOUND: 'its host name is unknown',
    EAI_AGAIN: 'its host name cannot be resolved now',
    ECONNRESET: 'the connection was reset',
    ETIMEDOUT: 'it does not answer',
    EHOSTUNREACH: 'there is no route to it',
  };
  return new Unreachable(exits.unavailable, `${name} (${url}) cannot be reached: ${words[code] ?? message}`, {
    hint: 'is the gateway running, and its address right? See: lxstow remote list',
    cause,
  });
}
