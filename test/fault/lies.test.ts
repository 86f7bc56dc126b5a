/**
 * What a user gets when LXD lies, dawdles or dies: never a backup that does not restore. On the simulator, for a real LXD does these
 * things seldom, and not when told.
 */
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, it } from 'node:test';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import {
  assertError,
  assertSame,
  failed,
  idOf,
  openStack,
  type Stack,
  succeeded,
  until,
} from '../integration/stack.ts';
import { type Answer, lxstow } from '../lab/lxstow.ts';
import { usualDialect } from '../simulator/operations.ts';
import type { LxdSimulator } from '../simulator/simulator.ts';
import {
  assertClean,
  assertNoInstance,
  assertRestores,
  isRetried,
  linesOf,
  operationOf,
  reaches,
  readManifest,
  startWiredWorker,
} from './workers.ts';

process.env.LXSTOW_LAB_LXD = 'none';
const mib = 1024 * 1024;

const worker = { slots: 1, attempts: 2, lxdIdleTimeoutMs: 2000, sendAheadMiB: 0 };

describe('an LXD', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  let lxd: LxdSimulator;
  let files: Map<string, string>;
  let good: string;
  before(async () => {
    stack = await openStack('lies', { config: { worker } });
    assert.ok(stack.simulator);
    lxd = stack.simulator;
    await stack.launch('c1', { dataMiB: 40 });
    files = await stack.fingerprint('c1');
    good = await stack.backup('c1', '?compression=none');
  });
  after(() => stack?.[Symbol.asyncDispose]());
  afterEach(() => assertClean(stack));

  const begin = (compression = 'none') =>
    stack.stow.request('POST', `/1.0/instances/c1/backups?compression=${compression}`);
  const restore = (name: string) => stack.stow.request('POST', `/1.0/instances/c1/backups/${good}`, { body: { name } });

  async function endsWell(answer: Answer): Promise<void> {
    await succeeded(stack.stow, answer);
    await assertRestores(stack, 'c1', answer.body.metadata.name, files);
  }

  /** Failure, after as many attempts as there may be: no such backup is listed, and the job is kept as a dead letter. */
  async function endsBadly(answer: Answer, code: string, text: RegExp): Promise<void> {
    const { err, code: got } = await failed(stack.stow, answer);
    assert.match(err, text);
    assert.equal(got, code);
    const { name } = answer.body.metadata;
    if (name) assert.equal((await stack.stow.request('GET', `/1.0/instances/c1/backups/${name}`)).status, 404);
    const id = idOf(answer);
    const letter = await until(
      () => lastDeadLetter(),
      (found) => found?.id === id,
    );
    assert.equal(letter?.code, code);
  }

  async function lastDeadLetter() {
    const nats = await connect({ servers: stack.nats.url });
    try {
      const jsm = await jetstreamManager(nats);
      const message = await jsm.streams.getMessage('LXSTOW_DEAD', { last_by_subj: 'lxstow.dead.>' }).catch(() => null);
      return message && { id: message.header.get('Lxstow-Nats-Msg-Id'), code: message.header.get('Lxstow-Error-Code') };
    } finally {
      await nats.close();
    }
  }

  it('that writes a format of its own, without backup.yaml, is asked for what older ones take', async () => {
    Object.assign(lxd.dialect, { metadataVersion: 2, backupYaml: false });
    const answer = await begin('zstd');
    await succeeded(stack.stow, answer);
    Object.assign(lxd.dialect, usualDialect);
    await assertRestores(stack, 'c1', answer.body.metadata.name, files);
  });

  describe('that says Success over a cut archive', () => {
    // In a file, at a file's end, at the end marker, in it.
    for (const [where, cutAt] of [
      ['in its first header', 100],
      ['in a file', 20 * mib + 77],
      ['between two blocks', 30 * mib],
    ] as const) {
      it(`${where}: the attempt is not believed, the next succeeds`, async () => {
        lxd.faults.next('backup', { cutAt });
        const answer = await begin();
        assert.match(await isRetried(stack, answer), /the archive that LXD sent ends|has no length/);
        await endsWell(answer);
      });
    }

    it('with nothing in it: the same', async () => {
      lxd.faults.next('backup', { cutAt: 0 });
      const answer = await begin();
      assert.match(await isRetried(stack, answer), /export of c1/);
      await endsWell(answer);
    });

    it('just before its end marker: the same, whatever the compression', async () => {
      for (const compression of ['gzip', 'zstd', 'none']) {
        const { archive } = await readManifest(stack, 'c1', good);
        lxd.faults.next('backup', { cutAt: archive.rawSize - 10_240 });
        const answer = await begin(compression);
        assert.match(await isRetried(stack, answer), /the archive that LXD sent ends/);
        await endsWell(answer);
      }
    });

    it('every time: Failure, and no backup', async () => {
      lxd.faults.next('backup', { cutAt: 20 * mib }, { times: 2 });
      await endsBadly(await begin(), 'archive-truncated', /the archive that LXD sent ends inside a file/);
    });
  });

  describe('whose export', () => {
    it('ends too early, but cleanly: the attempt is not believed, the next succeeds', async () => {
      lxd.faults.next('export', { cutAt: 20 * mib + 512 });
      const answer = await begin();
      assert.match(await isRetried(stack, answer), /the archive that LXD sent ends|LXD announced/);
      await endsWell(answer);
    });

    it('is cut: another attempt succeeds', async () => {
      lxd.faults.next('export', { dropAt: 20 * mib });
      const answer = await begin();
      assert.match(await isRetried(stack, answer), /LXD|source|abort|export/);
      await endsWell(answer);
    });

    it('stands still: lxd-stalled, and another attempt succeeds', async () => {
      const fault = lxd.faults.next('export', { holdAt: 20 * mib });
      const answer = await begin();
      assert.match(await isRetried(stack, answer), /the export of c1 made no progress for 2 s/);
      fault.release();
      await endsWell(answer);
    });
  });

  describe('whose backup', () => {
    it('stays Running, as with a full disk: lxd-stalled; another attempt succeeds, and nothing is left', async () => {
      const fault = lxd.faults.next('backup', { hold: true, progress: '71.60MB (35.65MB/s)' });
      const answer = await begin();
      assert.match(
        await isRetried(stack, answer),
        /LXD \(local\): its operation .* has made no progress for 2 s; is its disk full\?/,
      );
      await endsWell(answer);
      fault.release();
    });

    it('stays Running every time: Failure, and nothing is left', async () => {
      const fault = lxd.faults.next('backup', { hold: true }, { times: 2 });
      await endsBadly(await begin(), 'lxd-stalled', /has made no progress for 2 s/);
      fault.release();
    });

    it('fails once its worker has been stopped: that does not delete the copy that the next worker has begun', async () => {
      const first = lxd.faults.next('backup', { hold: true, error: 'archive/tar: missed writing 512 bytes' });
      const second = lxd.faults.next('backup', { hold: true });
      const answer = await whileNoWorker(begin);
      try {
        await using worker = await startWiredWorker(stack, { worker: { graceMs: 0, lxdIdleTimeoutMs: 60_000 } });
        await first.reached;
        await worker.stop();
        await worker.start();
        await second.reached;
        first.release();
        await until(
          () => stack.lxd.get<{ running?: string[] }>('/1.0/operations', {}, AbortSignal.timeout(60_000)),
          ({ running = [] }) => running.length === 1,
        );
        second.release();
        await succeeded(stack.stow, answer);
      } finally {
        await startWorkers();
      }
      await endsWell(answer);
    });

    it('fails: its reason, and another attempt succeeds', async () => {
      lxd.faults.next('backup', { error: 'no space left on device' });
      const answer = await begin();
      assert.match(await isRetried(stack, answer), /LXD \(local\): .*/);
      await endsWell(answer);
    });
  });

  describe('that answers 500', () => {
    for (const call of [
      'GET /1.0/instances/*',
      'POST /1.0/instances/*/backups',
      'GET /1.0/instances/*/backups/*/export',
    ] as const) {
      it(`to ${call}: its words, and another attempt succeeds`, async () => {
        const answer = await whileNoWorker(begin);
        lxd.faults.next(call, { status: 500, error: 'database is locked' });
        await startWorkers();
        assert.match(await isRetried(stack, answer), /LXD \(local\): database is locked/);
        await endsWell(answer);
      });
    }

    it('to a question about its backup, which an optimized one needs: its words, and another attempt succeeds', async () => {
      // A small one: while its stream is packed, nothing moves.
      await stack.launch('c2');
      const path = '/1.0/instances/c2/backups?compression=none&optimize=true';
      const answer = await whileNoWorker(() => stack.stow.request('POST', path));
      lxd.faults.next('GET /1.0/instances/*/backups/*', { status: 500, error: 'database is locked' });
      await startWorkers();
      assert.match(await isRetried(stack, answer), /LXD \(local\): database is locked/);
      await succeeded(stack.stow, answer);
      await assertRestores(stack, 'c2', answer.body.metadata.name, await stack.fingerprint('c2'));
    });

    it('to a poll of its operation: the operation itself is asked, in the same attempt', async () => {
      const answer = await whileNoWorker(begin);
      const fault = lxd.faults.next('GET /1.0/operations/*/wait', { status: 500, error: 'database is locked' });
      await startWorkers();
      await fault.reached;
      await endsWell(answer);
      assert.doesNotMatch(linesOf(await stack.stow.logOf(0), answer), /another follows/);
    });

    it('to the removal of its copy: the backup succeeds, and the janitor removes the copy', async () => {
      lxd.faults.next('DELETE /1.0/instances/*/backups/*', { status: 500, error: 'database is locked' });
      const answer = await begin();
      await endsWell(answer);
      await assert.rejects(assertClean(stack), /LXD keeps backups/);
      assert.match(await stack.stow.logOf(0), /"left behind"/);
      // It leaves alone what ended just now.
      await until(
        async () => {
          await runJanitor();
          return assertClean(stack).then(
            () => true,
            () => false,
          );
        },
        (clean) => clean,
      );
    });

    for (const [what, fault, why] of [
      [
        'to the making of a profile',
        { status: 500, error: 'database is locked' },
        /profile special, .*: LXD \(local\): database is locked/,
      ],
      ['or nothing to the making of a profile', { drop: true }, /LXD \(local\) at .*: socket hang up/],
    ] as const)
      it(`${what}: another attempt succeeds`, async () => {
        lxd.addProfile({ name: 'special' });
        await lxd.createInstance('p1', { profiles: ['default', 'special'] });
        const backup = await stack.backup('p1');
        await stack.remove('p1');
        lxd.deleteProfile('special');
        lxd.faults.next('POST /1.0/profiles', fault);
        const answer = await stack.stow.request('POST', `/1.0/instances/p1/backups/${backup}`);
        assert.match(await isRetried(stack, answer), why);
        await succeeded(stack.stow, answer);
        await stack.remove('p1');
        lxd.deleteProfile('special');
      });

    it('for ever: Failure, and nothing is left', async () => {
      const answer = await whileNoWorker(begin);
      lxd.faults.next('POST /1.0/instances/*/backups', { status: 500, error: 'database is locked' }, { times: 2 });
      await startWorkers();
      await endsBadly(answer, 'lxd-failed', /database is locked/);
    });
  });

  async function whileNoWorker(ask: () => Promise<Answer>): Promise<Answer> {
    for (const worker of stack.stow.workers) await worker.stop();
    return ask();
  }

  async function startWorkers(): Promise<void> {
    for (const worker of stack.stow.workers) await worker.start();
  }

  async function runJanitor(): Promise<void> {
    await lxstow(['--config', stack.stow.configFile, 'janitor']);
  }

  describe('whose import', () => {
    /** The restore fails once as told, is tried again, and gives the same files. */
    async function isDoneAgain(name: string, answer: Answer, why: RegExp): Promise<void> {
      assert.match(await isRetried(stack, answer), why);
      await succeeded(stack.stow, answer);
      assertSame(await stack.fingerprint(name), files);
      await stack.remove(name);
    }

    it('is cut: another attempt succeeds', async () => {
      lxd.faults.next('import', { dropAt: 20 * mib });
      await isDoneAgain('cut', await restore('cut'), /LXD \(local\)/);
    });

    it('is refused while it is sent, as on a full disk: its reason, and another attempt succeeds', async () => {
      const error = 'write /var/lib/lxd/backups/lxd_backup_1: no space left on device';
      lxd.faults.next('import', { refuseAt: 20 * mib, error });
      await isDoneAgain('refused', await restore('refused'), /^LXD \(local\): write .*: no space left on device$/);
    });

    it('reads no further: lxd-stalled, and another attempt succeeds', async () => {
      const fault = lxd.faults.next('import', { holdAt: 20 * mib });
      await isDoneAgain('slow', await restore('slow'), /the import of slow made no progress for 2 s/);
      fault.release();
    });

    it('takes everything and does not answer: lxd-stalled, and another attempt succeeds', async () => {
      const fault = lxd.faults.next('import', { hold: 'answer' });
      await isDoneAgain('silent', await restore('silent'), /the import of silent made no progress for 2 s/);
      fault.release();
    });

    it('fails: its reason; every time: Failure, and no instance', async () => {
      lxd.faults.next('import', { error: 'btrfs receive failed' }, { times: 2 });
      await endsBadly(await restore('broken'), 'lxd-failed', /btrfs receive failed/);
      await assertNoInstance(stack, 'broken');
    });

    it('fails with a text of a million words, as tar does on a full disk: Failure all the same, with its beginning', async () => {
      const error = `Error starting unpack: ${'tar: rootfs/data/x: Cannot write: No space left on device\n'.repeat(40_000)}`;
      lxd.faults.next('import', { error }, { times: 2 });
      const answer = await restore('wordy');
      await endsBadly(answer, 'lxd-failed', /Error starting unpack: tar: rootfs.data.x: Cannot write: No space left/);
      assert.ok((await operationOf(stack, answer)).err.length < 10_000);
      await assertNoInstance(stack, 'wordy');
    });

    it('stays Running after all is unpacked: it is waited for, for it shows no progress, and can be cancelled', async () => {
      const fault = lxd.faults.next('import', { hold: 'operation' });
      const answer = await restore('stuck');
      await reaches(stack, answer, 'unpacking');
      // The worker looks what LXD is at before it undoes anything.
      const looked = lxd.faults.next('GET /1.0/operations', { hold: true });
      assert.equal((await stack.stow.request('DELETE', answer.body.operation)).status, 200);
      await looked.reached;
      looked.release();
      fault.release();
      assert.equal((await stack.stow.finished(answer)).status, 'Cancelled');
      await assertNoInstance(stack, 'stuck');
    });
  });

  const replace = () => stack.stow.request('POST', `/1.0/instances/c1/backups/${good}`, { body: { replace: true } });
  const statusOf = async (name: string) =>
    (await stack.lxd.get<{ status: string }>(`/1.0/instances/${name}`, {}, AbortSignal.timeout(60_000))).status;

  it('that fails to rename the new instance in, amid a replace: the old one is back, and runs', async () => {
    lxd.faults.next('POST /1.0/instances/*', { status: 500, error: 'database is locked' }, { after: 1 });
    const { err, code } = await failed(stack.stow, await replace());
    assert.equal(code, 'not-replaced');
    assert.match(err, /c1 could not be replaced, and is as it was: .*database is locked/);
    assert.equal(await statusOf('c1'), 'Running');
    assertSame(await stack.fingerprint('c1'), files);
  });

  it('that is told to cancel a replace when the restored one takes its place: it is too late', async () => {
    const fault = lxd.faults.next('PUT /1.0/instances/c1/state', { hold: true }, { after: 1 });
    const answer = await replace();
    await fault.reached;
    assertError(
      await stack.stow.request('DELETE', answer.body.operation),
      400,
      /too late to cancel: the restored instance is already replacing c1/,
    );
    fault.release();
    await succeeded(stack.stow, answer);
    assert.equal(await statusOf('c1'), 'Running');
    assertSame(await stack.fingerprint('c1'), files);
  });

  it('that cannot delete what was replaced: Success, which says so, and the janitor tries on', async () => {
    lxd.faults.next('DELETE /1.0/instances/*', { status: 500, error: 'dataset is busy' });
    const answer = await replace();
    const { metadata } = await succeeded(stack.stow, answer);
    const old = `lxstow-old-${idOf(answer)}`;
    assert.match(
      metadata.warnings?.join() ?? '',
      new RegExp(`could not be deleted yet; it is ${old}: .*dataset is busy`),
    );
    assert.equal(await statusOf(old), 'Stopped');
    await stack.lxd.call({ method: 'DELETE', path: `/1.0/instances/${old}`, signal: AbortSignal.timeout(60_000) });
  });

  it('whose operation is cancelled between two attempts: what the first has left is removed before it says so', async () => {
    lxd.faults.next('export', { cutAt: 20 * mib + 512 });
    const answer = await begin();
    await isRetried(stack, answer);
    await stack.stow.request('DELETE', answer.body.operation);
    assert.equal((await stack.stow.finished(answer)).status, 'Cancelled');
    await stack.assertNothingLeft();
  });

  it('that dies while it writes a backup, and comes back: another attempt succeeds, and nothing is left', async () => {
    const fault = lxd.faults.next('backup', { hold: true });
    const answer = await begin();
    await fault.reached;
    await lxd.stop();
    await isRetried(stack, answer);
    await lxd.start();
    await endsWell(answer);
  });

  it('that dies while it unpacks an import: the restore takes another name of ours, and says what LXD has left', async () => {
    const fault = lxd.faults.next('import', { hold: 'operation' });
    const answer = await restore('halved');
    await fault.reached;
    await lxd.stop();
    await lxd.start();
    const { metadata } = await succeeded(stack.stow, answer);
    assert.match(
      String(metadata.warnings),
      /a volume named lxstow-[0-9a-f-]+ is on the storage pool without its instance, left by an LXD that was killed/,
    );
    assertSame(await stack.fingerprint('halved'), files);
    await stack.remove('halved');
  });

  it('that unpacks while the worker dies is waited for by the next attempt, which sends nothing again', async () => {
    const sent: string[] = [];
    lxd.faults.onCall = async (call, when) => {
      if (when === 'before' && call === 'POST /1.0/instances') sent.push(call);
    };
    const fault = lxd.faults.next('import', { hold: 'operation' });
    const poll = lxd.faults.next('GET /1.0/operations/*/wait', { hold: true });
    const answer = await restore('unpacked');
    await poll.reached;
    for (const worker of stack.stow.workers) await worker.kill('SIGKILL');
    poll.release();
    await startWorkers();
    await until(
      () => stack.stow.logOf(0),
      (log) => linesOf(log, answer).includes('waiting for the import of an earlier attempt'),
    );
    fault.release();
    await succeeded(stack.stow, answer);
    lxd.faults.onCall = undefined;
    assert.equal(sent.length, 1);
    assertSame(await stack.fingerprint('unpacked'), files);
    await stack.remove('unpacked');
  });

  it('that dies while it records an imported instance: the restore does not take what is there, and imports anew', async () => {
    const fault = lxd.faults.next('import', { hold: 'record' });
    const answer = await restore('recorded');
    await fault.reached;
    await lxd.stop();
    await lxd.start();
    await succeeded(stack.stow, answer);
    assertSame(await stack.fingerprint('recorded'), files);
    await stack.remove('recorded');
  });

  it('that dies so, and has the same process id again, as in a container: the same', async () => {
    const fault = lxd.faults.next('import', { hold: 'record' });
    const answer = await restore('recorded');
    await fault.reached;
    await lxd.stop();
    lxd.state.restarts -= 1;
    await lxd.start();
    await succeeded(stack.stow, answer);
    assertSame(await stack.fingerprint('recorded'), files);
    await stack.remove('recorded');
  });
});
