/** Long lists: pages by a cursor, and all of it as lines, of what the client may see. Records and manifests are written here: no instance is asked. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import https from 'node:https';
import { after, before, describe, it } from 'node:test';
import { manifestKey } from '../../services/backups/keys.ts';
import { formatManifest } from '../../services/backups/manifest.ts';
import { forEach } from '../../services/concurrency/orderedMap.ts';
import { loadConfig } from '../../services/contract/config.ts';
import { Owners } from '../../services/janitor/owners.ts';
import { Bucket } from '../../services/nats/bucket/bucket.ts';
import { operationKey } from '../../services/nats/bucketKeys.ts';
import { connectNats, type Nats } from '../../services/nats/connection.ts';
import { leasesBucket, operationsBucket } from '../../services/nats/streams.ts';
import { newOperation } from '../../services/operations/operation.ts';
import { OperationStore } from '../../services/operations/operationStore.ts';
import { tally } from '../../services/runs/fold.ts';
import { plan } from '../../services/runs/plan.ts';
import { RunStore } from '../../services/runs/runStore.ts';
import { createS3Store } from '../../services/storage/s3/s3.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { type Certificate, makeCertificate } from '../lab/certificates.ts';
import { type Lab, openLab } from '../lab/lab.ts';
import { type Answer, type Lxstow, startLxstow } from '../lab/lxstow.ts';
import { assertError } from './stack.ts';

const never = new AbortController().signal;
const lines = { accept: 'application/x-ndjson' };
/** More than one of the batches in which NATS sends them. */
const many = 1100;
/** Of each: long enough that no socket takes the whole list at once. */
const errBytes = 8000;
const projects = ['red', 'blue'];

