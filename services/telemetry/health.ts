/**
 * /healthz: the process is alive. /readyz: its dependencies answer. /metrics: for Prometheus. Plain HTTP, no authentication, meant for a local port.
 */
import { createServer } from 'node:http';
import type { Registry } from 'prom-client';
import { listen } from './listen.ts';

/** Resolves if the dependency works; throws what is wrong otherwise. */
type Probe = (signal: AbortSignal) => Promise<void>;

export interface HealthServer extends AsyncDisposable {
  readonly port: number;
}

/** What /metrics serves. */
interface Exposition {
  registry: Registry;
  /** Called before each response; it must end soon after `signal` aborts. */
  refresh?: (signal: AbortSignal) => Promise<void>;
}

/** How long a client may take to send a request's head, in ms: here, and at the API. */
export const headLimits = {
  headersTimeout: 30_000,
  // Node.js looks every 30 s for connections whose time is over.
  connectionsCheckingInterval: 1000,
} as const;

const probeTimeoutMs = 3000;
/** Prometheus waits for 10 s by default. */
const refreshTimeoutMs = 5000;

/**
 * Serves until disposed. `/readyz` runs all probes in parallel, each for at most 3 s, and answers 503 with what failed. Failures of `shown` are in the
 * answer too, but do not make it 503: the process works without them.
 */
export async function serveHealth(
  { address, port, key }: { address: string; port: number; key: string },
  probes: Record<string, Probe>,
  { registry, refresh }: Exposition,
  shown: Record<string, Probe> = {},
): Promise<HealthServer> {
  const server = createServer(headLimits, async (request, response) => {
    // A body says nothing here, and is not waited for.
    response.once('finish', () => request.complete || request.socket.destroySoon());
    const answer = (status: number, body: object) => {
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(`${JSON.stringify(body)}\n`);
    };
    if (request.url === '/healthz') return answer(200, { status: 'ok' });
    if (request.url === '/metrics') {
      await refresh?.(AbortSignal.timeout(refreshTimeoutMs));
      const text = await registry.metrics();
      response.writeHead(200, { 'content-type': registry.contentType });
      return void response.end(text);
    }
    if (request.url !== '/readyz') return answer(404, { error: 'not found' });
    const checks = await Promise.all(
      Object.entries({ ...probes, ...shown }).map(async ([name, probe]) => [name, await verdict(probe)] as const),
    );
    const ready = checks.every(([name, word]) => word === 'ok' || name in shown);
    answer(ready ? 200 : 503, { status: ready ? 'ok' : 'unready', checks: Object.fromEntries(checks) });
  });
  return {
    port: await listen(server, address, port, key),
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function verdict(probe: Probe): Promise<string> {
  const signal = AbortSignal.timeout(probeTimeoutMs);
  try {
    await Promise.race([
      probe(signal),
      new Promise<never>((_, reject) =>
        signal.addEventListener('abort', () => reject(new Error(`no answer in ${probeTimeoutMs} ms`))),
      ),
    ]);
    return 'ok';
  } catch (error) {
    return (error as Error).message;
  }
}
