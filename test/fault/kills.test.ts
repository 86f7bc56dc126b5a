/**
 * Whatever dies, and whenever: each operation that was accepted ends truthfully, what succeeded restores, and nothing is left. In
 * `npm test` a few rounds, in `npm run test:fault` a hundred; LXSTOW_LAB_FAULT_SEED repeats those of a seed that was printed.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, afterEach, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { assertSame, openStack, type Stack, succeeded, until } from '../integration/stack.ts';
import { lxstow } from '../lab/lxstow.ts';
import type { Daemon } from '../lab/processes.ts';
import { assertTrue, beginRound, Dice, inSeconds, roundMs, rounds, seed } from './truth.ts';
import { assertClean, assertOneBackup, assertRestores, linesOf, says, startWiredWorker } from './workers.ts';

const mib = 1024 * 1024;

describe('kill -9', { timeout: 120_000 + rounds * roundMs }, () => {
  let stack: Stack;
  let good: string;
  let calmMs: number;
  const dice = new Dice(seed);
  before(async () => {
    stack = await openStack('kills', { workers: 2, config: { worker: { slots: 1 } } });
    await Promise.all([stack.launch('c1', { dataMiB: 64 }), stack.launch('c2', { dataMiB: 64 })]);
    good = await stack.backup('c1');
    const begun = performance.now();
    const { backup, restore } = await beginRound(stack, dice, good, 'calm');
    await succeeded(stack.stow, backup);
    await succeeded(stack.stow, restore);
    calmMs = performance.now() - begun;
    await stack.remove('calm');
  });
  after(() => stack?.[Symbol.asyncDispose]());

  function victims(): [string, Daemon][] {
    const { stow, nats, s3, lab } = stack;
    const [first, second] = stow.workers;
    assert.ok(first && second);
    const all: [string, Daemon][] = [
      ['worker 0', first],
      ['NATS', nats],
      ['S3', s3],
      ['worker 1', second],
      ['gateway', stow.gateway],
    ];
    return lab.lxd ? [...all, ['LXD', lab.lxd]] : all;
  }

  for (let round = 0; round < rounds; round++) {
    it(`round ${round + 1} of ${rounds}`, async (context) => {
      const [name, victim] = victims()[round % victims().length] ?? [];
      assert.ok(name && victim);
      const begun = await beginRound(stack, dice, good, `r${round}`);
      const [afterMs, downMs] = [dice.between(0, calmMs), dice.between(0, dice.pick([500, 4000, 15_000]))];
      await delay(afterMs);
      await victim.kill('SIGKILL');
      await delay(downMs);
      await victim.start();
      const words = await assertTrue(stack, begun);
      context.diagnostic(
        `seed ${seed} round ${round + 1}: ${name} killed after ${inSeconds(afterMs)}, back after ${inSeconds(downMs)}; ${words}`,
      );
    });
  }

  it('and in the end nothing is left over, in LXD or in the store, once the janitor has been', async (context) => {
    await until(
      async () => {
        await lxstow(['--config', stack.stow.configFile, 'janitor']);
        return leftovers();
      },
      (left) => left.length === 0,
    );
    await assertClean(stack);
    // An LXD that is killed while it imports leaves the volume, and says itself that it cannot use it: nobody but LXD can remove it.
    const pool = join((stack.lab.lxd ?? stack.simulator)?.dir ?? '', 'storage-pools', stack.pools.btrfs, 'containers');
    const halves = (await readdir(pool)).filter((name) => /^r\d+$/.test(name));
    context.diagnostic(`seed ${seed}: ${halves.length} half-unpacked volumes left by LXD itself: ${halves.join(' ')}`);
  });

  /** What is on the disks, for MinIO does not list all uploads once it was restarted. */
  async function leftovers(): Promise<string[]> {
    const uploads = join(stack.s3.dir, 'data/.minio.sys/multipart');
    const open = existsSync(uploads) ? await readdir(uploads, { recursive: true }) : [];
    const left = open.filter((path) => path.split('/').length === 2).map((path) => `upload ${path}`);
    const error = await assertClean(stack).then(
      () => undefined,
      (thrown: Error) => thrown.message,
    );
    return error === undefined ? left : [...left, error];
  }
});

describe('a worker that stands still for longer than its lease (SIGSTOP), and then goes on', {
  timeout: 1_800_000,
}, () => {
  let stack: Stack;
  let files: Map<string, string>;
  const slots = { worker: { slots: 1 } };
  before(async () => {
    stack = await openStack('stops', { workers: 0 });
    await stack.launch('c1', { dataMiB: 80 });
    files = await stack.fingerprint('c1');
  });
  after(() => stack?.[Symbol.asyncDispose]());
  afterEach(() => assertClean(stack));

  for (const [moment, share] of [
    ['in the middle of its upload', 0.4],
    ['when it has sent all but the last bytes', 0.999],
  ] as const) {
    it(`${moment}: gives up, and the other's backup is the only one`, async () => {
      await using first = await startWiredWorker(stack, slots);
      const { s3 } = first.wires;
      const measured = s3.bytes.up;
      await stack.backup('c1', '?compression=none');
      const whole = s3.bytes.up - measured;
      const stopped = Promise.withResolvers<void>();
      s3.after('up', whole * share, () => first.kill('SIGSTOP').then(stopped.resolve, stopped.reject));
      const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups?compression=none');
      await stopped.promise;
      await using other = await startWiredWorker(stack, slots);
      const { id } = await succeeded(stack.stow, answer);
      await first.kill('SIGCONT');
      await says(first, answer, '"attempt given up"');
      assert.doesNotMatch(linesOf(await first.log(), answer), /"job done"/);
      await says(other, answer, '"job done"');
      await assertOneBackup(stack, 'c1', answer.body.metadata.name, id);
      await assertRestores(stack, 'c1', answer.body.metadata.name, files);
    });
  }

  it('in the middle of a restore: gives up, and there is one instance, whole', async () => {
    await using first = await startWiredWorker(stack, slots);
    const backup = await stack.backup('c1', '?compression=none');
    const stopped = Promise.withResolvers<void>();
    first.wires.lxd.after('up', 40 * mib, () => first.kill('SIGSTOP').then(stopped.resolve, stopped.reject));
    const answer = await stack.stow.request('POST', `/1.0/instances/c1/backups/${backup}`, { body: { name: 'c2' } });
    await stopped.promise;
    await using other = await startWiredWorker(stack, slots);
    await succeeded(stack.stow, answer);
    await first.kill('SIGCONT');
    await says(first, answer, '"attempt given up"');
    assert.doesNotMatch(linesOf(await first.log(), answer), /"job done"/);
    await says(other, answer, '"job done"');
    assertSame(await stack.fingerprint('c2'), files);
    await stack.remove('c2');
  });
});
