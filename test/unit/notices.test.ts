/** What is told, how it is signed, and where it may go. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import type { ServerResponse } from 'node:http';
import { describe, it } from 'node:test';
import type { Consumer } from '@nats-io/jetstream';
import { hourMs } from '../../services/contract/durations.ts';
import { LxstowError } from '../../services/contract/errors.ts';
import { type Config, faultsOf, type Operation, type Run } from '../../services/contract/schemas.ts';
import type { Nats } from '../../services/nats/connection.ts';
import { isOwn, refusalOf, shown } from '../../services/notices/allowedEndpoints.ts';
import { announceEnds } from '../../services/notices/announce.ts';
import { Deliverer } from '../../services/notices/deliver.ts';
import { noticeId, noticeOf } from '../../services/notices/notice.ts';
import { OutdatedPings } from '../../services/notices/outdatedPings.ts';
import { pingOf } from '../../services/notices/ping.ts';
import { post } from '../../services/notices/post.ts';
import { webhookHeaders } from '../../services/notices/signature.ts';
import { begin, cancel, fail, newOperation, succeed } from '../../services/operations/operation.ts';
import type { StoredRun } from '../../services/runs/runStore.ts';
import { createLogger, type Log } from '../../services/telemetry/logger.ts';
import { makeCertificate } from '../lab/certificates.ts';
import { hangs, says, startReceiver } from '../lab/receiver.ts';

const id = '0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11';
const asked = new Date('2026-02-26T07:52:18.000Z');
const ended = new Date('2026-02-26T07:53:20.500Z');
const address = { remote: 'local', project: 'default', instance: 'c1' };
const made = (over: Partial<Parameters<typeof newOperation>[0]> = {}) =>
  newOperation({ id, kind: 'backup', address, body: { backup: 'b.tar.gz' }, ...over }, asked);
const running = (operation: Operation): Operation => ({
  ...begin(operation, 'worker', asked),
  metadata: { stage: 'uploading', bytes_done: 10, bytes_total: 10, bytes_stored: 4 },
});

describe('a notice', () => {
  it("of a success has lxmin's fields, and ours", () => {
    const notice = noticeOf(succeed(running(made()), ended));
    assert.deepEqual(notice, {
      opType: 'backup',
      state: 'success',
      name: 'b.tar.gz',
      instance: 'c1',
      startedAt: '2026-02-26T07:52:18.000Z',
      completedAt: '2026-02-26T07:53:20.500Z',
      rawURL: '/1.0/instances/c1/backups?project=default&target=local',
      operation: id,
      kind: 'backup',
      status: 'Success',
      status_code: 200,
      location: 'local',
      project: 'default',
      backup: 'b.tar.gz',
      size: 4,
      raw_size: 10,
      ended_at: '2026-02-26T07:53:20.500Z',
      duration_seconds: 62.5,
      attempts: 1,
    });
    assert.deepEqual(faultsOf('notice.json', notice), []);
    assert.equal(noticeId(notice), `local_${id}_success`);
  });

  it('of a failure says why, and of a cancelled one no more than that', () => {
    const failed = noticeOf(
      fail(made({ body: {} }), new LxstowError('not-found', 'instance c1 does not exist'), ended),
    );
    assert.deepEqual(
      [failed?.state, failed?.name, failed?.error, failed?.code, failed?.failedAt, failed?.completedAt],
      ['failed', '', 'instance c1 does not exist', 'not-found', ended.toISOString(), undefined],
    );
    const cancelled = noticeOf(cancel(made(), ended));
    assert.deepEqual(
      [cancelled?.state, cancelled?.status_code, cancelled?.failedAt, cancelled?.ended_at],
      ['cancelled', 401, undefined, ended.toISOString()],
    );
    for (const notice of [failed, cancelled]) assert.deepEqual(faultsOf('notice.json', notice), []);
  });

  it('of a restore names whose backup it was', () => {
    const body = { backup: 'b.tar.gz', source: { remote: 'gone', instance: 'web' } };
    const notice = noticeOf(succeed(running(made({ kind: 'restore', body })), ended));
    assert.equal(notice?.instance, 'c1');
    assert.equal(notice?.rawURL, '/1.0/instances/web/backups/b.tar.gz?project=default&target=gone');
    assert.deepEqual(notice?.source, { location: 'gone', instance: 'web' });
  });

  it('is none before the end', () => {
    for (const operation of [made(), running(made()), cancel(running(made()), ended)])
      assert.equal(noticeOf(operation), undefined);
  });
});

describe('a ping', () => {
  const run: Run = {
    ...{
      id,
      status: 'Running',
      class: 'scheduled',
      plan: 'p',
      chunks: 0,
      places: {},
      failures: [],
      away: [],
      excluded: 0,
    },
    ...{ created_at: asked.toISOString(), updated_at: asked.toISOString() },
    request: { id, selector: { all: true }, ping: 'https://hc.example/uuid' },
  };
  const over = (status: Run['status'], ping?: string): Run => ({
    ...{ ...run, status, updated_at: ended.toISOString(), ended_at: ended.toISOString() },
    request: { ...run.request, ...(ping && { ping }) },
  });
  const shape = (of: Run) => {
    const { method = '', url = '' } = pingOf(of) ?? {};
    return `${method} ${url}`;
  };
  it('is for the begin and the end of a run, and not between', () => {
    assert.equal(shape(run), `POST https://hc.example/uuid/start?rid=${id}`);
    assert.equal(pingOf({ ...run, updated_at: ended.toISOString() }), undefined);
    assert.equal(shape(over('Success')), `POST https://hc.example/uuid?rid=${id}`);
    assert.equal(shape(over('Failure')), `POST https://hc.example/uuid/fail?rid=${id}`);
    assert.equal(shape(over('Cancelled')), `POST https://hc.example/uuid/fail?rid=${id}`);
    assert.match(pingOf(over('Failure'))?.body ?? '', /^# Backups: Failure, 0 of 0\n/);
  });
  it('keeps the path and the query', () =>
    assert.equal(
      shape(over('Failure', 'https://hc.example/key/slug/?create=1')),
      `POST https://hc.example/key/slug/fail?create=1&rid=${id}`,
    ));
  it("of Uptime Kuma's is its query, at the end only", () => {
    const kuma = 'https://kuma.example/api/push/key?status=up&msg=OK&ping=';
    assert.equal(pingOf({ ...run, request: { ...run.request, ping: kuma } }), undefined);
    const told = 'msg=Backups%3A+Success%2C+0+of+0&ping=62500';
    assert.equal(shape(over('Success', kuma)), `GET https://kuma.example/api/push/key?status=up&${told}`);
    assert.match(shape(over('Failure', kuma)), /\?status=down&msg=Backups%3A\+Failure/);
  });
  it('is not sent after that of a later end, or so late that it is no longer true, whatever the clocks of gateways say', async () => {
    const now = Date.now();
    const dayMs = 24 * hourMs;
    let revision = 1;
    /** `clockMs`: how far the feeder's clock is ahead. */
    const endOf = (minutesAgo: number, clockMs = 0, more: Partial<Run> = {}) => {
      const written = new Date(now - minutesAgo * 60_000);
      const ended_at = new Date(written.getTime() + clockMs).toISOString();
      return { run: { ...over('Success'), id: randomUUID(), ended_at, ...more }, revision: ++revision, written };
    };
    const running = { run, revision: 1, written: asked };
    const [old, ahead, behind] = [endOf(61, dayMs), endOf(30, dayMs), endOf(20, -dayMs)];
    const other = endOf(3, 0, { request: { ...run.request, ping: 'https://hc.example/other' } });
    const all = [other, behind, running, old, ahead];
    let see: (stored: StoredRun) => void = () => assert.fail();
    const outdated = new OutdatedPings(
      {
        find: async (id) => all.find((each) => each.run.id === id),
        list: async () => all,
        clock: async () => () => now,
      },
      {
        onChange: (listener) => {
          see = listener;
        },
      },
    );
    assert.equal(await outdated.reason(run.id, 'start'), undefined);
    assert.equal(await outdated.reason(behind.run.id, 'start'), 'the run has ended');
    assert.equal(await outdated.reason(randomUUID(), 'down'), 'its run is no longer kept');
    assert.equal(await outdated.reason(old.run.id, 'up'), 'the run ended too long ago');
    assert.equal(await outdated.reason(ahead.run.id, 'up'), 'a later run with the same ping has ended');
    assert.equal(await outdated.reason(behind.run.id, 'up'), undefined);
    const later = endOf(1, -2 * dayMs, { status: 'Failure' });
    all.push(later);
    see(later);
    assert.equal(await outdated.reason(behind.run.id, 'up'), 'a later run with the same ping has ended');
    for (const last of [later, other]) assert.equal(await outdated.reason(last.run.id, 'down'), undefined);
  });
  it('is of runs that ask for it', () => {
    const { ping: _, ...request } = run.request;
    assert.equal(pingOf({ ...run, request }), undefined);
  });
});

