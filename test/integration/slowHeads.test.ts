/** Clients that do not send all of a request: of the API and of the health ports, by the clock. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { Registry } from 'prom-client';
import { connectionLimits } from '../../services/gateway/access/connections.ts';
import { type HealthServer, serveHealth } from '../../services/telemetry/health.ts';

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
