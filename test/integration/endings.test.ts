/** Operations that end otherwise than they began: cancelled, gone on with by another worker, put in the place of what was there. */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, it } from 'node:test';
import type { Operation } from '../../services/contract/schemas.ts';
import type { Answer } from '../lab/lxstow.ts';
import { residentMiB } from '../lab/processes.ts';
import { assertError, assertSame, failed, idOf, openStack, type Stack, succeeded, until } from './stack.ts';

describe('an operation', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  before(async () => {
    // What LXD is still writing cannot be gone on from: fault/lies has that.
    // On a fast machine, a backup would end before it is cancelled.
    const bandwidth = '150MiB';
    const worker = { slots: 1, partsInFlight: 2, graceMs: 0, sendAheadMiB: 0, bandwidth };
    stack = await openStack('endings', { workers: 2, config: { worker } });
    await stack.launch('c1', { dataMiB: 300 });
  });
  after(() => stack?.[Symbol.asyncDispose]());
  afterEach(async () => {
    for (const worker of stack.stow.workers) if (!worker.isRunning) await worker.start();
  });

  const show = async (answer: Answer) =>
    (await stack.stow.request('GET', answer.body.operation)).body.metadata as Operation;
  const reached = (answer: Answer, is: (operation: Operation) => boolean) =>
    until(
      () => show(answer),
      (operation) => {
        assert.ok(operation.status_code < 200, `too late: ${operation.status} ${operation.err}`);
        return is(operation);
      },
    );
  /** Waits for a stage that may be over in no time; false when the operation has ended before it was seen. */
  const seen = async (answer: Answer, stage: string) => {
    const { status_code, metadata } = await until(
      () => show(answer),
      (operation) => operation.status_code >= 200 || operation.metadata.stage === stage,
    );
    return status_code < 200 && metadata.stage === stage;
  };
  const uploaded = (bytes: number) => (operation: Operation) => (operation.metadata.bytes_stored ?? 0) > bytes;
  const cancel = (answer: Answer) => stack.stow.request('DELETE', answer.body.operation);

  async function assertCancelled(answer: Answer): Promise<void> {
    const { status, status_code, err, may_cancel } = await stack.stow.finished(answer);
    assert.deepEqual([status, status_code, err, may_cancel], ['Cancelled', 401, 'cancelled', false]);
    await stack.assertNothingLeft();
  }

  /** The index of the worker that runs it. */
  async function workerOf(answer: Answer): Promise<number> {
    const logs = await Promise.all(stack.stow.workers.map((_, index) => stack.stow.logOf(index)));
    return logs.findIndex((log) => log.includes(idOf(answer)));
  }

  describe('that is cancelled', () => {
    it('while it is queued ends at once, and its name is free', async () => {
      for (const worker of stack.stow.workers) await worker.stop();
      const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups', { body: { name: 'queued' } });
      assert.equal((await cancel(answer)).status, 200);
      await assertCancelled(answer);
      const again = await stack.stow.request('POST', '/1.0/instances/c1/backups', { body: { name: 'queued' } });
      assert.equal(again.status, 202);
      await cancel(again);
    });

    it('again and again takes no more memory than once', async () => {
      const [worker, other] = stack.stow.workers;
      await other?.stop();
      const sizes: number[] = [];
      for (let time = 0; time < 8; time++) {
        const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups?compression=none');
        await reached(answer, uploaded(0));
        await cancel(answer);
        await assertCancelled(answer);
        sizes.push(Math.round(await residentMiB(worker?.pid ?? 0)));
      }
      // New buffers each time would be 51 MiB each time.
      assert.ok(Math.max(...sizes) - (sizes[1] ?? 0) < 75, `${sizes} MiB`);
    });

    it('while LXD generates, or while it uploads, leaves nothing', async () => {
      for (const stage of ['generating', 'uploading']) {
        const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups');
        const { may_cancel } = await reached(answer, ({ metadata }) => metadata.stage === stage);
        assert.ok(may_cancel);
        assert.equal((await cancel(answer)).status, 200);
        await assertCancelled(answer);
        assert.deepEqual(
          (await stack.keys()).filter((key) => key.includes('/c1/')),
          [],
        );
      }
    });

    it('while it restores leaves no instance', async () => {
      const name = await stack.backup('c1', '?compression=none');
      const restore = () => stack.stow.request('POST', `/1.0/instances/c1/backups/${name}`, { body: { name: 'half' } });
      const answer = await restore();
      await reached(answer, ({ metadata }) => metadata.stage === 'restoring');
      assert.equal((await cancel(answer)).status, 200);
      await assertCancelled(answer);
      assertError(await stack.stow.request('GET', '/1.0/instances/half/backups'), 404, /half does not exist/);
      await succeeded(
        stack.stow,
        await stack.stow.request('POST', `/1.0/instances/c1/backups/${name}`, { body: { name: 'half' } }),
      );
      await stack.remove('half');
    });

    it('while LXD unpacks is undone, or was done already', async () => {
      const name = await stack.backup('c1', '?compression=none');
      const answer = await stack.stow.request('POST', `/1.0/instances/c1/backups/${name}`, { body: { name: 'late' } });
      if (await seen(answer, 'unpacking')) await cancel(answer);
      const { status } = await stack.stow.finished(answer);
      const exists = (await stack.stow.request('GET', '/1.0/instances/late/backups')).status === 200;
      assert.deepEqual([status, exists], exists ? ['Success', true] : ['Cancelled', false]);
      await stack.assertNothingLeft();
      if (exists) await stack.remove('late');
    });

    it("when it has ended gets LXD's error; so does one that cannot be cancelled, and one that is not there", async () => {
      const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups?compression=none');
      await succeeded(stack.stow, answer);
      assertError(await cancel(answer), 400, /Only running operations can be cancelled/);
      assertError(
        await stack.stow.request('DELETE', '/1.0/operations/0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11'),
        404,
        /does not exist/,
      );
    });
  });

  describe('whose worker dies', () => {
    it('goes on with the last part that is stored, on another worker, and is the same', async () => {
      const files = await stack.fingerprint('c1');
      const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups?compression=none');
      await reached(answer, uploaded(60_000_000));
      await stack.stow.workers[await workerOf(answer)]?.kill('SIGKILL');
      await succeeded(stack.stow, answer);
      const line = await goneOn(answer);
      assert.ok(line.rawStart >= 48 * 1024 * 1024, `only ${line.rawStart} bytes were not sent again`);
      await stack.assertNothingLeft();
      await succeeded(
        stack.stow,
        await stack.stow.request('POST', `/1.0/instances/c1/backups/${nameIn(answer)}`, { body: { name: 'c2' } }),
      );
      assertSame(await stack.fingerprint('c2'), files);
      await stack.remove('c2');
    });

    it('is cancelled all the same, and cleaned up by another', async () => {
      const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups');
      await reached(answer, uploaded(20_000_000));
      await stack.stow.workers[await workerOf(answer)]?.kill('SIGKILL');
      assert.equal((await cancel(answer)).status, 200);
      await assertCancelled(answer);
    });

    it('restores all the same', async () => {
      const name = await stack.backup('c1', '?compression=zstd');
      const files = await stack.fingerprint('c1');
      const answer = await stack.stow.request('POST', `/1.0/instances/c1/backups/${name}`, { body: { name: 'c3' } });
      await reached(answer, ({ metadata }) => (metadata.bytes_done ?? 0) > 50_000_000);
      await stack.stow.workers[await workerOf(answer)]?.kill('SIGKILL');
      await succeeded(stack.stow, answer);
      assertSame(await stack.fingerprint('c3'), files);
      await stack.remove('c3');
    });
  });

  it('that a stopped worker hands back goes on where it was', async () => {
    const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups');
    await reached(answer, uploaded(40_000_000));
    await stack.stow.workers[await workerOf(answer)]?.stop();
    await succeeded(stack.stow, answer);
    assert.ok((await goneOn(answer)).rawStart > 0);
    await stack.assertNothingLeft();
  });

  const nameIn = (answer: Answer) => answer.body.metadata.name as string;

  async function goneOn(answer: Answer): Promise<{ rawStart: number }> {
    const logs = await Promise.all(stack.stow.workers.map((_, index) => stack.stow.logOf(index)));
    const line = logs
      .flatMap((log) => log.split('\n'))
      .find((each) => each.includes('resuming an earlier attempt') && each.includes(idOf(answer)));
    assert.ok(line, 'it began anew');
    return JSON.parse(line);
  }

  describe('that restores with replace', () => {
    it('puts the restored instance in the place of the old one, which ran and runs', async () => {
      await stack.launch('web');
      const name = await stack.backup('web');
      const files = await stack.fingerprint('web');
      await stack.remove('web');
      await stack.launch('web', { dataMiB: 5 });
      await succeeded(stack.stow, await stack.stow.request('POST', `/1.0/instances/web/backups/${name}?replace=true`));
      assertSame(await stack.fingerprint('web'), files);
      assert.deepEqual(await instances('web'), ['web Running']);
    });

    it('leaves the old one as it was when anything fails', async () => {
      const name = await stack.backup('web');
      const files = await stack.fingerprint('web');
      const object = `local/default/web/${name}`;
      const archive = Buffer.concat(await (await stack.bucket().getObject(stack.s3.bucket, object)).toArray());
      archive.writeUInt8(archive.readUInt8(1000) ^ 1, 1000);
      await stack.bucket().putObject(stack.s3.bucket, object, archive);
      const why = await failed(
        stack.stow,
        await stack.stow.request('POST', `/1.0/instances/web/backups/${name}`, { body: { replace: true } }),
      );
      assert.equal(why.code, 'archive-corrupt');
      assertSame(await stack.fingerprint('web'), files);
      assert.deepEqual(await instances('web'), ['web Running']);
    });

    it('is cancelled without harm', async () => {
      const name = await stack.backup('c1', '?compression=none');
      const files = await stack.fingerprint('c1');
      const answer = await stack.stow.request('POST', `/1.0/instances/c1/backups/${name}`, { body: { replace: true } });
      if (await seen(answer, 'unpacking')) await cancel(answer);
      const { status } = await stack.stow.finished(answer);
      assert.match(status, /^(Cancelled|Success)$/);
      await stack.assertNothingLeft();
      assertSame(await stack.fingerprint('c1'), files);
      assert.deepEqual(await instances('c1'), ['c1 Running']);
    });

    /** Every instance of ours but the others that the test made, with its state. */
    async function instances(name: string): Promise<string[]> {
      const all = await stack.lxd.get<{ name: string; status: string }[]>(
        '/1.0/instances',
        { recursion: '1' },
        AbortSignal.timeout(60_000),
      );
      return all
        .filter((each) => each.name === name || each.name.startsWith('lxstow-'))
        .map((each) => `${each.name} ${each.status}`);
    }
  });
});
