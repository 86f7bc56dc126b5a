/** What a test can make go wrong, as lxstow's client sees it. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { TarScanner } from '../../services/archive/tar/tar.ts';
import { isCode, LxstowError } from '../../services/contract/errors.ts';
import { deleteLxdBackup } from '../../services/lxd/archives/backups.ts';
import { exportSize, openExport } from '../../services/lxd/archives/exports.ts';
import { openImport, runningImport } from '../../services/lxd/archives/imports.ts';
import { LxdClient } from '../../services/lxd/connection/client.ts';
import { waitForOperation } from '../../services/lxd/connection/lxdOperation.ts';
import { setState } from '../../services/lxd/instanceChanges.ts';
import { instanceExists, readServer } from '../../services/lxd/instances.ts';
import { bytesOf } from '../lab/exports.ts';
import { createLxdBackup } from '../lab/lxdBackup.ts';
import { type Dialect, usualDialect } from './operations.ts';
import { type LxdSimulator, startSimulator } from './simulator.ts';

const signal = AbortSignal.timeout(60_000);
const waiting = { signal, idleTimeoutMs: 30_000 };

let simulator: LxdSimulator;
let lxd: LxdClient;
let archive: Buffer;

const at = (instance: string) => ({ remote: 'simulated', project: 'default', instance });

function createBackup(name: string, { idleTimeoutMs = waiting.idleTimeoutMs, seen = [] as number[] } = {}) {
  return createLxdBackup(lxd, at('c1'), name, { signal, idleTimeoutMs }, { onProgress: (bytes) => seen.push(bytes) });
}

function beginImport(name: string, bytes: Buffer) {
  const { request, finish } = openImport(lxd, at(name), undefined, signal);
  request.end(bytes);
  return finish(waiting);
}

function code(wanted: Parameters<typeof isCode>[1], text = /./) {
  return (error: unknown) => isCode(error, wanted) && text.test((error as Error).message);
}

before(async () => {
  simulator = await startSimulator();
  lxd = new LxdClient('simulated', { socket: simulator.socket }, {});
  await simulator.createInstance('c1', { dataMiB: 4 });
  await createBackup('whole');
  archive = await bytesOf(await openExport(lxd, at('c1'), 'whole', signal));
});

after(async () => {
  lxd[Symbol.dispose]();
  await simulator[Symbol.asyncDispose]();
});

it('an export ends cleanly, but too early', async () => {
  simulator.faults.next('export', { cutAt: 100_000 });
  const sent = await openExport(lxd, at('c1'), 'whole', signal);
  const bytes = await bytesOf(sent);
  assert.deepEqual([sent.size, bytes.length], [100_000, 100_000]);
  const tar = new TarScanner();
  tar.push(bytes);
  assert.throws(() => tar.finish(), code('archive-truncated'));
});

it('an export loses its connection', async () => {
  simulator.faults.next('export', { dropAt: 100_000 });
  const sent = await openExport(lxd, at('c1'), 'whole', signal);
  assert.equal(sent.size, archive.length);
  await assert.rejects(bytesOf(sent), code('lxd-unavailable'));
});

it('an export stands still until it is released', async () => {
  const fault = simulator.faults.next('export', { holdAt: 100_000 });
  const whole = bytesOf(await openExport(lxd, at('c1'), 'whole', signal));
  await fault.reached;
  fault.release();
  assert.deepEqual(await whole, archive);
});

it('the byte that is read for an export’s size does not come, and is given up', async () => {
  class Impatient extends LxdClient {
    override get silence() {
      return { ms: 200, error: () => new LxstowError('lxd-unavailable', 'too silent') };
    }
  }
  const fault = simulator.faults.next('export', { holdAt: 0 });
  using impatient = new Impatient('simulated', { socket: simulator.socket }, {});
  await assert.rejects(exportSize(impatient, at('c1'), 'whole', signal), code('lxd-unavailable', /too silent/));
  fault.release();
});

it('a backup is said to be good, but is cut', async () => {
  simulator.faults.next('backup', { cutAt: 50_000 });
  await createBackup('cut');
  const { size, source } = await openExport(lxd, at('c1'), 'cut', signal);
  source.destroy();
  assert.equal(size, 50_000);
});

it('a backup stops moving', async () => {
  const fault = simulator.faults.next('backup', { progress: '71.60MB (35.65MB/s)', hold: true });
  const seen: number[] = [];
  await assert.rejects(createBackup('stuck', { idleTimeoutMs: 100, seen }), code('lxd-stalled'));
  assert.equal(seen[0], 71_600_000);
  fault.release();
});

it('a backup fails', async () => {
  simulator.faults.next('backup', { error: 'no space left on device' });
  await assert.rejects(createBackup('failed'), code('lxd-failed', /Create backup: .*no space left on device/));
  await assert.rejects(openExport(lxd, at('c1'), 'failed', signal), code('not-found'));
});

it('an import fails, or loses its connection, and leaves nothing', async () => {
  simulator.faults.next('import', { error: 'no space left on device' });
  simulator.faults.next('import', { dropAt: 100_000 });
  await assert.rejects(beginImport('c2', archive), code('lxd-failed', /no space left/));
  await assert.rejects(beginImport('c2', archive), code('lxd-unavailable'));
  assert.equal(await instanceExists(lxd, at('c2'), signal), false);
  await beginImport('c2', archive);
});

it('an import is not read, not answered, or does not end, until it is released', async () => {
  const faults = [
    simulator.faults.next('import', { holdAt: 100_000 }),
    simulator.faults.next('import', { hold: 'answer' }),
    simulator.faults.next('import', { hold: 'operation' }),
  ];
  for (const [at, fault] of faults.entries()) {
    const finished = beginImport(`held-${at}`, archive);
    await fault.reached;
    fault.release();
    await finished;
  }
});

it('an import comes in under another name than was asked for: no Success', async () => {
  await createBackup('renamed');
  const bytes = await bytesOf(await openExport(lxd, at('c1'), 'renamed', signal));
  await simulator.deleteInstance('c1');
  simulator.faults.next('import', { ignoreHeaders: true });
  await assert.rejects(beginImport('asked-for', bytes), code('lxd-refused', /not as asked-for/));
  assert.equal(await instanceExists(lxd, at('c1'), signal), true);
});

it('LXD is killed during an import: what it unpacked stays, and nothing can be imported by that name', async () => {
  const fault = simulator.faults.next('import', { hold: 'operation' });
  const finished = assert.rejects(beginImport('half', archive), code('lxd-failed', /does not know its operation/));
  await fault.reached;
  assert.ok(await runningImport(lxd, at('half'), signal));
  await simulator.stop();
  await assert.rejects(readServer(lxd, signal), code('lxd-unavailable'));
  await simulator.start();
  await finished;
  assert.equal(await instanceExists(lxd, at('half'), signal), false);
  await assert.rejects(beginImport('half', archive), code('lxd-refused', /already exists on target/));
});

it('LXD is killed during a backup: it is listed, and looks finished', async () => {
  const fault = simulator.faults.next('backup', { cutAt: 50_000, hold: true });
  const made = assert.rejects(createBackup('half'), code('lxd-failed', /does not know its operation/));
  await fault.reached;
  await simulator.stop();
  await simulator.start();
  await made;
  const { size, source } = await openExport(lxd, at('c1'), 'half', signal);
  source.destroy();
  assert.equal(size, 50_000);
  await deleteLxdBackup(lxd, at('c1'), 'half', waiting);
});

it('any call is refused, cut off or held, and the one after it goes well', async () => {
  simulator.faults.next('GET /1.0', { status: 500, error: 'database is locked' });
  simulator.faults.next('GET /1.0', { drop: true });
  const fault = simulator.faults.next('GET /1.0', { hold: true });
  await assert.rejects(readServer(lxd, signal), code('lxd-failed', /database is locked/));
  await assert.rejects(readServer(lxd, signal), code('lxd-unavailable'));
  const held = readServer(lxd, signal);
  await fault.reached;
  fault.release();
  assert.equal((await held).environment.server_version, simulator.version);
});

it('so many calls go well first, and so many then do not', async () => {
  const call = 'PUT /1.0/instances/*/state';
  simulator.faults.next(call, { status: 503, error: 'LXD is shutting down' }, { after: 1, times: 2 });
  await assert.rejects(setState(lxd, at('c1'), 'start', waiting), code('lxd-failed', /already running/));
  for (const _ of [1, 2]) await assert.rejects(setState(lxd, at('c1'), 'start', waiting), code('lxd-unavailable'));
  await assert.rejects(setState(lxd, at('c1'), 'start', waiting), code('lxd-failed', /already running/));
});