describe('a signature', () => {
  // The example of the specification's own libraries.
  const signed = { id: 'msg_p5jXN8AQM9LWM0D4loKWxJek', time: new Date(1614265330_000), body: '{"test": 2432232314}' };
  const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';

  it('is what every library of Standard Webhooks expects', () => {
    assert.deepEqual(webhookHeaders(signed, secret), {
      'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
      'webhook-timestamp': '1614265330',
      'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
    });
  });

  it('is there for each secret, and for none there is none', () => {
    const other = `whsec_${Buffer.alloc(32, 7).toString('base64')}`;
    const both = webhookHeaders(signed, `${secret} ${other}`)['webhook-signature'] ?? '';
    assert.deepEqual(
      both.split(' '),
      [secret, other].map((each) => webhookHeaders(signed, each)['webhook-signature']),
    );
    assert.equal(webhookHeaders(signed, undefined)['webhook-signature'], undefined);
  });
});

const notify = (over: Partial<Config['notify']> = {}) =>
  ({
    endpoints: [],
    events: ['success'],
    children: false,
    requests: true,
    allowed: [],
    timeoutMs: 1000,
    giveUpAfterHours: 24,
    ...over,
  }) satisfies Config['notify'];

describe('an endpoint in a request', () => {
  it('is an http or https URL without credentials', () => {
    const faults = (url: string) => faultsOf('names.json#/$defs/endpoint', url);
    for (const url of ['http://a', 'https://hooks.example.net:8443/x?y=z', 'http://[::1]:80/', 'https://a?b'])
      assert.deepEqual(faults(url), [], url);
    const bad = [
      '',
      'ftp://a/',
      'file:///etc/passwd',
      '//a',
      'https://u:secret@a/',
      'https://a/#x',
      'https://a/ b',
      'https:///x',
      'https://a\\@b/',
    ];
    for (const url of [...bad, `https://a/${'x'.repeat(2048)}`])
      assert.ok(faults(url).length > 0 && !faults(url).join().includes('secret'), url);
  });

  it('may be any that is not of this host, where nothing else is said', () => {
    for (const url of ['https://hooks.example.net/x', 'http://192.0.2.7/', 'http://[2001:db8::1]/'])
      assert.equal(refusalOf(url, notify()), undefined, url);
    for (const url of [
      ...[
        'http://127.0.0.1:8222/',
        'http://localhost/',
        'http://a.localhost/',
        'http://2130706433/',
        'http://0x7f.1/',
        'http://0/',
      ],
      ...[
        'http://169.254.169.254/latest/',
        'http://[::1]/',
        'http://[::]/',
        'http://[fe80::1]/',
        'http://[::ffff:127.0.0.1]/',
        'http://[fd00:ec2::254]/',
      ],
      ...['http://10.0.0.1:8080/', 'http://172.31.0.1/', 'http://192.168.1.1/', 'http://100.100.100.200/'],
      ...['http://[64:ff9b::7f00:1]/', 'http://[2002:7f00:1::]/', 'http://[fd12:3456::1]/', 'http://[ff02::1]/'],
    ])
      assert.match(refusalOf(url, notify()) ?? '', /is this host or in a private network/, url);
  });

  it('must begin as the list has it, to the end of a word', () => {
    const listed = notify({ allowed: ['https://hooks.example.net/backups', 'http://127.0.0.1:9999'] });
    for (const url of [
      'https://hooks.example.net/backups',
      'https://hooks.example.net/backups/a?b',
      'http://127.0.0.1:9999/x',
    ])
      assert.equal(refusalOf(url, listed), undefined, url);
    for (const url of [
      ...[
        'https://hooks.example.net/backupsx',
        'https://hooks.example.net/',
        'https://hooks.example.net/backups/../admin',
      ],
      ...[
        'http://hooks.example.net/backups',
        'https://hooks.example.net.evil.example/backups',
        'https://hooks.example.net:444/backups',
      ],
      ...['http://127.0.0.1:9998/x', 'https://hooks.example.net/backups/%2e%2e/admin'],
    ])
      assert.match(refusalOf(url, listed) ?? '', /notify.allowed/, url);
  });

  it('is refused altogether where requests may name none', () => {
    assert.match(refusalOf('https://hooks.example.net/x', notify({ requests: false })) ?? '', /notify.requests/);
  });

  it('stands in logs by its host only', () => {
    assert.equal(shown('https://hooks.example.net:8443/T0/secret?token=x'), 'https://hooks.example.net:8443');
  });
});