describe('long lists', { timeout: 1_800_000 }, () => {
  let lab: Lab;
  let stow: Lxstow;
  let nats: Nats;
  let operations: OperationStore;
  let blue: Certificate;
  before(async () => {
    lab = await openLab({ name: 'lists', log: () => undefined, lxd: false });
    assert.ok(lab.nats && lab.s3);
    stow = await startLxstow({
      ...{ name: 'lists', log: () => undefined, natsUrl: lab.nats.url, s3: lab.s3, socket: '/none', workers: 0 },
      config: { gateway: { clientIdleTimeoutMs: 2000 } },
    });
    const config = loadConfig({ file: stow.configFile, env: {} });
    nats = await connectNats(config.nats, 'lists', createLogger({ level: 'error', format: 'json' }, {}));
    operations = new OperationStore(nats, 1);
    blue = await makeCertificate({ commonName: 'blue' });
    const certificate = blue.cert.replaceAll(/-----.*-----|\s/g, '');
    const body = { type: 'client', name: 'blue', role: 'viewer', restricted: true, projects: ['blue'], certificate };
    assert.equal((await stow.request('POST', '/1.0/certificates', { body })).status, 201);
    const none = await stow.request('GET', '/1.0/operations?limit=1');
    assert.deepEqual([none.status, none.body.metadata], [200, {}], 'a page of a list that never had anything');
    await forEach(
      Array.from({ length: many }, (_, index) => index),
      32,
      async (index) => void (await operations.create(fresh(index))),
    );

    using store = createS3Store(config.s3);
    for (const project of projects)
      for (const backup of ['a', 'b', 'c'].map((each) => `${each}.tar`)) {
        const address = { remote: 'local', project, instance: 'c1', backup };
        await store.create(
          manifestKey(config.s3.prefix, address),
          manifestOf(address),
          { contentType: 'application/json' },
          never,
        );
      }
  });
  after(async () => {
    await nats?.[Symbol.asyncDispose]();
    for (const each of [stow, lab]) await each?.[Symbol.asyncDispose]();
  });

  function fresh(index: number) {
    const address = { remote: 'local', project: projects[index % 2] as string, instance: `c${index}` };
    const operation = newOperation({ id: randomUUID(), kind: 'backup', address, body: {} }, new Date());
    return { ...operation, status: 'Failure' as const, status_code: 400 as const, err: 'x'.repeat(errBytes) };
  }

  /** What all pages have, and how many there are of each. */
  async function pages<T>(path: string, of: (answer: Answer) => T[], certificate?: Certificate): Promise<T[][]> {
    const found: T[][] = [];
    for (let next: string | undefined = path; next; ) {
      const answer = await stow.request('GET', next, certificate ? { certificate } : {});
      assert.equal(answer.status, 200, answer.text);
      found.push(of(answer));
      next = /^<(.*)>; rel="next"$/.exec(String(answer.headers.link))?.[1];
    }
    return found;
  }
  const listed = ({ body }: Answer) => Object.values<{ id: string; created_at: string }[]>(body.metadata).flat();
  const parsed = ({ text }: Answer) =>
    text
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line));

  it('of operations: each once, by their last change, the latest first', async () => {
    const found = await pages('/1.0/operations?project=red&recursion=1&limit=150', listed);
    assert.deepEqual(
      found.map(({ length }) => length),
      [150, 150, 150, 100],
    );
    assert.equal(new Set(found.flat().map(({ id }) => id)).size, many / 2);
    const [oldest] = found.at(-1) ?? [];
    const stored = await operations.find(oldest?.id ?? '', '*');
    assert.ok(stored);
    await operations.update({ ...stored.operation, err: 'changed' }, stored.revision);
    const first = await stow.request('GET', '/1.0/operations?project=red&recursion=1&limit=1');
    assert.deepEqual(
      listed(first).map(({ id }) => id),
      [oldest?.id],
    );
    assertError(await stow.request('GET', '/1.0/operations?limit=0'), 400, /limit=0 is not a number from 1 to 1000/);
    assertError(await stow.request('GET', '/1.0/operations?limit=9&after=x'), 400, /after=x is not a cursor/);
  });

  it('of operations, with no more than the client may see', async () => {
    const path = '/1.0/operations?all-projects=true&recursion=1';
    const found = (await pages(`${path}&limit=1000`, listed, blue)).flat();
    assert.equal(found.length, many / 2);
    const answer = await stow.request('GET', path, { certificate: blue, headers: lines });
    assert.equal(answer.headers['content-type'], 'application/x-ndjson');
    assert.deepEqual(
      parsed(answer)
        .map(({ id }) => id)
        .toSorted(),
      found.map(({ id }) => id).toSorted(),
    );
    const all = await stow.request('GET', path, { headers: lines });
    assert.equal(parsed(all).length, many);
    const one = await stow.request('GET', `${path}&filter=err=changed`, { headers: lines });
    assert.equal(parsed(one).length, 1);
    assertError(await stow.request('GET', `${path.replace('all-', '')}&project=red`, { certificate: blue }), 403, /./);
    assertError(await stow.request('GET', `${path}&filter=x`, { headers: lines }), 400, /filter/);
  });

  it('of operations, where one record is none: the others are there', async () => {
    const bucket = new Bucket(nats, operationsBucket);
    const [id, other] = [randomUUID(), (await operations.list())[0]?.id ?? ''];
    const written = (await bucket.put(operationKey('local', id), '{', 0)) ?? 0;
    try {
      assert.equal(
        (await pages('/1.0/operations?all-projects=true&recursion=1&limit=1000', listed)).flat().length,
        many,
      );
      assert.equal(listed(await stow.request('GET', '/1.0/operations?all-projects=true&recursion=1')).length, many);
      const all = await stow.request('GET', '/1.0/operations?all-projects=true', { headers: lines });
      assert.equal(parsed(all).length, many);
      const { data } = await nats.connection.request('lxstow.api.operations.list.local.red', '{}', {
        timeout: 10_000,
      });
      assert.ok(JSON.parse(Buffer.from(data).toString()).operations?.length > 0);
      const settings = { remote: 'local', prefix: '', settledMs: 0 };
      const owners = await Owners.read(nats, new Bucket(nats, leasesBucket), settings);
      assert.equal(owners.known.length, many);
      assert.equal((await owners.ofOperation(other)).state, 'ended');
      assert.equal((await owners.ofOperation(id)).state, 'living', 'nobody knows that it has ended');
    } finally {
      await bucket.remove(operationKey('local', id), written);
    }
  });

  it('of operations have none that a worker has written for another host, nor does anybody who watches', async () => {
    const bucket = new Bucket(nats, operationsBucket);
    const over = new AbortController();
    const seen = Promise.withResolvers<string[]>();
    const [ids, own, faked] = [[] as string[], fresh(0), { ...fresh(0), id: randomUUID() }];
    await operations.watch(
      ({ id }) => {
        ids.push(id);
        if (id === own.id) seen.resolve(ids);
      },
      over.signal,
      seen.reject,
    );
    const key = operationKey('other', faked.id);
    const written = (await bucket.put(key, JSON.stringify(faked), 0)) ?? 0;
    const made = await operations.create(own);
    try {
      assert.ok(made);
      assert.deepEqual(await seen.promise, [own.id]);
      assert.equal((await operations.list()).length, many + 1);
    } finally {
      over.abort();
      await bucket.remove(key, written);
      await bucket.remove(operationKey(own.remote, own.id), made?.revision ?? 0);
    }
  });

  it('of backups, of one instance and of all', async () => {
    const names = ({ body }: Answer) =>
      body.metadata.map(({ project, name }: Record<string, string>) => `${project}/${name}`);
    const path = '/1.0/instances/c1/backups?project=red';
    assert.deepEqual(await pages(`${path}&limit=2`, names), [['red/a.tar', 'red/b.tar'], ['red/c.tar']]);
    const all = '/1.0/instances/*/backups?all-projects=true';
    const inOrder = ['blue/a.tar', 'blue/b.tar', 'blue/c.tar', 'red/a.tar', 'red/b.tar', 'red/c.tar'];
    assert.deepEqual((await pages(`${all}&target=*&limit=4`, names)).flat(), inOrder);
    assert.deepEqual((await pages(`${all}&limit=4`, names, blue)).flat(), inOrder.slice(0, 3));
    const said = (answer: Answer) => parsed(answer).map(({ project, name }) => `${project}/${name}`);
    assert.deepEqual(said(await stow.request('GET', path, { headers: lines })), inOrder.slice(3));
    assert.deepEqual(said(await stow.request('GET', all, { headers: lines })).toSorted(), inOrder);
    assert.deepEqual(
      said(await stow.request('GET', all, { headers: lines, certificate: blue })).toSorted(),
      inOrder.slice(0, 3),
    );
    assertError(
      await stow.request('GET', '/1.0/instances/c1/backups?target=nowhere', { headers: lines }),
      404,
      /nowhere/,
    );
  });

  it('of runs and their children', async () => {
    const runs = new RunStore(nats, 1);
    const children = plan(
      Array.from({ length: 1200 }, (_, index) => ({
        ...{ remote: 'local', project: projects[index % 2] as string, instance: `c${index}` },
      })),
    ).map((child) => ({ ...child, state: 'success' as const }));
    const at = new Date().toISOString();
    const run = await runs.create(
      {
        ...{ id: randomUUID(), status: 'Success', class: 'hand', created_at: at, updated_at: at, ended_at: at },
        ...{ request: { selector: { all: true } }, places: tally(children), away: [], failures: [], excluded: 0 },
      },
      children,
    );
    const found = await stow.request('GET', '/1.0/runs', { headers: lines });
    assert.deepEqual(
      parsed(found).map(({ id, counts }) => [id, counts.total]),
      [[run?.id, 1200]],
    );
    const path = `/1.0/runs/${run?.id}/children`;
    assert.equal(parsed(await stow.request('GET', path, { headers: lines })).length, 1200);
    const theirs = parsed(await stow.request('GET', path, { headers: lines, certificate: blue }));
    assert.deepEqual([theirs.length, new Set(theirs.map(({ project }) => project))], [600, new Set(['blue'])]);
    assert.equal(parsed(await stow.request('GET', `${path}?state=failure`, { headers: lines })).length, 0);
  });

  it('are sent no faster than the client reads, a few at a time, and are cut, not ended, when it stops', async () => {
    const { hostname, port } = new URL(stow.url);
    const { cert, key } = stow.client;
    const options = { hostname, port, cert, key, rejectUnauthorized: false, agent: false, headers: lines };
    const begin = async () => {
      const request = https.get({ ...options, path: '/1.0/operations?all-projects=true' });
      const [response] = await once(request, 'response');
      return response as import('node:http').IncomingMessage;
    };
    const stalled = await Promise.all(Array.from({ length: 4 }, begin));
    const refused = await stow.request('GET', '/1.0/runs', { headers: lines });
    assertError(refused, 503, /4 lists are being sent to this client/);
    assert.equal((await stow.request('GET', '/1.0/runs', { headers: lines, certificate: blue })).status, 200);
    assert.equal((await stow.request('GET', '/1.0/operations?limit=1')).status, 200);
    // Longer than gateway.clientIdleTimeoutMs.
    await new Promise((resolve) => setTimeout(resolve, 3000));
    for (const response of stalled) {
      let bytes = 0;
      const read = async () => {
        for await (const chunk of response) bytes += chunk.length;
      };
      await assert.rejects(read(), /aborted|reset/i);
      assert.ok(bytes < many * errBytes, `${bytes} bytes came`);
    }
    assert.equal((await stow.request('GET', '/1.0/runs', { headers: lines })).status, 200);
  });

  function manifestOf(address: { remote: string; project: string; instance: string; backup: string }) {
    const { backup: name, ...place } = address;
    const part = {
      ...{ number: 1, rawStart: 0, rawEnd: 1, size: 1 },
      ...{ etag: 'e', sha256: 'a'.repeat(64), crc32: 'AA==' },
    };
    return formatManifest({
      ...{ version: 1, writer: 'test', operation: randomUUID() },
      backup: { ...place, name, created: new Date().toISOString(), tags: {} },
      archive: {
        ...{ key: 'k', etag: 'e', size: 1, rawSize: 1, blockSize: 1, parts: [part] },
        ...{ compression: 'none', optimized: false, instanceOnly: false },
      },
      instance: {
        ...{ config: {}, devices: {}, profiles: [], snapshots: [] },
        ...{ pool: 'p', driver: 'dir', architecture: 'x86_64', type: 'container' },
      },
      lxd: { version: '5.0.2' },
    });
  }
});
