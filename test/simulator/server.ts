/** HTTP as LXD speaks it: routes, envelopes, error texts. */
import {
  createServer,
  type IncomingMessage,
  type OutgoingHttpHeaders,
  type Server,
  type ServerResponse,
} from 'node:http';
import { json } from 'node:stream/consumers';
import { errorText, type Log } from '../lab/run.ts';
import type { Faults } from './faults.ts';

type Method = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';

/** What LXD answers: `undefined` when the handler has sent the answer itself. */
type Handler = (call: Call) => Answer | undefined | Promise<Answer | undefined>;

/** Handlers by path, where `{name}` stands for a segment, and by method. */
export type Routes = Record<string, Partial<Record<Method, Handler>>>;

export interface Answer {
  status: number;
  headers: OutgoingHttpHeaders;
  body: object;
}

export interface Call {
  /** The segment of the path that the route has this name for. */
  param(name: string): string;
  query: URLSearchParams;
  project: string;
  request: IncomingMessage;
  response: ServerResponse;
  /** Aborted when the client is gone. */
  signal: AbortSignal;
  /** The body's JSON. Refuses what is none with this status. */
  body(statusIfBad: number): Promise<Record<string, unknown>>;
}

/** LXD says no. */
export class Refusal extends Error {
  readonly status: number;

  constructor(status: number, text: string) {
    super(text);
    this.status = status;
  }
}

export function sync(metadata: unknown): Answer {
  return { status: 200, headers: {}, body: envelope({ type: 'sync', metadata }) };
}

/** With an ETag, as LXD gives one to what can be changed. */
export function tagged(metadata: unknown, etag: string): Answer {
  return { ...sync(metadata), headers: { etag } };
}

export function created(location: string): Answer {
  return { ...sync(null), status: 201, headers: { location } };
}

export function envelope({ type, metadata }: { type: string; metadata: unknown }) {
  return { type, status: 'Success', status_code: 200, operation: '', error_code: 0, error: '', metadata };
}

/** An error's envelope, of this code; some LXDs send theirs with another HTTP status. */
export function refusal(code: number, error: string, status = code): Answer {
  const body = { type: 'error', status: '', status_code: 0, operation: '', error_code: code, error, metadata: null };
  return { status, headers: { 'x-content-type-options': 'nosniff' }, body };
}

/** A server that answers from the routes. Like LXD it waits for slow clients and keeps idle connections. */
export function lxdServer(routes: Routes, faults: Faults, log: Log): Server {
  const find = router(routes);
  const server = createServer({ requestTimeout: 0, keepAliveTimeout: 0 }, async (request, response) => {
    const url = new URL(request.url ?? '/', 'http://lxd');
    const name = `${request.method} ${url.pathname}`;
    try {
      const answer = await answerTo(request, response, url, find, faults);
      if (answer && !response.destroyed) send(response, answer);
    } catch (error) {
      if (!(error instanceof Refusal) && !response.destroyed) log(`simulator: ${name}: ${errorText(error)}`);
      if (response.headersSent) response.destroy();
      else send(response, refusal(error instanceof Refusal ? error.status : 500, errorText(error)));
    }
  });
  return server;
}

async function answerTo(
  request: IncomingMessage,
  response: ServerResponse,
  url: URL,
  find: ReturnType<typeof router>,
  faults: Faults,
): Promise<Answer | undefined> {
  const gone = new AbortController();
  response.once('close', () => gone.abort(new Error('the client is gone')));
  const fault = faults.takeCall(`${request.method} ${url.pathname}`);
  if (fault) {
    fault.reach();
    if ('status' in fault.script) throw new Refusal(fault.script.status, fault.script.error);
    if ('drop' in fault.script) {
      response.destroy();
      return undefined;
    }
    await fault.hold(gone.signal);
  }
  const name = `${request.method} ${url.pathname}`;
  const passes = async (when: 'before' | 'after') => {
    try {
      await faults.onCall?.(name, when);
      return true;
    } catch {
      response.destroy();
      return false;
    }
  };
  if (!(await passes('before'))) return undefined;
  const { params, handlers } = find(url.pathname);
  const handler = handlers[request.method as Method];
  if (!handler) throw new Refusal(501, 'not implemented');
  const answer = await handler({
    param: (name) => params.get(name) ?? '',
    query: url.searchParams,
    project: url.searchParams.get('project') ?? 'default',
    request,
    response,
    signal: gone.signal,
    body: (statusIfBad) => readJson(request, statusIfBad),
  });
  return (await passes('after')) ? answer : undefined;
}

/** What is left of the request is read and dropped, so that the client gets to see the answer. */
function send(response: ServerResponse, { status, headers, body }: Answer): void {
  const text = `${JSON.stringify(body)}\n`;
  response.writeHead(status, {
    'content-type': 'application/json',
    ...headers,
    'content-length': Buffer.byteLength(text),
  });
  response.end(text);
  response.req.resume();
}

async function readJson(request: IncomingMessage, statusIfBad: number): Promise<Record<string, unknown>> {
  try {
    return (await json(request)) as Record<string, unknown>;
  } catch (error) {
    const text = errorText(error);
    throw new Refusal(statusIfBad, text.includes('end of JSON') ? 'EOF' : `invalid character: ${text}`);
  }
}

function router(routes: Routes) {
  const table = Object.entries(routes).map(([path, handlers]) => ({ segments: path.split('/'), handlers }));
  return (pathname: string) => {
    const given = pathname.split('/').map(decodeURIComponent);
    for (const { segments, handlers } of table) {
      const params = new Map<string, string>();
      const fits = segments.every((segment, at) => {
        const value = given[at];
        if (!segment.startsWith('{')) return segment === value;
        params.set(segment.slice(1, -1), value ?? '');
        return Boolean(value);
      });
      if (fits && segments.length === given.length) return { params, handlers };
    }
    throw new Refusal(404, 'not found');
  };
}
