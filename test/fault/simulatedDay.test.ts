/**
 * Twelve hours without S3, of the day for which jobs may wait, with 4 jobs at work and 50 queued; then a whole day. On the simulator, and scaled: the day is twice
 * LXSTOW_LAB_OUTAGE_MINUTES, and without that variable this is off. What the real hours do to the pauses between looks and tries, test/unit/outage.test.ts shows.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { until } from '../integration/stack.ts';
import { openFullQueue } from './fullQueue.ts';

process.env.LXSTOW_LAB_LXD = 'none';
const minutes = Number(process.env.LXSTOW_LAB_OUTAGE_MINUTES ?? 0);
const skip = minutes === 0 ? 'LXSTOW_LAB_OUTAGE_MINUTES is not set' : false;

describe('S3 that is away', { timeout: 3_600_000, skip }, () => {
  it('for half as long as jobs may wait: all end in Success, in their first attempt', async (test) => {
    await using queue = await openFullQueue('half-a-day', { config: { worker: { patienceHours: minutes / 30 } } });
    const jobs = await queue.begin();
    await queue.kill('s3');
    await delay(minutes * 60_000);
    await queue.start('s3');
    const twice = await queue.assertWell(jobs);
    test.diagnostic(
      `S3 away for ${minutes} min of a patience of ${2 * minutes}: 54 Success, ${twice} bytes sent twice`,
    );
  });

  it('for longer: all are dead letters, nothing is left in LXD, and they succeed when they are sent again', async () => {
    await using queue = await openFullQueue('a-day', {
      queued: 6,
      config: { worker: { patienceHours: minutes / 120 } },
    });
    const { stack } = queue;
    const { running, queued } = await queue.begin();
    await queue.kill('s3');
    for (const answer of [...running, ...queued])
      await until(
        async () => (await stack.stow.request('GET', answer.body.operation)).body.metadata,
        ({ status }) => status === 'Failure',
      );
    for (const instance of await stack.lxd.get<string[]>('/1.0/instances', {}, AbortSignal.timeout(60_000)))
      assert.deepEqual(await stack.lxd.get(`${instance}/backups`, {}, AbortSignal.timeout(60_000)), []);
    await queue.start('s3');
    assert.match(await queue.sendAgain(), /^10 dead letters queued again$/m);
  });
});