describe('the notices of ends', () => {
  /** The ids of the messages that are queued for these changes of the bucket. */
  async function announced(...changes: [key: string, Operation][]): Promise<string[]> {
    const over = new AbortController();
    const queued: string[] = [];
    const publish = async (_: string, __: string, { msgID }: { msgID: string }) => queued.push(msgID);
    async function* messages() {
      for (const [key, stored] of changes)
        yield {
          subject: `$KV.lxstow_operations.${key}`,
          json: () => stored,
          ack: () => undefined,
          term: () => undefined,
        };
      over.abort();
    }
    const nats = {
      ...{ loss: new AbortController().signal, untilConnected: async () => undefined },
      ...{ js: { publish }, ask: (_: string, request: () => unknown) => request() },
    };
    await announceEnds({
      nats: nats as unknown as Nats,
      consumer: { fetch: async () => Object.assign(messages(), { stop: () => undefined }) } as unknown as Consumer,
      of: 'operations',
      config: notify({ endpoints: ['https://hooks.example.net/x'] }),
      log: { error: () => undefined } as unknown as Log,
      stop: over.signal,
    });
    return queued;
  }
  const on = (remote: string) => succeed(running(made({ address: { ...address, remote } })), ended);

  it('are those of each host, although their operations have one id', async () => {
    assert.equal(new Set(await announced([`a.${id}`, on('a')], [`b.${id}`, on('b')])).size, 2);
  });

  it('are of the host whose worker may write the record', async () => {
    assert.equal((await announced([`a.${id}`, on('a')], [`b.${id}`, on('a')])).length, 1);
  });
});

