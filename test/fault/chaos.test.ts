/**
 * Everything goes away at random, for random times, one part or two, while backups and restores are asked for all the time: each that was accepted ends in
 * Success, and nothing is left once the janitor has been: LXD may be killed when it is to remove its copy. Off unless LXSTOW_LAB_CHAOS_MINUTES says for how
 * long; LXSTOW_LAB_FAULT_SEED repeats the dice of a seed that was printed.
 */
import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { assertSame } from '../integration/stack.ts';
import { findLxd } from '../lab/findLxd.ts';
import type { Answer } from '../lab/lxstow.ts';
import { type Away, type FullQueue, openFullQueue } from './fullQueue.ts';
import { Dice } from './truth.ts';

const minutes = Number(process.env.LXSTOW_LAB_CHAOS_MINUTES ?? 0);
const seed = Number(process.env.LXSTOW_LAB_FAULT_SEED ?? randomInt(2 ** 31));
const found = await findLxd(() => undefined);
const skip =
  minutes === 0
    ? 'LXSTOW_LAB_CHAOS_MINUTES is not set'
    : found.available && !process.env.LXSTOW_LAB_LXD_SOCKET
      ? false
      : 'no LXD of our own, so none to kill';
/** More are not asked for while so many wait. */
const mostWaiting = 20;
const longestMs = 45_000;

type Event = Away | 'worker' | 'keys' | 'lxd restarts';
const events = ['s3', 'nats', 'lxd', 'worker', 'keys', 'lxd restarts'] as const;

describe('chaos', { timeout: 7_200_000, skip }, () => {
  it(`for ${minutes} min, seed ${seed}: what was accepted ends in Success, and nothing is left`, async (test) => {
    const dice = new Dice(seed);
    await using queue = await openFullQueue('chaos', { queued: 20, config: { worker: { attempts: 10 } } });
    const { stack } = queue;
    const good = await stack.backup('small0', '?compression=none');
    const files = await stack.fingerprint('small0');
    const over = performance.now() + minutes * 60_000;
    const accepted: Answer[] = [];
    const copies: { name: string; answer: Answer }[] = [];
    const counts = new Map<string, number>();

    const asking = (async () => {
      for (let number = 0; performance.now() < over; number++) {
        if (accepted.length - (await countEnded(queue, accepted)) < mostWaiting) {
          const name = `copy${number}`;
          const isRestore = number % 4 === 3;
          const [path, body] = isRestore
            ? [`/1.0/instances/small0/backups/${good}`, { body: { name } }]
            : [`/1.0/instances/${number % 8 === 0 ? 'large' : 'small'}${number % 4}/backups?compression=none`, {}];
          // Not accepted is fine: NATS is away.
          const answer = await stack.stow.request('POST', path, body).catch(() => undefined);
          if (answer?.status === 202) {
            accepted.push(answer);
            if (isRestore) copies.push({ name, answer });
          } else assert.ok(answer === undefined || answer.status === 503, answer?.text);
        }
        await delay(dice.between(200, 3000));
      }
    })();

    while (performance.now() < over) {
      await delay(dice.between(2000, 15_000));
      const one = dice.pick(events);
      const other = dice.pick(events);
      const picked = dice.between(0, 1) < 0.3 && other !== one ? [one, other] : [one];
      // A worker that starts while S3 does not know its keys ends at once, for systemd to start it again: it starts last.
      const both = picked.toSorted((a, b) => Number(a === 'worker') - Number(b === 'worker'));
      for (const event of both) counts.set(event, (counts.get(event) ?? 0) + 1);
      const forMs = dice.between(500, longestMs);
      const undo: (() => Promise<void>)[] = [];
      for (const event of both) undo.push(await begin(queue, event));
      await delay(forMs);
      for (const end of undo) await end();
    }
    await asking;
    await queue.assertSucceeded(accepted);
    for (const { name, answer } of copies) {
      assertSame(await stack.fingerprint(name), files);
      assert.ok(answer);
      await stack.remove(name);
    }
    await queue.tidyUp();
    await queue.assertNothingLeft();
    const happened = [...counts].map(([event, count]) => `${count} × ${event}`).join(', ');
    test.diagnostic(`seed ${seed}: ${accepted.length} jobs, ${copies.length} of them restores; ${happened}`);
  });
});

/** Has it go wrong; returns what ends that. */
async function begin({ stack, kill, start }: FullQueue, event: Event): Promise<() => Promise<void>> {
  const [worker] = stack.stow.workers;
  const { s3, lab, nats } = stack;
  const parts = { s3, nats, lxd: lab.lxd };
  const nothing = async () => undefined;
  switch (event) {
    case 'worker':
      await worker?.kill();
      return async () => (worker?.isRunning ? undefined : worker?.start());
    case 'keys':
      if (!s3.isRunning) return nothing;
      await s3.kill();
      s3.useSecret('x'.repeat(32));
      await s3.start();
      return async () => {
        await s3.kill();
        s3.useSecret(s3.secretKey);
        await s3.start();
      };
    case 'lxd restarts':
      if (!lab.lxd?.isRunning) return nothing;
      await lab.lxd.kill();
      await lab.lxd.start();
      return nothing;
    default:
      await kill(event);
      // The other event may have had it started already.
      return async () => (parts[event]?.isRunning ? undefined : start(event));
  }
}

async function countEnded({ stack }: FullQueue, accepted: Answer[]): Promise<number> {
  const shown = await stack.stow.request('GET', '/1.0/operations?recursion=1').catch(() => undefined);
  if (shown?.status !== 200) return 0;
  const all = Object.values(shown.body.metadata as Record<string, { id: string; status_code: number }[]>).flat();
  const ended = new Set(all.filter(({ status_code }) => status_code >= 200).map(({ id }) => `/1.0/operations/${id}`));
  return accepted.filter(({ body }) => ended.has(body.operation)).length;
}
