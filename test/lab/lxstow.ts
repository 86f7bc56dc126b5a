import { mkdir, readFile, writeFile } from 'node:fs/promises';
import https from 'node:https';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { type Certificate, makeCertificate } from './certificates.ts';
import { assertDescribed } from './described.ts';
import { type LabFolder, openFolder } from './folder.ts';
import { answers, type Daemon, freePort, startDaemon } from './processes.ts';
import { type Log, run } from './run.ts';
import { unitSettings } from './unitSettings.ts';

const sources = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));

export interface LxstowOptions {
  name: string;
  log: Log;
  natsUrl: string;
  s3: { endpoint: string; accessKey: string; secretKey: string; bucket: string };
  /** LXD's socket. */
  socket: string;
  /** Workers of the remote `local`; one unless told otherwise. */
  workers?: number;
  /** What each part has in its environment. */
  environment?: (part: 'admin' | 'gateway' | 'worker') => NodeJS.ProcessEnv;
  /** What is run; the sources unless told otherwise. */
  cli?: string;
  /** Of the remote `local`: `transfers`, `transfersPerPool`, `pools`. */
  limits?: object;
  /** Goes over the configuration that the lab makes. */
  config?: Record<string, object>;
}

export interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  /** The body as JSON. */
  body: Envelope;
  /** The body as it came, unpacked. */
  text: string;
}

interface Envelope {
  type: 'sync' | 'async' | 'error';
  status: string;
  status_code: number;
  operation: string;
  error_code: number;
  error: string;
  // biome-ignore lint/suspicious/noExplicitAny: each test knows what it asked for
  metadata: any;
}

export interface RequestOptions {
  /** An object is sent as JSON, a string as it is. */
  body?: unknown;
  headers?: Record<string, string>;
  /** The lab's own trusted certificate unless another is given; null: none. */
  certificate?: Certificate | null;
  minVersion?: 'TLSv1.2' | 'TLSv1.3';
  maxVersion?: 'TLSv1.1' | 'TLSv1.2';
}

/** A gateway and workers, as processes of their own: what a user runs. */
export interface Lxstow extends AsyncDisposable {
  readonly gateway: Daemon;
  readonly workers: Daemon[];
  readonly url: string;
  /** Of the configuration file that gateway and workers read. */
  readonly configFile: string;
  readonly trustDir: string;
  readonly client: Certificate;
  readonly healthUrl: { gateway: string; worker: string };
  /** Each answer must be as docs/openapi.json has it. `path` may be anything that follows the host, taken as it is. */
  request(method: string, path: string, options?: RequestOptions): Promise<Answer>;
  /** Waits for an async answer's operation to end, and returns it. */
  // biome-ignore lint/suspicious/noExplicitAny: an operation as the API shows it
  finished(answer: Answer): Promise<any>;
  /** One more; with variables of its own it may be another remote's. */
  addWorker(env?: NodeJS.ProcessEnv): Promise<Daemon>;
  /** What a worker or the gateway has logged. */
  logOf(part: 'gateway' | number): Promise<string>;
}

/** Runs the CLI once; returns its standard output. Throws with its standard error. */
export async function lxstow(args: string[], env: NodeJS.ProcessEnv = {}, cli = sources): Promise<string> {
  return run(process.execPath, [cli, ...args], { env: { ...process.env, ...env } });
}

