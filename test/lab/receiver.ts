/** Somebody's webhook: an HTTP server that keeps what it is sent, and answers as it is told. */
import { EventEmitter, on } from 'node:events';
import http, { type IncomingHttpHeaders, type RequestListener, type ServerResponse } from 'node:http';
import https from 'node:https';
import { text } from 'node:stream/consumers';
import type { Notice } from '../../services/contract/schemas.ts';
import type { Certificate } from './certificates.ts';
import { freePort } from './processes.ts';

export interface Received {
  path: string;
  method: string;
  headers: IncomingHttpHeaders;
  /** As it came. */
  body: string;
  notice: Notice;
}

export interface Receiver extends AsyncDisposable {
  /** `http://127.0.0.1:<port>`, the same over stop() and start(). */
  readonly url: string;
  readonly received: Received[];
  /** The next requests to this path are answered so, one after another; those behind them with 200. */
  answers(path: string, ...answers: ((response: ServerResponse) => void)[]): void;
  /** Resolves when `count` requests have come to this path; with all of them. */
  until(path: string, count?: number): Promise<Received[]>;
  /** Nobody listens any more, and what is open is cut. */
  stop(): Promise<void>;
  start(): Promise<void>;
}

export const says = (status: number, headers: Record<string, string> = {}) => {
  return (response: ServerResponse) => void response.writeHead(status, headers).end();
};
/** Takes the request, and never answers it. */
export const hangs = () => undefined;

export async function startReceiver({ certificate }: { certificate?: Certificate } = {}): Promise<Receiver> {
  const port = await freePort();
  const received: Received[] = [];
  const scripts = new Map<string, ((response: ServerResponse) => void)[]>();
  const news = new EventEmitter();
  const listener: RequestListener = async (request, response) => {
    const body = await text(request);
    const path = request.url ?? '';
    const { method = '', headers } = request;
    // A ping is none.
    const notice = body.startsWith('{') ? JSON.parse(body) : {};
    received.push({ path, method, headers, body, notice });
    news.emit('received');
    (scripts.get(path)?.shift() ?? says(200))(response);
  };
  const server = certificate ? https.createServer(certificate, listener) : http.createServer(listener);
  const start = () => new Promise<void>((resolve) => server.listen(port, '127.0.0.1', () => resolve()));
  const stop = () =>
    new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
  await start();
  return {
    url: `${certificate ? 'https' : 'http'}://127.0.0.1:${port}`,
    received,
    answers: (path, ...answers) => void scripts.set(path, answers),
    async until(path, count = 1) {
      const found = () => received.filter((each) => each.path === path);
      const coming = on(news, 'received');
      while (found().length < count) await coming.next();
      await coming.return?.();
      return found();
    },
    stop,
    start,
    async [Symbol.asyncDispose]() {
      if (server.listening) await stop();
    },
  };
}
