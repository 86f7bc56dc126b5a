/** A client of the gateway that costs the machine little: connections that stay, answers that are not looked into. */
import https from 'node:https';

export interface BenchClient extends Disposable {
  request(method: string, path: string, body?: object): Promise<{ status: number; text: string; ms: number }>;
}

/** `sockets`: connections, as many at most. */
export function openClient(
  { url, client }: { url: string; client: { cert: string; key: string } },
  sockets: number,
): BenchClient {
  const { hostname, port } = new URL(url);
  const { cert, key } = client;
  // Its certificate is its own; whose it is was looked at when the lab began.
  const agent = new https.Agent({ keepAlive: true, maxSockets: sockets, cert, key, rejectUnauthorized: false });
  const ask: BenchClient['request'] = (method, path, body) => {
    const text = body === undefined ? '' : JSON.stringify(body);
    const headers = { 'content-length': Buffer.byteLength(text) };
    const begun = performance.now();
    return new Promise((resolve, reject) => {
      const request = https.request({ hostname, port, agent, method, path, headers }, (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const ms = performance.now() - begun;
          resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString(), ms });
        });
      });
      request.on('error', (error: NodeJS.ErrnoException) => {
        // The gateway may close an idle connection while it is written to: every HTTP client asks again then.
        if (request.reusedSocket && method === 'GET' && error.code === 'ECONNRESET') resolve(ask(method, path, body));
        else reject(error);
      });
      request.end(text);
    });
  };
  return {
    request: ask,
    [Symbol.dispose]: () => agent.destroy(),
  };
}
