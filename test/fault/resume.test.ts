/** A worker dies in the middle of an upload, and another goes on: what is on the wires says how much was sent twice. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { crc32 } from 'node:zlib';
import { loadConfig } from '../../services/contract/config.ts';
import { unlessMissing } from '../../services/contract/errors.ts';
import { deleteLxdBackup } from '../../services/lxd/archives/backups.ts';
import { connectNats } from '../../services/nats/connection.ts';
import { OperationStore } from '../../services/operations/operationStore.ts';
import type { ObjectStore, Upload } from '../../services/storage/objectStore.ts';
import { createS3Store } from '../../services/storage/s3/s3.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { idOf, openStack, type Stack, succeeded, until } from '../integration/stack.ts';
import type { Answer } from '../lab/lxstow.ts';
import { startNats } from '../lab/nats.ts';
import { startProxy, type Wire } from './proxy.ts';
import { scriptedS3 } from './scriptedS3.ts';
import {
  addressOf,
  archiveOf,
  assertClean,
  assertOneBackup,
  assertRestores,
  linesOf,
  manifestOf,
  operationOf,
  readManifest,
  says,
  startWiredWorker,
  type WiredWorker,
} from './workers.ts';

const never = new AbortController().signal;
const mib = 1024 * 1024;
const other = Buffer.alloc(5 * mib, 'x');
/** Headers, requests, and what LXD's socket and the proxy hold. */
const slackBytes = 4 * mib;
/** Larger than a message on this NATS, packed or not. */
const note = randomBytes(150_000).toString('base64');

