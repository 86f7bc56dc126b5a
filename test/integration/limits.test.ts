/** Limits: who waits, for whom, and who need not. */
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import type { Operation } from '../../services/contract/schemas.ts';
import { type ScriptedS3, scriptedS3 } from '../fault/scriptedS3.ts';
import type { Answer } from '../lab/lxstow.ts';
import type { Daemon } from '../lab/processes.ts';
import { openStack, type Stack, succeeded, until } from './stack.ts';

describe('limits', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  let s3: ScriptedS3;
  let socket: string;
  before(async () => {
    stack = await openStack('limits', { workers: 0 });
    s3 = await scriptedS3(stack.s3.endpoint);
    socket = (stack.lab.lxd ?? stack.simulator)?.socket ?? '';
    await Promise.all(['endless', 'a', 'b', 'c', 'd'].map((name) => stack.launch(name)));
    await stack.launch('elsewhere', { pool: stack.pools.dir });
  });
  after(async () => {
    await stack?.[Symbol.asyncDispose]();
    await s3?.[Symbol.asyncDispose]();
  });

  let release: () => void;
  const workers: Daemon[] = [];
  beforeEach(() => {
    ({ release } = s3.hold(/\/endless\//));
  });
  afterEach(async () => {
    release();
    for (const worker of workers.splice(0)) if (worker.isRunning) await worker.stop();
  });

  async function addWorkers(count: number, limits: object, slots = 2, more: NodeJS.ProcessEnv = {}): Promise<void> {
    for (let i = 0; i < count; i++) {
      const worker = await stack.stow.addWorker({
        LXSTOW_REMOTES: JSON.stringify({ local: { socket, ...limits } }),
        LXSTOW_S3_ENDPOINT: s3.endpoint,
        LXSTOW_S3_IDLE_TIMEOUT_MS: '600000',
        LXSTOW_WORKER_SLOTS: String(slots),
        LXSTOW_WORKER_GRACE_MS: '0',
        ...more,
      });
      workers.push(worker);
    }
  }

  const backup = (instance: string) => stack.stow.request('POST', `/1.0/instances/${instance}/backups`);
  const look = async (answer: Answer) =>
    (await stack.stow.request('GET', answer.body.operation)).body.metadata as Operation;
  const runs = (answer: Answer) =>
    until(
      () => look(answer),
      ({ status }) => status === 'Running',
    );
  const waits = (answer: Answer, what: string) =>
    until(
      () => look(answer),
      ({ status, metadata }) => status === 'Pending' && metadata.waiting_for === what,
    );

  /** Nothing waits on the queue any more, or is taken. */
  async function drained(): Promise<void> {
    await until(
      async () => (await fetch(`${stack.stow.healthUrl.gateway}/metrics`)).text(),
      (text) =>
        ['waiting', 'taken'].every((state) =>
          text.includes(`lxstow_queue_jobs{remote="local",lane="transfer",state="${state}"} 0`),
        ),
    );
  }

  it('none: a backup that does not end holds up nobody but its own instance', async () => {
    await addWorkers(1, {});
    const endless = await backup('endless');
    await runs(endless);
    const again = await backup('endless');
    await waits(again, 'instance endless');
    for (const answer of await Promise.all(['a', 'b', 'elsewhere', 'a'].map(backup)))
      await succeeded(stack.stow, answer);
    assert.equal((await look(endless)).status, 'Running');
    release();
    for (const answer of [endless, again]) await succeeded(stack.stow, answer);
  });

  describe('of a storage pool', () => {
    it('holds for all workers; who waits says so, costs no attempt, and gets its turn', async () => {
      const { btrfs } = stack.pools;
      await addWorkers(2, { transfersPerPool: 1 });
      const made = await stack.backup('elsewhere');
      const endless = await backup('endless');
      await runs(endless);
      const waiting = await Promise.all(['a', 'b', 'c', 'd', 'a', 'b'].map(backup));
      for (const answer of waiting) await waits(answer, `storage pool ${btrfs}`);
      await succeeded(stack.stow, await backup('elsewhere'));
      const path = `/1.0/instances/elsewhere/backups/${made}`;
      const restore = (name: string, pool: string) => stack.stow.request('POST', path, { body: { name, pool } });
      await succeeded(stack.stow, await restore('r1', stack.pools.dir));
      const there = await restore('r2', btrfs);
      await waits(there, `storage pool ${btrfs}`);
      const cancelled = waiting.at(-1) as Answer;
      assert.equal((await stack.stow.request('DELETE', cancelled.body.operation)).status, 200);
      assert.equal((await look(cancelled)).status, 'Cancelled');
      release();
      for (const answer of [endless, ...waiting.slice(0, -1), there]) {
        const { attempt } = await succeeded(stack.stow, answer);
        assert.ok(attempt === undefined || attempt === 1, String(attempt));
      }
      // Nor do deletions need a permit.
      assert.equal((await stack.stow.request('DELETE', path)).status, 200);
      await drained();
      await stack.assertNothingLeft();
    });

    it('is given back by a worker that is killed', async () => {
      await addWorkers(1, { transfersPerPool: 1 });
      const endless = await backup('endless');
      await runs(endless);
      const waiting = await backup('a');
      await waits(waiting, `storage pool ${stack.pools.btrfs}`);
      await workers[0]?.kill('SIGKILL');
      release();
      await addWorkers(1, { transfersPerPool: 1 });
      for (const answer of [waiting, endless]) await succeeded(stack.stow, answer);
    });
  });

  it('of a remote: no more run at a time, over all its workers', async () => {
    release();
    ({ release } = s3.hold(/backup_/));
    // One pool may have another limit than the others.
    await addWorkers(2, { transfers: 2, transfersPerPool: 1, pools: { [stack.pools.btrfs]: { transfers: 3 } } });
    const answers = await Promise.all(['a', 'b', 'c', 'd'].map(backup));
    const looks = () => Promise.all(answers.map(look));
    const seen = await until(looks, (all) => {
      const count = (is: (operation: Operation) => boolean) => all.filter(is).length;
      return (
        count(({ status }) => status === 'Running') === 2 &&
        count(({ metadata }) => metadata.waiting_for === 'remote local') === 2
      );
    });
    assert.equal(seen.length, 4);
    release();
    for (const answer of answers) await succeeded(stack.stow, answer);
    await drained();
  });

  it('of bandwidth: neither a backup nor a restore is faster, and a cancel need not wait', async () => {
    await addWorkers(1, {}, 1, { LXSTOW_WORKER_BANDWIDTH: '4MiB' });
    const timed = async (run: () => Promise<unknown>) => {
      const begun = performance.now();
      await run();
      return (performance.now() - begun) / 1000;
    };
    let name = '';
    const took = await timed(async () => {
      name = await stack.backup('a', '?compression=none');
    });
    const path = `/1.0/instances/a/backups/${name}`;
    const { size } = (await stack.stow.request('GET', path)).body.metadata;
    // All of it but the first burst.
    const least = (size - 2 ** 20) / (4 * 2 ** 20);
    assert.ok(least > 1, `${size} bytes are too few`);
    assert.ok(took >= least, `a backup of ${size} bytes took ${took} s`);
    const restoring = () => stack.stow.request('POST', path, { body: { name: 'paced' } });
    const restored = await timed(async () => succeeded(stack.stow, await restoring()));
    assert.ok(restored >= least, `a restore of ${size} bytes took ${restored} s`);
    await stack.launch('large', { dataMiB: 100 });
    const cancelled = await backup('large');
    await until(
      () => look(cancelled),
      ({ metadata }) => metadata.stage === 'uploading',
    );
    assert.equal((await stack.stow.request('DELETE', cancelled.body.operation)).status, 200);
    const { status } = await stack.stow.finished(cancelled);
    assert.equal(status, 'Cancelled');
    await stack.assertNothingLeft();
  });
});
