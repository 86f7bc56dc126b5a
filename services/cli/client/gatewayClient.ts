/** A gateway as its clients see it: requests with the client's certificate, answers and errors in LXD's envelope. */
import type { IncomingMessage } from 'node:http';
import https from 'node:https';
import type { PeerCertificate } from 'node:tls';
import type { Operation, SchemaName } from '../../contract/schemas.ts';
import { CliError, exitOfStatus, exits } from '../exit.ts';
import { printable } from '../terminal/table.ts';
import type { Identity, Remote } from './remotes.ts';

/** An operation as the API shows it. */
export type ShownOperation = Pick<
  Operation,
  | 'id'
  | 'description'
  | 'created_at'
  | 'updated_at'
  | 'status'
  | 'status_code'
  | 'resources'
  | 'may_cancel'
  | 'err'
  | 'location'
> & { class: string; metadata: Operation['metadata'] & { code?: string; source?: Source } };

/** Whose backup a restore reads. */
export interface Source {
  location: string;
  project: string;
  instance: string;
  name: string;
}

export interface RequestOptions {
  query?: Record<string, string | undefined>;
  /** Sent as JSON. */
  body?: object;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
  /** Told what the gateway has to say beside its answer. */
  onWarning?: (text: string) => void;
}

export interface Gateway extends Disposable {
  readonly remote: Remote;
  /** The metadata of the answer. `path`: its parts, which are encoded. Throws CliError with what the gateway says. */
  // biome-ignore lint/suspicious/noExplicitAny: whoever asks knows for what
  ask(method: string, path: string[], options?: RequestOptions): Promise<any>;
  /** An answer that is no JSON, to be read by the caller. Throws as `ask`. */
  open(method: string, path: string[], options?: RequestOptions): Promise<IncomingMessage>;
}

/** The gateway could not be asked, or did not answer: later it may. */
export class Unreachable extends CliError {
  /** It may have been begun all the same: only the answer was lost. */
  inDoubt = false;
}

const usualPatience = {
  /** To an answer's headers. A deletion waits for its worker: gateway.deleteTimeoutMs, 30 s, and some more. */
  headMs: 90_000,
  /** From there to its end: the longest one at 220 KiB a second. */
  bodyMs: 300_000,
};
const mostSockets = 16;
const longestAnswerBytes = 64 * 1024 * 1024;

export function openGateway(remote: Remote, { cert, key }: Identity, patience = usualPatience): Gateway {
  const { name, url, certificate } = remote;
  const agent = new https.Agent({
    keepAlive: true,
    maxSockets: mostSockets,
    cert,
    key,
    ...(certificate !== undefined && pinned(certificate)),
  });

  function send(method: string, path: string[], options: RequestOptions): Promise<IncomingMessage> {
    const { body, headers = {}, signal } = options;
    const target = new URL(['', '1.0', ...path.map(encodeURIComponent)].join('/'), url);
    for (const [key, value] of Object.entries(options.query ?? {}))
      if (value !== undefined) target.searchParams.set(key, value);
    const text = body === undefined ? undefined : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const request = https.request(target, {
        method,
        agent,
        signal,
        headers: {
          ...headers,
          ...(text === undefined
            ? {}
            : { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(text)) }),
        },
      });
      const { headMs } = patience;
      const timer = setTimeout(() => request.destroy(new Error(`no answer in ${headMs / 1000} s`)), headMs);
      request.on('close', () => clearTimeout(timer));
      request.on('response', (response) => {
        clearTimeout(timer);
        resolve(response);
      });
      request.on('error', (error: NodeJS.ErrnoException) => {
        // The gateway may close an idle connection while it is written to.
        if (request.reusedSocket && error.code === 'ECONNRESET' && method === 'GET')
          resolve(send(method, path, options));
        else reject(signal?.aborted ? signal.reason : inDoubt(method, connectionError(error, remote)));
      });
      request.end(text);
    });
  }

  async function open(method: string, path: string[], options: RequestOptions = {}): Promise<IncomingMessage> {
    const response = await send(method, path, options);
    const { statusCode = 0 } = response;
    if (statusCode < 400) return response;
    const envelope = method === 'HEAD' ? undefined : await envelopeOf(response, method);
    const said = typeof envelope?.error === 'string' ? envelope.error : `${name} answers ${statusCode}`;
    throw refusal(statusCode, said, response);
  }

  async function envelopeOf(response: IncomingMessage, method: string): Promise<Envelope> {
    const chunks: Buffer[] = [];
    let size = 0;
    const tooSlow = new Error(`its answer is not whole after ${patience.bodyMs / 1000} s`);
    const timer = setTimeout(() => response.destroy(tooSlow), patience.bodyMs);
    try {
      for await (const chunk of response as AsyncIterable<Buffer>) {
        size += chunk.length;
        if (size > longestAnswerBytes) throw notOurs(remote, 'too long');
        chunks.push(chunk);
      }
    } catch (error) {
      throw error instanceof CliError ? error : inDoubt(method, connectionError(error as Error, remote));
    } finally {
      clearTimeout(timer);
    }
    const text = Buffer.concat(chunks).toString();
    try {
      const envelope: unknown = JSON.parse(text);
      if (typeof envelope === 'object' && envelope !== null) return envelope;
    } catch {
      // Said below.
    }
    throw notOurs(remote, `status ${response.statusCode}, ${JSON.stringify(text.slice(0, 80))}`);
  }

  return {
    remote,
    open,
    async ask(method, path, options) {
      const call = `${method} ${path.map(encodeURIComponent).join('/')}`;
      const schema = answers.find(([pattern]) => pattern.test(call))?.[1];
      // While the gateway works.
      const validators = schema && import('../../contract/schemas.ts');
      const response = await open(method, path, options);
      for (const [, text = ''] of (response.headers.warning ?? '').matchAll(/199 lxstow "([^"]*)"/g))
        options?.onWarning?.(printable(text));
      const { type, metadata } = await envelopeOf(response, method);
      if (type !== 'sync' && type !== 'async') throw notOurs(remote, `type ${JSON.stringify(type)}`);
      const fault = schema && (await validators)?.faultsOf(schema, metadata)[0];
      if (fault !== undefined) throw notOurs(remote, `${call}: ${fault}`);
      return metadata;
    },
    [Symbol.dispose]: () => agent.destroy(),
  };
}