describe('a worker that is killed in the middle of its upload', { timeout: 1_800_000 }, () => {
  const open = new AsyncDisposableStack();
  let stack: Stack;
  let store: ObjectStore;
  let operations: OperationStore;
  const slots = { worker: { slots: 1, partsInFlight: 3 } };
  before(async () => {
    const smallNats = open.use(await startNats({ log: () => undefined, name: 'resume', config: 'max_payload: 128KB' }));
    stack = open.use(await openStack('resume', { workers: 0, nats: smallNats }));
    const config = loadConfig({ file: stack.stow.configFile, env: {} });
    store = open.use(createS3Store(config.s3));
    const nats = open.use(await connectNats(config.nats, 'test', createLogger({ level: 'error', format: 'text' }, {})));
    operations = new OperationStore(nats, 1);
    await stack.launch('c1', { dataMiB: 150 });
    const body = { config: { 'user.note': note } };
    await stack.lxd.call({ method: 'PATCH', path: '/1.0/instances/c1', body, signal: never });
  });
  after(() => open.disposeAsync());

  it('has no more sent twice than the parts that were in flight, nor more read from LXD', async () => {
    await using first = await startWiredWorker(stack, slots);
    const killed = Promise.withResolvers<void>();
    first.wires.s3.after('up', 110 * mib, () => first.kill('SIGKILL').then(killed.resolve, killed.reject));
    const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups?compression=none');
    await killed.promise;
    await using other = await startWiredWorker(stack, slots);
    const { id } = await succeeded(stack.stow, answer);

    const { name } = answer.body.metadata;
    const { archive, instance } = await readManifest(stack, 'c1', name);
    assert.equal(instance.config['user.note'], note);
    const partBytes = Math.max(...archive.parts.map(({ size }) => size));
    const inFlight = slots.worker.partsInFlight * partBytes;
    const sent = first.wires.s3.bytes.up + other.wires.s3.bytes.up;
    const read = first.wires.lxd.bytes.down + other.wires.lxd.bytes.down;
    assert.ok(other.wires.s3.bytes.up < archive.size - 110 * mib + inFlight + slackBytes);
    assert.ok(sent <= archive.size + inFlight + slackBytes, `${sent - archive.size} bytes were sent twice`);
    // One part more is being filled while the others are on their way.
    assert.ok(
      read <= archive.rawSize + inFlight + 2 * partBytes + slackBytes,
      `${read - archive.rawSize} bytes were read twice`,
    );
    await assertOneBackup(stack, 'c1', name, id);
    await assertRestores(stack, 'c1', name, await stack.fingerprint('c1'));
    await assertClean(stack);
  });

  describe('begins anew when what it left is not as it was recorded:', () => {
    const changes: [what: string, change: (upload: Upload, lxdBackup: string) => Promise<unknown>][] = [
      ['its upload is gone', (upload) => store.abortUpload(upload, never)],
      ['a part was replaced', (upload) => store.putPart(upload, 2, other, crc32Of(other), never)],
      [
        "LXD's backup is gone",
        (_, lxdBackup) =>
          deleteLxdBackup(stack.lxd, addressOf('c1', ''), lxdBackup, { signal: never, idleTimeoutMs: 60_000 }),
      ],
    ];
    for (const [what, change] of changes) {
      it(what, async () => {
        const first = await startWiredWorker(stack, slots);
        const killed = Promise.withResolvers<void>();
        first.wires.s3.after('up', 100 * mib, () => first.kill('SIGKILL').then(killed.resolve, killed.reject));
        const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups?compression=none');
        await killed.promise;
        await first[Symbol.asyncDispose]();
        const { checkpoint } = (await operations.find(idOf(answer), '*'))?.operation ?? {};
        assert.ok(checkpoint?.key && checkpoint.uploadId && checkpoint.lxdBackup);
        await change({ key: checkpoint.key, uploadId: checkpoint.uploadId }, checkpoint.lxdBackup);
        await using second = await startWiredWorker(stack, slots);
        const { id } = await succeeded(stack.stow, answer);
        assert.doesNotMatch(await second.log(), /resuming an earlier attempt/);
        await assertOneBackup(stack, 'c1', answer.body.metadata.name, id);
        await assertRestores(stack, 'c1', answer.body.metadata.name, await stack.fingerprint('c1'));
        await assertClean(stack);
      });
    }
  });

  describe('or whose upload is ended by another request while it sends: the next attempt begins anew, where', () => {
    const changes: [what: string, change: (upload: Upload) => Promise<unknown>][] = [
      ['somebody aborts it', (upload) => store.abortUpload(upload, never)],
      [
        'a completion of an earlier attempt arrives late',
        async ({ key }) => {
          const late = await store.beginUpload(key, { tags: {}, contentType: 'application/x-tar' }, never);
          const etag = await store.putPart(late, 1, other, crc32Of(other), never);
          await store.completeUpload(late, [{ number: 1, etag, crc32: crc32Of(other) }], never);
        },
      ],
    ];
    for (const [what, change] of changes) {
      it(what, async () => {
        await using worker = await startWiredWorker(stack, slots);
        const { s3 } = worker.wires;
        const stalled = Promise.withResolvers<void>();
        s3.after('up', 60 * mib, () => {
          s3.stall();
          stalled.resolve();
        });
        const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups?compression=none');
        await stalled.promise;
        const { checkpoint } = (await operations.find(idOf(answer), '*'))?.operation ?? {};
        assert.ok(checkpoint?.key && checkpoint.uploadId);
        await change({ key: checkpoint.key, uploadId: checkpoint.uploadId });
        await s3.heal();
        const { id } = await succeeded(stack.stow, answer);
        await assertOneBackup(stack, 'c1', answer.body.metadata.name, id);
        await assertRestores(stack, 'c1', answer.body.metadata.name, await stack.fingerprint('c1'));
        await assertClean(stack);
      });
    }
  });
});

interface Scene extends AsyncDisposable {
  stack: Stack;
  /** The stack's store, without a worker's wires. */
  store: ObjectStore;
  /** Of the instance c1. */
  files: Map<string, string>;
}