const dialects: [string, Partial<Dialect>][] = [
  ['the running operation', { timedOutWait: 'operation', resources: true }],
  ['an error with HTTP 200', { timedOutWait: { httpStatus: 200 }, resources: false }],
  ['an error with HTTP 500', { timedOutWait: { httpStatus: 500 }, resources: true }],
];

for (const [what, dialect] of dialects) {
  describe(`an LXD whose wait answers ${what} when its time is up`, () => {
    before(() => void Object.assign(simulator.dialect, dialect));
    after(() => void Object.assign(simulator.dialect, usualDialect));

    it('is waited for, however long its operation takes', async () => {
      const fault = simulator.faults.next('backup', { progress: '71.60MB (35.65MB/s)', hold: true });
      const seen: number[] = [];
      const made = createBackup('slow', { seen });
      await fault.reached;
      while (seen.length < 2) await delay(50);
      fault.release();
      await made;
      await deleteLxdBackup(lxd, at('c1'), 'slow', waiting);
    });

    it('is believed when it says why an operation failed, even if that looks like a 404', async () => {
      simulator.faults.next('backup', { error: 'Storage volume not found' });
      await assert.rejects(createBackup('failed'), (error) => /: Storage volume not found$/.test(String(error)));
    });

    it('shows an import that may be the one that is looked for', async () => {
      const fault = simulator.faults.next('import', { hold: 'operation' });
      const finished = beginImport('shown', archive);
      await fault.reached;
      assert.ok(await runningImport(lxd, at('shown'), signal));
      const another = await runningImport(lxd, at('c1'), signal);
      assert.equal(another === undefined, dialect.resources);
      fault.release();
      await finished;
      assert.equal(await runningImport(lxd, at('shown'), signal), undefined);
      await simulator.deleteInstance('shown');
    });

    it('has forgotten an operation only when it says so of the operation itself', async () => {
      const forgotten = '/1.0/operations/00000000-0000-0000-0000-000000000000';
      await assert.rejects(
        waitForOperation(lxd, forgotten, waiting),
        code('lxd-failed', /does not know its operation/),
      );
    });
  });
}

it('some polls of an operation are lost, or refused, and it is waited for all the same', async () => {
  const fault = simulator.faults.next('backup', { hold: true });
  const poll = simulator.faults.next('GET /1.0/operations/*/wait', { drop: true }, { times: 2 });
  simulator.faults.next('GET /1.0/operations/*', { drop: true }, { times: 2 });
  const made = createBackup('polled');
  await Promise.all([fault.reached, poll.reached]);
  simulator.faults.next('GET /1.0/operations/*/wait', { status: 503, error: 'LXD is shutting down' });
  fault.release();
  await made;
  await deleteLxdBackup(lxd, at('c1'), 'polled', waiting);
});

it('an LXD that stays away is lxd-unavailable after the idle timeout', async () => {
  const fault = simulator.faults.next('backup', { hold: true });
  const made = assert.rejects(createBackup('away', { idleTimeoutMs: 1500 }), code('lxd-unavailable'));
  await fault.reached;
  await simulator.stop();
  await made;
  await simulator.start();
  await deleteLxdBackup(lxd, at('c1'), 'away', waiting);
});
