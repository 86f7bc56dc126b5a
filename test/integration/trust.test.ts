/** Who may use the API: tokens, roles, projects, revocation, on two gateways of one NATS, and with LXD's own client. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { connect, type TLSSocket } from 'node:tls';
import WebSocket from 'ws';
import openapi from '../../docs/openapi.json' with { type: 'json' };
import { loadConfig } from '../../services/contract/config.ts';
import { asLxstowError } from '../../services/contract/errors.ts';
import { deepestJson, mostJsonNodes } from '../../services/contract/json.ts';
import { Bucket } from '../../services/nats/bucket/bucket.ts';
import { certificateKey, tokenKey } from '../../services/nats/bucketKeys.ts';
import { connectNats } from '../../services/nats/connection.ts';
import { trustBucket } from '../../services/nats/streams.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { newGrant } from '../../services/trust/certificates.ts';
import { encodeToken, newToken as makeToken } from '../../services/trust/tokens.ts';
import { TrustCopy } from '../../services/trust/trustCopy.ts';
import { TrustStore } from '../../services/trust/trustStore.ts';
import { type Certificate, makeCertificate } from '../lab/certificates.ts';
import { type LabFolder, openFolder } from '../lab/folder.ts';
import { type Lab, openLab } from '../lab/lab.ts';
import { hasLxc } from '../lab/lxc.ts';
import { type Answer, type Lxstow, lxstow, type RequestOptions, startLxstow } from '../lab/lxstow.ts';
import { attempt } from '../lab/run.ts';
import { assertError, until } from './stack.ts';

const quiet = createLogger({ level: 'error', format: 'json' }, {});

const log = () => undefined;
const withLxc = { skip: !(await hasLxc()) && 'there is no lxc' };
const certificates = '/1.0/certificates';
const backups = '/1.0/instances/c1/backups';

describe('trust', { timeout: 1_800_000 }, () => {
  let lab: Lab;
  /** Two gateways that share NATS and nothing else: each has its own server certificate and trust directory. */
  let here: Lxstow;
  let there: Lxstow;
  before(async () => {
    lab = await openLab({ name: 'trust', log, lxd: false });
    [here, there] = [await gateway('here'), await gateway('there')];
  });
  after(async () => {
    for (const each of [there, here, lab]) await each?.[Symbol.asyncDispose]();
  });

  function gateway(name: string, config: Record<string, object> = { gateway: { refusalsPerMinute: 10_000 } }) {
    const { nats, s3 } = lab;
    assert.ok(nats && s3);
    return startLxstow({ name: `trust-${name}`, log, natsUrl: nats.url, s3, socket: '/none', workers: 0, config });
  }

  let clients = 0;
  const newClient = (days = 30) => makeCertificate({ commonName: `client ${++clients}`, days });

  /** A token made over the API; the operation and what a client is told. */
  async function newToken(body: object = {}): Promise<{ token: string; secret: string; id: string }> {
    const answer = await here.request('POST', certificates, {
      body: { name: 'laptop', type: 'client', token: true, ...body },
    });
    assert.equal(answer.status, 202, answer.text);
    const { id, metadata } = answer.body.metadata;
    const { secret, fingerprint, addresses, request, expiresAt } = metadata;
    const content = { client_name: request.name, fingerprint, addresses, secret, expires_at: expiresAt };
    return { id, secret, token: Buffer.from(JSON.stringify(content)).toString('base64') };
  }

  /** One that NATS still has, past its time. */
  async function expiredToken(): Promise<string> {
    const { nats: settings } = loadConfig({ file: here.configFile, env: {} });
    await using nats = await connectNats(settings, 'lxstow-test', quiet);
    const place = { fingerprint: '0'.repeat(64), addresses: ['127.0.0.1:1'] };
    const { token, secret } = makeToken('late', newGrant({}), place, new Date(Date.now() + 3_600_000));
    const late = { ...token, expires_at: new Date(Date.now() - 1000).toISOString() };
    await new TrustStore(nats, quiet).addToken(late, secret);
    return encodeToken(late, secret);
  }

  /** As `lxc` of LXD 5.21 and newer does. */
  const enrol = (certificate: Certificate | null, token: string, at = here): Promise<Answer> =>
    at.request('POST', certificates, { certificate, body: { type: 'client', trust_token: token } });

  /** A client that is trusted so. */
  async function trusted(grant: object = {}, at = here): Promise<Certificate> {
    const certificate = await newClient();
    const answer = await at.request('POST', certificates, {
      body: { type: 'client', certificate: derOf(certificate), ...grant },
    });
    assert.equal(answer.status, 201, answer.text);
    return certificate;
  }

  const authOf = async (certificate: Certificate, at = here) =>
    (await at.request('GET', '/1.0', { certificate })).body.metadata.auth;

  /** What the calls come to: their status. */
  async function statuses(certificate: Certificate, calls: string[], options: RequestOptions = {}): Promise<number[]> {
    const found: number[] = [];
    for (const call of calls) {
      const [method = '', path = ''] = call.split(' ');
      found.push((await here.request(method, path, { certificate, ...options })).status);
    }
    return found;
  }

  describe('a token', () => {
    it('makes one client trusted at every gateway, once; LXD 5.0 sends it as a password', async () => {
      const { token, id } = await newToken();
      const [client, another] = [await newClient(), await newClient()];
      assert.equal(await authOf(client), 'untrusted');
      const answer = await there.request('POST', certificates, {
        certificate: client,
        body: { name: '', type: '', certificate: '', password: token, token: false },
      });
      assert.deepEqual([answer.status, answer.headers.location], [201, `${certificates}/${client.fingerprint}`]);
      assert.deepEqual([await authOf(client, there), await authOf(client, here)], ['trusted', 'trusted']);
      const shown = await here.request('GET', `${certificates}/${client.fingerprint}`, { certificate: client });
      const { certificate, ...rest } = shown.body.metadata;
      assert.equal(certificate.trim(), client.cert.replaceAll('\r', '').trim());
      assert.deepEqual(rest, {
        fingerprint: client.fingerprint,
        name: 'laptop',
        type: 'client',
        restricted: false,
        projects: [],
        role: 'admin',
      });
      assertError(await enrol(another, token), 403, /^No matching certificate add operation found$/);
      assert.equal(await authOf(another), 'untrusted');
      assert.equal((await here.request('GET', `/1.0/operations/${id}`)).status, 404);
    });

    it('used by two clients at two gateways at once, makes one of them trusted', async () => {
      for (let round = 0; round < 5; round++) {
        const { token } = await newToken();
        const racers = [await newClient(), await newClient()] as const;
        const answers = await Promise.all([enrol(racers[0], token, here), enrol(racers[1], token, there)]);
        assert.deepEqual(answers.map(({ status }) => status).sort(), [201, 403]);
        const known = [await authOf(racers[0]), await authOf(racers[1])];
        assert.deepEqual(
          known,
          answers.map(({ status }) => (status === 201 ? 'trusted' : 'untrusted')),
        );
      }
    });

    it('that is wrong, expired, revoked or none is refused, and nobody is trusted by it', async () => {
      const client = await newClient();
      const { token } = await newToken();
      const forged = (over: object) =>
        Buffer.from(JSON.stringify({ ...JSON.parse(Buffer.from(token, 'base64').toString()), ...over })).toString(
          'base64',
        );
      const late = await expiredToken();
      const revoked = await newToken();
      assert.equal((await there.request('DELETE', `/1.0/operations/${revoked.id}`)).status, 200);
      const cases: [string, RegExp][] = [
        ['', /^not authorized$/],
        ['secret', /^not authorized$/],
        [Buffer.from('{"secret": ""}').toString('base64'), /^not authorized$/],
        [Buffer.from('{"secret": {"$ne": 1}}').toString('base64'), /^not authorized$/],
        [forged({ secret: 'a'.repeat(64) }), /^No matching certificate add operation found$/],
        [forged({ secret: '*' }), /^No matching certificate add operation found$/],
        [revoked.token, /^No matching certificate add operation found$/],
        [late, /^Token has expired$/],
      ];
      for (const [wrong, text] of cases) assertError(await enrol(client, wrong), 403, text);
      assertError(await enrol(null, token), 400, /^No client certificate provided$/);
      assertError(await enrol(await newClient(-1), token), 400, /^The provided certificate is expired$/);
      assert.equal(await authOf(client), 'untrusted');
      assert.equal((await enrol(client, token)).status, 201);
    });

    it('grants what its maker said, not what its user says', async () => {
      const { token } = await newToken({ name: 'watcher', restricted: true, projects: ['blue'], role: 'viewer' });
      const client = await newClient();
      const answer = await here.request('POST', certificates, {
        certificate: client,
        body: {
          trust_token: token,
          name: 'root',
          restricted: false,
          projects: [],
          role: 'admin',
          certificate: derOf(await newClient()),
        },
      });
      assert.equal(answer.headers.location, `${certificates}/${client.fingerprint}`);
      const { name, restricted, projects, role } = (await here.request('GET', String(answer.headers.location))).body
        .metadata;
      assert.deepEqual([name, restricted, projects, role], ['watcher', true, ['blue'], 'viewer']);
    });

    it('is an operation that admins see, without its secret', async () => {
      const { id, secret } = await newToken({ name: 'listed' });
      const full = await there.request('GET', '/1.0/operations?recursion=1');
      const shown = full.body.metadata.running.find((each: { id: string }) => each.id === id);
      assert.deepEqual([shown.class, shown.status_code, shown.metadata.request.name], ['token', 103, 'listed']);
      assert.equal(shown.metadata.secret, '');
      assert.ok(!full.text.includes(secret));
      const operator = await trusted({ role: 'operator' });
      const seen = await here.request('GET', '/1.0/operations?all-projects=true', { certificate: operator });
      assert.ok(!seen.text.includes(id));
      assert.deepEqual(
        await statuses(operator, [`GET /1.0/operations/${id}`, `DELETE /1.0/operations/${id}`]),
        [404, 404],
      );
    });
  });

  describe('a role', () => {
    const calls = {
      look: ['GET /1.0/operations', `GET ${backups}/none.tar`],
      work: [`POST ${backups}`, `DELETE ${backups}/none.tar`],
      rule: [`GET ${certificates}/${'0'.repeat(64)}`, `DELETE ${certificates}/${'0'.repeat(64)}`],
    };
    const all = [...calls.look, ...calls.work, ...calls.rule];
    for (const [role, wanted] of [
      // Whether there is such a certificate is nobody's business but an admin's.
      ['viewer', [200, 404, 403, 403, 403, 403]],
      ['operator', [200, 404, 202, 404, 403, 403]],
      ['admin', [200, 404, 202, 404, 404, 404]],
    ] as const) {
      it(`${role}: may do what it says`, async () => {
        const client = await trusted({ role });
        assert.deepEqual(await statuses(client, all), wanted);
        assert.equal(
          (await here.request('GET', '/1.0', { certificate: client })).body.metadata.auth_user_name,
          client.fingerprint,
        );
      });
    }

    it('viewer and operator add nobody, make no token, and see no certificate but their own', async () => {
      const [viewer, stranger] = [await trusted({ role: 'viewer' }), await newClient()];
      for (const body of [{ certificate: derOf(stranger) }, { token: true, name: 'x', type: 'client' }])
        assertError(await here.request('POST', certificates, { certificate: viewer, body }), 403, /^not authorized$/);
      const seen = await here.request('GET', certificates, { certificate: viewer });
      assert.deepEqual(seen.body.metadata, [`${certificates}/${viewer.fingerprint}`]);
      assertError(
        await here.request('PATCH', `${certificates}/${viewer.fingerprint}`, {
          certificate: viewer,
          body: { role: 'admin' },
        }),
        403,
        /^not authorized$/,
      );
      const other = await trusted();
      const unknown = 'f'.repeat(64);
      assert.deepEqual(
        await statuses(
          viewer,
          [other.fingerprint, unknown, viewer.fingerprint].map((each) => `GET ${certificates}/${each}`),
        ),
        [403, 403, 200],
      );
    });
  });

  describe('a restricted client', () => {
    it('gets no further than its projects', async () => {
      const client = await trusted({ restricted: true, projects: ['blue', 'green'] });
      const operations: Record<string, string> = {};
      for (const project of ['blue', 'red', 'default']) {
        const answer = await here.request('POST', `${backups}?project=${project}`);
        assert.equal(answer.status, 202, answer.text);
        operations[project] = answer.body.operation;
      }
      assert.deepEqual(
        await statuses(client, [
          `GET ${backups}?project=blue`,
          `POST ${backups}?project=blue`,
          `GET /1.0/operations?project=green`,
          `GET ${operations.blue}`,
          `DELETE ${operations.blue}`,
        ]),
        [200, 202, 200, 200, 200],
      );
      assert.deepEqual(
        await statuses(client, [
          `GET ${backups}?project=red`,
          `GET ${backups}`,
          `GET ${backups}?project=blue&project=red`,
          `GET ${backups}?project=blue&all-projects=true`,
          `POST ${backups}?project=red`,
          `DELETE ${backups}/b.tar?project=red`,
          `GET /1.0/operations`,
          `GET ${certificates}/${here.client.fingerprint}`,
          `DELETE ${certificates}/${client.fingerprint}`,
        ]),
        Array.from({ length: 9 }, () => 403),
      );
      assert.deepEqual(
        await statuses(client, [
          `GET ${operations.red}`,
          `DELETE ${operations.red}`,
          `GET ${operations.default}/wait?timeout=0`,
        ]),
        [404, 404, 404],
      );
      // A restore names its project in the body.
      assert.deepEqual(
        await statuses(client, [`POST ${backups}/b.tar?project=blue`], { body: { name: 'c2', project: 'red' } }),
        [403],
      );
      const listed = await here.request('GET', '/1.0/operations?all-projects=true&recursion=1', {
        certificate: client,
      });
      const shown = Object.values(listed.body.metadata).flat() as { resources: { instances: string[] } }[];
      assert.ok(shown.length >= 2);
      assert.ok(!listed.text.includes(String(operations.red?.split('/').at(-1))));
    });

    it('without a project sees none', async () => {
      const client = await trusted({ restricted: true });
      assert.deepEqual(
        await statuses(client, ['GET /1.0', `GET ${backups}`, 'GET /1.0/operations?all-projects=true']),
        [200, 403, 200],
      );
    });
  });

  describe('the trust store', () => {
    it('lists by name and by whole entries; a beginning of the fingerprint will do', async () => {
      const client = await trusted({ name: 'found' });
      const path = `${certificates}/${client.fingerprint}`;
      assert.ok((await there.request('GET', certificates)).body.metadata.includes(path));
      const full = (await there.request('GET', `${certificates}?recursion=1`)).body.metadata;
      assert.equal(full.find((each: { name: string }) => each.name === 'found').fingerprint, client.fingerprint);
      const brief = await there.request('GET', `${certificates}/${client.fingerprint.slice(0, 12)}`);
      assert.equal(brief.body.metadata.fingerprint, client.fingerprint);
      assertError(await there.request('GET', `${certificates}/${'f'.repeat(64)}`), 404, /^Certificate not found$/);
      assertError(await there.request('GET', `${certificates}/*`), 404, /^Certificate not found$/);
    });

    it('takes no certificate twice, nor one that is none', async () => {
      const client = await trusted();
      const add = (certificate: string) =>
        here.request('POST', certificates, { body: { type: 'client', certificate } });
      assertError(await add(derOf(client)), 409, /^Certificate already in trust store$/);
      assertError(await add('aGVsbG8='), 400, /^Invalid certificate material/);
      assertError(await add(derOf(await newClient(-1))), 400, /^The provided certificate is expired$/);
      assertError(await here.request('POST', certificates, { body: { type: 'metrics' } }), 400, /type/);
      assertError(
        await here.request('POST', certificates, {
          body: { certificate: derOf(await newClient()), projects: ['blue'] },
        }),
        400,
        /restricted is not true/,
      );
    });

    it('changes names and rights; a role stays when it is not named', async () => {
      const client = await trusted({ role: 'viewer' });
      const path = `${certificates}/${client.fingerprint}`;
      const first = await here.request('GET', path);
      const asLxcDoes = {
        name: 'renamed',
        type: 'client',
        restricted: true,
        projects: ['blue'],
        certificate: client.cert,
      };
      assert.equal((await here.request('PUT', path, { body: asLxcDoes })).status, 200);
      const { name, restricted, projects, role } = (await there.request('GET', path)).body.metadata;
      assert.deepEqual([name, restricted, projects, role], ['renamed', true, ['blue'], 'viewer']);
      assert.deepEqual(await statuses(client, ['GET /1.0/operations', 'GET /1.0/operations?project=blue']), [403, 200]);
      const stale = { body: { name: 'x' }, headers: { 'if-match': String(first.headers.etag) } };
      assertError(await here.request('PATCH', path, stale), 412, /ETag/);
      assertError(await here.request('PUT', path, { body: { name: 'x' } }), 400, /restricted is missing/);
      assertError(
        await here.request('PUT', path, { body: { ...asLxcDoes, certificate: (await newClient()).cert } }),
        400,
        /cannot be replaced/,
      );
      assert.equal((await here.request('PATCH', path, { body: { restricted: false, role: 'operator' } })).status, 200);
      assert.deepEqual(await statuses(client, ['GET /1.0/operations', `POST ${backups}`]), [200, 202]);
    });

    it('shows who is in the trust directory, and leaves that alone', async () => {
      const { fingerprint } = here.client;
      const listed = (await here.request('GET', `${certificates}?recursion=1`)).body.metadata;
      const own = listed.find((each: { fingerprint: string }) => each.fingerprint === fingerprint);
      assert.deepEqual([own.name, own.role], ['lab client', 'admin']);
      for (const method of ['DELETE', 'PUT'])
        assertError(
          await here.request(method, `${certificates}/${fingerprint}`, { body: { name: 'x', restricted: true } }),
          400,
          /is in gateway.trustDir: change its file there/,
        );
    });
  });

  describe('a client that is revoked', () => {
    /** A GET that is not answered: of an operation that does not end. */
    let wait: string;
    before(async () => {
      const waiting = await here.request('POST', `${backups}?project=waiting`);
      assert.equal(waiting.status, 202, waiting.text);
      wait = `${waiting.body.operation}/wait`;
    });

    /** An open connection to a gateway, over which it has let the client in and is asked for `path` then; and what comes over it since. */
    async function open(
      client: Certificate,
      at: Lxstow,
      path?: string,
    ): Promise<{ socket: TLSSocket; closed: Promise<unknown>; text: () => string }> {
      const { port } = new URL(at.url);
      const socket = connect({
        port: Number(port),
        host: '127.0.0.1',
        rejectUnauthorized: false,
        cert: client.cert,
        key: client.key,
      });
      let text = '';
      socket.on('data', (data) => {
        text += data;
      });
      const ended = new Promise((resolve) => socket.once('close', resolve));
      socket.on('error', log);
      await once(socket, 'secureConnect');
      const get = (what: string) => socket.write(`GET ${what} HTTP/1.1\r\nhost: x\r\n\r\n`);
      // The gateway may see the end of a handshake later than its client, and what has changed meanwhile before it.
      get('/1.0');
      await until(
        async () => text.split('\r\n\r\n'),
        ([head = '', body = '']) => Number(/^content-length: (\d+)/im.exec(head)?.[1]) === Buffer.byteLength(body),
      );
      assert.match(text, /"auth":"trusted"/);
      text = '';
      if (path) get(path);
      return { socket, closed: ended, text: () => text };
    }

    it('is refused everywhere at once, and its open requests and connections end', async () => {
      const client = await trusted();
      const [idle, busy] = [await open(client, there), await open(client, there, wait)];
      const other = await open(await trusted(), there, wait);
      assert.equal((await here.request('DELETE', `${certificates}/${client.fingerprint}`)).status, 200);
      await Promise.all([idle.closed, busy.closed]);
      assert.equal(busy.text(), '');
      assert.deepEqual([await authOf(client, here), await authOf(client, there)], ['untrusted', 'untrusted']);
      assertError(await there.request('GET', '/1.0/operations', { certificate: client }), 403, /^not authorized$/);
      assert.equal(other.socket.closed, false);
      other.socket.destroy();
    });

    it('leaves a record of who revoked it, and may be added again; so does a token that was used', async () => {
      const { nats: settings } = loadConfig({ file: here.configFile, env: {} });
      await using nats = await connectNats(settings, 'lxstow-test', quiet);
      const bucket = new Bucket(nats, trustBucket);
      const recordOf = async (key: string) => {
        const { entry } = await bucket.get(key);
        const { at, ...record } = JSON.parse(String(entry?.value));
        assert.ok(Math.abs(Date.parse(at) - Date.now()) < 60_000, at);
        return record;
      };
      const client = await newClient();
      const { token, id } = await newToken();
      assert.equal((await enrol(client, token)).status, 201);
      const by = { username: client.fingerprint, protocol: 'tls', address: '127.0.0.1' };
      assert.deepEqual(await recordOf(tokenKey(id, '*')), { state: 'used', name: 'laptop', by });

      const path = `${certificates}/${client.fingerprint}`;
      const revoke = () => here.request('DELETE', path, { certificate: client });
      const add = () => here.request('POST', certificates, { body: { type: 'client', certificate: derOf(client) } });
      assert.equal((await revoke()).status, 200);
      assert.deepEqual(await recordOf(certificateKey(client.fingerprint)), { state: 'revoked', name: 'laptop', by });
      assertError(await here.request('GET', path), 404, /^Certificate not found$/);
      assertError(await here.request('DELETE', path), 404, /^Certificate not found$/);
      assert.ok(!(await here.request('GET', certificates)).body.metadata.includes(path));
      assert.equal((await add()).status, 201);
      assert.equal((await add()).status, 409);
      assert.equal(await authOf(client, there), 'trusted');

      // Earlier versions removed the key.
      const { revision } = await bucket.get(certificateKey(client.fingerprint));
      assert.ok(await bucket.remove(certificateKey(client.fingerprint), revision));
      await until(
        () => authOf(client),
        (auth) => auth === 'untrusted',
      );
      assert.equal((await add()).status, 201);
      assert.equal(await authOf(client), 'trusted');
    });

    it('hears no more events', async () => {
      const client = await trusted();
      const events = new WebSocket(`${there.url}/1.0/events`, { ...client, rejectUnauthorized: false });
      events.on('error', log);
      await once(events, 'open');
      const ended = once(events, 'close');
      assert.equal((await here.request('DELETE', `${certificates}/${client.fingerprint}`)).status, 200);
      await ended;
      const again = new WebSocket(`${there.url}/1.0/events`, { ...client, rejectUnauthorized: false });
      const [error] = (await once(again, 'error')) as [Error];
      assert.match(error.message, /403/);
    });

    it('loses its connections too when its rights change', async () => {
      const client = await trusted();
      const connection = await open(client, there, wait);
      const change = { body: { role: 'viewer' } };
      assert.equal((await here.request('PATCH', `${certificates}/${client.fingerprint}`, change)).status, 200);
      await connection.closed;
      assertError(
        await there.request('GET', `${backups}/b.tar/export`, { certificate: client }),
        403,
        /^not authorized$/,
      );
    });

    it('may have revoked itself: it is told so', async () => {
      const client = await trusted();
      const answer = await here.request('DELETE', `${certificates}/${client.fingerprint}`, { certificate: client });
      assert.equal(answer.status, 200, answer.text);
      assert.equal(await authOf(client), 'untrusted');
    });

    it('loses them when an entry in the store limits what the trust directory gives it', async () => {
      const client = await newClient();
      await writeFile(join(there.trustDir, 'both.crt'), client.cert);
      await until(
        () => authOf(client, there),
        (auth) => auth === 'trusted',
      );
      const events = new WebSocket(`${there.url}/1.0/events`, { ...client, rejectUnauthorized: false });
      events.on('error', log);
      await once(events, 'open');
      const ended = once(events, 'close');
      const body = { certificate: derOf(client), role: 'viewer' };
      assert.equal((await here.request('POST', certificates, { body })).status, 201);
      await ended;
      assertError(
        await there.request('GET', `${backups}/b.tar/export`, { certificate: client }),
        403,
        /^not authorized$/,
      );
    });

    it('by its file in the trust directory loses its connections', async () => {
      const client = await newClient();
      const file = join(there.trustDir, 'guest.crt');
      await writeFile(file, client.cert);
      await until(
        () => authOf(client, there),
        (auth) => auth === 'trusted',
      );
      const connection = await open(client, there, wait);
      await writeFile(file, 'gone');
      await connection.closed;
      assert.equal(await authOf(client, there), 'untrusted');
    });

    it('is not trusted by a copy that NATS has not confirmed for long', async () => {
      assert.ok(lab.nats);
      const config = loadConfig({ file: here.configFile, env: {} });
      await using nats = await connectNats(config.nats, 'lxstow-test', quiet);
      const ended = new AbortController();
      const { fingerprint } = await trusted();
      const options = { onChange: log, staleAfterMs: 3000 };
      const copy = await TrustCopy.open(new TrustStore(nats, quiet, 0), quiet, options, ended.signal);
      const answer = async () => {
        try {
          return copy.get(fingerprint)?.fingerprint;
        } catch (error) {
          return asLxstowError(error).code;
        }
      };
      assert.equal(await answer(), fingerprint);
      await lab.nats.kill();
      await until(answer, (said) => said === 'nats-unavailable');
      await lab.nats.start();
      await until(answer, (said) => said === fingerprint);
      ended.abort();
    });

    it('while a gateway was cut off from NATS is found out when it is back', async () => {
      const client = await trusted();
      const connection = await open(client, there, wait);
      await lab.nats?.kill();
      await lab.nats?.start();
      await lxstow(['--config', here.configFile, 'trust', 'remove', client.fingerprint]);
      await connection.closed;
      await until(
        () => authOf(client, there).catch(() => ''),
        (auth) => auth === 'untrusted',
      );
    });
  });

  it('too many refusals of one address: 429, for strangers only, until some time has passed', async () => {
    await using strict = await gateway('strict', { gateway: { refusalsPerMinute: 10 } });
    const [stranger, client] = [await newClient(), await trusted()];
    // Each counts before its body is read, and strangers may send little.
    const large = JSON.stringify({ type: 'client', x: 'x'.repeat(64 * 1024) });
    const send = () => strict.request('POST', certificates, { certificate: null, body: large });
    assertError(await send(), 413, /larger than 65536 bytes/);
    let last = await send();
    for (let i = 0; i < 30 && last.status === 413; i++) last = await send();
    assertError(last, 429, /^too many refused requests/);
    // More than enough, so that what follows is within the minute.
    for (let i = 0; i < 20; i++) last = await enrol(stranger, 'guess', strict);
    assertError(last, 429, /^too many refused requests; try again in \d+ s$/);
    assert.match(String(last.headers['retry-after']), /^\d+$/);
    assertError(await strict.request('GET', '/1.0/operations', { certificate: null }), 403, /not authorized/);
    const { token } = await newToken();
    assertError(await enrol(stranger, token, strict), 429, /too many/);
    assert.equal((await strict.request('GET', '/1.0/operations', { certificate: client })).status, 200);
    assert.equal((await strict.request('GET', '/1.0', { certificate: null })).status, 200);
    assert.equal((await enrol(stranger, token, here)).status, 201);
  });

  it('whoever asks too often keeps nobody behind the same address from becoming trusted', async () => {
    await using strict = await gateway('shared', { gateway: { refusalsPerMinute: 10 } });
    const [noisy, newcomer] = [await newClient(), await newClient()];
    const asked = () => strict.request('GET', '/1.0/operations', { certificate: noisy });
    for (let i = 0; i < 20; i++) await asked();
    assertError(await asked(), 429, /too many/);
    const { token } = await newToken();
    for (let i = 0; i < 5; i++) await enrol(noisy, 'guess', strict);
    assertError(await enrol(noisy, token, strict), 429, /too many/);
    assert.equal((await enrol(newcomer, token, strict)).status, 201);
    // Nor does it help to show another certificate each time.
    for (let i = 0; i < 10; i++) await enrol(await newClient(), 'guess', strict);
    assertError(await enrol(await newClient(), 'guess', strict), 429, /too many/);
  });

  describe('a body', () => {
    const place: Record<string, string> = {
      instance: 'c1',
      backup: 'x.tar.gz',
      fingerprint: 'f'.repeat(64),
      id: '0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11',
    };
    const calls = Object.entries(openapi.paths).flatMap(([path, methods]) =>
      ['post', 'put', 'patch']
        .filter((method) => method in methods)
        .map(
          (method) => [method.toUpperCase(), path.replaceAll(/{(\w+)}/g, (_, name) => place[name] ?? name)] as const,
        ),
    );
    const many = JSON.stringify(Array.from({ length: mostJsonNodes + 1 }, () => 1));
    const deep = `${'['.repeat(deepestJson + 1)}${']'.repeat(deepestJson + 1)}`;

    it('is counted before it is parsed, whatever is called', async () => {
      assert.ok(calls.length >= 6, `${calls.length} calls`);
      for (const [method, path] of calls) {
        // Takes archives, whose limits are others: test/unit/archive.test.ts.
        if (path === '/1.0/instances') continue;
        assertError(await here.request(method, path, { body: many }), 400, /more than 10000 values/);
        assertError(await here.request(method, path, { body: deep }), 400, /nested deeper than 32/);
      }
    });
  });

  it('each refused and each changing call is in the audit trail, and no secret is', async () => {
    const viewer = await trusted({ role: 'viewer', name: 'spied' });
    const path = `${backups}/audited.tar`;
    await here.request('DELETE', path, { certificate: viewer });
    await here.request('GET', '/1.0/operations', { certificate: viewer });
    const { token, secret } = await newToken({ name: 'audited' });
    assert.equal((await enrol(await newClient(), token)).status, 201);
    const lines = await until(audit, (found) => found.filter(({ name }) => name === 'audited').length === 2);
    const refused = lines.find((line) => line.path === path);
    assert.deepEqual([refused?.method, refused?.status, refused?.result], ['DELETE', 403, 'refused']);
    assert.deepEqual(refused?.requestor, {
      username: viewer.fingerprint,
      name: 'spied',
      role: 'viewer',
      protocol: 'tls',
      address: '127.0.0.1',
    });
    assert.ok(!lines.some(({ requestor, method }) => requestor.name === 'spied' && method === 'GET'));
    const text = await here.logOf('gateway');
    assert.ok(!text.includes(secret) && !text.includes(token));
  });

  async function audit() {
    const text = await here.logOf('gateway');
    // The last line may be on its way.
    const lines = text.slice(0, text.lastIndexOf('\n')).split('\n');
    return lines.filter((line) => line.includes('"audit":true')).map((line) => JSON.parse(line));
  }

  describe('the command line', () => {
    const trust = (...args: string[]) => lxstow(['--config', here.configFile, 'trust', ...args]);

    it('adds, lists and removes', async () => {
      const client = await newClient();
      const file = join(here.trustDir, '..', 'new.pem');
      await writeFile(file, client.cert);
      const grant = ['--name', 'by hand', '--role', 'viewer', '--project', 'blue', '--project', 'green'];
      await assert.rejects(
        trust('add', file, ...grant),
        /no worker is up to say which projects exist; start one.*--unchecked/,
      );
      await trust('add', file, ...grant, '--unchecked');
      assert.equal(await authOf(client), 'trusted');
      assert.match(
        await trust('list'),
        new RegExp(`^by hand +viewer +blue,green +${client.fingerprint.slice(0, 12)} `, 'm'),
      );
      await trust('remove', client.fingerprint.slice(0, 12));
      await until(
        () => authOf(client),
        (auth) => auth === 'untrusted',
      );
      await assert.rejects(trust('remove', client.fingerprint), /Certificate not found/);
    });

    it('changes role, projects and name, each by itself', async () => {
      const client = await trusted({ name: 'bob' });
      const beginning = client.fingerprint.slice(0, 12);
      const shown = async () => {
        const { metadata } = (await here.request('GET', `${certificates}/${client.fingerprint}`)).body;
        const { name, role, restricted, projects } = metadata;
        return [name, role, restricted, projects];
      };
      assert.match(
        await trust('edit', beginning, '--role', 'viewer'),
        /^bob is viewer of all projects: [0-9a-f]{64}$/m,
      );
      assert.deepEqual(await shown(), ['bob', 'viewer', false, []]);
      await trust('edit', beginning, '--project', 'blue', '--project', 'green', '--unchecked');
      assert.deepEqual(await shown(), ['bob', 'viewer', true, ['blue', 'green']]);
      await until(
        () => statuses(client, ['GET /1.0/operations', 'GET /1.0/operations?project=blue']),
        (found) => found.join() === '403,200',
      );
      await trust('edit', beginning, '--all-projects', '--name', 'robert');
      assert.deepEqual(await shown(), ['robert', 'viewer', false, []]);
      await assert.rejects(trust('edit', beginning), /nothing to change/);
    });

    it('makes a token that says where a gateway is, lists and revokes it', async () => {
      const address = new URL(there.url).host;
      const printed = await trust('token', 'by hand', '--role', 'operator', '--expires', '2h', '--gateway', address);
      const content = JSON.parse(Buffer.from(printed, 'base64').toString());
      assert.deepEqual([content.client_name, content.addresses], ['by hand', [address]]);
      assert.equal(
        content.fingerprint,
        (await there.request('GET', '/1.0')).body.metadata.environment.certificate_fingerprint,
      );
      const hours = (Date.parse(content.expires_at) - Date.now()) / 3_600_000;
      assert.ok(hours > 1.9 && hours <= 2);
      assert.match(await trust('list-tokens'), /^by hand +operator +all /m);
      await trust('revoke-token', 'by hand');
      assertError(await enrol(await newClient(), printed.trim()), 403, /No matching/);
      await assert.rejects(trust('token', 'x', '--gateway', 'mars:1'), /no gateway is known at mars:1/);
      await assert.rejects(trust('token', 'x', '--expires', 'soon'), /'--expires <time>' argument 'soon' is invalid/);
    });
  });

  describe("LXD's own client", withLxc, () => {
    let folder: LabFolder;
    before(async () => {
      folder = await openFolder('trust-lxc', log);
    });
    after(() => folder?.[Symbol.asyncDispose]());
    const lxcWith = async (input: string | undefined, user: string, ...args: string[]) => {
      const { status, stdout, stderr } = await attempt('lxc', args, {
        env: { ...process.env, LXD_CONF: join(folder.path, user), HOME: folder.path },
        ...(input !== undefined && { input }),
      });
      return { status, output: `${stdout}${stderr}` };
    };
    const lxc = (user: string, ...args: string[]) => lxcWith(undefined, user, ...args);

    it('adds a remote with a token', async () => {
      const token = (
        await lxstow(['--config', here.configFile, 'trust', 'token', 'anna', '--gateway', new URL(here.url).host])
      ).trim();
      const added = await lxc('anna', 'remote', 'add', 'stow', token);
      assert.equal(added.status, 0, added.output);
      const listed = await lxc('anna', 'config', 'trust', 'list', 'stow:', '--format', 'csv');
      assert.match(listed.output, /^client,anna,/m);
      const again = await lxc('bert', 'remote', 'add', 'stow', token);
      assert.notEqual(again.status, 0);
      assert.match(again.output, /No matching certificate add operation found/);
    });

    it('adds a remote with a certificate that is trusted already, at another gateway', async () => {
      assert.equal((await lxc('carl', 'remote', 'list')).status, 0);
      const client = await makeCertificate({ commonName: 'carl' });
      await writeFile(join(folder.path, 'carl', 'client.crt'), client.cert);
      await writeFile(join(folder.path, 'carl', 'client.key'), client.key);
      await here.request('POST', certificates, { body: { type: 'client', certificate: derOf(client) } });
      const added = await lxc('carl', 'remote', 'add', 'stow', there.url, '--accept-certificate');
      assert.equal(added.status, 0, added.output);
    });

    it('makes tokens, restricts, and removes', async () => {
      await lxc('anna', 'remote', 'switch', 'stow');
      const made = await lxc('anna', 'config', 'trust', 'add', '--name', 'dora', '--restricted', '--projects', 'blue');
      assert.equal(made.status, 0, made.output);
      const token = made.output.trim().split('\n').at(-1) ?? '';
      const client = await newClient();
      assert.equal((await enrol(client, token, there)).status, 201);
      assert.deepEqual(await statuses(client, ['GET /1.0/operations', 'GET /1.0/operations?project=blue']), [403, 200]);
      const yaml = 'name: doris\ntype: client\nrestricted: true\nprojects: [green]\n';
      const edited = await lxcWith(yaml, 'anna', 'config', 'trust', 'edit', client.fingerprint.slice(0, 12));
      assert.equal(edited.status, 0, edited.output);
      const { name, role, restricted } = (await here.request('GET', `${certificates}/${client.fingerprint}`)).body
        .metadata;
      assert.deepEqual([name, role, restricted], ['doris', 'operator', true]);
      const removed = await lxc('anna', 'config', 'trust', 'remove', `stow:${client.fingerprint.slice(0, 12)}`);
      assert.equal(removed.status, 0, removed.output);
      await until(
        () => authOf(client),
        (auth) => auth === 'untrusted',
      );
    });
  });
});

function derOf({ cert }: Certificate): string {
  return cert.replaceAll(/-----[^-]+-----|\s/g, '');
}
