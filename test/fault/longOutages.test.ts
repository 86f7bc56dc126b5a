/**
 * Outages of minutes, of one part and of two, with 4 jobs at work and 50 queued. Off unless LXSTOW_LAB_OUTAGE_MINUTES says how long: outage.test.ts is the
 * short form.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { until } from '../integration/stack.ts';
import { findLxd } from '../lab/findLxd.ts';
import { type Away, openFullQueue } from './fullQueue.ts';

const minutes = Number(process.env.LXSTOW_LAB_OUTAGE_MINUTES ?? 0);
const found = await findLxd(() => undefined);
const skip =
  minutes === 0
    ? 'LXSTOW_LAB_OUTAGE_MINUTES is not set'
    : !found.available || process.env.LXSTOW_LAB_LXD_SOCKET
      ? 'no LXD of our own, so none to kill'
      : false;
const lookEveryMs = 5000;

const cases: Away[][] = [['s3'], ['nats'], ['lxd'], ['s3', 'nats'], ['s3', 'lxd'], ['nats', 'lxd']];

describe('an outage of minutes, with 4 jobs at work and 50 queued,', { timeout: 3_600_000, skip }, () => {
  for (const parts of cases) {
    it(`of ${parts.join(' and ')}: all end in Success, in their first attempt`, async (test) => {
      await using queue = await openFullQueue(`long-${parts.join('-')}`);
      const jobs = await queue.begin();
      const begun = performance.now();
      for (const part of parts) await queue.kill(part);
      const seen = new Set<string>();
      while (performance.now() - begun < minutes * 60_000) {
        for (const series of (await queue.away()) ?? []) seen.add(series);
        await delay(lookEveryMs);
      }
      // One record for each that is away; none is kept of NATS, nor written while it is away.
      const recorded = parts.filter((part) => part !== 'nats').map((part) => `remote="local",dependency="${part}"`);
      if (parts.includes('nats'))
        assert.ok(
          [...seen].every((series) => recorded.includes(series)),
          [...seen].join(),
        );
      else assert.deepEqual([...seen].sort(), recorded.sort());
      for (const part of parts) await queue.start(part);
      const back = performance.now();
      const twice = await queue.assertWell(jobs);
      await until(queue.away, (left) => left?.length === 0);
      const seconds = (ms: number) => Math.round(ms / 1000);
      test.diagnostic(
        `${parts.join(' and ')} away for ${seconds(back - begun)} s: 54 Success, ${twice} bytes sent twice, ended ${seconds(performance.now() - back)} s after it was back`,
      );
    });
  }
});
