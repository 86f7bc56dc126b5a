/** Every engine does what the machine's own LXD does: what differs between them is lxstow's to know, not the user's. */
import assert from 'node:assert/strict';
import { after, before, describe, it, type TestContext } from 'node:test';
import { type Engine, engines, titleOf } from '../lab/engines.ts';
import { lxstow } from '../lab/lxstow.ts';
import { type Engines, missingEngines, openEngines, type Remote } from './engines.ts';
import { assertSame, failed, succeeded, until } from './stack.ts';

/** Those that have a place of their own in the suite; the machine's LXD has all the others. */
const newer = engines.filter((engine) => engine !== 'lxd');
const missing = await missingEngines();

describe('each engine', { timeout: 1_800_000 }, () => {
  let all: Engines;
  before(async () => {
    all = await openEngines('engines', missing);
  });
  after(() => all?.[Symbol.asyncDispose]());

  describe('by itself', { concurrency: true }, () => {
    for (const engine of newer) {
      describe(titleOf(engine), { concurrency: 1 }, () => {
        let remote: Remote;
        before(async () => {
          const found = all.remotes.get(engine);
          if (!found) return;
          remote = found;
          await remote.lxd.launch('c1', { dataMiB: 8 });
          await remote.lxd.lxc(['snapshot', 'c1', 'first']);
        });

        const test = (name: string, run: () => Promise<void>) =>
          it(name, (context) => (remote ? run() : skip(context, missing.get(engine))));

        for (const [compression, optimize] of [
          ['gzip', 'false'],
          ['zstd', 'true'],
          ['none', 'false'],
        ] as const) {
          test(`backs up, loses and restores an instance: ${compression}, optimized ${optimize}`, async () => {
            const files = await remote.fingerprint('c1');
            const name = await remote.backup('c1', { compression, optimize });
            await remote.remove('c1');
            await succeeded(all.stow, await remote.restore('c1', name, { start: true }));
            assertSame(await remote.fingerprint('c1'), files);
            assert.deepEqual(await remote.instances(), ['c1 Running']);
            assert.deepEqual(await snapshotsOf(remote, 'c1'), ['first']);
          });
        }

        test('restores under another name, into another pool and project, with profiles that are gone', async () => {
          const { lxc } = remote.lxd;
          await lxc(['profile', 'create', 'special']);
          await lxc(['profile', 'assign', 'c1', 'default,special']);
          const name = await remote.backup('c1');
          await lxc(['profile', 'assign', 'c1', 'default']);
          await lxc(['profile', 'delete', 'special']);
          await succeeded(all.stow, await remote.restore('c1', name, { name: 'c2' }));
          const body = { name: 'c3', pool: remote.lxd.dirPool, project: 'lxstow-lab' };
          await succeeded(all.stow, await remote.restore('c1', name, body));
          const files = await remote.fingerprint('c1');
          assertSame(await remote.fingerprint('c2'), files);
          assertSame(await remote.fingerprint('c3', body.project), files);
          const { profiles } = JSON.parse(await lxc(['query', '/1.0/instances/c2']));
          const c3 = JSON.parse(await lxc(['query', '/1.0/instances/c3?project=lxstow-lab']));
          assert.deepEqual([profiles, c3.expanded_devices.root.pool], [['default', 'special'], body.pool]);
          await remote.remove('c2');
        });

        test('replaces an instance that runs', async () => {
          await remote.lxd.launch('web');
          const files = await remote.fingerprint('web');
          const name = await remote.backup('web');
          await remote.remove('web');
          await remote.lxd.launch('web', { dataMiB: 2 });
          await succeeded(all.stow, await remote.restore('web', name, { replace: true }));
          assertSame(await remote.fingerprint('web'), files);
          assert.deepEqual(await remote.instances(), ['c1 Running', 'web Running']);
          await remote.remove('web');
        });

        test('backs up and restores 700 MB, for which each side takes longer than a poll', async () => {
          await remote.lxd.launch('big', { dataMiB: 668, kind: 'random' });
          const files = await remote.fingerprint('big');
          const name = await remote.backup('big', { compression: 'none' });
          await remote.remove('big');
          const answer = await remote.restore('big', name);
          await succeeded(all.stow, answer);
          await remote.assertOneAttempt(answer);
          assertSame(await remote.fingerprint('big'), files);
          await remote.remove('big');
        });

        test('is waited for when it writes for longer than a poll takes', async () => {
          await using tool = await remote.lxd.hold('btrfs');
          const answer = await remote.begin('c1', { optimize: 'true' });
          await tool.reached(AbortSignal.timeout(120_000));
          await outlastPoll(remote, 'Backing up instance');
          await tool.release();
          await succeeded(all.stow, answer);
          await remote.assertOneAttempt(answer);
        });

        test('unpacks for longer than a poll takes while the worker is killed: one instance, whole', async () => {
          const name = await remote.backup('c1', { compression: 'none' });
          await using tool = await remote.lxd.hold('tar');
          const answer = await remote.restore('c1', name, { name: 'killed' });
          await tool.reached(AbortSignal.timeout(120_000));
          await remote.worker.kill('SIGKILL');
          await remote.worker.start();
          await until(remote.workerLog, (log) => log.includes('waiting for the import of an earlier attempt'));
          await outlastPoll(remote, 'Restoring backup');
          await tool.release();
          await succeeded(all.stow, answer);
          assertSame(await remote.fingerprint('killed'), await remote.fingerprint('c1'));
          await remote.remove('killed');
        });

        test('has nothing left of what is cancelled while it unpacks', async () => {
          const name = await remote.backup('c1', { compression: 'none' });
          await using tool = await remote.lxd.hold('tar');
          const answer = await remote.restore('c1', name, { name: 'cancelled' });
          await tool.reached(AbortSignal.timeout(120_000));
          await all.stow.request('DELETE', answer.body.operation);
          await tool.release();
          assert.equal((await all.stow.finished(answer)).status, 'Cancelled');
          assert.deepEqual(await remote.instances(), ['c1 Running']);
        });

        test('refuses for good at the first attempt what it will never take', async () => {
          await remote.lxd.launch('strange');
          await remote.lxd.lxc(['storage', 'volume', 'create', remote.lxd.dirPool, 'lost']);
          const disk = ['disk', `pool=${remote.lxd.dirPool}`, 'source=lost', 'path=/mnt'];
          await remote.lxd.lxc(['config', 'device', 'add', 'strange', 'lost', ...disk]);
          const name = await remote.backup('strange');
          await remote.remove('strange');
          await remote.lxd.lxc(['storage', 'volume', 'delete', remote.lxd.dirPool, 'lost']);
          const answer = await remote.restore('strange', name);
          const { code, err } = await failed(all.stow, answer);
          assert.equal(code, 'lxd-refused');
          assert.match(err, /Storage volume not found/);
          await remote.assertOneAttempt(answer);
        });

        test('is found by lxstow doctor, and called by its name', async () => {
          const env = { LXSTOW_WORKER_REMOTE: engine };
          const said = await lxstow(['--config', all.stow.configFile, 'doctor', 'worker', '--only', 'lxd'], env);
          const { version } = remote.lxd;
          assert.match(
            said,
            new RegExp(`${engine === 'incus6' ? 'incus' : 'lxd'} ${version} answers for host ${engine}`),
          );
        });

        test('is tidied up by the janitor', async () => {
          const left = 'lxstow-00000000-0000-4000-8000-000000000000-1';
          const body = JSON.stringify({ name: left, compression_algorithm: 'none' });
          const path = '/1.0/instances/c1/backups';
          await remote.lxd.lxc(['query', '-X', 'POST', '--wait', '-d', body, path]);
          const env = { LXSTOW_WORKER_REMOTE: engine, LXSTOW_WORKER_JANITOR_GRACE_HOURS: '0' };
          const said = await lxstow(['--config', all.stow.configFile, 'janitor'], env);
          assert.match(said, new RegExp(left));
          assert.deepEqual(JSON.parse(await remote.lxd.lxc(['query', path])), []);
        });
      });
    }
  });

  describe('a backup of another engine', { concurrency: 1 }, () => {
    /** What was made by the one can be restored by the other, or is refused by it with these words. */
    const ways: [Engine, 'plain' | 'optimized', Engine, RegExp | undefined][] = [
      ['lxd', 'plain', 'lxd-debian13', undefined],
      ['lxd', 'plain', 'incus6', undefined],
      ['lxd', 'optimized', 'incus6', undefined],
      ['lxd-debian13', 'plain', 'lxd', /Unknown configuration key: volatile\.uuid\.generation/],
      ['lxd-debian13', 'plain', 'incus6', undefined],
      ['lxd-debian13', 'optimized', 'lxd', /Unknown configuration key: volatile\.uuid\.generation/],
      ['lxd-debian13', 'optimized', 'incus6', undefined],
      ['incus6', 'plain', 'lxd', /Unknown configuration key: volatile\.uuid\.generation/],
      ['incus6', 'plain', 'lxd-debian13', undefined],
    ];
    const made = new Map<string, { backup: string; files: Map<string, string> }>();
    before(async () => {
      const making = [...all.remotes].map(async ([engine, remote]) => {
        const instance = `of-${engine}`;
        await remote.lxd.launch(instance, { dataMiB: 2 });
        const files = await remote.fingerprint(instance);
        for (const format of new Set(ways.filter(([from]) => from === engine).map(([, format]) => format))) {
          const optimize = String(format === 'optimized');
          made.set(`${engine} ${format}`, { backup: await remote.backup(instance, { optimize }), files });
        }
        await remote.remove(instance);
      });
      await Promise.all(making);
    });

    for (const [from, format, to, refusal] of ways) {
      it(`${titleOf(from)}, ${format} → ${titleOf(to)}: ${refusal ? 'is refused' : 'the same files'}`, async (context) => {
        const reason = missing.get(from) ?? missing.get(to);
        const [source, target, what] = [all.remotes.get(from), all.remotes.get(to), made.get(`${from} ${format}`)];
        if (!source || !target || !what) return skip(context, reason);
        const body = { target: to, project: 'lxstow-lab' };
        // Debian 12's LXD is the only one that does not know this key, and all the others write it.
        if (to === 'lxd' && refusal) {
          const foreseen = await failed(all.stow, await source.restore(`of-${from}`, what.backup, body));
          assert.equal(foreseen.code, 'lxd-refused');
          assert.match(foreseen.err, /would refuse .* key volatile\.uuid\.generation/);
        }
        const answer = await source.restore(`of-${from}`, what.backup, {
          ...body,
          ...(refusal && { anyway: true }),
        });
        if (refusal) {
          const { code, err } = await failed(all.stow, answer);
          assert.equal(code, 'lxd-refused');
          assert.match(err, refusal);
          return;
        }
        await succeeded(all.stow, answer);
        assertSame(await target.fingerprint(`of-${from}`, body.project), what.files);
        await target.remove(`of-${from}`, body.project);
      });
    }
  });
});

function skip(context: TestContext, reason = 'this engine is not there'): void {
  context.skip(reason);
}

async function snapshotsOf({ lxd }: Remote, instance: string): Promise<string[]> {
  const paths: string[] = JSON.parse(await lxd.lxc(['query', `/1.0/instances/${instance}/snapshots`]));
  return paths.map((path) => path.split('/').at(-1) ?? '');
}

/** Lets the engine's own clock run: it answers when the operation has gone on for two seconds, twice what a poll of lxstow's takes. */
async function outlastPoll({ client }: Remote, description: string): Promise<void> {
  const signal = AbortSignal.timeout(120_000);
  const operations = await client.get<Record<string, { id: string; description: string }[]>>(
    '/1.0/operations',
    { recursion: '1' },
    signal,
  );
  const found = operations.running?.find((operation) => operation.description === description);
  assert.ok(found, `no operation "${description}" runs`);
  // Some answer that their time is up with an error.
  await client.get(`/1.0/operations/${found.id}/wait`, { timeout: '2' }, signal).catch((error) => {
    assert.match(String(error), /context deadline exceeded/);
  });
}
