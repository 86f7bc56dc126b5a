/** Jobs: published by anybody, shared by workers, handed back, refused, never lost. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, afterEach, before, describe, it } from 'node:test';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { loadConfig } from '../../services/contract/config.ts';
import type { Operation } from '../../services/contract/schemas.ts';
import { connectNats } from '../../services/nats/connection.ts';
import { begin, newOperation } from '../../services/operations/operation.ts';
import { OperationStore } from '../../services/operations/operationStore.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { type ScriptedS3, scriptedS3 } from '../fault/scriptedS3.ts';
import { publish } from './publisher.ts';
import { assertError, assertSame, openStack, type Stack, succeeded, until } from './stack.ts';

describe('jobs', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  let s3: ScriptedS3;
  before(async () => {
    stack = await openStack('jobs', { workers: 0, config: { worker: { slots: 1, graceMs: 0 } } });
    s3 = await scriptedS3(stack.s3.endpoint);
    for (let i = 0; i < 2; i++) await addWorker();
    await Promise.all(['a', 'b', 'c', 'd'].map((name) => stack.launch(name, { dataMiB: 30 })));
  });
  after(async () => {
    await stack?.[Symbol.asyncDispose]();
    await s3?.[Symbol.asyncDispose]();
  });

  /** One more, whose requests to S3 can be held. */
  const addWorker = (env: NodeJS.ProcessEnv = {}) =>
    stack.stow.addWorker({ LXSTOW_S3_ENDPOINT: s3.endpoint, LXSTOW_S3_IDLE_TIMEOUT_MS: '600000', ...env });

  afterEach(async () => {
    for (const worker of stack.stow.workers) if (!worker.isRunning) await worker.start();
  });

  const ended = (id: string) =>
    until(
      async () => (await stack.stow.request('GET', `/1.0/operations/${id}`)).body.metadata as Operation,
      (operation) => operation?.status_code >= 200,
    );

  it('are shared by the workers of a remote', async () => {
    const answers = await Promise.all(
      ['a', 'b', 'c', 'd'].map((name) => stack.stow.request('POST', `/1.0/instances/${name}/backups`)),
    );
    for (const answer of answers) await succeeded(stack.stow, answer);
    // The line is written behind the end that clients see.
    for (const worker of [0, 1])
      await until(
        () => stack.stow.logOf(worker),
        (log) => log.includes('"message":"job done"'),
      );
  });

  it('of one instance run one after another', async () => {
    const answers = await Promise.all([1, 2, 3].map(() => stack.stow.request('POST', '/1.0/instances/a/backups')));
    for (const answer of answers) await succeeded(stack.stow, answer);
  });

  describe('published straight to the subject', () => {
    it('an empty message is a backup; its operation is found by its place in the stream', async () => {
      const id = await publish(stack.nats.url, 'lxstow.jobs.local.backup.default.b', undefined);
      const operation = await ended(id);
      assert.equal(operation.status, 'Success', operation.err);
      const name = operation.resources.backups?.[0]?.split('/').at(-1) ?? '';
      assert.equal(
        (await stack.stow.request('GET', `/1.0/instances/b/backups/${name}`)).body.metadata.compressed,
        true,
      );
    });

    it('its own UUID is the operation, twice is once, and every option counts', async () => {
      const id = randomUUID();
      const body = {
        backup: 'by-nats',
        compression: 'none',
        tags: { who: 'a program' },
        requestor: { username: 'cron' },
      };
      await publish(stack.nats.url, 'lxstow.jobs.local.backup.default.b', body, id);
      await publish(stack.nats.url, 'lxstow.jobs.local.backup.default.b', body, id);
      assert.equal((await ended(id)).status, 'Success');
      const shown = (await stack.stow.request('GET', '/1.0/instances/b/backups/by-nats')).body.metadata;
      assert.deepEqual([shown.compressed, shown.tags], [false, { who: 'a program' }]);
    });

    it('is told at once where an archive without its manifest has the name', async () => {
      const { bucket } = stack.s3;
      const key = 'local/default/b/orphan.tar.gz';
      await stack.bucket().putObject(bucket, key, 'left');
      const id = await publish(stack.nats.url, 'lxstow.jobs.local.backup.default.b', { backup: 'orphan.tar.gz' });
      const { status, err, metadata } = await ended(id);
      assert.deepEqual([status, (metadata as { code?: string }).code], ['Failure', 'conflict']);
      assert.match(err, /archive without its manifest has the name of backup b\/orphan\.tar\.gz.*lxstow janitor/);
      assert.equal((metadata as { bytes_done?: number }).bytes_done, undefined, 'LXD was not asked');
      await stack.bucket().removeObject(bucket, key);
    });

    it('restores and deletes too', async () => {
      const files = await stack.fingerprint('b');
      const subject = 'lxstow.jobs.local.restore.default.b2';
      const restore = await publish(stack.nats.url, `${subject}.from.local.default.b.unrestricted`, {
        backup: 'by-nats',
      });
      assert.equal((await ended(restore)).status, 'Success');
      assertSame(await stack.fingerprint('b2'), files);
      const removed = await publish(stack.nats.url, 'lxstow.jobs.local.delete.default.b', { backup: 'by-nats' });
      assert.equal((await ended(removed)).status, 'Success');
      assertError(await stack.stow.request('GET', '/1.0/instances/b/backups/by-nats'), 404, /does not exist/);
    });

    it('reads no other backup than its subject says, for that is what NATS holds against rights', async () => {
      const [subject, source] = ['lxstow.jobs.local.restore.default.b3', { project: 'secret', instance: 'b' }];
      for (const from of ['', '.from.local.default.b']) {
        const { status, err, metadata } = await ended(
          await publish(stack.nats.url, `${subject}${from}`, { backup: 'by-nats', source }),
        );
        const { code } = metadata as { code?: string };
        assert.deepEqual([status, code], ['Failure', 'bad-message']);
        assert.match(err, /restore\.default\.b3\.from\.local\.secret\.b$/);
      }
    });

    it('ends no operation of another job by naming its id', async () => {
      for (const worker of stack.stow.workers) await worker.stop();
      const id = randomUUID();
      await publish(stack.nats.url, 'lxstow.jobs.local.backup.default.d', '{{{', id);
      const config = loadConfig({ file: stack.stow.configFile, env: {} });
      await using nats = await connectNats(config.nats, 'test', createLogger({ level: 'error', format: 'text' }, {}));
      const operations = new OperationStore(nats, 1);
      const address = { remote: 'local', project: 'secret', instance: 'b' };
      await operations.create(newOperation({ id, kind: 'restore', address }, new Date()));
      for (const worker of stack.stow.workers) await worker.start();
      assert.equal((await deadLetter('lxstow.dead.local.backup.default.d')).code, 'bad-message');
      assert.equal((await operations.find(id, '*'))?.operation.status, 'Pending');
    });

    it('ends no operation that has begun, and does not run under one that asks for something else', async () => {
      for (const worker of stack.stow.workers) await worker.stop();
      const config = loadConfig({ file: stack.stow.configFile, env: {} });
      await using nats = await connectNats(config.nats, 'test', createLogger({ level: 'error', format: 'text' }, {}));
      const operations = new OperationStore(nats, 1);
      const address = { remote: 'local', project: 'default', instance: 'e' };
      const [subject, dead] = ['jobs', 'dead'].map((what) => `lxstow.${what}.local.restore.default.e`) as [
        string,
        string,
      ];
      const made = await operations.create(newOperation({ id: randomUUID(), kind: 'restore', address }, new Date()));
      assert.ok(made && (await operations.update(begin(made.operation, 'another worker', new Date()), made.revision)));
      await publish(stack.nats.url, subject, '{{{', made.operation.id);
      const asks = { id: randomUUID(), kind: 'restore', address, body: { backup: 'b1', source: address } } as const;
      await operations.create(newOperation(asks, new Date()));
      await publish(stack.nats.url, `${subject}.unrestricted`, { backup: 'b0', replace: true }, asks.id);
      for (const worker of stack.stow.workers) await worker.start();
      assert.equal((await deadLetter(dead)).data, '{{{');
      assert.equal((await operations.find(made.operation.id, '*'))?.operation.status, 'Running');
      assert.equal((await deadLetter(`${dead}.unrestricted`)).code, 'bad-message');
      assert.equal((await operations.find(asks.id, '*'))?.operation.status, 'Pending');
    });

    it('what cannot be understood fails, is kept as a dead letter, and holds nobody up', async () => {
      const id = await publish(stack.nats.url, 'lxstow.jobs.local.backup.default.c', '{"compression":"xz"}');
      const after = await publish(stack.nats.url, 'lxstow.jobs.local.backup.default.c', {});
      const operation = await ended(id);
      assert.equal(operation.status, 'Failure');
      assert.match(operation.err, /compression: "xz" is not one of/);
      assert.equal((await ended(after)).status, 'Success');
      const letter = await deadLetter('lxstow.dead.local.backup.default.c');
      assert.equal(letter.data, '{"compression":"xz"}');
      assert.equal(letter.code, 'bad-message');
    });

    it('for an instance that is not there fails truthfully', async () => {
      const operation = await ended(await publish(stack.nats.url, 'lxstow.jobs.local.backup.default.nobody', {}));
      assert.deepEqual([operation.status, operation.err], ['Failure', 'instance nobody does not exist']);
    });
  });

  /** Waits for it: it is written after the end of its operation. */
  async function deadLetter(subject: string) {
    const nats = await connect({ servers: stack.nats.url });
    try {
      const jsm = await jetstreamManager(nats);
      const message = await until(
        () => jsm.streams.getMessage('LXSTOW_DEAD', { last_by_subj: subject }),
        (found) => found !== null,
      );
      assert.ok(message);
      return { data: message.string(), code: message.header.get('Lxstow-Error-Code') };
    } finally {
      await nats.close();
    }
  }

  /** Begins a backup, waits until its parts are on their way and held, and says which worker does it. */
  async function heldBackup(query = '') {
    const { reached, release } = s3.hold(/\/large\/.*partNumber=/);
    const answer = await stack.stow.request('POST', `/1.0/instances/large/backups${query}`);
    const id = answer.body.operation.split('/').at(-1) ?? '';
    await reached;
    const logs = await Promise.all([0, 1].map((worker) => stack.stow.logOf(worker)));
    return { answer, id, release, busy: logs.findIndex((log) => log.includes(id)) };
  }

  it('a worker that is stopped hands its job to another, and leaves nothing', async () => {
    await stack.launch('large', { dataMiB: 60 });
    const { answer, id, release, busy } = await heldBackup();
    await stack.stow.workers[busy]?.stop();
    release();
    assert.match(await stack.stow.logOf(busy), /"message":"job handed back"/);
    await succeeded(stack.stow, answer);
    await until(
      () => stack.stow.logOf(1 - busy),
      (log) => log.split('\n').some((line) => line.includes('"job done"') && line.includes(id)),
    );
    await stack.assertNothingLeft();
  });

  it('a worker that is killed is noticed in seconds, and its job done by another', async () => {
    const { answer, release, busy } = await heldBackup('?compression=none');
    await stack.stow.workers[busy]?.kill('SIGKILL');
    release();
    await succeeded(stack.stow, answer);
    await stack.assertNothingLeft();
  });

  it('a backup keeps the compression that its first attempt has settled, whatever the next worker’s is', async () => {
    const { reached, release } = s3.hold(/\/large\/.*partNumber=/);
    const id = await publish(stack.nats.url, 'lxstow.jobs.local.backup.default.large', {});
    await reached;
    const [first, second] = stack.stow.workers;
    for (const worker of [first, second]) await worker?.kill('SIGKILL');
    release();
    const zstd = await addWorker({ LXSTOW_WORKER_COMPRESSION: 'zstd' });
    const operation = await ended(id);
    await zstd.stop();
    assert.deepEqual([operation.status, operation.err], ['Success', '']);
    const name = operation.resources.backups?.[0]?.split('/').at(-1) ?? '';
    const { body } = await stack.stow.request('GET', `/1.0/instances/large/backups/${name}`);
    assert.deepEqual([name.replace(/.*\.tar/, ''), body.metadata.compression_algorithm], ['.gz', 'gzip']);
    await stack.assertNothingLeft();
  });

  it('a backup cannot be deleted while it is restored', async () => {
    const name = await stack.backup('large');
    const { reached, release } = s3.hold(new RegExp(`${name}$`));
    const path = `/1.0/instances/large/backups/${name}`;
    const restore = await stack.stow.request('POST', path, { body: { name: 'large2' } });
    await reached;
    assertError(await stack.stow.request('DELETE', path), 409, /is being restored/);
    release();
    await succeeded(stack.stow, restore);
    assert.equal((await stack.stow.request('DELETE', path)).status, 200);
  });
});
