/** What a user gets when the network between a worker and S3, NATS or LXD does what networks do: a backup that restores, or the reason. */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { openStack, type Stack, succeeded, until } from '../integration/stack.ts';
import { type Answer, lxstow } from '../lab/lxstow.ts';
import { scriptedS3 } from './scriptedS3.ts';
import { assertTrue, beginRound, Dice, roundMs, rounds, seed } from './truth.ts';
import {
  assertClean,
  assertOneBackup,
  assertRestores,
  isRetried,
  linesOf,
  reaches,
  says,
  startWiredWorker,
  type WiredWorker,
} from './workers.ts';

const mib = 1024 * 1024;
const quickly = { worker: { slots: 1, lxdIdleTimeoutMs: 2500 }, s3: { idleTimeoutMs: 1500, attempts: 2 } };

describe('a worker', { timeout: 1_800_000 + rounds * roundMs }, () => {
  let stack: Stack;
  let files: Map<string, string>;
  before(async () => {
    stack = await openStack('network', { workers: 0 });
    await stack.launch('c1', { dataMiB: 80 });
    files = await stack.fingerprint('c1');
  });
  after(() => stack?.[Symbol.asyncDispose]());

  let worker: WiredWorker;
  const begin = (query = '?compression=none') => stack.stow.request('POST', `/1.0/instances/c1/backups${query}`);

  /** Waits until the outages of the tests before are over: until then jobs begin slowly, or wait. */
  const isOver = () =>
    until(
      () => worker.log(),
      (log) => log.lastIndexOf('a dependency is away') <= log.lastIndexOf('a dependency is back'),
    );

  /** The operation must end in Success, and the backup restore to the same files, with nothing left over. */
  async function endsWell(answer: Answer): Promise<void> {
    const { id } = await succeeded(stack.stow, answer);
    const { name } = answer.body.metadata;
    await assertOneBackup(stack, 'c1', name, id);
    await assertClean(stack);
    await assertRestores(stack, 'c1', name, files);
  }

  describe('whose wire to S3', () => {
    before(async () => {
      worker = await startWiredWorker(stack, quickly);
    });
    after(() => worker?.[Symbol.asyncDispose]());
    afterEach(() => worker.wires.s3.heal());

    for (const compression of ['none', 'gzip']) {
      it(`is cut in the middle of parts, again and again: the backup succeeds (${compression})`, async () => {
        const { s3 } = worker.wires;
        for (const at of [5, 20, 40]) s3.after('up', at * mib, () => s3.cut());
        await endsWell(await begin(`?compression=${compression}`));
      });
    }

    it('is cut in the middle of a restore: it succeeds', async () => {
      const backup = await stack.backup('c1', '?compression=none');
      const { s3 } = worker.wires;
      for (const at of [5, 20, 50]) s3.after('down', at * mib, () => s3.cut());
      await assertRestores(stack, 'c1', backup, files);
      await assertClean(stack);
    });

    it('is half closed in the middle of parts: the backup succeeds', async () => {
      const { s3 } = worker.wires;
      s3.after('up', 20 * mib, () => s3.halfClose());
      await endsWell(await begin());
    });

    it('takes everything and answers nothing: an error that names S3 and how long, another attempt, and Success when it is back', async () => {
      const { s3 } = worker.wires;
      s3.after('up', 20 * mib, () => s3.stall('down'));
      const answer = await begin();
      assert.match(await isRetried(stack, answer), /S3 at http:\/\/127\.0\.0\.1:\d+ did not answer for 1500 ms/);
      await s3.heal();
      await endsWell(answer);
    });

    it('stands still in both directions: the same', async () => {
      const { s3 } = worker.wires;
      s3.after('up', 20 * mib, () => s3.stall());
      const answer = await begin();
      assert.match(await isRetried(stack, answer), /S3 at .* did not answer/);
      await s3.heal();
      await endsWell(answer);
    });

    it('stands still in the middle of a restore: an error that names S3, another attempt, and Success when it is back', async () => {
      const { s3 } = worker.wires;
      const backup = await stack.backup('c1', '?compression=none');
      s3.after('down', 20 * mib, () => s3.stall('down'));
      const answer = await stack.stow.request('POST', `/1.0/instances/c1/backups/${backup}`, { body: { name: 'c2' } });
      assert.match(await isRetried(stack, answer), /S3 at .* did not answer/);
      await s3.heal();
      await succeeded(stack.stow, answer);
      await stack.remove('c2');
      await assertClean(stack);
    });

    it('refuses all connections for a while: the backup waits, and succeeds', async () => {
      const { s3 } = worker.wires;
      await isOver();
      await s3.refuse();
      const answer = await begin();
      assert.match(await isRetried(stack, answer), /S3 at http:\/\/127\.0\.0\.1:\d+: .*ECONNREFUSED/);
      await s3.heal();
      await endsWell(answer);
    });
  });

  it('whose wire to S3 drips, a part for longer than the idle timeout, but moves: the backup succeeds in one attempt', async () => {
    await using slow = await startWiredWorker(stack, {
      worker: { slots: 1, lxdIdleTimeoutMs: 2500 },
      // Sockets hold some MiB each, so the last bytes of a part are on their way for a while when they are sent.
      s3: { idleTimeoutMs: 8000, attempts: 1 },
    });
    slow.wires.s3.drip(5 * mib);
    const answer = await begin();
    const { metadata } = await succeeded(stack.stow, answer);
    await slow.wires.s3.heal();
    await endsWell(answer);
    assert.ok(metadata.bytes_done ?? 0 > 80 * mib);
    assert.doesNotMatch(linesOf(await slow.log(), answer), /another follows|is tried again/);
  });

  describe('whose S3 says 503 SlowDown', () => {
    it('waits longer and longer, and succeeds', async () => {
      await using server = await scriptedS3(stack.s3.endpoint);
      await using slowed = await startWiredWorker(stack, {
        worker: { slots: 1 },
        s3: { endpoint: server.endpoint, attempts: 5 },
      });
      server.refuse(/partNumber=2&/, 3);
      await endsWell(await begin());
      const [first = 0, second = 0, third = 0, fourth = 0] = server.triedAt;
      assert.equal(server.triedAt.length, 4);
      // Doubling from 0.2 s, each up to twice as long by jitter; that the delays are there at all is what counts. A timer may be early by a few ms.
      assert.ok(second - first >= 190 && third - second >= 390 && fourth - third >= 790, server.triedAt.join(' '));
      assert.match(await slowed.log(), /"the object store is tried again".*|SlowDown/);
    });

    it('and goes on saying it: the attempt ends with its word, and the next succeeds', async () => {
      await using server = await scriptedS3(stack.s3.endpoint);
      await using _slowed = await startWiredWorker(stack, {
        worker: { slots: 1 },
        s3: { endpoint: server.endpoint, attempts: 2 },
      });
      // Twice while LXD writes, and twice behind that.
      server.refuse(/partNumber=3&/, 4);
      const answer = await begin();
      assert.match(await isRetried(stack, answer), /S3 at .* said SlowDown/);
      await endsWell(answer);
    });
  });

  describe('whose wire to LXD, when nothing is sent ahead,', () => {
    before(async () => {
      worker = await startWiredWorker(stack, { ...quickly, worker: { ...quickly.worker, sendAheadMiB: 0 } });
    });
    after(() => worker?.[Symbol.asyncDispose]());

    it('trickles to a stop in the middle of the export: lxd-stalled, another attempt, and Success when it is back', async () => {
      const { lxd } = worker.wires;
      lxd.after('down', 50 * mib, () => lxd.stall('down'));
      const answer = await begin();
      assert.match(await isRetried(stack, answer), /the export of c1 made no progress for 3 s/);
      assert.match(linesOf(await worker.log(), answer), /"code":"lxd-stalled"/);
      await lxd.heal();
      await endsWell(answer);
    });

    it('is cut in the middle of the export: another attempt, and Success', async () => {
      const { lxd } = worker.wires;
      lxd.after('down', 50 * mib, () => lxd.cut());
      const answer = await begin();
      assert.match(await isRetried(stack, answer), /LXD|source|export|aborted/);
      await endsWell(answer);
    });
  });

  describe('whose wire to LXD', () => {
    before(async () => {
      worker = await startWiredWorker(stack, quickly);
    });
    after(() => worker?.[Symbol.asyncDispose]());
    afterEach(() => worker.wires.lxd.heal());

    it('is cut while LXD writes: Success, by this attempt or another', async () => {
      const { lxd } = worker.wires;
      lxd.after('down', 50 * mib, () => lxd.cut());
      await endsWell(await begin());
    });

    it('is cut in the middle of an import: LXD keeps nothing of it, another attempt, and Success', async () => {
      const backup = await stack.backup('c1', '?compression=none');
      const { lxd } = worker.wires;
      lxd.after('up', 50 * mib, () => lxd.cut());
      const answer = await stack.stow.request('POST', `/1.0/instances/c1/backups/${backup}`, { body: { name: 'c3' } });
      assert.match(await isRetried(stack, answer), /LXD \(local\)/);
      await succeeded(stack.stow, answer);
      await stack.remove('c3');
      await assertClean(stack);
    });

    it('stands still in the middle of an import: lxd-stalled, another attempt, and Success when it is back', async () => {
      const backup = await stack.backup('c1', '?compression=none');
      const { lxd } = worker.wires;
      lxd.after('up', 50 * mib, () => lxd.stall());
      const answer = await stack.stow.request('POST', `/1.0/instances/c1/backups/${backup}`, { body: { name: 'c4' } });
      assert.match(await isRetried(stack, answer), /the import of c4 made no progress for 3 s/);
      await lxd.heal();
      await succeeded(stack.stow, answer);
      await stack.remove('c4');
      await assertClean(stack);
    });

    it('is not there for a while: the job waits, and succeeds when it is', async () => {
      const { lxd } = worker.wires;
      await isOver();
      await lxd.refuse();
      const answer = await begin();
      assert.match(await isRetried(stack, answer), /LXD \(local\) at .*lxd\.socket: .*(ENOENT|ECONNREFUSED)/);
      await lxd.heal();
      await endsWell(answer);
    });
  });

  describe('whose wire to NATS', () => {
    let other: WiredWorker | undefined;
    before(async () => {
      worker = await startWiredWorker(stack, { worker: { slots: 1 } });
    });
    after(async () => {
      await other?.[Symbol.asyncDispose]();
      await worker?.[Symbol.asyncDispose]();
    });

    it('is cut while it uploads: it connects again, and the one attempt succeeds', async () => {
      const { nats, s3 } = worker.wires;
      s3.drip(30 * mib);
      const answer = await begin();
      await reaches(stack, answer, 'uploading', 1);
      nats.cut();
      await endsWell(answer);
      await s3.heal();
      assert.doesNotMatch(linesOf(await worker.log(), answer), /another follows|attempt given up/);
    });

    it('stands still for longer than its lease while it uploads: it gives up, another finishes, and it is one backup', async () => {
      const { nats, s3 } = worker.wires;
      s3.drip(3 * mib);
      const answer = await begin();
      const begun = s3.bytes.up;
      await until(
        async () => s3.bytes.up,
        (sent) => sent > begun + 4 * mib,
      );
      nats.stall();
      other = await startWiredWorker(stack, { worker: { slots: 1 } });
      await says(worker, answer, 'attempt given up');
      await succeeded(stack.stow, answer);
      const completed = await stack.keys();
      await s3.heal();
      await nats.heal();
      await endsWell(answer);
      assert.deepEqual(await stack.keys(), completed);
      assert.match(linesOf(await other.log(), answer), /"job done"/);
      assert.doesNotMatch(linesOf(await worker.log(), answer), /"job done"/);
      // And it works again.
      await other[Symbol.asyncDispose]();
      other = undefined;
      await endsWell(await begin());
    });
  });

  const chaos = Math.max(2, Math.round(rounds / 4));
  describe('whose wires do what they like', { timeout: chaos * roundMs }, () => {
    const dice = new Dice(seed);
    let good: string;
    before(async () => {
      worker = await startWiredWorker(stack, { worker: { slots: 2 }, s3: { idleTimeoutMs: 4000, attempts: 3 } });
      await stack.launch('c2', { dataMiB: 40 });
      good = await stack.backup('c1');
    });
    after(() => worker?.[Symbol.asyncDispose]());

    for (let round = 0; round < chaos; round++) {
      it(`round ${round + 1} of ${chaos}: what is accepted ends truthfully`, async (context) => {
        const begun = await beginRound(stack, dice, good, `n${round}`);
        const events: string[] = [];
        for (let event = 0; event < 6; event++) {
          const name = dice.pick(['s3', 'nats', 'lxd'] as const);
          const wire = worker.wires[name];
          await delay(dice.between(0, 1500));
          const what = dice.pick(['cut', 'halfClose', 'stall', 'stall down', 'drip', 'refuse']);
          events.push(`${name} ${what}`);
          if (what === 'cut') wire.cut();
          else if (what === 'halfClose') wire.halfClose();
          else if (what === 'stall') wire.stall();
          else if (what === 'stall down') wire.stall('down');
          else if (what === 'drip') wire.drip(dice.between(0.2, 5) * mib);
          else await wire.refuse();
          await delay(dice.between(0, dice.pick([200, 2000, 12_000])));
          await wire.heal();
        }
        const words = await assertTrue(stack, begun);
        context.diagnostic(`seed ${seed} round ${round + 1}: ${events.join(', ')}; ${words}`);
      });
    }

    it('and in the end nothing is left over, once the janitor has been', async () => {
      await until(
        async () => {
          await lxstow(['--config', stack.stow.configFile, 'janitor']);
          return assertClean(stack).catch((error: Error) => error);
        },
        (wrong) => wrong === undefined,
      );
    });
  });
});
