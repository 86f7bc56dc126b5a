/** What a user gets when the S3 server misbehaves: each answer, silence and death as an error that says what and where, soon. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import http, { type IncomingMessage, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { after, before, describe, it } from 'node:test';
import { type ErrorCode, LxstowError } from '../../services/contract/errors.ts';
import type { Config } from '../../services/contract/schemas.ts';
import type { ObjectStore } from '../../services/storage/objectStore.ts';
import { retrying } from '../../services/storage/retrying.ts';
import { createS3Store } from '../../services/storage/s3/s3.ts';
import { crcOf } from '../contract/objectStore.ts';
import { type LabS3, s3Settings, startS3 } from '../lab/s3.ts';

const mib = 1024 * 1024;
/** For a server that is silent; the others have the time that a busy machine takes. */
const shortMs = 300;
const patientMs = 30_000;
const maxSockets = 64;
const never = new AbortController().signal;
const settings = { tags: {}, contentType: 'text/plain' };
const secretKey = 'the-secret-key-of-this-test';
const at = { timeout: 120_000 };

const access: Config['s3'] = {
  endpoint: '',
  bucket: 'lxstow',
  accessKey: 'access',
  secretKey,
  ...s3Settings,
  idleTimeoutMs: patientMs,
  attempts: 5,
};

interface Scripted extends AsyncDisposable {
  readonly store: ObjectStore;
  readonly endpoint: string;
  /** Connections so far, and those that are open. */
  readonly connections: { all: number; open: number };
}

