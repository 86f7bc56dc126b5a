/** The API over NATS, asked by a program that has the rights of nats.conf's publisher, and answered by two gateways. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { jetstream } from '@nats-io/jetstream';
import { type ServiceInfo, type ServiceStats, Svcm } from '@nats-io/services';
import type { Msg } from '@nats-io/transport-node';
import { mapInOrder } from '../../services/concurrency/orderedMap.ts';
import { loadConfig } from '../../services/contract/config.ts';
import { faultsOf, type SchemaName } from '../../services/contract/schemas.ts';
import { endpoints } from '../../services/gateway/natsApi/endpoints.ts';
import { operationKey } from '../../services/nats/bucketKeys.ts';
import { connectNats } from '../../services/nats/connection.ts';
import { apiSubject } from '../../services/nats/subjects.ts';
import { newOperation } from '../../services/operations/operation.ts';
import { tally } from '../../services/runs/fold.ts';
import { RunStore } from '../../services/runs/runStore.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { fingerprintOf } from '../../services/trust/certificates.ts';
import { type Certificate, makeCertificate } from '../lab/certificates.ts';
import { type Lxstow, startLxstow } from '../lab/lxstow.ts';
import { type LabNatsWithRoles, type NatsUser, startNatsWithRoles } from '../lab/nats.ts';
import { openStack, type Stack, until } from './stack.ts';

const quiet = () => undefined;
const config = { remotes: { other: {} } };

describe('the API over NATS', { timeout: 1_800_000 }, () => {
  let nats: LabNatsWithRoles;
  let stack: Stack;
  let second: Lxstow;
  let publisher: NatsUser;
  let admin: NatsUser;
  const names: string[] = [];
  before(async () => {
    nats = await startNatsWithRoles({ name: 'natsapi', log: quiet });
    stack = await openStack('natsapi', { nats, config });
    const { environment, url: natsUrl } = nats;
    second = await startLxstow({
      name: 'natsapi2',
      log: quiet,
      natsUrl,
      s3: stack.s3,
      socket: '/none',
      workers: 0,
      environment,
      config,
    });
    publisher = await nats.connect('publisher');
    admin = await nats.connect('admin');
    await stack.launch('c1', { dataMiB: 1 });
    for (let i = 0; i < 5; i++) names.push(await stack.backup('c1'));
    names.sort();
  });
  after(async () => {
    await publisher?.close();
    await admin?.close();
    await second?.[Symbol.asyncDispose]();
    await stack?.[Symbol.asyncDispose]();
    await nats?.[Symbol.asyncDispose]();
  });

  /** The answer; checked against the endpoint's schema unless it is an error. */
  async function ask(subject: string, body: unknown = '', connection = publisher): Promise<Msg> {
    const data = typeof body === 'string' || body instanceof Uint8Array ? body : JSON.stringify(body);
    const answer = await connection.request(`lxstow.api.${subject}`, data, { timeout: 60_000 });
    const [topic, verb] = subject.split('.');
    const endpoint = endpoints.find((each) => each.subject.startsWith(`${topic}.${verb}.`));
    const schema: SchemaName = answer.headers?.get('Nats-Service-Error')
      ? 'nats-api.json#/$defs/error'
      : (endpoint?.answer ?? 'operation.json');
    assert.deepEqual(faultsOf(schema, answer.json()), []);
    return answer;
  }

  // biome-ignore lint/suspicious/noExplicitAny: each test knows what it asked for
  const answered = async (...asked: Parameters<typeof ask>): Promise<any> => {
    const answer = await ask(...asked);
    assert.equal(answer.headers?.get('Nats-Service-Error') ?? '', '');
    return answer.json();
  };

  // biome-ignore lint/suspicious/noExplicitAny: as above
  async function pages(subject: string, what: string, body: object, connection = publisher): Promise<any[][]> {
    const found = [];
    for (let after: string | undefined; ; ) {
      const page = await answered(subject, { ...body, ...(after === undefined ? {} : { after }) }, connection);
      found.push(page[what]);
      after = page.next;
      if (after === undefined) return found;
    }
  }

  async function services<T>(verb: 'info' | 'stats'): Promise<T[]> {
    const found = await new Svcm(admin as never).client({ strategy: 'timer', maxWait: 500 } as never)[verb]('lxstow');
    const all: T[] = [];
    for await (const each of found) all.push(each as T);
    return all;
  }

  it('counts the values of a request before it parses them, on every subject', async () => {
    const many = JSON.stringify(Array.from({ length: 10_001 }, () => 1));
    for (const { subject } of endpoints) {
      const to = subject.replace('{remote}', 'local').replace('{project}', 'default').replace('{instance}', 'c1');
      const { error, code } = (await ask(to, many, admin)).json<{ error: string; code: string }>();
      assert.deepEqual([code, error], ['bad-request', 'the request: it has more than 10000 values'], subject);
    }
  });

  it('is found by $SRV: each gateway, and every endpoint', async () => {
    const found = await until(
      () => services<ServiceInfo>('info'),
      ({ length }) => length === 2,
    );
    assert.notEqual(found[0]?.id, found[1]?.id);
    for (const { endpoints: each } of found)
      assert.deepEqual(
        each.map(({ name, subject, queue_group }) => [name, subject, queue_group]),
        endpoints.map(({ name, subject }) => [name, apiSubject(subject), 'lxstow']),
      );
  });

  it('lists backups page by page, of an instance and of all', async () => {
    const listed = await pages('backups.list.local.default.c1', 'backups', { limit: 2 });
    assert.deepEqual(
      listed.map(({ length }) => length),
      [2, 2, 1],
    );
    assert.deepEqual(
      listed.flat().map(({ name }) => name),
      names,
    );
    const shown: { remote: string; name: string }[] = (await stack.stow.request('GET', '/1.0/instances/*/backups')).body
      .metadata;
    // Over NATS the subject says it.
    const metadata = shown.map(({ remote: _, ...backup }) => backup);
    assert.deepEqual(
      (await answered('backups.list.local.default')).backups.map(({ name }: { name: string }) => name),
      names,
    );
    assert.deepEqual(listed.flat()[0], {
      instance: 'c1',
      project: 'default',
      ...metadata.find(({ name }: { name: string }) => name === names[0]),
    });
    assert.deepEqual(await answered('backups.list.local.lxstow-lab', {}, admin), { backups: [] });
  });

  it('shows a backup as the REST API does', async () => {
    const { metadata } = (await stack.stow.request('GET', `/1.0/instances/c1/backups/${names[0]}`)).body;
    assert.deepEqual(await answered('backups.show.local.default.c1', { backup: names[0] }), metadata);
  });

  it('waits for the operation of a published job, shows and lists it', async () => {
    const id = randomUUID();
    await jetstream(publisher).publish('lxstow.jobs.local.backup.default.c1', '{"compression":"none"}', { msgID: id });
    const ended = await answered('operations.wait.local.default', { id });
    assert.equal(ended.status, 'Success', ended.err);
    assert.deepEqual(await answered('operations.show.local.default', { id }), ended);
    const listed = (await pages('operations.list.local.default', 'operations', { limit: 2, status: 'Success' })).flat();
    assert.deepEqual(listed[0], ended);
    assert.equal(listed.length, names.length + 1);
    assert.equal((await answered('operations.list.local.default', { status: 'Failure' })).operations.length, 0);
    names.push(ended.resources.backups[0].split('/').at(-1));
  });

  /** An operation of a remote that has no worker. */
  async function waiting(
    err = '',
    { id = randomUUID() as string, remote = 'other', project = 'default' } = {},
  ): Promise<string> {
    const address = { remote, project, instance: 'x' };
    const operation = { ...newOperation({ id, kind: 'backup', address }, new Date()), err };
    await jetstream(admin).publish(`$KV.lxstow_operations.${operationKey(remote, id)}`, JSON.stringify(operation));
    return id;
  }

  /** A client that is trusted in the project default only. */
  async function restricted(): Promise<{ certificate: Certificate; fingerprint: string }> {
    const certificate = await makeCertificate({ commonName: 'restricted' });
    const body = {
      ...{ type: 'client', name: 'restricted', role: 'operator', restricted: true, projects: ['default'] },
      certificate: certificate.cert.replaceAll(/-----.*-----|\s/g, ''),
    };
    assert.equal((await stack.stow.request('POST', '/1.0/certificates', { body })).status, 201);
    return { certificate, fingerprint: fingerprintOf(certificate.cert) };
  }

  /** Whether all of these are in the pages, once, and in more than one page. */
  function assertInPages(listed: { id: string }[][], ids: string[]): void {
    assert.ok(listed.length > 1);
    const found = listed.flat().map(({ id }) => id);
    assert.deepEqual(found.sort(), ids.sort());
  }

  it('an answer fits a message, however much is asked for', async () => {
    // Not all at once: NATS syncs each.
    const ids = await Array.fromAsync(
      mapInOrder(Array.from({ length: 800 }).keys(), 32, () => waiting('x'.repeat(2000))),
    );
    const listed = await pages('operations.list.other.default', 'operations', { limit: 1000 }, admin);
    assertInPages(listed, ids);
  });

  it('a list of runs or of their children fits a message, however long its reasons are', async () => {
    const config = loadConfig({ file: stack.stow.configFile, env: nats.environment('gateway') });
    await using own = await connectNats(
      config.nats,
      'natsapi-test',
      createLogger({ level: 'error', format: 'json' }, {}),
    );
    const runs = new RunStore(own, 1);
    const project = 'p'.repeat(63);
    const long = { backup: 'b'.repeat(128), reason: '鴨'.repeat(200), error_code: 'attempts-exhausted' };
    const at = new Date().toISOString();
    const times = { created_at: at, updated_at: at, ended_at: at };
    const failed = (count: number, state = 'failure' as const) =>
      Array.from({ length: count }, (_, index) => ({
        ...{ remote: 'other', project, instance: `${'i'.repeat(59)}${1000 + index}`, state, by: randomUUID(), ...long },
      }));
    const make = async (count: number) => {
      const children = failed(count);
      const request = { selector: { all: true } };
      const failures = children.slice(0, 50).map(({ state: _, by: __, backup: ___, ...failure }) => failure);
      const head = { id: randomUUID(), status: 'Failure' as const, class: 'hand' as const, ...times, request };
      const rest = { places: tally(children), away: [], failures, excluded: 0 };
      return (await runs.create({ ...head, ...rest }, children))?.id ?? '';
    };
    const ids = [await make(1500)];
    for (let i = 0; i < 70; i++) ids.push(await make(50));
    const listed = await pages(`runs.list.other.${project}`, 'runs', {}, admin);
    assertInPages(listed, ids);
    const id = listed.flat().find(({ counts }) => counts.total === 1500).id;
    const children = await pages(`runs.children.other.${project}`, 'children', { id, limit: 1000 }, admin);
    assert.ok((children[0]?.length ?? 0) < 1000);
    assert.deepEqual(
      children.flat().map(({ instance }) => instance),
      failed(1500).map(({ instance }) => instance),
    );
  });

  it('lists operations whatever else is in their bucket', async () => {
    const id = await waiting();
    for (const bad of ['null', '{', '{}', '[]', JSON.stringify({ id, remote: 'other', project: 'default' })])
      await jetstream(admin).publish(`$KV.lxstow_operations.${operationKey('other', randomUUID())}`, bad);
    const listed = (await pages('operations.list.other.default', 'operations', {}, admin)).flat();
    assert.equal(listed.filter((each) => each.id === id).length, 1);
    for (const path of ['?recursion=1', '?recursion=1&limit=1']) {
      const { status, body } = await stack.stow.request('GET', `/1.0/operations${path}`);
      assert.equal(status, 200);
      assert.ok(body.metadata.pending.length > 0);
    }
  });

  const id = '0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11';
  const refused: [why: string, subject: string, body: unknown, status: number, code: string, text: RegExp][] = [
    ['no JSON', 'backups.list.local.default.c1', '{', 400, 'bad-request', /not JSON/],
    ['no UTF-8', 'backups.list.local.default.c1', Uint8Array.of(0x22, 0xff, 0x22), 400, 'bad-request', /not JSON/],
    ['a list', 'backups.list.local.default.c1', [], 400, 'bad-request', /must be object/],
    ['an unknown field', 'backups.list.local.default.c1', { nmae: 1 }, 400, 'bad-request', /unknown field "nmae"/],
    ['no page at all', 'backups.list.local.default.c1', { limit: 0 }, 400, 'bad-request', /limit: must be >= 1/],
    [
      'too large a page',
      'operations.list.local.default',
      { limit: 1001 },
      400,
      'bad-request',
      /limit: must be <= 1000/,
    ],
    [
      'an unknown status',
      'operations.list.local.default',
      { status: 'Done' },
      400,
      'bad-request',
      /"Done" is not one of/,
    ],
    ['no backup', 'backups.show.local.default.c1', {}, 400, 'bad-request', /backup/],
    ['a path for a backup', 'backups.show.local.default.c1', { backup: '../x' }, 400, 'bad-request', /backup/],
    [
      'an unknown backup',
      'backups.show.local.default.c1',
      { backup: 'no.tar' },
      404,
      'not-found',
      /c1\/no.tar does not exist/,
    ],
    [
      'an unknown instance',
      'backups.list.local.default.nobody',
      {},
      404,
      'not-found',
      /instance nobody does not exist/,
    ],
    ['an instance that cannot be', 'backups.list.local.default.=2E=2E', {}, 400, 'bad-request', /instance/],
    ['a project that cannot be', 'backups.list.local.a=2Fb', {}, 400, 'bad-request', /project/],
    ['an unknown remote', 'backups.list.mars.default', {}, 404, 'not-found', /host mars does not exist/],
    ['an id that is none', 'operations.show.local.default', { id: '*' }, 400, 'bad-request', /id/],
    ['an unknown operation', 'operations.show.local.default', { id }, 404, 'not-found', /operation .* does not exist/],
    [
      'an operation that does not come',
      'operations.wait.local.default',
      { id, timeout: 0.1 },
      404,
      'not-found',
      /operation .* does not exist/,
    ],
    ['too long a wait', 'operations.wait.local.default', { id, timeout: 61 }, 400, 'bad-request', /timeout/],
  ];
  for (const [why, subject, body, status, code, text] of refused) {
    it(`${why}: ${status}`, async () => {
      const answer = await ask(subject, body, admin);
      const { headers } = answer;
      assert.deepEqual(
        [headers?.get('Nats-Service-Error-Code'), headers?.get('Lxstow-Error-Code')],
        [String(status), code],
      );
      assert.match(headers?.get('Nats-Service-Error') ?? '', text);
      assert.deepEqual(answer.json(), { error: headers?.get('Nats-Service-Error'), code, status });
    });
  }

  it("another project's operation is not there, and is not cancelled", async () => {
    const { body } = await stack.stow.request('GET', '/1.0/operations?recursion=1');
    const ended = body.metadata.success[0].id;
    for (const verb of ['show', 'wait', 'cancel']) {
      const answer = await ask(`operations.${verb}.local.lxstow-lab`, { id: ended }, admin);
      assert.equal(answer.headers?.get('Lxstow-Error-Code'), 'not-found');
    }
  });

  it('cancels the operation of its host, though another host has one of the same id, which a publisher may have chosen', async () => {
    const { certificate } = await restricted();
    const overNats = (id: string) => answered('operations.cancel.local.default', { id }, admin);
    const overHttps = async (id: string) => {
      const path = `/1.0/operations/${id}`;
      assert.equal((await stack.stow.request('GET', path, { certificate })).body.metadata?.location, 'local');
      assert.equal((await stack.stow.request('DELETE', path, { certificate })).status, 200);
      const { metadata } = (await stack.stow.request('GET', `${path}/wait?timeout=60`, { certificate })).body;
      assert.deepEqual([metadata.location, metadata.status], ['local', 'Cancelled']);
    };
    for (const cancel of [overNats, overHttps]) {
      const id = await waiting('', { remote: 'local' });
      await waiting('', { id, project: 'prod' });
      const told = answered('operations.wait.local.default', { id, timeout: 60 });
      await cancel(id);
      const ended = await told;
      assert.deepEqual([ended.location, ended.status], ['local', 'Cancelled']);
      assert.equal((await answered('operations.show.other.prod', { id }, admin)).status, 'Pending');
    }
  });

  it('cancels; whoever waits is told', async () => {
    const waits = await waiting();
    const told = answered('operations.wait.other.default', { id: waits, timeout: 60 }, admin);
    assert.equal((await answered('operations.cancel.other.default', { id: waits }, admin)).status, 'Cancelled');
    assert.equal((await told).status, 'Cancelled');
    const again = await ask('operations.cancel.other.default', { id: waits }, admin);
    assert.match(again.headers?.get('Nats-Service-Error') ?? '', /Only running operations/);
    const audited = async () =>
      [await stack.stow.logOf('gateway'), await second.logOf('gateway')]
        .flatMap((log) => log.split('\n'))
        .filter((line) => line.includes('"audit":true') && line.includes('operations-cancel') && line.includes(waits))
        .map((line) => JSON.parse(line));
    const lines = await until(audited, ({ length }) => length === 2);
    assert.deepEqual(lines.map(({ project, result }) => [project, result]).sort(), [
      ['default', 'done'],
      ['default', 'failed'],
    ]);
    for (const { requestor } of lines) assert.match(requestor.address, /^_INBOX/);
  });

  it('never writes its answer into something else', async () => {
    const untouched = await waiting();
    const record = `$KV.lxstow_operations.other.${untouched}`;
    admin.publish('lxstow.api.operations.show.other.default', JSON.stringify({ id: untouched }), { reply: record });
    const logs = () => Promise.all([stack.stow.logOf('gateway'), second.logOf('gateway')]);
    await until(logs, (both) => both.some((log) => log.includes('is not an inbox') && log.includes(untouched)));
    assert.equal((await answered('operations.show.other.default', { id: untouched }, admin)).status, 'Pending');
  });

  describe('schedules', () => {
    const here = (verb: string) => `schedules.${verb}.local.default`;
    const yearly = { cron: '30 4 1 1 *', zone: 'Europe/Berlin' };
    const refusal = async (...asked: Parameters<typeof ask>) =>
      (await ask(...asked)).headers?.get('Nats-Service-Error') ?? '';

    it("of its project are a publisher's, from the first to the last", async () => {
      const definition = { ...yearly, selector: { instances: ['c1'] } };
      const made = await answered(here('create'), { name: 'mine', definition });
      assert.deepEqual(made.definition.selector, { instances: ['c1'], remotes: ['local'], projects: ['default'] });
      assert.deepEqual(made.requestor, { username: 'publisher', protocol: 'nats' });
      assert.equal(made.token, undefined);
      const { times } = await answered(here('next'), { name: 'mine', count: 2 });
      assert.deepEqual(
        times.map(({ at }: { at: string }) => at.slice(4)),
        Array(2).fill('-01-01T04:30:00+01:00'),
      );
      const { times: first } = await answered(here('next'), { name: 'mine', instances: true });
      assert.deepEqual([first.length, first[0].instance, first[0].host], [1, 'c1', 'local']);
      const paused = await answered(here('pause'), { name: 'mine', reason: 'the NAS moves' });
      assert.deepEqual([paused.paused.reason, paused.next], ['the NAS moves', undefined]);
      const edited = await answered(here('edit'), { name: 'mine', definition: { ...definition, jitter: '30m' } });
      assert.equal(edited.definition.jitter, '30m');
      assert.equal(edited.paused.reason, 'the NAS moves');
      assert.equal((await answered(here('resume'), { name: 'mine' })).paused, undefined);
      const id = randomUUID();
      const run = await answered(here('run'), { name: 'mine', id });
      assert.equal(run.id, id);
      // Not a whole number of milliseconds.
      const over = await answered('runs.wait.local.default', { id, timeout: 59.9995 });
      assert.deepEqual([over.status, over.counts.success], ['Success', 1]);
      assert.equal((await answered(here('show'), { name: 'mine' })).name, 'mine');
      assert.equal((await answered(here('delete'), { name: 'mine' })).name, 'mine');
      assert.match(await refusal(here('show'), { name: 'mine' }), /schedule mine does not exist/);
      assert.equal((await stack.stow.request('GET', '/1.0/schedules/mine')).status, 404);
    });

    it('show no URL that may be secret, and keep it when they are edited', async () => {
      const urls = { ping: 'https://hc-ping.com/secret', notifyEndpoint: 'https://hooks.example.net/secret?a=b' };
      const selector = { instances: ['c1'], remotes: ['local'], projects: ['default'] };
      const body = { name: 'mine', definition: { ...yearly, selector, ...urls } };
      assert.equal((await stack.stow.request('POST', '/1.0/schedules', { body })).status, 201);
      const shown = await answered(here('show'), { name: 'mine' });
      const { ping, notifyEndpoint } = shown.definition;
      assert.deepEqual([ping, notifyEndpoint], ['https://hc-ping.com', 'https://hooks.example.net']);
      const definition = { ...shown.definition, description: 'edited' };
      for (const answer of [
        await answered(here('list')),
        await answered(here('edit'), { name: 'mine', definition }),
        await answered(here('pause'), { name: 'mine' }),
        await answered(here('resume'), { name: 'mine' }),
      ])
        assert.doesNotMatch(JSON.stringify(answer), /secret/);
      const stored = (await stack.stow.request('GET', '/1.0/schedules/mine')).body.metadata;
      assert.deepEqual(stored.definition, { ...body.definition, description: 'edited' });
      const other = { ...definition, ping: 'https://hc-ping.com/other' };
      await answered(here('edit'), { name: 'mine', definition: other });
      const edited = (await stack.stow.request('GET', '/1.0/schedules/mine')).body.metadata;
      assert.equal(edited.definition.ping, 'https://hc-ping.com/other');
      assert.equal((await stack.stow.request('DELETE', '/1.0/schedules/mine')).status, 200);
    });

    it('that delete are run without their rule', async () => {
      const selector = { instances: ['c1'], remotes: ['local'], projects: ['default'] };
      const body = { name: 'mine', definition: { ...yearly, selector, keep: { keep_last: 1 } } };
      assert.equal((await stack.stow.request('POST', '/1.0/schedules', { body })).status, 201);
      const run = await answered(here('run'), { name: 'mine' });
      assert.equal('keep' in run.options, false, 'each backup would push an older one out of the rule');
      await answered('runs.wait.local.default', { id: run.id, timeout: 60 });
      assert.equal((await stack.stow.request('DELETE', '/1.0/schedules/mine')).status, 200);
    });

    it('that delete are not resumed, neither at once nor by a pause that ends', async () => {
      const selector = { instances: ['c1'], remotes: ['local'], projects: ['default'] };
      const body = { name: 'mine', definition: { ...yearly, selector, keep: { keep_last: 1 } } };
      assert.equal((await stack.stow.request('POST', '/1.0/schedules', { body })).status, 201);
      await answered(here('pause'), { name: 'mine', reason: 'the NAS moves' });
      const until = new Date(Date.now() + 60_000).toISOString();
      for (const [verb, request] of [
        ['resume', { name: 'mine' }],
        ['pause', { name: 'mine', until }],
      ] as const)
        assert.match(await refusal(here(verb), request), /has a rule that deletes backups/);
      const { paused } = await answered(here('show'), { name: 'mine' });
      assert.deepEqual([paused.reason, paused.until], ['the NAS moves', undefined]);
      assert.equal((await stack.stow.request('POST', '/1.0/schedules/mine/resume')).status, 200);
      assert.equal((await stack.stow.request('DELETE', '/1.0/schedules/mine')).status, 200);
    });

    it('of a restricted client stay its own when a publisher resumes them, while it may have them', async () => {
      const { certificate, fingerprint } = await restricted();
      const body = { name: 'mine', definition: { ...yearly, selector: { instances: ['c1'], remotes: ['local'] } } };
      assert.equal((await stack.stow.request('POST', '/1.0/schedules', { body, certificate })).status, 201);
      await answered(here('pause'), { name: 'mine' });
      const resumed = await answered(here('resume'), { name: 'mine' });
      assert.deepEqual([resumed.paused, resumed.requestor.username], [undefined, fingerprint]);
      await answered(here('pause'), { name: 'mine' });
      assert.equal((await stack.stow.request('DELETE', `/1.0/certificates/${fingerprint}`)).status, 200);
      assert.equal((await answered(here('resume'), { name: 'mine' })).requestor.username, 'publisher');
      assert.equal((await stack.stow.request('DELETE', '/1.0/schedules/mine')).status, 200);
    });

    it('of other places are not there, and are listed where they belong', async () => {
      const wide = { name: 'wide', definition: { ...yearly, selector: { all: true } } };
      assert.equal((await stack.stow.request('POST', '/1.0/schedules', { body: wide })).status, 201);
      for (const name of ['a', 'b', 'c']) await answered(here('create'), { name, definition: yearly });
      await answered('schedules.create.=all.default', { name: 'd', definition: yearly }, admin);
      for (const verb of ['show', 'pause', 'resume', 'run', 'delete', 'next'])
        assert.match(await refusal(here(verb), { name: 'wide' }), /schedule wide does not exist/, verb);
      assert.match(await refusal(here('edit'), { name: 'd', definition: yearly }), /schedule d does not exist/);
      const listed = async (...asked: Parameters<typeof pages>) =>
        (await pages(...asked)).map((page) => page.map(({ name }) => name));
      assert.deepEqual(await listed(here('list'), 'schedules', { limit: 2 }), [['a', 'b'], ['c']]);
      assert.deepEqual(await listed('schedules.list.=all.=all', 'schedules', {}, admin), [
        ['a', 'b', 'c', 'd', 'wide'],
      ]);
      assert.deepEqual(await listed('schedules.list.=all.default', 'schedules', {}, admin), [['a', 'b', 'c', 'd']]);
      assert.deepEqual(await listed('schedules.list.local.lxstow-lab', 'schedules', {}, admin), [[]]);
    });

    const wrong: [string, object, RegExp][] = [
      ['a rule that deletes', { ...yearly, keep: { keep_last: 1 } }, /keep: set it over HTTPS/],
      [
        'another project',
        { ...yearly, selector: { all: true, projects: ['default', 'x'] } },
        /projects has names that the subject does not cover/,
      ],
      [
        'another remote',
        { ...yearly, selector: { all: true, remotes: ['other'] } },
        /remotes has names that the subject does not cover/,
      ],
      [
        'a guess at a secret',
        { ...yearly, selector: { match: ['environment.KEY=guess'] } },
        /environment.KEY may be secret/,
      ],
      ['no time', { cron: '0 25 * * *' }, /cron: "25" is not a hour/],
      ['no zone', { cron: '@daily', zone: 'Berlin' }, /"Berlin" is not a time zone/],
      ['a ping to an own address', { ...yearly, ping: 'http://127.0.0.1/x' }, /ping: /],
      ['an own address', { ...yearly, notifyEndpoint: 'http://127.0.0.1/x' }, /notifyEndpoint: /],
    ];
    for (const [why, definition, text] of wrong)
      it(`with ${why} are refused, made or edited`, async () => {
        assert.match(await refusal(here('create'), { name: 'wrong', definition }), text);
        assert.match(await refusal(here('edit'), { name: 'a', definition }), text);
        assert.deepEqual((await answered(here('show'), { name: 'a' })).definition.cron, yearly.cron);
      });

    it('of one name are one', async () =>
      assert.match(await refusal(here('create'), { name: 'wide', definition: yearly }), /wide already exists/));

    it('are in the audit trail by name', async () => {
      const audited = async () =>
        [await stack.stow.logOf('gateway'), await second.logOf('gateway')]
          .flatMap((log) => log.split('\n'))
          .filter((line) => line.includes('"audit":true') && line.includes('schedules-delete'))
          .map((line) => JSON.parse(line))
          // Not what had no body, in another test.
          .filter(({ name }) => name !== undefined);
      const lines = await until(audited, ({ length }) => length >= 2);
      assert.deepEqual(lines.map(({ name, result, requestor }) => `${name} ${result} ${requestor.username}`).sort(), [
        'mine done publisher',
        'wide failed publisher',
      ]);
    });
  });

  it('does not tell a secret of an instance guess by guess', async () => {
    const run = (match: string) => ask('runs.create.local.default', { selector: { match: [match] } });
    for (const match of ['environment.KEY=guess', 'cloud-init.user-data!=x', 'user.user-data='])
      assert.match(
        (await run(match)).headers?.get('Nats-Service-Error') ?? '',
        /may be secret, .* cannot compare them/,
      );
    assert.match((await run('environment.KEY')).headers?.get('Nats-Service-Error') ?? '', /no instance fits/);
  });

  it('keeps statistics: requests, errors, and how long an answer took', async () => {
    const found = await services<ServiceStats>('stats');
    const sum = (pick: (one: NonNullable<ServiceStats['endpoints']>[number]) => number) =>
      found
        .flatMap(({ endpoints: each = [] }) => each)
        .filter(({ name }) => name === 'backups-show')
        .reduce((total, one) => total + pick(one), 0);
    assert.equal(
      sum((one) => one.num_requests),
      5,
    );
    assert.equal(
      sum((one) => one.num_errors),
      4,
    );
    assert.ok(sum((one) => one.processing_time) > 0);
  });

  it('a gateway that stops answers first, and the other goes on', async () => {
    const waits = await waiting();
    const asked = Array.from({ length: 20 }, () =>
      answered('operations.wait.other.default', { id: waits, timeout: 60 }, admin),
    );
    // Both have some of them.
    const taken = async () =>
      (await services<ServiceStats>('stats')).filter(({ endpoints: each = [] }) =>
        each.some(({ name, data }) => name === 'operations-wait' && (data as { running: number }).running > 0),
      );
    await until(taken, ({ length }) => length === 2);
    await second.gateway.stop();
    await until(
      () => services<ServiceInfo>('info'),
      ({ length }) => length === 1,
    );
    await answered('operations.cancel.other.default', { id: waits }, admin);
    const statuses = new Set((await Promise.all(asked)).map(({ status }) => status));
    assert.ok(statuses.has('Pending') && statuses.has('Cancelled'), [...statuses].join());
  });

  it('one client has 250 of the waits, so that others can wait', async () => {
    const waits = await waiting('', { remote: 'local' });
    const wait = (connection = publisher) =>
      ask('operations.wait.local.default', { id: waits, timeout: 60 }, connection);
    const asked = Array.from({ length: 251 }, () => wait());
    const first = await Promise.race(asked);
    assert.equal(first.headers?.get('Lxstow-Error-Code'), 'queue-full');
    assert.match(first.headers?.get('Nats-Service-Error') ?? '', /more than 250 requests of this client/);
    const other = wait(admin);
    await answered('operations.cancel.local.default', { id: waits }, admin);
    assert.equal((await other).json<{ status: string }>().status, 'Cancelled');
    assert.equal((await Promise.all(asked)).filter(({ headers }) => !headers).length, 250);
  });

  it('over 1000 waits at a time are refused, and the others answered', async () => {
    const projects = ['p1', 'p2', 'p3', 'p4', 'p5'];
    const waits = await Promise.all(projects.map((project) => waiting('', { project })));
    const asked = Array.from({ length: 1001 }, (_, index) => {
      const at = Math.floor(index / 250);
      return ask(`operations.wait.other.${projects[at]}`, { id: waits[at], timeout: 60 }, admin);
    });
    const first = await Promise.race(asked);
    assert.match(first.headers?.get('Nats-Service-Error') ?? '', /more than 1000 requests at a time/);
    for (const [at, project] of projects.entries())
      await answered(`operations.cancel.other.${project}`, { id: waits[at] }, admin);
    const ended = (await Promise.all(asked)).filter(({ headers }) => !headers);
    assert.equal(ended.length, 1000);
  });

  it('is there again after NATS was away', async () => {
    await nats.kill();
    await nats.start();
    const there = () =>
      publisher.request('lxstow.api.backups.list.local.default', '', { timeout: 1000 }).then(
        ({ headers }) => !headers,
        () => false,
      );
    await until(there, Boolean);
  });
});
