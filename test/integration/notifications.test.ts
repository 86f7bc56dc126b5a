/** Who wants to know how an operation ended is told, signed, and once more until it has heard: a real receiver, on real parts. */
import assert from 'node:assert/strict';
import { createHmac, randomBytes, randomUUID } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import https from 'node:https';
import { join } from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { faultsOf, type Operation } from '../../services/contract/schemas.ts';
import { type ScriptedS3, scriptedS3 } from '../fault/scriptedS3.ts';
import { type LabFolder, openFolder } from '../lab/folder.ts';
import { lxstow } from '../lab/lxstow.ts';
import { answers, freePort, startDaemon } from '../lab/processes.ts';
import { hangs, type Received, type Receiver, says, startReceiver } from '../lab/receiver.ts';
import { run } from '../lab/run.ts';
import { publish } from './publisher.ts';
import { assertError, idOf, openStack, type Stack, succeeded, until } from './stack.ts';

const key = randomBytes(32);
const secret = `whsec_${key.toString('base64')}`;
const token = 'T0-hush-hush';

describe('notifications', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  let s3: ScriptedS3;
  let receiver: Receiver;
  let pythonPort: number;
  before(async () => {
    receiver = await startReceiver();
    pythonPort = await freePort();
    stack = await openStack('notifications', {
      workers: 0,
      config: {
        worker: { slots: 1, graceMs: 0 },
        notify: {
          endpoints: [`${receiver.url}/all?token=${token}`],
          secret,
          allowed: [`${receiver.url}/hooks`, `http://127.0.0.1:${pythonPort}`],
          timeoutMs: 5000,
        },
      },
    });
    s3 = await scriptedS3(stack.s3.endpoint);
    await stack.stow.addWorker({ LXSTOW_S3_ENDPOINT: s3.endpoint });
    await stack.launch('c1', { dataMiB: 1 });
  });
  after(async () => {
    await stack?.[Symbol.asyncDispose]();
    await s3?.[Symbol.asyncDispose]();
    await receiver?.[Symbol.asyncDispose]();
  });
  afterEach(async () => {
    for (const process of [stack.stow.gateway, ...stack.stow.workers]) if (!process.isRunning) await process.start();
  });

  let hooks = 0;
  /** An endpoint that nobody has been told of yet. */
  const newHook = () => {
    const path = `/hooks/${++hooks}/${token}`;
    return { path, notifyEndpoint: receiver.url + path };
  };
  const backUp = (body: object, query = '') =>
    stack.stow.request('POST', `/1.0/instances/c1/backups${query}`, { body });
  const ofAll = (id: string) =>
    until(
      async () => receiver.received.filter(({ path, notice }) => path.startsWith('/all') && notice.operation === id),
      ({ length }) => length > 0,
    );
  const ended = (id: string) =>
    until(
      async () => (await stack.stow.request('GET', `/1.0/operations/${id}`)).body.metadata as Operation,
      (operation) => operation?.status_code >= 200,
    );
  const logged = (message: string, operation: string) =>
    until(
      async () =>
        (await stack.stow.logOf('gateway'))
          .split('\n')
          .filter((line) => line.includes(`"${message}"`) && line.includes(operation))
          .map((line) => JSON.parse(line)),
      ({ length }) => length > 0,
    );
  const metric = async (result: string) => {
    const text = await (await fetch(`${stack.stow.healthUrl.gateway}/metrics`)).text();
    return Number(new RegExp(`^lxstow_notices_total{result="${result}"} (\\d+)$`, 'm').exec(text)?.[1]);
  };
  /** All that is queued was taken, or given up. */
  const nothingLeft = async () => {
    const nats = await connect({ servers: stack.nats.url });
    try {
      const jsm = await jetstreamManager(nats);
      await until(
        () => jsm.streams.info('LXSTOW_NOTICES'),
        ({ state }) => state.messages === 0,
      );
    } finally {
      await nats.close();
    }
  };

  /** As a receiver does it, by the specification. */
  function assertSigned({ headers, body }: Received): void {
    const { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signature } = headers;
    const expected = createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64');
    assert.equal(signature, `v1,${expected}`);
    assert.ok(Math.abs(Date.now() / 1000 - Number(timestamp)) < 300);
  }

  it('tell of a success: who is always told, and whom the request names; signed, by the schema', async () => {
    const { path, notifyEndpoint } = newHook();
    const answer = await backUp({ notifyEndpoint, compression_algorithm: 'zstd' });
    const { id } = await succeeded(stack.stow, answer);
    const [[named], [always]] = await Promise.all([receiver.until(path), ofAll(id)]);
    for (const received of [named, always]) {
      assert.ok(received);
      assertSigned(received);
      assert.equal(received.headers['content-type'], 'application/json');
      assert.deepEqual(faultsOf('notice.json', received.notice), []);
      const { opType, state, name, instance, operation, status, rawURL, size, attempts } = received.notice;
      assert.deepEqual(
        { opType, state, name, instance, operation, status, rawURL, attempts },
        {
          opType: 'backup',
          state: 'success',
          name: answer.body.metadata.name,
          instance: 'c1',
          operation: id,
          status: 'Success',
          rawURL: '/1.0/instances/c1/backups?project=default&target=local',
          attempts: 1,
        },
      );
      const { metadata } = (await stack.stow.request('GET', `/1.0/instances/c1/backups/${name}`)).body;
      assert.equal(size, metadata.size);
    }
    assert.equal(named?.headers['webhook-id'], always?.headers['webhook-id']);
    await nothingLeft();
    assert.equal((await receiver.until(path)).length, 1);
  });

  it('tell of a run once, and of its backups only where each is wanted', async () => {
    const run = async () => {
      const { body } = await stack.stow.request('POST', '/1.0/runs', { body: { selector: { instances: ['c1'] } } });
      const { id } = body.metadata;
      const [{ notice } = { notice: undefined }] = await ofAll(id);
      assert.deepEqual([notice?.opType, notice?.state], ['run', 'success']);
      const { metadata } = (await stack.stow.request('GET', `/1.0/runs/${id}/children`)).body;
      await nothingLeft();
      const child = metadata.children[0].operation.split('/').at(-1);
      return receiver.received.filter(({ notice: each }) => each.operation === child).length;
    };
    assert.equal(await run(), 0);
    const { configFile, gateway } = stack.stow;
    const text = await readFile(configFile, 'utf8');
    const { notify, ...config } = JSON.parse(text);
    await writeFile(configFile, JSON.stringify({ ...config, notify: { ...notify, children: true } }));
    await gateway.stop();
    await gateway.start();
    assert.equal(await run(), 1);
    await writeFile(configFile, text);
    await gateway.stop();
    await gateway.start();
  });

  it('tell of restores, deletions and uploads too', async () => {
    const name = await stack.backup('c1', '?compression=none');
    const backup = `/1.0/instances/c1/backups/${name}`;
    const restore = newHook();
    const query = `?name=c2&notifyEndpoint=${encodeURIComponent(restore.notifyEndpoint)}`;
    await succeeded(stack.stow, await stack.stow.request('POST', backup + query));
    const [restored] = await receiver.until(restore.path);
    assert.deepEqual(
      [restored?.notice.opType, restored?.notice.state, restored?.notice.instance, restored?.notice.rawURL],
      ['restore', 'success', 'c2', `${backup}?project=default&target=local`],
    );
    await stack.remove('c2');

    const upload = newHook();
    const archive = await bytesOf(`${backup}/export`);
    const uploaded = await send(`/1.0/instances?notifyEndpoint=${encodeURIComponent(upload.notifyEndpoint)}`, archive);
    assert.equal(uploaded, 202);
    const [stored] = await receiver.until(upload.path);
    assert.deepEqual([stored?.notice.opType, stored?.notice.state], ['upload', 'success']);

    const deletion = newHook();
    const gone = `${backup}?notifyEndpoint=${encodeURIComponent(deletion.notifyEndpoint)}`;
    assert.equal((await stack.stow.request('DELETE', gone)).status, 200);
    const [removed] = await receiver.until(deletion.path);
    assert.deepEqual(
      [removed?.notice.opType, removed?.notice.state, removed?.notice.name],
      ['delete', 'success', name],
    );
    for (const received of [restored, stored, removed]) {
      assert.ok(received);
      assertSigned(received);
      assert.deepEqual(faultsOf('notice.json', received.notice), []);
    }
  });

  it('are asked for on the command line', async () => {
    await using folder = await openFolder('notifications-cli', () => undefined);
    const env = { XDG_CONFIG_HOME: folder.path };
    const trustToken = await lxstow(['-c', stack.stow.configFile, 'trust', 'token', 'notifications']);
    await lxstow(['remote', 'add', 'stow', trustToken.trim()], env);
    const { path, notifyEndpoint } = newHook();
    await lxstow(['backup', 'c1', '--quiet', '--notify', notifyEndpoint], env);
    await lxstow(['restore', 'c1', 'latest', '--as', 'c3', '--quiet', '--notify', notifyEndpoint], env);
    await stack.remove('c3');
    const told = (await receiver.until(path, 2)).map(({ notice }) => `${notice.opType} ${notice.state}`);
    assert.deepEqual(told, ['backup success', 'restore success']);
    await assert.rejects(lxstow(['backup', 'c1', '--notify', `${receiver.url}/not-listed`], env), /notify\.allowed/);
  });

  it('tell of a failure why, of a job that was published straight to its subject too', async () => {
    const { path, notifyEndpoint } = newHook();
    const id = await publish(stack.nats.url, 'lxstow.jobs.local.backup.default.nobody', { notifyEndpoint });
    for (const [received] of [await receiver.until(path), await ofAll(id)]) {
      assert.ok(received);
      assertSigned(received);
      const { state, status, error, code, name, instance, failedAt, ended_at } = received.notice;
      assert.deepEqual(
        { state, status, error, code, instance },
        {
          state: 'failed',
          status: 'Failure',
          error: 'instance nobody does not exist',
          code: 'not-found',
          instance: 'nobody',
        },
      );
      assert.equal(failedAt, ended_at);
      assert.equal(typeof name, 'string');
    }
  });

  it('tell of a message that is no job', async () => {
    const id = await publish(stack.nats.url, 'lxstow.jobs.local.backup.default.c1', 'no JSON');
    const [received] = await ofAll(id);
    assert.deepEqual([received?.notice.state, received?.notice.code], ['failed', 'bad-message']);
  });

  it('tell of what was cancelled, while it runs and before anybody has begun it', async () => {
    const { reached, release } = s3.hold(/\/c1\/[^/]*\.tar(\.gz)?$/);
    const [first, second] = [newHook(), newHook()];
    const running = await backUp({ notifyEndpoint: first.notifyEndpoint });
    await reached;
    const waiting = await backUp({ notifyEndpoint: second.notifyEndpoint });
    for (const each of [waiting, running])
      assert.equal((await stack.stow.request('DELETE', each.body.operation)).status, 200);
    release();
    for (const [path, answer] of [
      [first.path, running],
      [second.path, waiting],
    ] as const) {
      const [received] = await receiver.until(path);
      assert.deepEqual(
        [received?.notice.operation, received?.notice.state, received?.notice.status_code],
        [idOf(answer), 'cancelled', 401],
      );
    }
  });

  it('are tried again, as the same, until they are taken', async () => {
    const { path, notifyEndpoint } = newHook();
    receiver.answers(path, says(500), says(503), says(429));
    const answer = await backUp({ notifyEndpoint });
    await succeeded(stack.stow, answer);
    const received = await receiver.until(path, 4);
    assert.equal(new Set(received.map(({ headers }) => headers['webhook-id'])).size, 1);
    assert.equal(new Set(received.map(({ body }) => body)).size, 1);
    for (const each of received) assertSigned(each);
    await nothingLeft();
    const tries = (await logged('notice delivered', idOf(answer))).map((line) => line.tries);
    assert.deepEqual(tries.sort(), [1, 4]);
    assert.equal((await receiver.until(path)).length, 4);
  });

  describe('pings of a run', () => {
    const begin = (ping: string, instances: string[], id = randomUUID()) =>
      stack.stow.request('POST', '/1.0/runs', { body: { id, selector: { instances }, ping } });

    it('tell healthchecks.io when it begins and that it succeeded, and are tried again', async () => {
      const [{ path, notifyEndpoint: url }, id] = [newHook(), randomUUID()];
      receiver.answers(`${path}?rid=${id}`, says(500));
      await begin(`${url}/`, ['c1'], id);
      const [start] = await receiver.until(`${path}/start?rid=${id}`);
      const [first, again] = await receiver.until(`${path}?rid=${id}`, 2);
      assert.deepEqual([start?.method, start?.body, first?.method, first?.body], ['POST', '', 'POST', again?.body]);
      assert.match(again?.body ?? '', /^# Backups: Success, 1 of 1\n/);
      assert.equal(again?.headers['content-type'], 'text/markdown; charset=utf-8');
      assert.equal(again?.headers['webhook-signature'], undefined);
    });

    it('tell it of no start behind the end', async () => {
      const [{ path, notifyEndpoint: url }, id] = [newHook(), randomUUID()];
      receiver.answers(`${path}/start?rid=${id}`, says(503, { 'retry-after': '10' }));
      await begin(url, ['c1'], id);
      await receiver.until(`${path}?rid=${id}`);
      await nothingLeft();
      const paths = receiver.received.map((each) => each.path);
      assert.ok(paths.lastIndexOf(`${path}/start?rid=${id}`) < paths.indexOf(`${path}?rid=${id}`));
    });

    it('tell it that one failed, and why', async () => {
      const [{ path, notifyEndpoint: url }, id] = [newHook(), randomUUID()];
      await begin(url, ['c1', 'c0'], id);
      const [failed] = await receiver.until(`${path}/fail?rid=${id}`);
      assert.match(failed?.body ?? '', /^# Backups: Failure, 1 of 1\n.*there is no instance c0/s);
    });

    it('tell Uptime Kuma how it ended, in its query', async () => {
      const url = `/hooks/api/push/${token}?status=up&msg=OK&ping=`;
      await begin(receiver.url + url, ['c1', 'c0']);
      const found = await until(
        async () => receiver.received.filter(({ path }) => path.startsWith('/hooks/api/push/')),
        ({ length }) => length > 0,
      );
      const { searchParams } = new URL(found[0]?.path ?? '', receiver.url);
      assert.deepEqual([found.length, found[0]?.method, searchParams.get('status')], [1, 'GET', 'down']);
      assert.equal(searchParams.get('msg'), 'Backups: Failure, 1 of 1');
      assert.ok(Number(searchParams.get('ping')) > 0);
    });

    it('go nowhere that the configuration does not allow, and are shown to nobody', async () => {
      const refused = await begin(`${receiver.url}/elsewhere`, ['c1']);
      assertError(refused, 403, /^ping: .* is not allowed by notify.allowed/);
      const body = { name: 'pings', definition: { cron: '@yearly', ping: `${receiver.url}/elsewhere` } };
      assertError(await stack.stow.request('POST', '/1.0/schedules', { body }), 403, /^ping: /);
      const id = randomUUID();
      await begin(newHook().notifyEndpoint, ['c1'], id);
      const shown = await stack.stow.request('GET', `/1.0/runs/${id}`);
      assert.doesNotMatch(shown.text, /hooks/);
    });
  });

  it('to one who hangs keep nobody else waiting, and come again', async () => {
    const { path, notifyEndpoint } = newHook();
    receiver.answers(path, hangs);
    const hanging = await backUp({ notifyEndpoint });
    await receiver.until(path);
    const other = newHook();
    await succeeded(stack.stow, await backUp({ notifyEndpoint: other.notifyEndpoint }));
    await receiver.until(other.path);
    await receiver.until(path, 2);
    const [line] = await logged('notice not delivered, it is tried again', idOf(hanging));
    assert.equal(line?.why, 'no answer in 5000 ms');
  });

  it('to one who is away cost the backup nothing, and come when it is back', async () => {
    const { path, notifyEndpoint } = newHook();
    await receiver.stop();
    const answer = await backUp({ notifyEndpoint });
    await succeeded(stack.stow, answer);
    const [line] = await logged('notice not delivered, it is tried again', idOf(answer));
    assert.match(line?.why, /ECONNREFUSED/);
    await receiver.start();
    const [received] = await receiver.until(path);
    assert.equal(received?.notice.state, 'success');
    await ofAll(idOf(answer));
  });

  it('are given up at once where no further try would help, and redirects are not followed', async () => {
    const before = await metric('given-up');
    const [gone, moved] = [newHook(), newHook()];
    receiver.answers(gone.path, says(410));
    receiver.answers(moved.path, says(302, { location: `${receiver.url}/elsewhere` }));
    for (const [{ notifyEndpoint }, why] of [
      [gone, 'it answered 410'],
      [moved, 'it answered 302: redirects are not followed'],
    ] as const) {
      const answer = await backUp({ notifyEndpoint });
      await succeeded(stack.stow, answer);
      const [line] = await logged('notice given up', idOf(answer));
      assert.deepEqual([line?.level, line?.why, line?.endpoint], ['error', why, receiver.url]);
    }
    assert.equal(await metric('given-up'), before + 2);
    await nothingLeft();
    assert.deepEqual(
      receiver.received.filter(({ path }) => path === '/elsewhere'),
      [],
    );
    assert.equal((await receiver.until(gone.path)).length, 1);
  });

  it('go nowhere that the configuration does not allow', async () => {
    const elsewhere = `${receiver.url}/not-listed/${token}`;
    const refused = await backUp({ notifyEndpoint: elsewhere });
    assertError(refused, 403, /^notifyEndpoint: http:\/\/127\.0\.0\.1:\d+ is not allowed by notify\.allowed$/);
    const query = `?notifyEndpoint=${encodeURIComponent(elsewhere)}`;
    assert.equal((await backUp({}, query)).status, 403);
    assert.equal((await stack.stow.request('POST', `/1.0/instances/c1/backups/none${query}`)).status, 403);
    assert.equal((await stack.stow.request('DELETE', `/1.0/instances/c1/backups/none${query}`)).status, 403);
    for (const notifyEndpoint of [`https://user:${token}@hooks.example.net/`, `ftp://${token}/`, 17])
      assertError(await backUp({ notifyEndpoint }), 400, /^body: notifyEndpoint: (it is not allowed|must be string)/);

    // Whoever publishes jobs is not asked before: the backup is made, and the notice is not.
    const id = await publish(stack.nats.url, 'lxstow.jobs.local.backup.default.c1', { notifyEndpoint: elsewhere });
    assert.equal((await ended(id)).status, 'Success');
    const [line] = await logged('notice given up', id);
    assert.match(line?.why, /notify\.allowed/);
    assert.equal((await ofAll(id)).length, 1);
    assert.deepEqual(
      receiver.received.filter(({ path }) => path.startsWith('/not-listed')),
      [],
    );
  });

  describe('are not lost', () => {
    it('by a worker that is killed when the operation has just ended', async () => {
      const [worker] = stack.stow.workers;
      assert.ok(worker);
      const nats = await connect({ servers: stack.nats.url });
      try {
        const { path, notifyEndpoint } = newHook();
        const answer = await backUp({ notifyEndpoint });
        await stack.stow.finished(answer);
        await worker.kill('SIGKILL');
        const [received] = await receiver.until(path);
        assert.equal(received?.notice.state, 'success');
        // The job comes to the next worker if it was not acknowledged, and nobody is told twice of it.
        await worker.start();
        const jsm = await jetstreamManager(nats);
        await until(
          () => jsm.streams.info('LXSTOW_JOBS'),
          ({ state }) => state.messages === 0,
        );
        await nothingLeft();
        assert.equal((await receiver.until(path)).length, 1);
      } finally {
        await nats.close();
      }
    });

    it('while no gateway is there', async () => {
      await stack.stow.gateway.kill('SIGKILL');
      const { path, notifyEndpoint } = newHook();
      const id = await publish(stack.nats.url, 'lxstow.jobs.local.backup.default.c1', { notifyEndpoint });
      await until(
        () => stack.stow.logOf(0),
        (log) => log.split('\n').some((line) => line.includes('"job done"') && line.includes(id)),
      );
      await stack.stow.gateway.start();
      const [received] = await receiver.until(path);
      assert.deepEqual([received?.notice.operation, received?.notice.state], [id, 'success']);
      await ofAll(id);
    });

    it('by a gateway that is killed while the endpoint is at it', async () => {
      const { path, notifyEndpoint } = newHook();
      receiver.answers(path, hangs);
      const answer = await backUp({ notifyEndpoint });
      await receiver.until(path);
      await stack.stow.gateway.kill('SIGKILL');
      await stack.stow.gateway.start();
      const [first, second] = await receiver.until(path, 2);
      assert.equal(first?.headers['webhook-id'], second?.headers['webhook-id']);
      assert.equal(second?.notice.operation, idOf(answer));
    });

    it('by NATS, which is killed while they wait', async () => {
      const { path, notifyEndpoint } = newHook();
      receiver.answers(path, says(500));
      const answer = await backUp({ notifyEndpoint });
      await receiver.until(path);
      await stack.nats.kill('SIGKILL');
      await stack.nats.start();
      const received = await receiver.until(path, 2);
      assert.equal(received[1]?.notice.operation, idOf(answer));
    });
  });

  it('leave no secret in a log', async () => {
    await nothingLeft();
    const logs = await Promise.all([stack.stow.logOf('gateway'), stack.stow.logOf(0)]);
    for (const log of logs) assert.ok(!log.includes(token) && !log.includes(secret), 'a token is in a log');
    const { text } = await stack.stow.request('GET', '/1.0/operations?recursion=1&all-projects=true');
    assert.ok(!text.includes(token), 'a token is in what the API shows');
  });

  describe('are known to be ours by the examples in docs/notifications.md', () => {
    let folder: LabFolder;
    let received: Received;
    before(async () => {
      folder = await openFolder('notifications-examples', () => undefined);
      const { path, notifyEndpoint } = newHook();
      await succeeded(stack.stow, await backUp({ notifyEndpoint }));
      received = (await receiver.until(path))[0] as Received;
    });
    after(() => folder?.[Symbol.asyncDispose]());

    async function example(language: string): Promise<string> {
      const page = await readFile(new URL('../../docs/notifications.md', import.meta.url), 'utf8');
      const [, text = ''] = page.split('## Check the signature')[1]?.split(`\`\`\`${language}\n`) ?? [];
      assert.ok(text);
      return text.split('\n```')[0] ?? '';
    }
    const forged = `whsec_${Buffer.alloc(32).toString('base64')}`;

    it('shell', async () => {
      await writeFile(join(folder.path, 'body'), received.body);
      const { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signature } = received.headers;
      const says = async (WEBHOOK_SECRET: string) => {
        const env = { ...process.env, WEBHOOK_SECRET, id, timestamp, signature } as NodeJS.ProcessEnv;
        return (await run('bash', ['-euc', await example('sh')], { cwd: folder.path, env })).trim();
      };
      assert.deepEqual([await says(secret), await says(forged)], ['genuine', 'forged']);
    });

    it('JavaScript', async () => {
      const file = join(folder.path, 'example.mjs');
      await writeFile(file, await example('js'));
      const { isGenuine } = await import(file);
      const { headers, body } = received;
      assert.equal(isGenuine(headers, body, secret), true);
      assert.equal(isGenuine(headers, body, forged), false);
      assert.equal(isGenuine(headers, `${body} `, secret), false);
      assert.equal(isGenuine({ ...headers, 'webhook-timestamp': '1614265330' }, body, secret), false);
    });

    it('Python, which receives one itself', async () => {
      const url = `http://127.0.0.1:${pythonPort}/`;
      const python = await startDaemon({
        command: 'python3',
        args: ['-c', await example('python')],
        folder,
        env: { ...process.env, WEBHOOK_SECRET: secret, PORT: String(pythonPort) },
        ready: answers(async (signal) => void (await fetch(url, { signal }))),
      });
      try {
        const answer = await backUp({ notifyEndpoint: url });
        await succeeded(stack.stow, answer);
        await nothingLeft();
        const headers = Object.fromEntries(
          Object.entries(received.headers as Record<string, string>).filter(([name]) => name.startsWith('webhook-')),
        );
        assert.equal((await fetch(url, { method: 'POST', headers, body: '{"state":"success"}' })).status, 401);
        const said = await readFile(join(folder.path, 'daemon.log'), 'utf8');
        assert.match(said, new RegExp(`^genuine {.*${idOf(answer)}`, 'm'));
        assert.match(said, /^forged {"state":"success"}$/m);
      } finally {
        await python.stop();
      }
    });
  });

  function bytesOf(path: string): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      const options = { ...stack.stow.client, rejectUnauthorized: false, agent: false };
      https
        .get(stack.stow.url + path, options, async (response) => resolve(Buffer.concat(await response.toArray())))
        .on('error', reject);
    });
  }

  function send(path: string, body: Buffer): Promise<number | undefined> {
    return new Promise((resolve, reject) => {
      const headers = { 'content-type': 'application/octet-stream', 'content-length': body.length };
      const options = { ...stack.stow.client, method: 'POST', headers, rejectUnauthorized: false, agent: false };
      https
        .request(stack.stow.url + path, options, async (response) => {
          await response.toArray();
          resolve(response.statusCode);
        })
        .on('error', reject)
        .end(body);
    });
  }
});
