/** What comes in wrong: each answered in LXD's error envelope, with nothing left behind. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { connect } from 'node:tls';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect as connectNats } from '@nats-io/transport-node';
import { makeCertificate } from '../lab/certificates.ts';
import { type Answer, type LxstowOptions, startLxstow } from '../lab/lxstow.ts';
import { freePort } from '../lab/processes.ts';
import { assertError, failed, openStack, type Stack, succeeded, until } from './stack.ts';

describe('requests', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  let backup: string;
  before(async () => {
    stack = await openStack('requests', { config: { gateway: { bodyLimitBytes: 2000 } } });
    await stack.launch('c1');
    backup = await stack.backup('c1');
    // The operation ends before its message is acknowledged.
    await until(everything, ({ messages }) => messages === 0);
  });
  after(() => stack?.[Symbol.asyncDispose]());

  /** What there is: objects, messages, operations. */
  async function everything() {
    const nats = await connectNats({ servers: stack.nats.url });
    try {
      const jsm = await jetstreamManager(nats);
      const { state } = await jsm.streams.info('LXSTOW_JOBS');
      const operations = await stack.stow.request('GET', '/1.0/operations?all-projects=true');
      return { keys: await stack.keys(), messages: state.messages, operations: operations.body.metadata };
    } finally {
      await nats.close();
    }
  }

  const backups = '/1.0/instances/c1/backups';
  const long = 'x'.repeat(300);
  const cases: [
    why: string,
    method: string,
    path: string,
    status: number,
    text: RegExp,
    options?: { body?: unknown; headers?: Record<string, string> },
  ][] = [
    ['an unknown path', 'GET', '/1.0/nothing', 404, /not found/],
    ['an unknown version', 'GET', '/2.0', 404, /not found/],
    ['a method that is not there', 'PUT', backups, 405, /PUT is not allowed/],
    ['an unknown instance', 'POST', '/1.0/instances/nobody/backups', 404, /instance nobody does not exist/],
    ['an unknown backup', 'GET', `${backups}/nothing.tar`, 404, /backup c1\/nothing.tar does not exist/],
    ['an unknown backup to restore', 'POST', `${backups}/nothing.tar`, 404, /backup c1\/nothing.tar does not exist/],
    ['no backup to restore', 'POST', `${backups}/?project=default`, 404, /backup is empty/, { body: { start: true } }],
    ['an unknown backup to delete', 'DELETE', `${backups}/nothing.tar`, 404, /backup c1\/nothing.tar does not exist/],
    ['an unknown remote', 'POST', `${backups}?target=mars`, 404, /host mars does not exist; there are: local/],
    ['an unknown host in a list', 'GET', `${backups}?target=mars`, 404, /host mars/],
    ['an unknown project', 'POST', `${backups}?project=mars`, 404, /project mars does not exist/],
    [
      'an unknown operation',
      'GET',
      '/1.0/operations/0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11',
      404,
      /operation .* does not exist/,
    ],
    ['an operation that cannot be', 'GET', '/1.0/operations/x', 400, /id/],
    ['a slash in a name', 'GET', '/1.0/instances/a%2Fb/backups', 400, /instance/],
    ['dots for a name', 'GET', '/1.0/instances/%2e%2e/backups', 400, /instance/],
    ['dots in the path as they are', 'GET', '/1.0/instances/../backups', 400, /instance/],
    ['NUL in a name', 'POST', '/1.0/instances/a%00b/backups', 400, /instance/],
    ['a name too long', 'POST', `/1.0/instances/${long}/backups`, 400, /instance/],
    ['a path that is no UTF-8', 'GET', '/1.0/instances/%E0%A4%A/backups', 400, /./],
    ['a slash in a backup', 'GET', `${backups}/..%2F..%2Fx`, 400, /backup/],
    ['a backup too long', 'DELETE', `${backups}/${long}`, 400, /backup/],
    ["a backup named like another one's manifest", 'POST', backups, 400, /name/, { body: { name: 'x.manifest.json' } }],
    ['malformed JSON', 'POST', backups, 400, /not JSON/, { body: '{"name":' }],
    ['a list for a body', 'POST', backups, 400, /body/, { body: '[]' }],
    ['a number for a body', 'POST', backups, 400, /body/, { body: '7' }],
    ['a wrong type', 'POST', backups, 400, /optimized_storage/, { body: { optimized_storage: 'yes' } }],
    ['a wrong type of name', 'POST', backups, 400, /name/, { body: { name: 7 } }],
    [
      'an unknown compression in the body',
      'POST',
      backups,
      400,
      /compression_algorithm: "xz" is not one of/,
      { body: { compression_algorithm: 'xz' } },
    ],
    ['an unknown compression in the query', 'POST', `${backups}?compression=xz`, 400, /compression/],
    ['a word for a flag', 'POST', `${backups}?optimize=perhaps`, 400, /optimize=perhaps/],
    ['a parameter twice', 'POST', `${backups}?compression=gzip&compression=none`, 400, /more than once/],
    [
      'a name that lies about its compression',
      'POST',
      backups,
      400,
      /ends in \.tar\.zst/,
      { body: { name: 'x.tar.zst' } },
    ],
    ['a name that is taken', 'POST', backups, 409, /already exists/, { body: { name: '$backup' } }],
    [
      'eleven tags',
      'POST',
      backups,
      400,
      /tag/,
      { headers: { 'x-amz-tagging': Array.from({ length: 11 }, (_, i) => `k${i}=v`).join('&') } },
    ],
    ['a bad tag', 'POST', backups, 400, /tag/, { headers: { 'x-amz-tagging': 'a%3C=b' } }],
    ['a body over the limit', 'POST', backups, 413, /bodyLimitBytes/, { body: { name: long.repeat(10) } }],
    ['an unknown field where to restore', 'POST', `${backups}/$backup`, 400, /"nmae"/, { body: { nmae: 'c2' } }],
    ['a bad name to restore under', 'POST', `${backups}/$backup`, 400, /name/, { body: { name: 'a/b' } }],
    ['an unknown host to restore to', 'POST', `${backups}/$backup`, 404, /host mars/, { body: { target: 'mars' } }],
    [
      'an unknown project to restore to',
      'POST',
      `${backups}/$backup`,
      404,
      /project mars/,
      { body: { project: 'mars', name: 'c2' } },
    ],
    [
      'an unknown pool to restore to',
      'POST',
      `${backups}/$backup`,
      404,
      /pool mars/,
      { body: { pool: 'mars', name: 'c2' } },
    ],
    ['an instance to restore over', 'POST', `${backups}/$backup`, 409, /c1 already exists/],
    [
      'a timeout that is no number',
      'GET',
      '/1.0/operations/0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11/wait?timeout=soon',
      400,
      /timeout/,
    ],
  ];
  for (const [why, method, path, status, text, options = {}] of cases) {
    it(`${why}: ${status}`, async () => {
      const before = await everything();
      const named = JSON.parse(JSON.stringify({ path, ...options }).replaceAll('$backup', backup)) as {
        path: string;
      } & typeof options;
      assertError(await stack.stow.request(method, named.path, named), status, text);
      assert.deepEqual(await everything(), before);
    });
  }

  it('LXD clients send "" where they mean nothing: taken', async () => {
    const listed = await stack.stow.request('GET', backups, {
      body: '""\n',
      headers: { 'content-type': 'application/json' },
    });
    assert.equal(listed.status, 200);
    await succeeded(stack.stow, await stack.stow.request('POST', backups, { body: '""\n' }));
  });

  it("LXD's own body is understood, whatever type it is sent as", async () => {
    const body = {
      name: 'by-body',
      instance_only: true,
      optimized_storage: true,
      compression_algorithm: 'none',
      expires_at: '2030-01-01T00:00:00Z',
      unheard_of: 1,
    };
    const headers = { 'content-type': 'application/x-www-form-urlencoded' };
    await succeeded(stack.stow, await stack.stow.request('POST', backups, { body, headers }));
    const { metadata } = (await stack.stow.request('GET', `${backups}/by-body`)).body;
    assert.deepEqual([metadata.name, metadata.optimized, metadata.compressed], ['by-body', true, false]);
  });

  it('two of one second, and of one name, never meet', async () => {
    const answers = await Promise.all(Array.from({ length: 4 }, () => stack.stow.request('POST', backups)));
    const names = answers.map(({ body }) => body.metadata.name);
    assert.equal(new Set(names).size, 4, names.join(' '));
    const racers = await Promise.all(
      Array.from({ length: 4 }, () => stack.stow.request('POST', backups, { body: { name: 'mine' } })),
    );
    assert.deepEqual(racers.map(({ status }) => status).sort(), [202, 409, 409, 409]);
    for (const answer of [...answers, ...racers.filter(({ status }) => status === 202)])
      await succeeded(stack.stow, answer);
  });

  it('operations are listed by status, shown, and waited for', async () => {
    const { stow } = stack;
    const answer = await stow.request('POST', backups);
    const atOnce = await stow.request('GET', `${answer.body.operation}/wait?timeout=0`);
    const brief = await stow.request('GET', `${answer.body.operation}/wait?timeout=0.0001`);
    assert.equal(brief.status, 200, brief.text);
    assert.ok(atOnce.body.metadata.status_code < 200);
    const operation = await succeeded(stow, answer);
    assert.deepEqual((await stow.request('GET', answer.body.operation)).body.metadata, operation);
    const paths = (await stow.request('GET', '/1.0/operations')).body.metadata;
    assert.ok(paths.success.includes(answer.body.operation));
    const full = (await stow.request('GET', '/1.0/operations?recursion=1')).body.metadata;
    assert.ok(full.success.some(({ id }: { id: string }) => id === operation.id));
  });

  describe('trust', () => {
    it('without a certificate, and with an unknown one: GET /1.0 says untrusted, all else 403', async () => {
      const unknown = await makeCertificate({ commonName: 'nobody' });
      for (const certificate of [null, unknown]) {
        const server = await stack.stow.request('GET', '/1.0', { certificate });
        assert.deepEqual(
          [server.status, server.body.metadata.auth, server.body.metadata.environment],
          [200, 'untrusted', undefined],
        );
        for (const [method, path] of [
          ['GET', backups],
          ['POST', backups],
          ['DELETE', `${backups}/${backup}`],
          ['GET', '/1.0/operations'],
          ['GET', '/nothing'],
          ['PUT', '/1.0'],
        ] as const) {
          assertError(await stack.stow.request(method, path, { certificate }), 403, /not authorized/);
        }
      }
    });

    it('a certificate counts while its file is in the directory, and it has not expired', async () => {
      const { trustDir } = stack.stow;
      const certificate = await makeCertificate({ commonName: 'guest' });
      const expired = await makeCertificate({ commonName: 'late', days: -1 });
      await writeFile(join(trustDir, 'late.pem'), expired.cert);
      await writeFile(join(trustDir, 'guest.pem'), certificate.cert);
      const status = async () => (await stack.stow.request('GET', '/1.0/operations', { certificate })).status;
      await until(status, (code) => code === 200);
      assert.equal((await stack.stow.request('GET', '/1.0/operations', { certificate: expired })).status, 403);
      await writeFile(join(trustDir, 'guest.pem'), 'gone');
      await until(status, (code) => code === 403);
    });

    it('in CA mode who is signed by the CA is trusted, nobody else', async () => {
      const ca = await makeCertificate({ commonName: 'our CA', isCa: true });
      const other = await makeCertificate({ commonName: 'their CA', isCa: true });
      const file = join(stack.stow.trustDir, '..', 'ca.pem');
      await writeFile(file, ca.cert);
      const { nats, s3 } = stack;
      await using stow = await startLxstow({
        name: 'ca',
        log: () => undefined,
        natsUrl: nats.url,
        s3,
        socket: '/none',
        workers: 0,
        config: { gateway: { trustCa: file } },
      });
      const status = async (by: typeof ca, days = 1) =>
        (
          await stow.request('GET', '/1.0/operations', {
            certificate: await makeCertificate({ commonName: 'one', ca: by, days }),
          })
        ).status;
      assert.deepEqual([await status(ca), await status(other), await status(ca, -1)], [200, 403, 403]);
    });

    it('TLS 1.2 and 1.3 are spoken, nothing older', async () => {
      const { port } = new URL(stack.stow.url);
      const speak = (version: 'TLSv1.1' | 'TLSv1.2' | 'TLSv1.3') =>
        new Promise<string>((resolve) => {
          const socket = connect({
            port: Number(port),
            host: '127.0.0.1',
            rejectUnauthorized: false,
            minVersion: version,
            maxVersion: version,
            ciphers: 'DEFAULT:@SECLEVEL=0',
          });
          socket.once('secureConnect', () => {
            resolve(socket.getProtocol() ?? '');
            socket.destroy();
          });
          socket.once('error', () => resolve('refused'));
        });
      assert.deepEqual(
        [await speak('TLSv1.1'), await speak('TLSv1.2'), await speak('TLSv1.3')],
        ['refused', 'TLSv1.2', 'TLSv1.3'],
      );
    });
  });

  describe('health', () => {
    it('is told without a certificate, on a port of its own', async () => {
      for (const url of Object.values(stack.stow.healthUrl)) {
        assert.equal((await fetch(`${url}/healthz`)).status, 200);
        assert.equal((await fetch(`${url}/readyz`)).status, 200);
        assert.equal((await fetch(`${url}/else`)).status, 404);
      }
    });
  });

  describe('parts that are down', () => {
    it('S3: lists and deletions are 503, backups and restores wait for it, and the gateway is ready to take them; then all is well again', async () => {
      const killed = new Date().toISOString().slice(0, 15);
      await stack.s3.kill();
      const before = await operations();
      for (const [method, path] of [
        ['GET', backups],
        ['GET', `${backups}/${backup}`],
        ['DELETE', `${backups}/${backup}`],
      ] as const) {
        const end = method === 'GET' ? '$' : '; nothing was started$';
        const text = new RegExp(`^S3 at .*; S3 has been away since ${killed}.*Z${end}`);
        assertError(await stack.stow.request(method, path), 503, text);
      }
      assert.deepEqual(await operations(), before);
      const taken = [
        await stack.stow.request('POST', backups),
        await stack.stow.request('POST', `${backups}/${backup}`, { body: { name: 'c9' } }),
        await stack.stow.request('POST', `${backups}/nobody-made-this`, { body: { name: 'c8' } }),
      ];
      const ready = await fetch(`${stack.stow.healthUrl.gateway}/readyz`);
      const { status, checks } = (await ready.json()) as { status: string; checks: { nats: string; s3: string } };
      assert.deepEqual([ready.status, status, checks.nats], [200, 'ok', 'ok']);
      assert.match(checks.s3, new RegExp(`^S3 at .*ECONNREFUSED.*; S3 has been away since ${killed}.*Z$`));
      await stack.s3.start();
      const [made, restored, missing] = taken as [Answer, Answer, Answer];
      await succeeded(stack.stow, made);
      await succeeded(stack.stow, restored);
      await stack.remove('c9');
      assert.equal((await failed(stack.stow, missing)).code, 'not-found');
    });

    it('NATS: 503, and nothing is half accepted; then all is well again', async () => {
      const before = await operations();
      const text = new RegExp(`^NATS at .* cannot be reached, since ${new Date().toISOString().slice(0, 15)}.*Z$`);
      await stack.nats.kill();
      await until(
        () => stack.stow.request('GET', '/1.0/operations'),
        ({ status }) => status === 503,
      );
      for (const [method, path] of [
        ['POST', backups],
        ['POST', `${backups}/${backup}`],
        ['DELETE', `${backups}/${backup}`],
        ['GET', '/1.0/operations'],
      ] as const) {
        assertError(await stack.stow.request(method, path), 503, text);
      }
      const ready = await fetch(`${stack.stow.healthUrl.gateway}/readyz`);
      assert.equal(ready.status, 503);
      assert.match(((await ready.json()) as { checks: { nats: string } }).checks.nats, text);
      await stack.nats.start();
      await until(
        () => stack.stow.request('GET', '/1.0/operations'),
        ({ status }) => status === 200,
      );
      assert.deepEqual(await operations(), before);
      await succeeded(stack.stow, await stack.stow.request('POST', backups));
    });

    async function operations(): Promise<unknown> {
      return (await stack.stow.request('GET', '/1.0/operations?all-projects=true')).body.metadata;
    }

    it('no worker: a backup waits for one, a deletion is refused', async () => {
      for (const worker of stack.stow.workers) await worker.stop();
      const waiting = await stack.stow.request('POST', '/1.0/instances/perhaps/backups');
      assert.equal(waiting.status, 202);
      assertError(await stack.stow.request('DELETE', `${backups}/${backup}`), 503, /no worker of host local is up/);
      for (const worker of stack.stow.workers) await worker.start();
      const operation = await stack.stow.finished(waiting);
      assert.deepEqual([operation.status, operation.metadata.code], ['Failure', 'not-found']);
      assert.match(operation.err, /instance perhaps does not exist/);
    });
  });

  describe('at the start', () => {
    const start = (config: Record<string, object>, more: Partial<LxstowOptions> = {}) =>
      startLxstow({
        name: 'start',
        log: () => undefined,
        natsUrl: stack.nats.url,
        s3: stack.s3,
        socket: '/none',
        workers: 1,
        config,
        ...more,
      });

    it('a wrong S3 secret is an error that says so', async () => {
      await assert.rejects(start({ s3: { secretKey: 'wrong-secret' } }), /SignatureDoesNotMatch/);
    });

    it('a bucket that is not there is an error that names it', async () => {
      const environment = (part: string) => (part === 'admin' ? {} : { LXSTOW_S3_BUCKET: 'no-such-bucket' });
      await assert.rejects(start({}, { environment }), /NoSuchBucket.*no-such-bucket.*lxstow setup/);
    });

    it('a wrong key in the file is an error that names it', async () => {
      await assert.rejects(start({ gateway: { prot: 1 } }), /gateway: unknown field "prot"/);
    });

    it('no NATS is an error that names the server', async () => {
      const port = await freePort();
      await assert.rejects(
        start({ nats: { servers: [`nats://127.0.0.1:${port}`] } }),
        new RegExp(`cannot connect to NATS at nats://127.0.0.1:${port}`),
      );
    });
  });
});
