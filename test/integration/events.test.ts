/** GET /1.0/events: what happens reaches everybody who listens, at whichever gateway, in order and once. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { after, before, describe, it } from 'node:test';
import WebSocket from 'ws';
import { forEach } from '../../services/concurrency/orderedMap.ts';
import type { CreateRunBody, Operation } from '../../services/contract/schemas.ts';
import { connectNats, type Nats } from '../../services/nats/connection.ts';
import { newOperation } from '../../services/operations/operation.ts';
import { OperationStore } from '../../services/operations/operationStore.ts';
import { RunStore } from '../../services/runs/runStore.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { type Certificate, makeCertificate } from '../lab/certificates.ts';
import { hasLxc, openUserLxc } from '../lab/lxc.ts';
import { type Lxstow, startLxstow } from '../lab/lxstow.ts';
import { assertError, idOf, openStack, type Stack, succeeded, until } from './stack.ts';

interface Seen {
  type: string;
  timestamp: string;
  location?: string;
  project?: string;
  // biome-ignore lint/suspicious/noExplicitAny: each type has its own
  metadata: any;
}

const log = createLogger({ level: 'error', format: 'json' }, {});
const settings = { replicas: 1, operationsKeptHours: 1, runsKeptHours: 1, maxQueuedJobs: 1000 };
const withLxc = { skip: !(await hasLxc()) && 'there is no lxc' };

describe('events', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  /** A second gateway. */
  let other: Lxstow;
  const sockets: WebSocket[] = [];
  /** Open all the time. */
  let patient: WebSocket;
  let pinged = 0;
  before(async () => {
    stack = await openStack('events');
    const { nats, s3 } = stack;
    other = await startLxstow({
      name: 'events2',
      log: () => undefined,
      natsUrl: nats.url,
      s3,
      socket: '/none',
      workers: 0,
    });
    await stack.launch('c1');
    patient = open(stack.stow);
    patient.on('ping', () => pinged++);
  });
  after(async () => {
    for (const socket of sockets) socket.terminate();
    await other?.[Symbol.asyncDispose]();
    await stack?.[Symbol.asyncDispose]();
  });

  const open = (stow: Lxstow, query = '', certificate: Certificate | null = stow.client) => {
    const tls = certificate ? { cert: certificate.cert, key: certificate.key } : {};
    const socket = new WebSocket(`${stow.url}/1.0/events${query}`, { ...tls, rejectUnauthorized: false });
    // A refused one that is ended says so.
    socket.on('error', () => undefined);
    sockets.push(socket);
    return socket;
  };

  /** Listens; `seen` grows. */
  async function listen(
    stow: Lxstow,
    query = '',
    certificate = stow.client,
  ): Promise<{ socket: WebSocket; seen: Seen[] }> {
    const socket = open(stow, query, certificate);
    const seen: Seen[] = [];
    socket.on('message', (data) => seen.push(JSON.parse(String(data)) as Seen));
    await once(socket, 'open');
    return { socket, seen };
  }

  const isEnd = (event: Seen, id: string) =>
    event.type === 'operation' && event.metadata.id === id && event.metadata.status_code >= 200;
  const ended = (seen: Seen[], id: string) =>
    until(
      async () => seen,
      (all) => all.some((event) => isEnd(event, id)),
    );

  it('of a backup, its restore and its deletion reach every gateway, in order, each lifecycle once', async () => {
    const listeners = await Promise.all([listen(stack.stow), listen(other, '?type=operation,lifecycle')]);
    const made = await other.request('POST', '/1.0/instances/c1/backups', { body: { compression_algorithm: 'none' } });
    const { name } = made.body.metadata;
    await succeeded(other, made);
    const restored = await stack.stow.request('POST', `/1.0/instances/c1/backups/${name}`, { body: { name: 'c2' } });
    await succeeded(stack.stow, restored);
    assert.equal((await other.request('DELETE', `/1.0/instances/c1/backups/${name}`)).status, 200);
    await stack.remove('c2');

    const backup = `/1.0/instances/c1/backups/${name}`;
    for (const { seen } of listeners) {
      const gone = (event: Seen) => event.metadata.action === 'instance-backup-deleted';
      await until(
        async () => seen,
        (all) => all.slice(all.findIndex(gone)).some(({ type }) => type === 'operation') && all.some(gone),
      );
      const happened = seen.filter(({ type }) => type === 'lifecycle');
      assert.deepEqual(
        happened.map(({ metadata }) => [metadata.action, metadata.source]),
        [
          ['instance-backup-created', backup],
          ['instance-created', '/1.0/instances/c2'],
          ['instance-backup-restored', backup],
          ['instance-backup-deleted', backup],
        ],
      );
      assert.deepEqual(happened[0]?.metadata.requestor, {
        username: other.client.fingerprint,
        protocol: 'tls',
        address: '127.0.0.1',
      });
      for (const answer of [made, restored]) {
        const id = idOf(answer);
        const steps = seen.filter(({ type, metadata }) => type === 'operation' && metadata.id === id);
        const codes = steps.map(({ metadata }) => metadata.status_code);
        assert.deepEqual(
          codes,
          [...codes].sort((a, b) => order(a) - order(b)),
          'no step back, and none after the end',
        );
        assert.equal(codes.filter((code) => code >= 200).length, 1);
        const { location, project, timestamp, metadata } = steps.at(-1) as Seen;
        assert.deepEqual([location, project, timestamp], ['local', 'default', metadata.updated_at]);
        assert.deepEqual(metadata.resources.backups, [`/1.0/backups/${name}`]);
        const told = seen.findIndex(({ type, metadata: { source } }) => type === 'lifecycle' && source === backup);
        assert.ok(told < seen.findIndex((event) => isEnd(event, id)));
      }
    }
  });

  const order = (code: number) => [105, 103, 200].indexOf(code);

  /** A backup that fails at once: its instance is not there, and no worker is asked first. */
  async function failure(project: string): Promise<string> {
    const { nats } = await direct();
    try {
      const id = randomUUID();
      await nats.js.publish(`lxstow.jobs.local.backup.${project}.nobody`, '{}', { msgID: id });
      return id;
    } finally {
      await nats.connection.close();
    }
  }

  /** NATS, past lxstow. */
  async function direct(): Promise<{ nats: Nats; operations: OperationStore }> {
    const servers = [stack.nats.url];
    const nats = await connectNats({ servers, ...settings }, 'lxstow-test', log);
    return { nats, operations: new OperationStore(nats, 1) };
  }

  it('are of one project, or of all', async () => {
    const usual = await listen(stack.stow);
    const named = await listen(stack.stow, `?project=${stack.project}`);
    const all = await listen(other, '?all-projects=true&type=operation');
    const [first, second] = [await failure(stack.project), await failure('default')];
    for (const id of [first, second]) await ended(all.seen, id);
    await ended(usual.seen, second);
    await ended(named.seen, first);
    assert.ok(!usual.seen.some(({ project }) => project === stack.project));
    assert.ok(!named.seen.some(({ project }) => project === 'default'));
    assert.deepEqual([...new Set(all.seen.map(({ type }) => type))], ['operation']);
  });

  it('of other projects, and log lines, are hidden from a restricted client, whose socket ends with its trust', async () => {
    const client = await makeCertificate({ commonName: 'restricted' });
    const certificate = client.cert.replaceAll(/-----[A-Z ]+-----|\s/g, '');
    const grant = { type: 'client', certificate, restricted: true, projects: [stack.project] };
    const added = await stack.stow.request('POST', '/1.0/certificates', { body: grant });
    assert.equal(added.status, 201, added.text);
    const usual = await listen(stack.stow, '?all-projects=true');
    const restricted = await listen(stack.stow, '?all-projects=true', client);
    const ofDefault = await listen(stack.stow);
    const [first, second] = [await failure('default'), await failure(stack.project)];
    for (const id of [first, second]) await ended(usual.seen, id);
    await ended(restricted.seen, second);
    assert.deepEqual([...new Set(restricted.seen.map(({ project }) => project))], [stack.project]);
    const [everywhere, here] = [
      await emptyRun({ all: true }),
      await emptyRun({ all: true, projects: [stack.project] }),
    ];
    for (const id of [everywhere, here]) await ended(usual.seen, id);
    await ended(ofDefault.seen, everywhere);
    await ended(restricted.seen, here);
    assert.ok(!restricted.seen.some(({ metadata }) => metadata.id === everywhere));
    for (const query of ['', '?type=logging&all-projects=true', '?project=default']) {
      const [, response] = await once(open(stack.stow, query, client), 'unexpected-response');
      assert.equal(response.statusCode, 403, query);
    }
    const closed = once(restricted.socket, 'close');
    const removed = await stack.stow.request('DELETE', `/1.0/certificates/${client.fingerprint}`);
    assert.equal(removed.status, 200, removed.text);
    await closed;
  });

  /** A run that found no instance, as of a schedule. */
  async function emptyRun(selector: CreateRunBody['selector']): Promise<string> {
    const { nats } = await direct();
    try {
      const [id, at] = [randomUUID(), new Date().toISOString()];
      const head = { id, status: 'Success', class: 'scheduled', created_at: at, updated_at: at, ended_at: at } as const;
      const rest = { request: { selector }, places: {}, away: [], failures: [], excluded: 0 };
      assert.ok(await new RunStore(nats, 1).create({ ...head, ...rest }, []));
      return id;
    } finally {
      await nats.connection.close();
    }
  }

  it('include log lines, whose fields are strings', async () => {
    const { seen } = await listen(stack.stow, '?type=logging');
    await stack.stow.request('GET', '/1.0/nothing');
    await until(
      async () => seen,
      (all) => all.some(({ metadata }) => metadata.context.path === '/1.0/nothing'),
    );
    for (const { metadata } of seen) {
      assert.match(metadata.level, /^(debug|info|warn|error)$/);
      assert.ok(Object.values(metadata.context).every((value) => typeof value === 'string'));
    }
  });

  it('are refused in an envelope', async () => {
    const answer = async (query: string, certificate?: Certificate | null) => {
      const socket = open(stack.stow, query, certificate);
      const [, response] = await once(socket, 'unexpected-response');
      const chunks = (await response.toArray()) as Buffer[];
      const text = Buffer.concat(chunks).toString();
      return { status: response.statusCode as number, headers: response.headers, text, body: JSON.parse(text) };
    };
    assertError(await answer('', null), 403, /not authorized/);
    assertError(await answer('?type=gossip'), 400, /"gossip" is not one of the event types/);
    assertError(await answer('?project=a&all-projects=true'), 400, /either/);
    assertError(await answer('?all-projects=perhaps'), 400, /neither/);
    assertError(await answer('/nothing'), 404, /not found/);
    assertError(await stack.stow.request('GET', '/1.0/events'), 400, /websocket/);
    assertError(await stack.stow.request('POST', '/1.0/events'), 405, /allowed: GET/);
    const upgrade = { connection: 'upgrade', upgrade: 'websocket' };
    assertError(await stack.stow.request('POST', '/1.0/events', { headers: upgrade }), 400, /only a GET/);
    assertError(await stack.stow.request('GET', '/1.0/events', { headers: upgrade }), 400, /Sec-WebSocket/);
    assertError(await stack.stow.request('GET', '/1.0/nothing', { headers: upgrade }), 404, /not found/);
  });

  it('leave sockets to others, however many one client opens', async () => {
    const greedy = await makeCertificate({ commonName: 'greedy' });
    const certificate = greedy.cert.replaceAll(/-----[A-Z ]+-----|\s/g, '');
    const body = { type: 'client', certificate, role: 'viewer' };
    assert.equal((await stack.stow.request('POST', '/1.0/certificates', { body })).status, 201);
    const all = await Promise.all(Array.from({ length: 250 }, () => listen(stack.stow, '', greedy)));
    /** The status of one more. */
    const another = () =>
      new Promise<number | undefined>((resolve) => {
        const socket = open(stack.stow, '', greedy);
        socket.once('open', () => resolve(101));
        socket.once('unexpected-response', (_, { statusCode }) => resolve(statusCode));
      });
    assert.equal(await another(), 503);
    await listen(stack.stow);
    for (const { socket } of all) socket.terminate();
    await until(another, (status) => status === 101);
  });

  it('reach two hundred sockets at once', async () => {
    const all = await Promise.all(Array.from({ length: 200 }, (_, i) => listen(i % 2 ? stack.stow : other)));
    const id = await failure('default');
    for (const { seen } of all) await ended(seen, id);
    for (const { socket } of all) socket.terminate();
  });

  it('come in a burst to all who read', async () => {
    const { seen } = await listen(stack.stow, '?type=operation');
    const { nats, operations } = await direct();
    const burst = Array.from({ length: 200 }, large);
    // Not all at once: NATS syncs each.
    await forEach(burst, 32, async (one) => assert.ok(await operations.create(one)));
    const ids = new Set(burst.map(({ id }) => id));
    await until(
      async () => seen.filter(({ metadata }) => ids.delete(metadata.id)),
      () => ids.size === 0,
    );
    await nats.connection.close();
  });

  /** An operation of thirty kilobytes. */
  function large(): Operation {
    const address = { remote: 'local', project: 'default', instance: 'large' };
    const fresh = newOperation({ id: randomUUID(), kind: 'backup', address }, new Date());
    return { ...fresh, metadata: { warnings: ['x'.repeat(30_000)] } };
  }

  it('are not kept for who does not read them: that socket is cut off, the others get all', async () => {
    const slow = open(stack.stow, '?type=operation');
    await once(slow, 'open');
    slow.pause();
    const { seen } = await listen(stack.stow, '?type=operation');
    const { nats, operations } = await direct();
    // Whichever is noticed first.
    const isCut = async () => /does not (read its events|answer pings)/.test(await stack.stow.logOf('gateway'));
    const written = new Set<string>();
    // The kernel takes some megabytes for it.
    while (written.size % 20 > 0 || !(await isCut())) {
      const fresh = large();
      assert.ok(await operations.create(fresh));
      written.add(fresh.id);
    }
    const closed = once(slow, 'close');
    slow.resume();
    assert.equal((await closed)[0], 1006);
    await until(
      async () => new Set(seen.map(({ metadata }) => metadata.id)),
      (ids) => [...written].every((id) => ids.has(id)),
    );
    await nats.connection.close();
  });

  it('go on when NATS was away', async () => {
    const { seen } = await listen(other);
    await stack.nats.kill();
    await until(
      () => other.request('GET', '/1.0/operations'),
      ({ status }) => status === 503,
    );
    await stack.nats.start();
    await until(
      () => other.request('GET', '/1.0/operations'),
      ({ status }) => status === 200,
    );
    await ended(seen, await failure('default'));
  });

  it('are shown by lxc monitor', withLxc, async () => {
    await using lxc = await openUserLxc(stack.stow, 'monitor');
    const [plain, pretty] = [{ text: '' }, { text: '' }];
    const shows = (output: { text: string }, what: RegExp) =>
      until(
        async () => output.text,
        (text) => what.test(text),
      );
    using _plain = lxc.start(['monitor', 'stow:', '--type=operation', '--type=lifecycle'], (text) => {
      plain.text += text;
    });
    using _pretty = lxc.start(['monitor', 'stow:', '--pretty'], (text) => {
      pretty.text += text;
    });
    // It does not say when it listens.
    await until(
      async () => {
        await failure('default');
        return plain.text !== '' && pretty.text !== '';
      },
      (listening) => listening,
    );
    const name = await stack.backup('c1');
    await shows(plain, new RegExp(`action: instance-backup-created[^]*source: /1.0/instances/c1/backups/${name}`));
    await shows(plain, /status: Success/);
    await shows(pretty, /instance-backup-created/);
  });

  it('let lxc query --wait wait, for a success and for a failure', withLxc, async () => {
    await using lxc = await openUserLxc(other, 'query');
    const query = (path: string, body: object) =>
      lxc(['query', '--wait', '-X', 'POST', '-d', JSON.stringify(body), `stow:/1.0/instances/c1/backups${path}`]);
    assert.equal(JSON.parse(await query('', { name: 'mine' })).status, 'Success');
    await stack.bucket().removeObject(stack.s3.bucket, 'local/default/c1/mine');
    await assert.rejects(query('/mine', { name: 'c3' }), /mine/);
  });

  it('stop when the gateway does: it says goodbye, and ends', async () => {
    const { socket } = await listen(other);
    const closed = once(socket, 'close');
    await other.gateway.stop();
    const [code, reason] = await closed;
    assert.deepEqual([code, String(reason)], [1001, 'the gateway stops']);
    assert.match(await other.logOf('gateway'), /gateway stopped/);
    await other.gateway.start();
  });

  it('come with pings, which keep a socket open', async () => {
    if (pinged === 0) await once(patient, 'ping');
    assert.equal(patient.readyState, WebSocket.OPEN);
  });
});