/** Sets NATS up, and starts a gateway and workers against the given parts, each in a folder of the lab. */
export async function startLxstow(options: LxstowOptions): Promise<Lxstow> {
  const { name, log, workers: count = 1, environment = () => ({}), cli = sources } = options;
  await using opening = new AsyncDisposableStack();
  const folder = opening.use(await openFolder(`${name}-gateway`, log));
  const trustDir = join(folder.path, 'trust');
  await mkdir(trustDir);
  const client = await makeCertificate({ commonName: 'lab client' });
  await writeFile(join(trustDir, 'client.crt'), client.cert);
  const port = await freePort();
  const ports = { gateway: await freePort(), worker: await freePort() };
  const gatewayConfig = { port, healthPort: ports.gateway, stateDir: join(folder.path, 'state'), trustDir };
  const configFile = join(folder.path, 'lxstow.json');
  await writeFile(configFile, JSON.stringify(configOf(options, gatewayConfig), null, 2));
  await lxstow(['--config', configFile, 'setup'], environment('admin'), cli);

  const start = (command: 'gateway' | 'worker', place: LabFolder, healthPort: number, env: NodeJS.ProcessEnv = {}) =>
    startDaemon({
      command: process.execPath,
      args: [cli, '--config', configFile, command],
      folder: place,
      env: { ...unitSettings(command), ...env, ...environment(command) },
      ready: answers(async (signal) => {
        const health = await fetch(`http://127.0.0.1:${healthPort}/healthz`, { signal });
        if (!health.ok) throw new Error(await health.text());
      }),
    });
  const workers: Daemon[] = [];
  const folders: LabFolder[] = [];
  const addWorker = async (env: NodeJS.ProcessEnv = {}) => {
    const place = await openFolder(`${name}-worker`, log);
    stack.use(place);
    folders.push(place);
    const healthPort = folders.length === 1 ? ports.worker : await freePort();
    const worker = await start('worker', place, healthPort, {
      LXSTOW_WORKER_HEALTH_PORT: String(healthPort),
      ...env,
    });
    workers.push(worker);
    return worker;
  };
  let stack: AsyncDisposableStack = opening;
  const addWorkers = async () => {
    for (let i = 0; i < count; i++) await addWorker();
  };
  const starting = [start('gateway', folder, ports.gateway), addWorkers()] as const;
  await Promise.allSettled(starting);
  const [gateway] = await Promise.all(starting);
  const url = `https://127.0.0.1:${port}`;
  const request = requesting(url, client, await readFile(join(folder.path, 'state', 'server.crt'), 'utf8'), opening);
  const owned = opening.move();
  stack = owned;

  log(`lxstow is ready on ${url}`);
  return {
    gateway,
    workers,
    url,
    configFile,
    trustDir,
    client,
    healthUrl: { gateway: `http://127.0.0.1:${ports.gateway}`, worker: `http://127.0.0.1:${ports.worker}` },
    request,
    async finished(answer) {
      if (answer.body.type !== 'async') throw new Error(`no operation: ${answer.text}`);
      return (await request('GET', `${answer.body.operation}/wait`)).body.metadata;
    },
    addWorker,
    logOf: (part) =>
      readFile(join((part === 'gateway' ? folder : (folders[part] ?? folder)).path, 'daemon.log'), 'utf8'),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

function configOf({ natsUrl, s3, socket, limits, config = {} }: LxstowOptions, gateway: object): object {
  const base = {
    nats: { servers: [natsUrl] },
    s3: { endpoint: s3.endpoint, accessKey: s3.accessKey, secretKey: s3.secretKey, bucket: s3.bucket },
    remotes: { local: { socket, ...limits } },
    // A worker that is there answers, however busy the machine is.
    gateway: { askTimeoutMs: 20_000, inventoryTimeoutMs: 60_000, ...gateway },
    worker: { graceMs: 2000 },
    log: { format: 'json' },
  };
  return merged(base, config);
}

/** `server`: the gateway's certificate. */
function requesting(url: string, client: Certificate, server: string, stack: AsyncDisposableStack): Lxstow['request'] {
  const agents = new Map<string, https.Agent>();
  stack.defer(() => {
    for (const agent of agents.values()) agent.destroy();
  });
  return (method, path, { body, headers = {}, certificate = client, ...tls } = {}) => {
    const id = `${certificate?.fingerprint} ${JSON.stringify(tls)}`;
    const agent = agents.get(id) ?? new https.Agent({ keepAlive: true, ca: server, ...tls, ...(certificate ?? {}) });
    agents.set(id, agent);
    // The gateway closes idle connections, and what may not be sent twice must not meet that.
    if (method !== 'GET') for (const idle of Object.values(agent.freeSockets).flat()) idle?.destroy();
    const text = typeof body === 'string' || body === undefined ? body : JSON.stringify(body);
    return ask(url, agent, method, path, headers, text);
  };
}

function ask(
  url: string,
  agent: https.Agent,
  method: string,
  path: string,
  headers: Record<string, string>,
  body?: string,
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const { hostname, port } = new URL(url);
    const length = body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) };
    const request = https.request(
      { hostname, port, agent, method, path, headers: { ...length, ...headers } },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const bytes = Buffer.concat(chunks);
          const packed = response.headers['content-encoding'] === 'gzip';
          const text = (packed ? gunzipSync(bytes) : bytes).toString();
          const { statusCode: status = 0, headers: answered } = response;
          try {
            const lines = answered['content-type'] === 'application/x-ndjson';
            const answer = { status, headers: answered, text, body: text && !lines ? JSON.parse(text) : {} };
            assertDescribed(method, path, {
              status,
              contentType: String(answered['content-type']),
              body: answer.body,
            });
            resolve(answer);
          } catch (error) {
            reject(error instanceof SyntaxError ? new Error(`not JSON: ${text}`, { cause: error }) : error);
          }
        });
      },
    );
    request.on('error', (error: NodeJS.ErrnoException) => {
      // The gateway may close an idle connection while we write to it: every HTTP client asks again then.
      if (request.reusedSocket && method === 'GET' && ['ECONNRESET', 'EPIPE'].includes(error.code ?? ''))
        resolve(ask(url, agent, method, path, headers, body));
      else reject(error);
    });
    request.end(body);
  });
}

function merged(base: Record<string, object>, over: Record<string, object>): Record<string, object> {
  const result = { ...base };
  for (const [key, value] of Object.entries(over)) result[key] = { ...result[key], ...value };
  return result;
}