/** A stack with an instance and no worker. */
async function openScene(name: string): Promise<Scene> {
  await using opening = new AsyncDisposableStack();
  const stack = opening.use(await openStack(name, { workers: 0 }));
  const store = opening.use(createS3Store(loadConfig({ file: stack.stow.configFile, env: {} }).s3));
  await stack.launch('c1');
  const files = await stack.fingerprint('c1');
  const owned = opening.move();
  return { stack, store, files, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

describe('an archive of one part, whose one request arrives, but is not answered', { timeout: 1_800_000 }, () => {
  let scene: Scene;
  let stack: Stack;
  let store: ObjectStore;
  let files: Map<string, string>;
  before(async () => {
    scene = await openScene('one-request');
    ({ stack, store, files } = scene);
  });
  after(() => scene?.[Symbol.asyncDispose]());

  /** Has a worker store the archive, and hear no answer; the archive names its operation by then. */
  async function unanswered(worker: WiredWorker): Promise<Answer> {
    const { s3 } = worker.wires;
    s3.after('up', 100_000, () => s3.stall('down'));
    const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups?compression=none');
    const stored = () => unlessMissing(() => store.stat(archiveOf('c1', answer.body.metadata.name), never));
    assert.equal((await until(stored, (found) => found !== undefined))?.operation, idOf(answer));
    return answer;
  }

  async function assertBackedUp(answer: Answer): Promise<void> {
    const { id } = await succeeded(stack.stow, answer);
    await assertOneBackup(stack, 'c1', answer.body.metadata.name, id);
    await assertRestores(stack, 'c1', answer.body.metadata.name, files);
    await assertClean(stack);
  }

  it('is recognised when it is sent again', async () => {
    await using worker = await startWiredWorker(stack);
    const answer = await unanswered(worker);
    worker.wires.s3.cut();
    await worker.wires.s3.heal();
    await assertBackedUp(answer);
  });

  it('gives way to that of another worker, when its own is killed', async () => {
    const first = await startWiredWorker(stack);
    const answer = await unanswered(first);
    await first.kill('SIGKILL');
    await first[Symbol.asyncDispose]();
    await using _second = await startWiredWorker(stack);
    await assertBackedUp(answer);
  });

  it('arrives too late from a worker that stood still: that of its successor stays', async () => {
    await using first = await startWiredWorker(stack);
    const { s3 } = first.wires;
    const stopped = Promise.withResolvers<void>();
    s3.after('up', 100_000, () => {
      s3.stall();
      first.kill('SIGSTOP').then(stopped.resolve, stopped.reject);
    });
    const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups?compression=none');
    await stopped.promise;
    await using _second = await startWiredWorker(stack);
    await succeeded(stack.stow, answer);
    await first.kill('SIGCONT');
    await s3.heal();
    await says(first, answer, '"attempt given up"');
    await assertBackedUp(answer);
  });

  it('is gone when its operation is cancelled', async () => {
    await using worker = await startWiredWorker(stack);
    const answer = await unanswered(worker);
    assert.equal((await stack.stow.request('DELETE', answer.body.operation)).status, 200);
    worker.wires.s3.cut();
    await worker.wires.s3.heal();
    const ended = await until(
      () => operationOf(stack, answer),
      ({ status_code }) => status_code >= 200,
    );
    assert.equal(ended.status, 'Cancelled');
    assert.deepEqual(await Array.fromAsync(store.list(archiveOf('c1', answer.body.metadata.name), never)), []);
    await assertClean(stack);
  });
});

describe('a manifest whose request arrives, but is not answered', { timeout: 1_800_000 }, () => {
  let scene: Scene;
  let stack: Stack;
  let store: ObjectStore;
  let files: Map<string, string>;
  before(async () => {
    scene = await openScene('manifests');
    ({ stack, store, files } = scene);
  });
  after(() => scene?.[Symbol.asyncDispose]());

  const nameIn = (answer: Answer) => answer.body.metadata.name as string;
  const present = (key: string) => unlessMissing(() => store.stat(key, never));

  interface Unanswered extends AsyncDisposable {
    worker: WiredWorker;
    /** Its wire to S3, on which no answer comes any more. */
    s3: Wire;
    answer: Answer;
  }

  /** Has a worker store archive and manifest, and hear no answer to the latter. */
  async function unanswered(): Promise<Unanswered> {
    await using opening = new AsyncDisposableStack();
    const server = opening.use(await scriptedS3(stack.s3.endpoint));
    const s3 = opening.use(await startProxy({ target: { port: Number(new URL(server.endpoint).port) } }));
    const endpoint = `http://127.0.0.1:${s3.port}`;
    const worker = opening.use(await startWiredWorker(stack, { s3: { endpoint, attempts: 2 } }));
    const held = server.hold(/manifest\.json/, 'PUT');
    const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups');
    await held.reached;
    s3.stall('down');
    held.release();
    await until(
      () => present(manifestOf('c1', nameIn(answer))),
      (found) => found !== undefined,
    );
    const owned = opening.move();
    return { worker, s3, answer, [Symbol.asyncDispose]: () => owned.disposeAsync() };
  }

  /** Has a worker die after it has sent the manifest; the store does not have it yet, but will when it has arrived. */
  async function onItsWay(): Promise<{ answer: Answer; arrive(): Promise<unknown> }> {
    await using first = await unanswered();
    const { worker, answer } = first;
    await worker.kill('SIGKILL');
    const key = manifestOf('c1', nameIn(answer));
    const { body } = await store.read(key, never);
    await store.remove(key, never);
    return { answer, arrive: () => store.create(key, body, { contentType: 'application/json' }, never) };
  }

  /** Lets another worker remove the archive and begin to send its own, which gets no further. */
  async function sendsItsOwn(answer: Answer): Promise<WiredWorker> {
    await using opening = new AsyncDisposableStack();
    // It may take the job before it is known to be ready.
    const worker = opening.use(
      await startWiredWorker(stack, {}, ({ s3 }) => s3.after('up', 100_000, () => s3.stall())),
    );
    await until(
      () => present(archiveOf('c1', nameIn(answer))),
      (found) => found === undefined,
    );
    opening.move();
    return worker;
  }

  async function assertBackedUp(answer: Answer): Promise<void> {
    const { id } = await succeeded(stack.stow, answer);
    await assertOneBackup(stack, 'c1', nameIn(answer), id);
    await assertRestores(stack, 'c1', nameIn(answer), files);
    await assertClean(stack);
  }

  it('is not believed when it arrives after its archive was removed, and the next worker has died, too', async () => {
    const { answer, arrive } = await onItsWay();
    {
      await using second = await sendsItsOwn(answer);
      await arrive();
      await second.kill('SIGKILL');
    }
    await using _third = await startWiredWorker(stack);
    await assertBackedUp(answer);
  });

  it('gives way to that of the next worker', async () => {
    const { answer, arrive } = await onItsWay();
    await using second = await sendsItsOwn(answer);
    await arrive();
    await second.wires.s3.heal();
    await assertBackedUp(answer);
    assert.doesNotMatch(linesOf(await second.log(), answer), /another follows/);
  });

  it('is recognised by the last attempt, which succeeds also if it cannot clean up', async () => {
    const { answer } = await (async () => {
      await using first = await unanswered();
      await first.worker.kill('SIGKILL');
      return first;
    })();
    await using server = await scriptedS3(stack.s3.endpoint);
    server.refuse(/manifest\.json/, Number.POSITIVE_INFINITY, 'HEAD');
    const s3 = { endpoint: server.endpoint, attempts: 2 };
    await using second = await startWiredWorker(stack, { s3, worker: { attempts: 2 } });
    await assertBackedUp(answer);
    await says(second, answer, '"left behind"');
  });

  /** The worker cannot undo a cancelled backup; then S3 comes back: the operation is Cancelled, and nothing is left. */
  async function isCancelledOnceBack(worker: Pick<WiredWorker, 'log'>, answer: Answer, s3: Wire): Promise<void> {
    await until(
      () => worker.log(),
      (log) => /"(not undone yet|left behind)"/.test(linesOf(log, answer)),
    );
    await s3.heal();
    const ended = await until(
      () => operationOf(stack, answer),
      ({ status_code }) => status_code >= 200,
    );
    assert.equal(ended.status, 'Cancelled');
    assert.deepEqual(await Array.fromAsync(store.list(archiveOf('c1', nameIn(answer)), never)), []);
    await assertClean(stack);
  }

  it('is removed when its operation is cancelled while S3 is away; not before has the operation ended', async () => {
    await using first = await unanswered();
    const { worker, s3, answer } = first;
    await s3.refuse();
    await until(
      () => operationOf(stack, answer),
      ({ metadata }) => metadata.waiting_for?.startsWith('S3, away') === true,
    );
    assert.equal((await stack.stow.request('DELETE', answer.body.operation)).status, 200);
    await isCancelledOnceBack(worker, answer, s3);
  });

  it('… also if its worker died before it could record that it had sent it', async () => {
    const { answer } = await (async () => {
      await using first = await unanswered();
      await first.worker.kill('SIGKILL');
      return first;
    })();
    await using s3 = await startProxy({ target: { port: Number(new URL(stack.s3.endpoint).port) } });
    await s3.refuse();
    assert.equal((await stack.stow.request('DELETE', answer.body.operation)).status, 200);
    await using second = await startWiredWorker(stack, {
      s3: { endpoint: `http://127.0.0.1:${s3.port}`, attempts: 2 },
    });
    await isCancelledOnceBack(second, answer, s3);
  });
});

/** As S3 writes it: base64 of four bytes, the highest first. */
function crc32Of(bytes: Buffer): string {
  const sum = Buffer.alloc(4);
  sum.writeUInt32BE(crc32(bytes));
  return sum.toString('base64');
}
