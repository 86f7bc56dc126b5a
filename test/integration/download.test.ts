/** Downloads against servers that say exactly what the test wants, in the pieces that it wants. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import net, { type AddressInfo, type Server, type Socket } from 'node:net';
import { describe, it } from 'node:test';
import tls from 'node:tls';
import fc from 'fast-check';
import { Downloader } from '../../services/http/download.ts';
import { makeCertificate } from '../lab/certificates.ts';

const never = { signal: new AbortController().signal };

interface Served extends AsyncDisposable {
  url: string;
  /** Connections so far. */
  connections: Socket[];
  requests: string[];
}

/** Answers each request by `answer`, which may write to the socket in any way. */
async function serve(
  answer: (socket: Socket, count: number) => void,
  server: Server = net.createServer(),
): Promise<Served> {
  const connections: Socket[] = [];
  const requests: string[] = [];
  server.on(server instanceof tls.Server ? 'secureConnection' : 'connection', (socket: Socket) => {
    connections.push(socket);
    socket.on('error', () => undefined);
    let heard = '';
    socket.on('data', (data) => {
      heard += data.toString('latin1');
      for (let end = heard.indexOf('\r\n\r\n'); end >= 0; end = heard.indexOf('\r\n\r\n')) {
        requests.push(heard.slice(0, end));
        heard = heard.slice(end + 4);
        answer(socket, requests.length);
      }
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return {
    url: `${server instanceof tls.Server ? 'https' : 'http'}://127.0.0.1:${port}/x`,
    connections,
    requests,
    async [Symbol.asyncDispose]() {
      for (const socket of connections) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

function pooled(size: number): Buffer {
  return Buffer.from(new SharedArrayBuffer(size));
}

/** Waits for connections to be given up; with or without a reset does not matter. */
async function closed(connections: Socket[]): Promise<void> {
  for (const socket of connections)
    if (!socket.destroyed) await new Promise((resolve) => socket.once('close', resolve));
}

/** All of an answer's body, read in stretches of `step`. */
async function read(downloader: Downloader, url: string, step = 1000): Promise<Buffer> {
  const download = await downloader.get(url, {}, never);
  const stretches: Buffer[] = [];
  for (;;) {
    const memory = pooled(step);
    const filled = await download.fill(memory, never);
    stretches.push(memory.subarray(0, filled));
    if (filled < step) return Buffer.concat(stretches);
  }
}

describe('a download', { timeout: 1_800_000 }, () => {
  it('is the same bytes, whatever pieces they come in and are read in', async () => {
    const body = Buffer.from(Array.from({ length: 5000 }, (_, i) => i % 251));
    const whole = Buffer.concat([Buffer.from(`HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n`), body]);
    let cuts: number[] = [];
    await using server = await serve(async (socket) => {
      socket.setNoDelay(true);
      let from = 0;
      for (const cut of [...cuts.toSorted((a, b) => a - b), whole.length]) {
        socket.write(whole.subarray(from, cut));
        from = cut;
        await new Promise((resolve) => setImmediate(resolve));
      }
    });
    using downloader = new Downloader();
    const property = fc.asyncProperty(
      fc.array(fc.integer({ min: 1, max: whole.length - 1 }), { maxLength: 6 }),
      fc.integer({ min: 1, max: 6000 }),
      async (where, step) => {
        cuts = where;
        assert.deepEqual(await read(downloader, `${server.url}?y=%20z`, step), body);
      },
    );
    await fc.assert(property, { numRuns: 40 });
    assert.match(server.requests[0] ?? '', /^GET \/x\?y=%20z HTTP\/1\.1\r\nhost: 127\.0\.0\.1:\d+$/);
    assert.equal(server.connections.length, 1, 'the connection is used again');
  });

  it('touches nothing but the memory that it was given, and only while it is read', async () => {
    await using server = await serve((socket) =>
      socket.write(`HTTP/1.1 200 OK\r\nContent-Length: 400000\r\n\r\n${'x'.repeat(400_000)}`),
    );
    using downloader = new Downloader();
    const download = await downloader.get(server.url, {}, never);
    const memory = pooled(300_000);
    await download.fill(memory.subarray(100_000, 200_000), never);
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.ok(memory.subarray(0, 100_000).every((byte) => byte === 0));
    assert.ok(memory.subarray(100_000, 200_000).every((byte) => byte === 120));
    assert.ok(memory.subarray(200_000).every((byte) => byte === 0));
    download.destroy();
  });

  it('stands still while nobody reads', async () => {
    let written = 0;
    const chunk = Buffer.alloc(1_000_000);
    await using server = await serve((socket) => {
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n');
      const go = () => {
        while (written < 200 && socket.write(chunk)) written += 1;
        socket.once('drain', go);
      };
      go();
    });
    using downloader = new Downloader();
    const download = await downloader.get(server.url, {}, never);
    let before = -1;
    while (before !== written) {
      before = written;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    assert.ok(written < 100, `${written} MB were taken in without a reader`);
    const memory = pooled(1_000_000);
    for (let total = 0; total < 200_000_000; total += memory.length) {
      assert.equal(await download.fill(memory, never), memory.length);
    }
    assert.equal(await download.fill(memory, never), 0);
  });

  const refused: Record<string, string> = {
    'an answer without a length': 'HTTP/1.1 200 OK\r\n\r\nabc',
    'an answer in chunks': 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n',
    'a length and chunks': 'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc',
    'two lengths': 'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd',
    'a negative length': 'HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc',
    'another protocol': 'HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc',
    'no protocol at all': 'SSH-2.0-OpenSSH_9.2\r\n\r\n',
    'a header line that is none': 'HTTP/1.1 200 OK\r\nContent-Length : 3\r\n\r\nabc',
    'a head without an end': `HTTP/1.1 200 OK\r\nX: ${'y'.repeat(200_000)}`,
  };
  for (const [what, answer] of Object.entries(refused)) {
    it(`refuses ${what}`, async () => {
      await using server = await serve((socket) => socket.write(answer));
      using downloader = new Downloader();
      await assert.rejects(downloader.get(server.url, {}, never), /^Error: the (answer|head)/);
      await closed(server.connections);
    });
  }

  it('passes over what comes before the answer, and gives an error’s body', async () => {
    await using server = await serve((socket) =>
      socket.write('HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone'),
    );
    using downloader = new Downloader();
    const answer = await downloader.get(server.url, {}, never);
    assert.equal(answer.status, 404);
    assert.equal((await answer.body(100, never)).toString(), 'gone');
  });

  const untold: Record<string, string[]> = {
    'in chunks': ['Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nNoS', '\r\n9\r\nuchBucket\r\n', '0\r\n\r\n'],
    'to the end of the connection': ['Connection: close\r\n\r\nNoSuch', 'Bucket'],
  };
  for (const [how, pieces] of Object.entries(untold))
    it(`gives an error’s body that comes ${how}, up to a limit, and drops the connection`, async () => {
      await using server = await serve((socket) => {
        const [first = '', ...rest] = pieces;
        socket.write(`HTTP/1.1 404 Not Found\r\n${first}`);
        setImmediate(() => {
          for (const piece of rest) socket.write(piece);
          if (how !== 'in chunks') socket.end();
        });
      });
      using downloader = new Downloader();
      const bodyUpTo = async (limit: number) =>
        (await (await downloader.get(server.url, {}, never)).body(limit, never)).toString();
      assert.deepEqual([await bodyUpTo(100), await bodyUpTo(3)], ['NoSuchBucket', '']);
      await closed(server.connections);
      assert.equal(server.connections.length, 2);
    });

  it('fails when it is cut, and when the server is silent, and when it is given up', async () => {
    await using server = await serve((socket, count) => {
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc');
      if (count === 1) socket.end();
    });
    using downloader = new Downloader();
    const memory = pooled(10);
    const cut = await downloader.get(server.url, {}, never);
    await assert.rejects(cut.fill(memory, never), /closed before the end/);

    const silence = { ms: 100, error: () => new Error('too long') };
    const silent = await downloader.get(server.url, {}, never);
    await assert.rejects(silent.fill(memory, { ...never, silence }), /too long/);

    const controller = new AbortController();
    const givenUp = await downloader.get(server.url, {}, never);
    const filling = givenUp.fill(memory, controller);
    controller.abort(new Error('no more'));
    await assert.rejects(filling, /no more/);
    await assert.rejects(downloader.get(server.url, {}, controller), /no more/);
    await closed(server.connections);
  });

  it('asks again on a new connection when a kept one turns out to be closed', async () => {
    await using server = await serve((socket, count) => {
      // The second request finds the first one's connection gone, without an answer.
      if (count === 2) socket.destroy();
      else socket.write('HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc');
    });
    using downloader = new Downloader();
    assert.equal((await read(downloader, server.url)).toString(), 'abc');
    assert.equal((await read(downloader, server.url)).toString(), 'abc');
    assert.equal(server.connections.length, 2);
  });

  it('never uses a connection again whose server said more than it announced, or that it would close', async () => {
    await using server = await serve((socket, count) =>
      socket.write(
        count === 1
          ? 'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nxyz'
          : 'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\ndef',
      ),
    );
    using downloader = new Downloader();
    assert.equal((await read(downloader, server.url)).toString(), 'abc');
    assert.equal((await read(downloader, server.url)).toString(), 'def');
    assert.equal((await read(downloader, server.url)).toString(), 'def');
    assert.equal(server.connections.length, 3);
  });

  it('goes over TLS, in pieces of any size, with a certificate of its own to a server that is known', async () => {
    const [serverSide, clientSide, stranger] = await Promise.all(
      ['server', 'client', 'stranger'].map((commonName) => makeCertificate({ commonName })),
    );
    assert.ok(serverSide && clientSide && stranger);
    const body = Buffer.alloc(3_000_001, 'abcdefg');
    const secure = tls.createServer({ ...serverSide, requestCert: true, ca: clientSide.cert }, () => undefined);
    await using server = await serve(
      (socket) =>
        socket.write(Buffer.concat([Buffer.from(`HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n`), body])),
      secure,
    );
    using downloader = new Downloader({ tls: { ca: serverSide.cert, cert: clientSide.cert, key: clientSide.key } });
    assert.deepEqual(await read(downloader, server.url, 1_000_000), body);
    assert.deepEqual(await read(downloader, server.url, 77_777), body);
    assert.equal(server.connections.length, 1);
    using misled = new Downloader({ tls: { ca: stranger.cert } });
    await assert.rejects(misled.get(server.url, {}, never), /self-signed certificate/);
  });

  it('sends nothing that could be taken for two requests', async () => {
    using downloader = new Downloader();
    await assert.rejects(downloader.get('http://127.0.0.1:1/a b', {}, never), /printable ASCII/);
    await assert.rejects(downloader.get('http://127.0.0.1:1/', { range: 'x\r\ny: z' }, never), /printable ASCII/);
  });
});