/** What the metadata of each call must be; those of all other calls are not looked at. */
const answers: [call: RegExp, SchemaName][] = [
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
  [/^GET status$/, 'read-answers.json#/$defs/statuses'],
];

/** Trust in this certificate and no other, whatever name it has: it may be reached by another. */
function pinned(certificate: string): https.AgentOptions {
  const der = Buffer.from(certificate.replaceAll(/-----[A-Z ]+-----|\s/g, ''), 'base64');
  return {
    ca: certificate,
    allowPartialTrustChain: true,
    checkServerIdentity: (_host: string, { raw }: PeerCertificate) =>
      raw.equals(der)
        ? undefined
        : Object.assign(new Error('another certificate'), { code: 'ERR_TLS_CERT_ALTNAME_INVALID' }),
  };
}

interface Envelope {
  type?: unknown;
  error?: unknown;
  metadata?: unknown;
}

function notOurs({ name, url }: Remote, what: string): CliError {
  return new CliError(exits.protocol, `${name} does not answer as a gateway of lxstow: ${printable(what)}`, {
    hint: `is ${url} the right address? See: lxstow remote list`,
  });
}

function refusal(status: number, error: string, response: IncomingMessage): CliError {
  const text = printable(error || `status ${status}`);
  const exit = exitOfStatus(status);
  const hints: Record<number, string> = {
    403: "this client's certificate may not do that, or not in this project (--project); what it may, `lxstow trust list` beside the gateway shows",
    429: `try again in ${response.headers['retry-after'] ?? 'some'} s`,
    500: "the gateway's log has more",
    503: 'try again later; nothing was begun, unless the message names an operation',
  };
  return exit === exits.unavailable
    ? new Unreachable(exit, text, { hint: hints[status] })
    : new CliError(exit, text, { hint: hints[status] });
}

/** What changes something may have been taken, where only the answer was lost. */
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
    hint: 'it may have been begun all the same: lxstow operations',
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
    return new CliError(exits.refused, `${name} (${url}) shows another certificate than it did when it was added`, {
      hint: `if it was changed on purpose: lxstow remote remove ${name}, and add it again. If not, somebody is in between`,
      cause,
    });
  const words: Record<string, string> = {
    ECONNREFUSED: 'nothing listens there',
    ENOTFOUND: 'the host is not known',
    EAI_AGAIN: 'the name cannot be looked up now',
    ECONNRESET: 'the connection was cut',
    ETIMEDOUT: 'it does not answer',
    EHOSTUNREACH: 'there is no way to the host',
  };
  return new Unreachable(exits.unavailable, `${name} (${url}) cannot be reached: ${words[code] ?? message}`, {
    hint: 'is the gateway running, and its address right? See: lxstow remote list',
    cause,
  });
}
