/** Clients that do not send all of a request: of the API and of the health ports, by the clock. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import type https from 'node:https';
import { type AddressInfo, connect } from 'node:net';
import { after, afterEach, before, describe, it } from 'node:test';
import { connect as connectTls, type TLSSocket } from 'node:tls';
import { promisify } from 'node:util';
import { Registry } from 'prom-client';
import { Connections, connectionLimits } from '../../services/gateway/access/connections.ts';
import type { GatewayParts } from '../../services/gateway/gatewayParts.ts';
import { createHttpsServer } from '../../services/gateway/httpsServer.ts';
import { type HealthServer, serveHealth } from '../../services/telemetry/health.ts';
import { makeCertificate } from '../lab/certificates.ts';
import { until } from './stack.ts';

describe('a connection that its client keeps open', { timeout: 120_000 }, () => {
  let server: https.Server;
  /** Resolves when the clients of requests are known: strangers. */
  let identified = Promise.resolve();
  before(async () => {
    const log = { info() {}, warn() {}, error() {}, debug() {} };
    server = createHttpsServer({
      ...{ certificate: await makeCertificate({ commonName: 'localhost' }), log, audit: log },
      ...{ connections: new Connections(), config: { gateway: { bodyLimitBytes: 1024 } } },
      absences: { explain: async (error: Error) => error },
      trust: { refused() {}, assertHeard() {}, client: () => identified },
    } as unknown as GatewayParts);
    await once(server.listen(0, '127.0.0.1'), 'listening');
  });
  const sockets: TLSSocket[] = [];
  afterEach(() => {
    for (const socket of sockets) socket.destroy();
  });
  after(() => void server?.close());

  /** A client that does not end its side when the server does. */
  async function client(sends: string): Promise<TLSSocket> {
    const { port } = server.address() as AddressInfo;
    const socket = connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false, ...{ allowHalfOpen: true } });
    sockets.push(socket);
    await once(
      socket.on('error', () => undefined),
      'secureConnect',
    );
    socket.write(sends);
    return socket;
  }

  const open = () => promisify(server.getConnections.bind(server))();
  const closed = () => until(open, (count) => count === 0);
  const head = (path: string, headers: string) => `GET ${path} HTTP/1.1\r\nhost: x\r\n${headers}\r\n\r\n`;
  const upgrade = 'connection: upgrade\r\nupgrade: ';

  for (const [what, sends, answer] of [
    ['for a websocket, after its answer', head('/1.0', `${upgrade}websocket`), 200],
    ['for a websocket that is refused', head('/1.0/events', `${upgrade}websocket`), 403],
    ['for another protocol', head('/1.0', `${upgrade}h2c`), 400],
    ['whose body does not end, after its answer', `${head('/1.0', 'content-length: 1000')}x`, 200],
  ] as const)
    it(`is closed when it has sent a request ${what}`, async () => {
      const socket = await client(sends);
      assert.match(String((await once(socket, 'data'))[0]), new RegExp(`^HTTP/1.1 ${answer} `));
      await closed();
    });

  it('is closed when the client has gone before its request for a websocket is answered', async () => {
    const deciding = Promise.withResolvers<void>();
    identified = deciding.promise;
    const begun = once(server, 'upgrade');
    const socket = await client(head('/1.0', `${upgrade}websocket`));
    await begun;
    socket.end('xx');
    await closed();
    deciding.resolve();
  });

  it('stays for the next request when its request is whole', async () => {
    const socket = await client(head('/1.0', 'content-length: 1'));
    await once(socket, 'data');
    socket.write(`x${head('/', 'connection: close')}`);
    assert.match(String((await once(socket, 'data'))[0]), /^HTTP\/1.1 200 /);
  });
});

describe('a request that is not whole', { concurrency: true, timeout: 120_000 }, () => {
  let api: http.Server;
  let health: HealthServer;
  before(async () => {
    api = http.createServer(connectionLimits, (_, response) => response.end());
    await once(api.listen(0, '127.0.0.1'), 'listening');
    health = await serveHealth(
      { address: '127.0.0.1', port: 0, key: 'worker.healthPort' },
      {},
      { registry: new Registry() },
    );
  });
  after(async () => {
    api?.close();
    await health?.[Symbol.asyncDispose]();
  });

  const ports = { 'the API': () => (api.address() as AddressInfo).port, 'a health port': () => health.port };
  for (const [what, port] of Object.entries(ports))
    for (const said of ['', 'GET /healthz HTTP/1.1\r\nhost: x\r\n'])
      it(`ends after the 30 s of docs/security.md at ${what}, ${said ? 'amid its head' : 'before it'}`, async () => {
        const begun = performance.now();
        const socket = connect(port(), '127.0.0.1', () => socket.write(said));
        socket.on('error', () => undefined).resume();
        await once(socket, 'close');
        const seconds = (performance.now() - begun) / 1000;
        assert.ok(seconds > 29 && seconds < 40, `${seconds} s`);
      });

  it('cannot be made at a port that is taken, which is said by its key', async () => {
    const taken = { address: '127.0.0.1', port: health.port, key: 'worker.healthPort' };
    await assert.rejects(serveHealth(taken, {}, { registry: new Registry() }), {
      code: 'bad-config',
      message: `cannot listen on 127.0.0.1 port ${health.port} (worker.healthPort): listen EADDRINUSE: address already in use 127.0.0.1:${health.port}`,
    });
  });

  it('has its answer at a health port before its body, which is not waited for; one that is whole keeps its connection', async () => {
    for (const [head, part] of [
      ['POST /metrics HTTP/1.1\r\ncontent-length: 100000000', 'a'],
      ['GET /x HTTP/1.1\r\ntransfer-encoding: chunked', '1\r\na\r\n'],
    ]) {
      const socket = connect(health.port, '127.0.0.1', () => socket.write(`${head}\r\nhost: x\r\n\r\n`));
      const drip = setInterval(() => socket.write(part ?? ''), 500);
      const begun = performance.now();
      const [answer] = await once(
        socket.on('error', () => undefined),
        'data',
      );
      assert.match(String(answer), /^HTTP\/1\.1 (200|404) /);
      await once(socket.resume(), 'close', { signal: AbortSignal.timeout(20_000) }).finally(() => clearInterval(drip));
      assert.ok(performance.now() - begun < 10_000);
    }
    const socket = connect(health.port, '127.0.0.1');
    for (let asked = 0; asked < 2; asked++) {
      socket.write('GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n');
      assert.match(String((await once(socket, 'data'))[0]), /^HTTP\/1\.1 200 /);
    }
    socket.destroy();
  });
});
