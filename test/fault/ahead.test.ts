/** What a user gets when LXD lies, dawdles or dies while its export is read ahead: never a backup that does not restore. On the simulator, as lies.test.ts. */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, it } from 'node:test';
import { idOf, openStack, type Stack, succeeded, until } from '../integration/stack.ts';
import type { Answer } from '../lab/lxstow.ts';
import type { LxdSimulator } from '../simulator/simulator.ts';
import { assertClean, assertRestores, isRetried, operationOf, startWiredWorker } from './workers.ts';

process.env.LXSTOW_LAB_LXD = 'none';
const mib = 1024 * 1024;

const worker = { slots: 1, attempts: 2, lxdIdleTimeoutMs: 2000 };

describe('an LXD whose export is read while it is written', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  let lxd: LxdSimulator;
  let files: Map<string, string>;
  before(async () => {
    stack = await openStack('ahead', { config: { worker } });
    assert.ok(stack.simulator);
    lxd = stack.simulator;
    await stack.launch('c1', { dataMiB: 80 });
    files = await stack.fingerprint('c1');
  });
  after(() => stack?.[Symbol.asyncDispose]());
  afterEach(() => assertClean(stack));

  const begin = (compression: string) =>
    stack.stow.request('POST', `/1.0/instances/c1/backups?compression=${compression}`);

  for (const [where, cutAt, compression] of [
    ['in its first header', 100, 'none'],
    ['in a file', 20 * mib + 77, 'none'],
    ['in its last file', 70 * mib, 'zstd'],
  ] as const) {
    it(`says Success over an archive that is cut ${where}, ${compression}: the next attempt succeeds`, async () => {
      lxd.faults.next('backup', { cutAt });
      const answer = await begin(compression);
      assert.match(await isRetried(stack, answer), /the archive that LXD sent ends|has no length|LXD announced/);
      await endsWell(answer);
    });
  }

  for (const compression of ['none', 'zstd']) {
    for (const [what, script] of [
      ['cuts it', { dropAt: 20 * mib }],
      ['sends no more of it', { holdAt: 20 * mib }],
    ] as const) {
      it(`${what}, ${compression}: it goes on when all is written, in the same attempt`, async () => {
        const fault = lxd.faults.next('export', script);
        const answer = await begin(compression);
        await fault.reached;
        await endsWell(answer);
        fault.release();
        const said = (await stack.stow.logOf(0)).split('\n').filter((line) => line.includes(idOf(answer)));
        assert.ok(said.some((line) => line.includes('not all sent while LXD was writing')));
        assert.ok(!said.some((line) => line.includes('another follows')), 'one attempt');
      });
    }
  }

  it('fails at writing it: nothing of what was sent is left, and another attempt succeeds', async () => {
    lxd.faults.next('backup', { error: 'no space left on device' });
    const answer = await begin('none');
    assert.match(await isRetried(stack, answer), /no space left on device/);
    await endsWell(answer);
  });

  it('stops writing: lxd-stalled, and another attempt succeeds', async () => {
    const fault = lxd.faults.next('backup', { hold: true, progress: '71.60MB (35.65MB/s)' });
    const answer = await begin('none');
    assert.match(await isRetried(stack, answer), /has made no progress for 2 s; is its disk full/);
    await endsWell(answer);
    fault.release();
  });

  it('is still writing when the backup is cancelled: nothing is left', async () => {
    const { answer, release } = await beingSentAhead();
    assert.equal((await stack.stow.request('DELETE', answer.body.operation)).status, 200);
    assert.equal((await stack.stow.finished(answer)).status, 'Cancelled');
    release();
  });

  it('is still writing when the worker is killed: it begins clean when it is back', async () => {
    const { answer, release } = await beingSentAhead();
    await stack.stow.workers[0]?.kill('SIGKILL');
    release();
    await stack.stow.workers[0]?.start();
    await endsWell(answer);
  });

  /** LXD has written all, and has not said so. */
  async function beingSentAhead() {
    const fault = lxd.faults.next('backup', { hold: true });
    const answer = await begin('none');
    await until(
      () => operationOf(stack, answer),
      ({ metadata }) => (metadata.bytes_stored ?? 0) > 0,
    );
    return { answer, release: () => fault.release() };
  }

  it('has written all that may be sent ahead: the rest is read when it is whole', async () => {
    await stack.stow.workers[0]?.stop();
    const limited = await startWiredWorker(stack, { worker: { sendAheadMiB: 20 } });
    try {
      for (const compression of ['none', 'gzip']) await endsWell(await begin(compression));
    } finally {
      await limited[Symbol.asyncDispose]();
      await stack.stow.workers[0]?.start();
    }
  });

  async function endsWell(answer: Answer): Promise<void> {
    await succeeded(stack.stow, answer);
    await assertRestores(stack, 'c1', answer.body.metadata.name, files);
  }
});