async function scripted(server: Server, idleTimeoutMs = patientMs): Promise<Scripted> {
  const sockets = new Set<Socket>();
  const connections = {
    all: 0,
    get open() {
      return sockets.size;
    },
  };
  server.on('connection', (socket: Socket) => {
    connections.all += 1;
    sockets.add(socket);
    socket.on('error', () => socket.destroy());
    socket.on('close', () => sockets.delete(socket));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const store = createS3Store({ ...access, endpoint, idleTimeoutMs });
  return {
    store,
    endpoint,
    connections,
    async [Symbol.asyncDispose]() {
      store[Symbol.dispose]();
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** A server that answers each request as it is told, when it has read it whole. */
function answering(
  answer: (request: IncomingMessage, response: ServerResponse) => void,
  idleTimeoutMs?: number,
): Promise<Scripted> {
  return scripted(
    http.createServer((request, response) => {
      request.resume().on('end', () => answer(request, response));
    }),
    idleTimeoutMs,
  );
}

/** The status of an answer, and its XML. */
type Reply = [status: number, body: string];

/** A server that gives these answers, the last one for ever. */
function replying(...replies: Reply[]): Promise<Scripted> {
  let next = 0;
  return answering((_request, response) => {
    const [status, body] = replies[Math.min(next++, replies.length - 1)] ?? [500, ''];
    response.writeHead(status, { 'content-length': Buffer.byteLength(body) }).end(body);
  });
}

const errorXml = (code: string, message = 'as the script says') =>
  `<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>${code}</Code><Message>${message}</Message></Error>`;
const emptyList: Reply = [200, '<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>'];

/** A server that sends what is given and then nothing more, for ever; or hangs up. */
function cutShort(head: string, end: 'silent' | 'hangs up'): Promise<Scripted> {
  return scripted(
    createServer((socket) => {
      socket.once('data', () => (end === 'silent' ? socket.write(head) : socket.end(head)));
    }),
    end === 'silent' ? shortMs : undefined,
  );
}

const upload = { key: 'k', uploadId: 'u' };
const part = Buffer.alloc(16 * mib, 7);
const calls = {
  probe: (store: ObjectStore) => store.probe(never),
  beginUpload: (store: ObjectStore) => store.beginUpload('k', settings, never),
  putPart: (store: ObjectStore) => store.putPart(upload, 1, part, crcOf(part), never),
  completeUpload: (store: ObjectStore) => store.completeUpload(upload, [{ number: 1, etag: 'e', crc32: 'c' }], never),
  abortUpload: (store: ObjectStore) => store.abortUpload(upload, never),
  create: (store: ObjectStore) => store.create('k', Buffer.from('x'), settings, never),
  read: (store: ObjectStore) => store.read('k', never),
  stat: (store: ObjectStore) => store.stat('k', never),
  readRange: (store: ObjectStore) => store.readRange('k', 'e', 0, Buffer.alloc(1000), never),
  remove: (store: ObjectStore) => store.remove('k', never),
  list: (store: ObjectStore) => drain(store.list('', never)),
} satisfies Record<string, (store: ObjectStore) => Promise<unknown>>;

async function drain(objects: AsyncIterable<unknown>): Promise<number> {
  let count = 0;
  for await (const _ of objects) count += 1;
  return count;
}

/** Rejects with this code and a text that says all of `words`. */
async function fails(running: Promise<unknown>, code: ErrorCode, ...words: (string | RegExp)[]): Promise<void> {
  await assert.rejects(running, (error: unknown) => {
    assert.ok(error instanceof LxstowError, String(error));
    assert.equal(error.code, code, error.message);
    for (const word of words) assert.ok(error.message.search(word) >= 0, `${error.message} does not say ${word}`);
    assert.ok(!error.message.includes(secretKey));
    return true;
  });
}

describe('a server that is silent', () => {
  for (const [call, run] of Object.entries(calls)) {
    it(`${call}: ends after the idle timeout, and names the endpoint`, at, async () => {
      await using server = await scripted(
        createServer((socket) => socket.resume()),
        shortMs,
      );
      const begun = performance.now();
      await fails(run(server.store), 's3-unavailable', server.endpoint, `did not answer for ${shortMs} ms`);
      assert.ok(performance.now() - begun >= shortMs - 5);
    });
  }

  it('while it takes nothing of a part', at, async () => {
    await using server = await scripted(createServer({ pauseOnConnect: true }), shortMs);
    await fails(calls.putPart(server.store), 's3-unavailable', server.endpoint, 'did not answer');
  });

  it('before it even accepts the connection', at, async () => {
    // A process that is stopped accepts none, and when enough wait the kernel drops all further ones.
    const listening = `const s = require('node:net').createServer();
      s.listen({ port: 0, host: '127.0.0.1', backlog: 1 }, () => console.log(s.address().port));`;
    const child = spawn(process.execPath, ['-e', listening], { stdio: ['ignore', 'pipe', 'inherit'] });
    const waiting: Socket[] = [];
    try {
      const [line] = (await once(child.stdout, 'data')) as [Buffer];
      const port = Number(line.toString());
      child.kill('SIGSTOP');
      for (let i = 0; i < 8; i++) waiting.push(connect({ port, host: '127.0.0.1' }).on('error', () => undefined));
      const full = waiting.slice(0, 2).map((socket) => once(socket, 'connect'));
      await Promise.all(full);
      const endpoint = `http://127.0.0.1:${port}`;
      using store = createS3Store({ ...access, endpoint, idleTimeoutMs: shortMs });
      await fails(store.probe(never), 's3-unavailable', endpoint, 'did not answer');
    } finally {
      for (const socket of waiting) socket.destroy();
      child.kill('SIGKILL');
    }
  });

  const heads = {
    read: 'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 1000\r\n\r\n0123456789',
    readRange: 'HTTP/1.1 206 Partial Content\r\nETag: "e"\r\nContent-Length: 1000\r\n\r\n0123456789',
    list: 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n12\r\n<ListBucketResult>\r\n',
    completeUpload: 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n \r\n',
    stat: 'HTTP/1.1 200 OK\r\nContent-Le',
    probe: 'HTTP/1.1 503 Slow Down\r\nContent-Length: 1000\r\n\r\n<Error>',
  };
  for (const [call, head] of Object.entries(heads) as [keyof typeof heads, string][]) {
    it(`in the middle of the answer to ${call}`, at, async () => {
      await using server = await cutShort(head, 'silent');
      await fails(calls[call](server.store), 's3-unavailable', server.endpoint, /did not answer|503/);
    });

    it(`for good: it hangs up in the middle of the answer to ${call}`, at, async () => {
      await using server = await cutShort(head, 'hangs up');
      await fails(calls[call](server.store), 's3-unavailable', server.endpoint);
    });
  }

  it('is not one that is slow: bytes that trickle in keep a request alive', at, async () => {
    const idleTimeoutMs = 2000;
    await using server = await answering((_request, response) => {
      response.writeHead(200, { etag: '"e"', 'content-length': 8 });
      let sent = 0;
      const timer = setInterval(() => {
        response.write(`${sent}`);
        if (++sent === 8) clearInterval(timer);
      }, idleTimeoutMs / 4);
    }, idleTimeoutMs);
    assert.equal((await server.store.read('k', never)).body.toString(), '01234567');
  });
});

describe('a completion', () => {
  it('may take longer than the idle timeout, as long as the server answers others', at, async () => {
    const done = '<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>';
    let heads = 0;
    await using server = await answering(({ method }, response) => {
      if (method === 'HEAD') heads += 1;
      const answer = () => response.writeHead(200, { etag: '"e"' }).end(method === 'HEAD' ? '' : done);
      if (method === 'HEAD') answer();
      else setTimeout(answer, 5 * shortMs);
    }, shortMs);
    assert.equal(await calls.completeUpload(server.store), 'e');
    assert.ok(heads > 1);
  });

  it('that is said, but has made nothing, is none', at, async () => {
    const done = '<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>';
    await using server = await answering(({ method }, response) =>
      method === 'HEAD' ? response.writeHead(404).end() : response.writeHead(200).end(done),
    );
    await assert.rejects(calls.completeUpload(server.store), { code: 's3-unavailable', message: /does not exist/ });
  });
});

describe('a server that says no', () => {
  const answers: [Reply, ErrorCode, RegExp][] = [
    [[503, errorXml('SlowDown')], 's3-unavailable', /SlowDown: as the script says/],
    [[503, ''], 's3-unavailable', /HTTP 503/],
    [[502, '<html><head><title>502 Bad Gateway</title></head><hr></html>'], 's3-unavailable', /HTTP 502/],
    [[503, '<'], 's3-unavailable', /HTTP 503/],
    [[503, '<!DOCTYPE html [<broken>]>'], 's3-unavailable', /HTTP 503/],
    [[503, `<Error>${'x'.repeat(200_000)}</Error>`], 's3-unavailable', /HTTP 503/],
    [[500, errorXml('InternalError')], 's3-unavailable', /InternalError/],
    [[429, errorXml('TooManyRequests')], 's3-unavailable', /TooManyRequests/],
    [[507, errorXml('XMinioStorageFull', 'Storage backend has reached its limit.')], 's3-full', /reached its limit/],
    [[500, errorXml('XMinioStorageFull')], 's3-full', /XMinioStorageFull/],
    [[403, errorXml('AccessDenied')], 's3-denied', /AccessDenied.*lxstow/],
    [[403, errorXml('InvalidObjectState')], 's3-refused', /InvalidObjectState/],
    [[404, errorXml('NoSuchBucket')], 's3-refused', /NoSuchBucket.*lxstow/],
    [
      [
        301,
        errorXml('PermanentRedirect').replace('</Error>', '<Endpoint>s3.eu-north-1.amazonaws.com</Endpoint></Error>'),
      ],
      's3-refused',
      /PermanentRedirect.*set s3.endpoint to s3\.eu-north-1\.amazonaws\.com/,
    ],
    [[501, errorXml('NotImplemented')], 's3-refused', /NotImplemented/],
    [[501, ''], 's3-refused', /HTTP 501/],
    [[400, errorXml('RequestTimeout')], 's3-unavailable', /RequestTimeout/],
    [[400, errorXml('XAmzContentChecksumMismatch')], 's3-unavailable', /XAmzContentChecksumMismatch/],
    [[409, errorXml('ConditionalRequestConflict')], 's3-unavailable', /ConditionalRequestConflict/],
    [[412, errorXml('PreconditionFailed')], 'conflict', /PreconditionFailed/],
  ];
  for (const [reply, code, text] of answers) {
    it(`${reply[0]} ${reply[1].slice(0, 60).replaceAll(/<\?.*\n/g, '')} is ${code}`, at, async () => {
      await using server = await replying(reply);
      for (const call of ['probe', 'putPart', 'create', 'read', 'readRange'] as const)
        await fails(calls[call](server.store), code, text, server.endpoint);
    });
  }

  it('in chunks, as some do: with the same meaning', at, async () => {
    for (const [reply, code, text] of answers) {
      await using server = await answering((_request, response) => {
        response.writeHead(reply[0]).write('');
        response.end(reply[1]);
      });
      for (const call of ['read', 'readRange'] as const) await fails(calls[call](server.store), code, text);
    }
  });

  it('a hundred times at once: no socket is lost, and the next call works', at, async () => {
    let busy = true;
    await using server = await answering((_request, response) => {
      const [status, body] = busy ? [503, errorXml('SlowDown')] : emptyList;
      response.writeHead(status, { 'content-length': Buffer.byteLength(body) }).end(body);
    });
    const { store } = server;
    const hundred = () =>
      Promise.all(Array.from({ length: 100 }, () => fails(store.probe(never), 's3-unavailable', 'SlowDown')));
    await hundred();
    assert.ok(server.connections.all <= maxSockets, `${server.connections.all} connections`);
    for (let i = 0; i < 10; i++) await hundred();
    assert.ok(server.connections.all <= maxSockets, `${server.connections.all} connections`);
    busy = false;
    await store.probe(never);
    assert.equal(await drain(store.list('', never)), 0);
  });

  it('before it has read the part, a hundred times: the next call works', at, async () => {
    let busy = true;
    await using server = await scripted(
      http.createServer((request, response) => {
        if (busy) return response.writeHead(503).end(errorXml('SlowDown'));
        request.resume().on('end', () => response.writeHead(200, { etag: '"e"' }).end());
      }),
    );
    const { store } = server;
    const body = part.subarray(0, mib);
    for (let i = 0; i < 100; i++) {
      // The error may be that the connection went away: both can be tried again.
      await fails(store.putPart(upload, 1, body, crcOf(body), never), 's3-unavailable', server.endpoint);
    }
    busy = false;
    assert.equal(await store.putPart(upload, 1, body, crcOf(body), never), 'e');
    assert.ok(server.connections.open <= maxSockets, `${server.connections.open} connections`);
  });

  it('before it has read the part: the rest is not sent', at, async () => {
    const refused = Promise.withResolvers<IncomingMessage>();
    await using server = await scripted(
      http.createServer((request, response) => {
        response.writeHead(503).end(errorXml('SlowDown'));
        refused.resolve(request);
      }),
    );
    await fails(server.store.putPart(upload, 1, part, crcOf(part), never), 's3-unavailable', server.endpoint);
    const request = await refused.promise;
    const { socket } = request;
    request.on('error', () => undefined).resume();
    if (!socket.destroyed) await new Promise((resolve) => socket.on('close', resolve));
    assert.ok(socket.bytesRead < part.length, `all ${socket.bytesRead} bytes`);
  });

  it('and then yes: with retries nobody notices', at, async () => {
    await using server = await replying([503, errorXml('SlowDown')], [500, errorXml('InternalError')], emptyList);
    const seen: string[] = [];
    const onRetry = (call: string, error: Error) => seen.push(`${call}: ${error.message}`);
    await retrying(server.store, { attempts: 3, firstDelayMs: 1, onRetry }).probe(never);
    assert.equal(seen.length, 2);
    assert.match(seen[0] ?? '', /^probe: .*SlowDown/);
  });
});

describe('a server that is strict, as AWS is', () => {
  const md5 = (body: Buffer) => createHash('md5').update(body).digest('base64');

  /** Keeps method, path, headers and body of what it is asked, and answers with an ETag. */
  async function keeping(answer: (url: string) => Reply = () => [200, '']) {
    const asked: { url: string; headers: http.IncomingHttpHeaders; body: Buffer }[] = [];
    const server = await scripted(
      http.createServer(async (request, response) => {
        const body = Buffer.concat(await request.toArray());
        asked.push({ url: request.url ?? '', headers: request.headers, body });
        const [status, text] = answer(request.url ?? '');
        response.writeHead(status, { etag: '"e"', 'content-length': Buffer.byteLength(text) }).end(text);
      }),
    );
    return Object.assign(server, { asked });
  }

  it('gets a sum with each body that is PUT: a bucket with Object Lock takes none without', at, async () => {
    await using server = await keeping();
    const { store, asked } = server;
    const body = Buffer.from('manifest');
    await store.create('k', body, settings, never);
    await store.replace('k', 'e', body, settings, never);
    await store.tag('k', { a: 'b' }, never);
    await store.putPart(upload, 1, body, crcOf(body), never);
    assert.deepEqual(
      asked.map(({ headers, body: sent }) => headers['content-md5'] === md5(sent) || headers['x-amz-checksum-crc32']),
      [true, true, true, crcOf(body)],
    );
  });

  it('gets no CRC-32 in an upload that was begun without an algorithm', at, async () => {
    await using server = await keeping();
    const body = Buffer.from('part');
    await server.store.putPart({ ...upload, copies: true }, 1, body, crcOf(body), never);
    const [{ headers } = { headers: {} as http.IncomingHttpHeaders }] = server.asked;
    assert.deepEqual([headers['content-md5'], headers['x-amz-checksum-crc32']], [md5(body), undefined]);
  });

  it('has sessions: one that has expired is refused once, and the next one is in the configuration', at, async () => {
    const config = { ...access, sessionToken: 'first' };
    const expired = errorXml('ExpiredToken', 'The provided token has expired.');
    const tokens: unknown[] = [];
    await using server = await answering(({ headers, method }, response) => {
      const token = headers['x-amz-security-token'];
      tokens.push(token);
      const [status, body] = token === 'second' ? [200, 'x'] : [400, method === 'HEAD' ? '' : expired];
      response.writeHead(status, { etag: '"e"', 'content-length': body.length }).end(method === 'HEAD' ? '' : body);
    });
    config.endpoint = server.endpoint;
    for (const ask of [
      (store: ObjectStore) => store.create('k', Buffer.from('x'), settings, never),
      (store: ObjectStore) => store.stat('k', never),
      (store: ObjectStore) => store.read('k', never),
    ]) {
      const current = { ...config };
      using store = createS3Store({ ...current }, { reread: () => current });
      await assert.rejects(ask(store));
      current.sessionToken = 'second';
      tokens.length = 0;
      await ask(store);
      assert.deepEqual(tokens, ['first', 'second']);
    }
    using store = createS3Store(config);
    await fails(store.probe(never), 's3-denied', server.endpoint);
    const url = await store.presign('k', { expirySeconds: 60, filename: 'x' });
    assert.equal(new URL(url).searchParams.get('X-Amz-Security-Token'), 'first');
  });

  it('is asked for no more than the prefix that the credentials are for', at, async () => {
    const uploads = '<ListMultipartUploadsResult><IsTruncated>false</IsTruncated></ListMultipartUploadsResult>';
    await using server = await keeping((url) => {
      if (!/prefix=lxd%2F/.test(url)) return [403, errorXml('AccessDenied')];
      return url.includes('uploads') ? [200, uploads] : emptyList;
    });
    using store = createS3Store({ ...access, endpoint: server.endpoint, prefix: 'lxd' });
    await store.probe(never);
    assert.equal(await drain(store.listUploads('lxd/local/', never)), 0);
  });
});

describe('a server that says yes and means no', () => {
  const [etag, crc32] = [createHash('md5').update('x').digest('hex'), 'crc'];
  const whole = `${createHash('md5').update(Buffer.from(etag, 'hex')).digest('hex')}-1`;
  const parts = [{ number: 1, etag, crc32 }];

  it('an error inside of a 200 at Complete is an error', at, async () => {
    await using server = await replying([200, `   \n${errorXml('InternalError', 'try again')}`]);
    await fails(
      server.store.completeUpload(upload, parts, never),
      's3-unavailable',
      'InternalError: try again',
      server.endpoint,
    );
  });

  it('with the meaning that its word has', at, async () => {
    const meanings = [
      ['PreconditionFailed', 'conflict'],
      ['NoSuchUpload', 'not-found'],
      ['SlowDown', 's3-unavailable'],
    ] as const;
    for (const [word, code] of meanings) {
      await using server = await replying([200, errorXml(word)]);
      await fails(server.store.completeUpload(upload, parts, never), code, word);
    }
  });

  it('at Complete, which then had worked after all: the object is taken as ours', at, async () => {
    await using server = await answering((request, response) => {
      if (request.method === 'HEAD') return response.writeHead(200, { etag: `"${whole}"`, 'content-length': 1 }).end();
      if (server.connections.all > 0 && seen++ === 0) return response.writeHead(200).end(errorXml('InternalError'));
      response.writeHead(404).end(errorXml('NoSuchUpload'));
    });
    let seen = 0;
    const store = retrying(server.store, { attempts: 3, firstDelayMs: 1 });
    assert.equal(await store.completeUpload(upload, parts, never), whole);
  });

  const pages = { nothing: '', 'a web page': '<html><body>Log in</body></html>', 'half of an answer': '<ListBucketRe' };
  for (const [what, body] of Object.entries(pages)) {
    it(`a 200 with ${what} is no empty bucket, and no upload`, at, async () => {
      await using server = await replying([200, body]);
      for (const call of ['probe', 'list', 'beginUpload', 'completeUpload'] as const)
        await fails(calls[call](server.store), 's3-unavailable', server.endpoint);
    });
  }

  it('keys in a listing that are not escaped are taken as they are', at, async () => {
    const entry = (key: string) =>
      `<Contents><Key>${key}</Key><Size>1</Size><ETag>"e"</ETag><LastModified>2026-02-26T07:52:18Z</LastModified></Contents>`;
    const list = (inside: string): Reply => [200, `<ListBucketResult>${inside}${entry('a+b%20')}</ListBucketResult>`];
    const keys = async ({ store }: Scripted) => {
      for await (const { key } of store.list('', never)) return key;
    };
    await using plain = await replying(list(''));
    assert.equal(await keys(plain), 'a+b%20');
    await using escaped = await replying(list('<EncodingType>url</EncodingType>'));
    assert.equal(await keys(escaped), 'a b ');
  });

  it('a range that is shorter or longer than asked for is an error', at, async () => {
    for (const length of [0, 9, 11]) {
      await using server = await answering((_request, response) => {
        response.writeHead(206, { etag: '"e"', 'content-length': length }).end('x'.repeat(length));
      });
      await fails(server.store.readRange('k', 'e', 0, Buffer.alloc(10), never), 's3-unavailable', `${length}`);
    }
  });
});

/** Stands between the store and the server, counts what goes to the server, and lets it through. */
async function counting(port: number): Promise<Scripted & { sent(bytes: number): Promise<void> }> {
  let bytes = 0;
  const waiting: { bytes: number; resolve: () => void }[] = [];
  const server = await scripted(
    createServer((near) => {
      const far = connect({ port, host: '127.0.0.1' });
      near.on('data', (chunk) => {
        bytes += chunk.length;
        for (const one of waiting) if (bytes >= one.bytes) one.resolve();
        if (!far.write(chunk)) near.pause();
      });
      far.on('drain', () => near.resume());
      far.on('data', (chunk) => near.write(chunk));
      for (const [one, other] of [
        [near, far],
        [far, near],
      ] as const) {
        one.on('error', () => other.destroy());
        one.on('close', () => other.destroy());
      }
    }),
  );
  return Object.assign(server, {
    /** Resolves when so many more bytes have been sent to the server. */
    sent(more: number) {
      const { promise, resolve } = Promise.withResolvers<void>();
      waiting.push({ bytes: bytes + more, resolve });
      return promise;
    },
  });
}

describe('MinIO', { timeout: 1_800_000 }, () => {
  let s3: LabS3;
  before(async () => {
    s3 = await startS3({ log: () => undefined, name: 's3-faults', kind: 'minio' });
  });
  after(() => s3?.[Symbol.asyncDispose]());

  const open = (endpoint: string, change: Partial<Config['s3']> = {}) =>
    createS3Store({ ...access, endpoint, accessKey: s3.accessKey, secretKey: s3.secretKey, ...change });
  const patient = (store: ObjectStore, onRetry: (call: string, error: Error) => void) =>
    retrying(store, { attempts: 20, onRetry });
  const body = randomBytes(64 * mib);
  const crc32 = crcOf(body);

  it('is killed in the middle of a part, and started again: the part and the upload arrive whole', async () => {
    await using between = await counting(Number(new URL(s3.endpoint).port));
    using plain = open(between.endpoint, { idleTimeoutMs: 30_000 });
    const failed: string[] = [];
    const store = patient(plain, (call, error) => failed.push(`${call}: ${error.message}`));
    const begun = await store.beginUpload('killed', settings, never);
    const half = between.sent(body.length / 2);
    const sending = store.putPart(begun, 1, body, crc32, never);
    await half;
    await s3.kill();
    await s3.start();
    const etag = await sending;
    assert.match(failed[0] ?? 'it did not fail', /^putPart: S3 at http:\/\/127/);
    const whole = await store.completeUpload(begun, [{ number: 1, etag, crc32 }], never);
    const back = Buffer.alloc(body.length);
    await store.readRange('killed', whole, 0, back, never);
    assert.ok(back.equals(body));
  });

  it('is killed and started again between two requests: the connection kept from before does no harm', async () => {
    using plain = open(s3.endpoint);
    const store = patient(plain, () => undefined);
    await Promise.all(Array.from({ length: 8 }, () => store.probe(never)));
    await s3.kill();
    await s3.start();
    await store.create('after-restart', Buffer.from('x'), settings, never);
    assert.equal((await store.read('after-restart', never)).body.toString(), 'x');
  });

  it('has another secret than before: the one that the configuration has by now counts at once', async () => {
    const { accessKey, secretKey, endpoint } = s3;
    let known = 'x'.repeat(32);
    const config = () => ({ ...access, endpoint, accessKey, secretKey: known });
    using store = createS3Store(config(), { reread: config });
    await fails(store.probe(never), 's3-denied', endpoint);
    known = secretKey;
    await store.create('other-secret', Buffer.from('x'), settings, never);
    assert.equal((await store.read('other-secret', never)).body.toString(), 'x');
    const url = await store.presign('other-secret', { expirySeconds: 60, filename: 'x' });
    assert.equal((await fetch(url)).status, 200);
  });

  it('is down: each call says so at once, with the endpoint', async () => {
    using store = open(s3.endpoint, { idleTimeoutMs: 30_000 });
    await s3.kill();
    try {
      for (const run of Object.values(calls)) await fails(run(store), 's3-unavailable', s3.endpoint, 'ECONNREFUSED');
    } finally {
      await s3.start();
    }
  });

  it('stands still for longer than the idle timeout, and goes on: nobody notices', async () => {
    using plain = open(s3.endpoint, { idleTimeoutMs: 1000 });
    const { promise: noticed, resolve } = Promise.withResolvers<Error>();
    const store = patient(plain, (_call, error) => resolve(error));
    const upload = await store.beginUpload('stopped', settings, never);
    await s3.kill('SIGSTOP');
    try {
      const sending = store.putPart(upload, 1, body, crc32, never);
      const creating = store.create('stopped-too', Buffer.from('x'), settings, never);
      assert.match((await noticed).message, /did not answer for 1000 ms/);
      await s3.kill('SIGCONT');
      const etag = await sending;
      const whole = await store.completeUpload(upload, [{ number: 1, etag, crc32 }], never);
      assert.deepEqual(await store.stat('stopped', never), { size: body.length, etag: whole });
      assert.equal(await creating, (await store.stat('stopped-too', never)).etag);
    } finally {
      await s3.kill('SIGCONT');
    }
  });
});
