/** What answers in place of a gateway, or as a gateway that means harm: the command line says so, and nothing of it acts on its terminal or its files. */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';
import { Gateway } from '../../services/cli/client/gatewayClient.ts';
import { LxstowError } from '../../services/contract/errors.ts';
import { UncertainPublish } from '../../services/jobs/jobs.ts';
import { type Certificate, makeCertificate } from '../lab/certificates.ts';
import { attempt } from '../lab/run.ts';

const cli = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));
const id = '84b324b0-1ee4-46a3-aa04-92b87142645f';
/** C0, C1, bidi, line separators, and one beyond the basic plane; with a line feed, which may stay. */
const acting = '\u001b[2J\u0007\r\t\n\u009b31m\u202e\u2028\u{e0001}end';
const acts = /[^\P{Cc}\n]|[\p{Cf}\u2028\u2029]/u;

const operation = {
  id,
  class: 'task',
  description: acting,
  created_at: '2026-11-28T20:00:00Z',
  updated_at: '2026-11-28T20:00:00Z',
  status: 'Failure',
  status_code: 400,
  resources: {},
  metadata: { [acting]: acting },
  may_cancel: false,
  err: acting,
  location: acting,
};
const instance = { host: 'local', project: 'default', instance: 'c1', state: 'never', last_success: null };
const backup = {
  name: 'b.tar',
  created: '2026-11-28T20:00:00Z',
  created_at: '2026-11-28T20:00:00Z',
  expires_at: '0001-01-01T00:00:00Z',
  size: 5,
  optimized: false,
  optimized_storage: false,
  compressed: true,
  instance_only: false,
  container_only: false,
  tags: {},
  pinned: false,
  instance: 'c1',
  project: 'default',
  location: 'local',
};

