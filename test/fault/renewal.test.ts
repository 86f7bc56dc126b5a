/** Archives that take longer than the store keeps an open upload: MinIO removes one by its age, however busy it is. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { Operation } from '../../services/contract/schemas.ts';
import { assertSame, openStack, type Stack, succeeded, until } from '../integration/stack.ts';
import { startWiredWorker } from './workers.ts';

/** A day, in this test. */
const expiryMs = 12_000;
process.env.MINIO_API_STALE_UPLOADS_EXPIRY = `${expiryMs / 1000}s`;
process.env.MINIO_API_STALE_UPLOADS_CLEANUP_INTERVAL = '2s';

let stack: Stack;
let files: Map<string, string>;

async function open(): Promise<void> {
  stack = await openStack('renewal', { workers: 0 });
  await stack.launch('c1', { dataMiB: 110 });
  files = await stack.fingerprint('c1');
}

async function restoredSame(name: string): Promise<void> {
  await stack.remove('c1');
  await succeeded(stack.stow, await stack.stow.request('POST', `/1.0/instances/c1/backups/${name}`));
  assertSame(await stack.fingerprint('c1'), files);
}

describe('an upload that grows old', { timeout: 1_800_000 }, () => {
  before(open);
  after(() => stack?.[Symbol.asyncDispose]());

  it('is renewed in time: a backup may take longer than the store keeps an upload', async () => {
    await using worker = await startWiredWorker(stack, {
      s3: { uploadMaxAgeMs: expiryMs / 3 },
      worker: { partsInFlight: 2 },
    });
    worker.wires.lxd.drip(5_000_000);
    const begun = performance.now();
    const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups?compression=none');
    const operation = await succeeded(stack.stow, answer);
    assert.ok(performance.now() - begun > 1.5 * expiryMs, 'it was not long enough to prove anything');
    assert.equal(operation.err, '');
    const log = await worker.log();
    assert.ok(log.split('\n').filter((line) => line.includes('"upload renewed"')).length >= 2, log);
    assert.ok(!log.includes('another follows'), log);
    worker.wires.lxd.drip(Number.POSITIVE_INFINITY);
    await stack.assertNothingLeft();
    await restoredSame(answer.body.metadata.name);
  });
});

describe('an upload that was renewed', { timeout: 1_800_000 }, () => {
  before(async () => {
    // Another worker may need longer to take over than the store keeps an upload above.
    delete process.env.MINIO_API_STALE_UPLOADS_EXPIRY;
    delete process.env.MINIO_API_STALE_UPLOADS_CLEANUP_INTERVAL;
    await open();
  });
  after(() => stack?.[Symbol.asyncDispose]());

  it('is gone on with after its worker died', async () => {
    const config = { s3: { uploadMaxAgeMs: 1500 }, worker: { partsInFlight: 2 } };
    let answer: Awaited<ReturnType<Stack['stow']['request']>>;
    {
      await using first = await startWiredWorker(stack, config);
      first.wires.lxd.drip(15_000_000);
      answer = await stack.stow.request('POST', '/1.0/instances/c1/backups');
      await until(
        () => first.log(),
        (log) => log.includes('"upload renewed"'),
      );
      await first.kill('SIGKILL');
    }
    const running = (await stack.stow.request('GET', answer.body.operation)).body.metadata as Operation;
    assert.equal(running.status, 'Running');
    await using second = await startWiredWorker(stack, config);
    await succeeded(stack.stow, answer);
    assert.match(await second.log(), /resuming an earlier attempt/);
    await stack.assertNothingLeft();
    await restoredSame(answer.body.metadata.name);
  });
});