describe('notices to one host', { timeout: 60_000 }, () => {
  it('are delivered at their first try, however many there are, and as many as may be at a time', async () => {
    await using receiver = await startReceiver();
    const answered: (() => void)[] = [];
    let most = 0;
    // An answer comes when all that may be under way are: then the longest waiting one.
    const late = (response: ServerResponse) => {
      answered.push(() => void response.end());
      most = Math.max(most, answered.length);
      setImmediate(() => answered.length >= 8 && answered.shift()?.());
    };
    receiver.answers('/x', ...Array.from({ length: 93 }, () => late));
    const queue = queueOf(100, `${receiver.url}/x`);
    const stop = new AbortController();
    const deliverer = new Deliverer({
      nats: { loss: new AbortController().signal, untilConnected: async () => undefined },
      consumer: queue.consumer,
      config: notify({ allowed: [receiver.url], endpoints: [], timeoutMs: 30_000, giveUpAfterHours: 1 }),
      metrics: { notices: { inc: () => undefined } } as never,
      log: createLogger({ level: 'error', format: 'json' }, {}),
      stop: stop.signal,
      handingBack: stop.signal,
      outdated: { reason: async () => undefined },
    });
    const running = deliverer.run();
    void receiver.until('/x', 100).then(() => {
      for (const answer of answered.splice(0)) answer();
    });
    await queue.taken;
    stop.abort();
    await running;
    assert.deepEqual([queue.naks, most], [0, 8]);
  });
});

/** A consumer with so many notices for the endpoint; `taken` resolves when all are acknowledged. */
function queueOf(count: number, endpoint: string) {
  const all = Promise.withResolvers<void>();
  const state = { naks: 0, taken: all.promise, consumer: undefined as unknown as Consumer };
  let [next, acknowledged] = [0, 0];
  const message = (sequence: number) => {
    const carried = new Map([
      ['Lxstow-Notice', `n${sequence}`],
      ['Lxstow-Endpoint', endpoint],
      ['Lxstow-Endpoint-Named-By', 'request'],
    ]);
    return {
      subject: `lxstow.notices.local.${id}`,
      headers: carried,
      data: Buffer.from('{}'),
      info: { deliveryCount: 1, timestampNanos: Date.now() * 1e6 },
      nak: () => void state.naks++,
      term: () => undefined,
      ackAck: async () => {
        if (++acknowledged === count) all.resolve();
      },
    };
  };
  const fetch = async ({ max_messages: most }: { max_messages: number }) => {
    const ended = Promise.withResolvers<void>();
    async function* messages() {
      for (let given = 0; given < most && next < count; given++) yield message(next++);
      if (next >= count) await ended.promise;
    }
    return Object.assign(messages(), { stop: () => ended.resolve() });
  };
  state.consumer = { fetch } as unknown as Consumer;
  return state;
}

