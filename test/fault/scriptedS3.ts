/** S3 through a reverse proxy that does as it is told: refuses some requests with 503 SlowDown, or lies about a byte. */
import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { pipeline } from 'node:stream/promises';

export interface ScriptedS3 extends AsyncDisposable {
  readonly endpoint: string;
  /** When (performance.now()) a request came that `refuse` was about, whatever it was answered. */
  readonly triedAt: number[];
  /** The next `times` requests whose path and query match, and whose method is this if one is given, are refused. */
  refuse(which: RegExp, times: number, method?: string): void;
  /** Requests whose path and query match, and whose method is this if one is given, get no further until they are released. */
  hold(which: RegExp, method?: string): Hold;
  /** In the answer to each GET of `key`, the stored object's byte `at` is another. */
  flip(key: string, at: number): void;
}

/** What another server than the one behind the proxy refuses. */
export interface Dialect {
  refuse(request: http.IncomingMessage): { status: number; code: string; message: string } | undefined;
  /** Learns of the uploads that are begun. */
  begun?(request: http.IncomingMessage, uploadId: string): void;
  /** Errors come without their length. */
  chunkedErrors?: boolean;
}

export interface Hold {
  /** A request has come and is held. */
  readonly reached: Promise<void>;
  release(): void;
}

const refusal = `<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`;

/** A reverse proxy of the S3 server at `target`; signatures hold, for it passes on what it gets, the Host header too. */
export async function scriptedS3(target: string, dialect?: Dialect): Promise<ScriptedS3> {
  const { hostname, port } = new URL(target);
  const agent = new http.Agent({ keepAlive: true });
  const triedAt: number[] = [];
  let refused: { which: RegExp; method: string | undefined; left: number } | undefined;
  let held: { which: RegExp; method: string | undefined; reached(): void; over: Promise<void> } | undefined;
  let flipped: Flipped | undefined;

  const server = http.createServer(async (request, response) => {
    const { method, url = '', headers } = request;
    const concerned = refused?.which.test(url) === true && (refused.method ?? method) === method;
    if (concerned) triedAt.push(performance.now());
    if (concerned && refused && refused.left > 0) {
      refused.left -= 1;
      await request.resume().toArray();
      response.writeHead(503, { 'content-type': 'application/xml', 'content-length': refusal.length }).end(refusal);
      return;
    }
    const foreign = dialect?.refuse(request);
    if (foreign) {
      await request.resume().toArray();
      const { status, code, message } = foreign;
      const text = `<Error><Code>${code}</Code><Message>${message}</Message></Error>`;
      const length = dialect?.chunkedErrors ? {} : { 'content-length': text.length };
      response.writeHead(status, { 'content-type': 'application/xml', ...length }).end(method === 'HEAD' ? '' : text);
      return;
    }
    if (held?.which.test(url) && (held.method ?? method) === method) {
      held.reached();
      await held.over;
      // Who asked may have died meanwhile.
      if (request.socket.destroyed) return;
    }
    await passOn(request, response, http.request({ hostname, port, agent, method, path: url, headers }), {
      dialect,
      flipped,
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    triedAt,
    refuse(which, times, method) {
      triedAt.length = 0;
      refused = { which, method, left: times };
    },
    hold(which, method) {
      const reached = Promise.withResolvers<void>();
      const over = Promise.withResolvers<void>();
      held = { which, method, reached: reached.resolve, over: over.promise };
      return {
        reached: reached.promise,
        release() {
          held = undefined;
          over.resolve();
        },
      };
    },
    flip(key, at) {
      flipped = { key, at };
    },
    async [Symbol.asyncDispose]() {
      agent.destroy();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

interface Flipped {
  key: string;
  at: number;
}

/** Passes a request on to the server, and its answer back. */
async function passOn(
  request: http.IncomingMessage,
  response: http.ServerResponse,
  onward: http.ClientRequest,
  { dialect, flipped }: { dialect: Dialect | undefined; flipped: Flipped | undefined },
): Promise<void> {
  const { method, url = '', headers } = request;
  try {
    const answered = once(onward, 'response') as Promise<[http.IncomingMessage]>;
    const [[answer]] = await Promise.all([answered, pipeline(request, onward)]);
    const { statusCode: status = 502, headers: answeredHeaders } = answer;
    const shown = { ...answeredHeaders };
    if (dialect?.chunkedErrors && status >= 300 && method !== 'HEAD') delete shown['content-length'];
    response.writeHead(status, shown);
    if (dialect?.begun && method === 'POST' && url.endsWith('?uploads=')) {
      const body = Buffer.concat(await answer.toArray());
      dialect.begun(request, /<UploadId>(.*?)<\/UploadId>/.exec(body.toString())?.[1] ?? '');
      response.end(body);
      return;
    }
    const isFlipped =
      method === 'GET' && flipped && decodeURIComponent(url.replace(/\?.*/, '')).endsWith(`/${flipped.key}`);
    const start = Number(/bytes=(\d+)-/.exec(headers.range ?? '')?.[1] ?? 0);
    await (isFlipped ? pipeline(answer, flipping(flipped.at - start), response) : pipeline(answer, response));
  } catch {
    // One side went away: the other learns it the same way.
    response.destroy();
    onward.destroy();
  }
}

function flipping(at: number) {
  return async function* (chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    let seen = 0;
    for await (const chunk of chunks) {
      const here = at - seen;
      if (here >= 0 && here < chunk.length) chunk.writeUInt8(chunk.readUInt8(here) ^ 1, here);
      seen += chunk.length;
      yield chunk;
    }
  };
}