describe('what answers in place of a gateway', { timeout: 1_800_000 }, () => {
  let home: string;
  let certificate: Certificate;
  let server: https.Server;
  let answer: (path: string, response: ServerResponse) => void;

  before(async () => {
    home = await mkdtemp(join(tmpdir(), 'lxstow-false-'));
    certificate = await makeCertificate({ commonName: 'false' });
    server = https.createServer(certificate, (request, response) => {
      request.resume();
      answer((request.url ?? '').replace(/\?.*/, ''), response);
    });
    await once(server.listen(0, '127.0.0.1'), 'listening');
    const remotes = ['one', 'two'].map((name) => `  ${name}: {addr: "${url()}"}\n`).join('');
    for (const folder of ['servercerts', 'client']) await mkdir(join(home, 'lxstow', folder), { recursive: true });
    await writeFile(join(home, 'lxstow/remotes.yml'), `default-remote: one\nremotes:\n${remotes}`);
    for (const name of ['one', 'two']) await writeFile(join(home, `lxstow/servercerts/${name}.crt`), certificate.cert);
    const own = await makeCertificate({ commonName: 'own' });
    await writeFile(join(home, 'lxstow/client/client.crt'), own.cert);
    await writeFile(keyFile(), own.key, { mode: 0o600 });
  });
  after(async () => {
    server?.closeAllConnections();
    server?.close();
    await rm(home, { recursive: true, force: true });
  });

  const url = () => `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const keyFile = () => join(home, 'lxstow/client/client.key');
  const sends = (metadata: unknown) => (_path: string, response: ServerResponse) =>
    void response.end(JSON.stringify({ type: 'sync', metadata }));

  async function run(...args: string[]) {
    const env = { ...process.env, XDG_CONFIG_HOME: home, TZ: 'UTC' };
    const { status, stdout, stderr } = await attempt(process.execPath, [cli, ...args], { env, cwd: home });
    const said = `${stdout}${stderr}`;
    assert.doesNotMatch(said, acts, JSON.stringify([args, said]));
    return { status, stdout: stdout.toString(), stderr };
  }

  it('sends nothing to the terminal that acts there, in any format; JSON and YAML lose nothing of it', async () => {
    const status = [{ ...instance, reason: acting, [acting]: [acting] }];
    const operations = { failure: [operation] };
    answer = (path, response) => sends(path.endsWith('/status') ? status : operations)(path, response);
    for (const [command, sent] of [
      [['status'], status],
      [['operations', 'list'], [operation]],
    ] as const) {
      assert.deepEqual(JSON.parse((await run(...command, '--format', 'json')).stdout), sent);
      assert.deepEqual(parse((await run(...command, '--format', 'yaml')).stdout), sent);
      for (const format of ['csv', 'table'])
        assert.match((await run(...command, '--format', format)).stdout, /\\u\{1b\}\[2J.*\\n\\u\{9b\}31m\\u\{202e\}/);
    }
    answer = (_, response) => void response.end(`${acting}<html>`);
    const { status: exit, stderr } = await run('status');
    assert.equal(exit, 76);
    assert.match(stderr, /does not answer like an lxstow gateway: status 200, /);
    answer = (_, response) => void response.writeHead(400).end(JSON.stringify({ type: 'error', error: acting }));
    assert.equal((await run('status')).status, 64);
  });

  it('and answers with other types than a gateway: 76 and a line, whatever is asked for', async () => {
    answer = sends([null, 1, { name: { a: 1 }, created: [], size: 'x', tags: 5 }]);
    for (const command of [
      ...[['list', 'c1'], ['list', '--all'], ['info', 'c1', 'b'], ['status'], ['operations', 'list']],
      ...[
        ['operations', 'show', id],
        ['run', 'list'],
        ['run', 'show', id],
        ['run', 'report', id],
      ],
      ...[
        ['backup', 'c1'],
        ['backup', '--all'],
        ['restore', 'c1', 'latest'],
        ['export', 'c1', 'latest'],
      ],
    ]) {
      const { status, stderr } = await run(...command);
      assert.equal(status, 76, `${command} ${stderr}`);
      assert.match(stderr, /^lxstow: .*one does not answer like an lxstow gateway: .*\n {2}is .*\n$/m, `${command}`);
      assert.doesNotMatch(stderr, /^ +at /m, `${command}`);
    }
  });

  it('and answers with other types: whatever they are, and whatever the call is', async () => {
    using gateway = new Gateway(
      { name: 'one', url: url(), certificate: certificate.cert },
      { ...certificate, file: '' },
    );
    const wrong = [undefined, null, 1, 'x', [1], [null], [{}], [[]], { a: 1 }, { running: [1] }, { runs: [{}] }];
    for (const call of [
      ['GET'],
      ['GET', 'certificates', 'ab'],
      ['GET', 'instances'],
      ['GET', 'instances', 'c1', 'backups'],
      ['GET', 'instances', 'c1', 'backups', 'b'],
      ['POST', 'instances', 'c1', 'backups'],
      ['POST', 'instances', 'c1', 'backups', 'b'],
      ['GET', 'operations'],
      ['GET', 'operations', id],
      ['GET', 'operations', id, 'wait'],
      ['GET', 'runs'],
      ['GET', 'runs', id],
      ['GET', 'runs', id, 'children'],
      ['GET', 'status'],
    ])
      for (const metadata of wrong) {
        answer = sends(metadata);
        const [method = '', ...path] = call;
        await assert.rejects(gateway.ask(method, path), { exit: 76 }, `${call} ${JSON.stringify(metadata)}`);
      }
    answer = (_, response) => void response.writeHead(503).end(JSON.stringify({ type: 'error', error: [1] }));
    await assert.rejects(gateway.ask('GET', ['status']), { exit: 69, message: 'one answers 503' });
  });

  it('and names a backup by a path: nothing is written', async () => {
    await mkdir(join(home, 'c1-x'));
    for (const name of ['x/y', '../../y', '/y', '..', 'a\0b', '', 'b.manifest.json']) {
      answer = sends([{ ...backup, name }]);
      const { status, stderr } = await run('export', 'c1', 'latest');
      assert.deepEqual([status, /does not answer like an lxstow gateway/.test(stderr)], [76, true], stderr);
    }
    const written = (await readdir(home, { recursive: true })).filter((path) => path.startsWith('c1'));
    assert.deepEqual(written, ['c1-x']);
  });

  it('and never ends its answer: is given up, and what was asked for may have been begun', async () => {
    using gateway = new Gateway(
      { name: 'one', url: url(), certificate: certificate.cert },
      { ...certificate, file: '' },
      { headMs: 60_000, bodyMs: 300 },
    );
    answer = (_, response) => {
      const drip = setInterval(() => response.write(' '), 20);
      response.once('close', () => clearInterval(drip));
    };
    const message = /its answer is not complete after 0.3 s/;
    await assert.rejects(gateway.ask('GET', ['status']), { exit: 69, message, inDoubt: false });
    await assert.rejects(gateway.ask('POST', ['runs'], { body: {} }), { exit: 69, message, inDoubt: true });
    answer = (_, response) => {
      response.statusCode = 503;
      const drip = setInterval(() => response.write(' '), 20);
      response.once('close', () => clearInterval(drip));
    };
    await assert.rejects(gateway.ask('GET', ['status']), { exit: 69, message });
  });

  it('is asked once for a backup when its 503 names an operation, which may have begun; otherwise again', async () => {
    let asked = 0;
    const refuses = (error: string) => (path: string, response: ServerResponse) => {
      if (!path.endsWith('/backups')) return sends({})(path, response);
      asked += 1;
      response.statusCode = 503;
      response.end(JSON.stringify({ type: 'error', error_code: 503, error: asked > 1 ? `over ${id}` : error }));
      if (asked > 1) answer = (_, later) => void later.writeHead(400).end('{"type":"error","error":"enough"}');
    };
    answer = refuses(new UncertainPublish(id, new LxstowError('nats-unavailable', 'NATS is away')).message);
    const { status, stderr } = await run('backup', 'c1', '--retry', '10m');
    assert.deepEqual([status, asked], [69, 1], stderr);
    assert.match(stderr, /it may have been started all the same; to see whether: lxstow operations/);
    asked = 0;
    answer = refuses('NATS is away');
    const again = await run('backup', 'c1', '--retry', '10m');
    assert.deepEqual([again.status, asked], [64, 2], again.stderr);
  });

  it('is asked nothing when a name is empty, which would be another call: 64', async () => {
    const asked: string[] = [];
    answer = (path, response) => {
      asked.push(path);
      sends(operation)(path, response);
    };
    const calls = [
      ...['', '.'].map((name) => ['restore', 'c1', name, '--replace']),
      ...['info', 'export'].map((command) => [command, 'c1', '']),
      ['pin', 'c1', ''],
      ['delete', 'c1', '', '--yes'],
      ['run', 'show', ''],
      ['run', 'cancel', ''],
      ['operations', 'show', ''],
      ['schedule', 'show', ''],
    ];
    for (const call of calls) {
      const { status, stderr } = await run(...call);
      assert.deepEqual([status, asked], [64, []], JSON.stringify([call, stderr]));
    }
  });

  it('is known by its own certificate, when it was added with those of its CAs', async () => {
    const ca = await makeCertificate({ commonName: 'CA', isCa: true });
    const lengthOf = ({ cert }: Certificate) => new X509Certificate(cert).raw.length;
    // Its base64 then has no padding, which would end it.
    let own = await makeCertificate({ commonName: 'own', ca });
    for (let name = 'own'; lengthOf(own) % 3 !== 0; name += 'x') own = await makeCertificate({ commonName: name, ca });
    const chain = `${own.cert}\n${ca.cert}`;
    const other = https.createServer({ cert: chain, key: own.key }, (_, response) => sends([])('', response));
    await once(other.listen(0, '127.0.0.1'), 'listening');
    try {
      const remote = { name: 'chain', url: `https://127.0.0.1:${(other.address() as AddressInfo).port}` };
      using gateway = new Gateway({ ...remote, certificate: chain }, { ...certificate, file: '' });
      assert.deepEqual(await gateway.ask('GET', ['instances']), []);
      for (const wrong of [ca.cert, 'garbage']) {
        using stranger = new Gateway({ ...remote, certificate: wrong }, { ...certificate, file: '' });
        await assert.rejects(stranger.ask('GET', ['instances']), { exit: 77 });
      }
    } finally {
      other.closeAllConnections();
      other.close();
    }
  });

  it('says once that others may read or write the own key, and uses it', async () => {
    answer = sends({ ...operation, status: 'Success', status_code: 200, err: '', name: 'b.tar' });
    for (const mode of [0o666, 0o640, 0o604, 0o620]) {
      await chmod(keyFile(), mode);
      const { status, stderr } = await run('backup', 'one:c1', 'two:c1', '-q');
      assert.deepEqual([status, stderr.split('client.key').length], [0, 2], stderr);
      assert.match(stderr, new RegExp(`its mode is 0${mode.toString(8)}; .*chmod 600`));
    }
    await chmod(keyFile(), 0o600);
    assert.equal((await run('backup', 'one:c1', 'two:c1', '-q')).stderr, '');
  });
});