describe('a post', { timeout: 60_000 }, () => {
  const signal = new AbortController().signal;
  const options = { headers: {}, body: '{}', timeoutMs: 300, mayBeOwn: true, signal };

  it('is taken, refused for good, or to be tried again', async () => {
    await using receiver = await startReceiver();
    const answer = async (status: number, headers = {}) => {
      receiver.answers('/x', says(status, headers));
      return post(new URL(`${receiver.url}/x`), options);
    };
    for (const status of [200, 202, 204]) assert.deepEqual(await answer(status), { is: 'taken', status });
    for (const status of [400, 401, 404, 410, 422]) assert.equal((await answer(status)).is, 'refused', String(status));
    for (const status of [408, 429, 500, 502, 503]) assert.equal((await answer(status)).is, 'later', String(status));
    assert.deepEqual(await answer(503, { 'retry-after': '120' }), {
      is: 'later',
      why: 'it answered 503',
      afterMs: 120_000,
    });
  });

  it('follows no redirect', async () => {
    await using receiver = await startReceiver();
    for (const status of [301, 302, 303, 307, 308]) {
      receiver.answers('/x', says(status, { location: `${receiver.url}/elsewhere` }));
      const answer = await post(new URL(`${receiver.url}/x`), options);
      assert.deepEqual(answer, { is: 'refused', why: `it answered ${status}: redirects are not followed` });
    }
    assert.deepEqual([...new Set(receiver.received.map(({ path }) => path))], ['/x']);
  });

  it('waits no longer than it is told, whether nothing comes or a drop now and then', async () => {
    await using receiver = await startReceiver();
    receiver.answers('/x', hangs);
    const url = new URL(`${receiver.url}/x`);
    assert.deepEqual(await post(url, options), { is: 'later', why: 'no answer in 300 ms' });
    // Its status has said all.
    const timers: NodeJS.Timeout[] = [];
    receiver.answers('/x', (response) => {
      response.writeHead(200);
      timers.push(setInterval(() => response.write('.'), 20));
    });
    assert.deepEqual(await post(url, options), { is: 'taken', status: 200 });
    for (const timer of timers) clearInterval(timer);
  });

  it('reads no more of an answer than is good for it', async () => {
    await using receiver = await startReceiver();
    const cut = Promise.withResolvers<void>();
    receiver.answers('/x', (response) => {
      response.once('close', cut.resolve);
      const more = () => {
        while (!response.destroyed && response.write(Buffer.alloc(65_536)));
      };
      response.writeHead(200).on('drain', more);
      more();
    });
    assert.deepEqual(await post(new URL(`${receiver.url}/x`), { ...options, timeoutMs: 30_000 }), {
      is: 'taken',
      status: 200,
    });
    await cut.promise;
  });

  it('goes to no address of this host unless it may, whatever name leads there', async () => {
    await using receiver = await startReceiver();
    for (const host of ['127.0.0.1', 'localhost']) {
      const answer = await post(new URL(receiver.url.replace('127.0.0.1', host)), { ...options, mayBeOwn: false });
      assert.equal(answer.is, 'refused', JSON.stringify(answer));
    }
    assert.deepEqual(receiver.received, []);
    assert.ok(isOwn('127.9.9.9') && !isOwn('192.0.2.7'));
    for (const embedding of [
      '::7f00:1',
      '::ffff:0:7f00:1',
      '::ffff:127.0.0.1',
      '64:ff9b::7f00:1',
      '2001::1',
      '2002:7f00:1::',
    ])
      assert.ok(isOwn(embedding), embedding);
    assert.ok(!isOwn('::ffff:192.0.2.7') && !isOwn('2001:db8::1'));
  });

  it('over https asks for a certificate that is trusted', async () => {
    const certificate = await makeCertificate({ commonName: 'receiver' });
    await using receiver = await startReceiver({ certificate });
    const untrusted = await post(new URL(receiver.url), options);
    assert.match((untrusted as { why: string }).why, /self-signed certificate/);
    assert.deepEqual(receiver.received, []);
    const trusted = await post(new URL(receiver.url), { ...options, ca: certificate.cert, timeoutMs: 10_000 });
    assert.deepEqual(trusted, { is: 'taken', status: 200 });
  });

  it('to nobody is tried again', async () => {
    const receiver = await startReceiver();
    await receiver.stop();
    const answer = await post(new URL(receiver.url), options);
    assert.equal(answer.is, 'later');
    assert.match((answer as { why: string }).why, /ECONNREFUSED/);
  });

  it('that nobody waits for any more throws why', async () => {
    await using receiver = await startReceiver();
    receiver.answers('/', hangs);
    const controller = new AbortController();
    const posting = post(new URL(receiver.url), { ...options, timeoutMs: 30_000, signal: controller.signal });
    await receiver.until('/');
    controller.abort(new Error('over'));
    await assert.rejects(posting, /over/);
  });
});
