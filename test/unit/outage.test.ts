/** What becomes of a job whose attempt fails, and how a dependency that was away comes back: decided by pure functions, with any clock. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate, setTimeout } from 'node:timers/promises';
import fc from 'fast-check';
import { formatManifest } from '../../services/backups/manifest.ts';
import { type ErrorCode, errorCodes, LxstowError } from '../../services/contract/errors.ts';
import { faultsOf, type Manifest, type Operation, type Outage } from '../../services/contract/schemas.ts';
import type { Lease, Leases } from '../../services/coordination/leases.ts';
import type { Delivery } from '../../services/jobs/deliveries.ts';
import type { Bucket } from '../../services/nats/bucket/bucket.ts';
import { Attempt } from '../../services/operations/attempt.ts';
import { begin, cancel, newOperation } from '../../services/operations/operation.ts';
import type { OperationStore } from '../../services/operations/operationStore.ts';
import { blameOf } from '../../services/outages/blame.ts';
import { answered, concerns, describeOutage, failed, nextLookMs, parseOutage } from '../../services/outages/outage.ts';
import { type Gate, Outages } from '../../services/outages/outages.ts';
import type { Log } from '../../services/telemetry/logger.ts';
import { createWorkerMetrics } from '../../services/telemetry/metrics.ts';
import { undoBackup } from '../../services/worker/backup/traces.ts';
import { type AttemptTools, JobAttempt } from '../../services/worker/loop/jobAttempt.ts';
import { overdueFor, type PauseTools, pause } from '../../services/worker/loop/pause.ts';
import { type Circumstances, decideAfterFailure, waitingSinceOf } from '../../services/worker/loop/retryDecision.ts';
import type { Tools } from '../../services/worker/tools.ts';

const dayMs = 24 * 3_600_000;
const usual: Circumstances = {
  attempt: 1,
  attempts: 5,
  isDependencyAway: false,
  cutsByLxd: 0,
  waitedMs: 0,
  patienceMs: dayMs,
};
const circumstances = fc.record({
  attempt: fc.integer({ min: 1, max: 6 }),
  attempts: fc.integer({ min: 1, max: 5 }),
  isDependencyAway: fc.boolean(),
  cutsByLxd: fc.integer({ min: 0, max: 20 }),
  waitedMs: fc.integer({ min: 0, max: 2 * dayMs }),
  patienceMs: fc.integer({ min: 0, max: dayMs }),
});

describe('a failed attempt', () => {
  const outages: ErrorCode[] = ['s3-denied', 's3-full', 'nats-unavailable', 'nats-unfit', 'queue-full'];

  for (const code of outages)
    it(`that ${code} has ended costs no attempt, however many there were; after the patience, a dead letter`, () => {
      fc.assert(
        fc.property(circumstances, (each) => {
          const ending = decideAfterFailure({ code }, each);
          if (each.waitedMs >= each.patienceMs) assert.deepEqual(ending, { kind: 'fail', deadLetter: true });
          else assert.equal(ending.kind, 'wait');
        }),
      );
    });

  for (const code of ['s3-refused', 'lxd-refused'] as const)
    it(`that ${code} has ended is the job's fault, unless nothing else is served either`, () => {
      assert.deepEqual(decideAfterFailure({ code }, usual), { kind: 'fail', deadLetter: false });
      assert.equal(decideAfterFailure({ code }, { ...usual, isDependencyAway: true }).kind, 'wait');
    });

  for (const code of ['s3-unavailable', 'lxd-unavailable', 'lxd-failed', 'lxd-stalled'] as const)
    it(`that ${code} has ended is counted, unless S3 or LXD is away, when it is asked`, () => {
      fc.assert(
        fc.property(circumstances, (each) => {
          const patient = each.waitedMs < each.patienceMs;
          assert.equal(
            decideAfterFailure({ code }, { ...each, isDependencyAway: true }).kind,
            patient ? 'wait' : 'fail',
          );
          const more = each.attempt < each.attempts;
          assert.equal(
            decideAfterFailure({ code }, { ...each, isDependencyAway: false }).kind,
            more ? 'retry' : 'fail',
          );
        }),
      );
    });

  it("that is the job's own fault ends it at once, without a dead letter", () => {
    for (const code of ['not-found', 'conflict', 'bad-manifest', 'archive-corrupt', 'bad-request'] as const)
      fc.assert(
        fc.property(circumstances, (each) => {
          assert.deepEqual(decideAfterFailure({ code }, each), { kind: 'fail', deadLetter: false });
        }),
      );
  });

  it('that may go better next time is counted: 5 s, 10 s, 20 s, 40 s, then a dead letter', () => {
    const endings = [1, 2, 3, 4, 5].map((attempt) => decideAfterFailure({ code: 'lxd-failed' }, { ...usual, attempt }));
    const retry = (delayMs: number) => ({ kind: 'retry', delayMs });
    assert.deepEqual(endings, [...[5000, 10_000, 20_000, 40_000].map(retry), { kind: 'fail', deadLetter: true }]);
  });

  it('waits between 5 s and 5 min, the longer the longer it has waited', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: dayMs - 1 }), fc.integer({ min: 0, max: dayMs - 1 }), (one, other) => {
        const [sooner, later] = [Math.min(one, other), Math.max(one, other)].map((waitedMs) => {
          const ending = decideAfterFailure({ code: 's3-full' }, { ...usual, waitedMs });
          assert.ok(ending.kind === 'wait' && ending.delayMs >= 5000 && ending.delayMs <= 300_000);
          return ending.delayMs;
        });
        assert.ok((sooner ?? 0) <= (later ?? 0));
      }),
    );
  });

  it('goes on after twelve hours without S3: each job is tried less than 180 times, and S3 is asked every 30 s', () => {
    const halfMs = dayMs / 2;
    let tries = 0;
    for (let waitedMs = 0; waitedMs < halfMs; tries++) {
      const ending = decideAfterFailure({ code: 's3-full' }, { ...usual, waitedMs });
      assert.ok(ending.kind === 'wait');
      waitedMs += ending.delayMs;
    }
    assert.ok(tries < 180, String(tries));
    const begun = new Date('2026-11-28T00:00:00Z');
    const why = { code: 's3-unavailable', message: 'ECONNREFUSED' } as const;
    const outage = failed(undefined, { dependency: 's3', worker: 'w' }, why, begun);
    let looks = 0;
    for (let ms = 0; ms < halfMs; looks++) ms += nextLookMs(outage, new Date(begun.getTime() + ms));
    assert.ok(looks < halfMs / 30_000 + 30, String(looks));
  });

  /** Has LXD end during each attempt, which lasts for so long; returns how each pause ended in ms, until it is given up. */
  function pausesOfCulprit(ranMs: number): number[] {
    const code = 'lxd-unavailable';
    const pauses: number[] = [];
    let now = Date.parse('2026-11-28T03:00:00Z');
    let since: string | undefined;
    for (let cutsByLxd = 1; ; cutsByLxd++) {
      now += ranMs;
      const waitingSince = waitingSinceOf(since, { now, ranMs, cut: true });
      const ending = decideAfterFailure(
        { code },
        { ...usual, isDependencyAway: true, cutsByLxd, waitedMs: now - waitingSince },
      );
      if (ending.kind !== 'wait') {
        assert.deepEqual(ending, { kind: 'fail', deadLetter: true });
        return pauses;
      }
      since = new Date(waitingSince).toISOString();
      pauses.push(ending.delayMs);
      now += ending.delayMs;
    }
  }

  for (const [what, ranMs] of [
    ['at once', 0],
    ['after ten minutes', 600_000],
    ['after five hours', 5 * 3_600_000],
  ] as const)
    it(`during which LXD ends ${what}, each time, is a dead letter after 16 of them, and a day of waiting`, () => {
      const pauses = pausesOfCulprit(ranMs);
      assert.equal(pauses.length, 15);
      assert.deepEqual(pauses.slice(0, 5), [5000, 10_000, 20_000, 40_000, 80_000]);
      assert.equal(
        pauses.reduce((sum, each) => sum + each),
        dayMs,
      );
    });

  it('that lasts longer than five minutes begins the patience anew, unless it was LXD that cut it', () => {
    const now = Date.parse('2026-11-28T03:00:00Z');
    const since = '2026-11-28T00:00:00.000Z';
    const hoursAgo = (ranMs: number, cut: boolean) => (now - waitingSinceOf(since, { now, ranMs, cut })) / 3_600_000;
    assert.deepEqual([hoursAgo(1000, false), hoursAgo(3_600_000, false), hoursAgo(3_600_000, true)], [3, 0, 2]);
    assert.equal(waitingSinceOf(undefined, { now, ranMs: 1000, cut: true }), now);
  });

  it("is somebody's fault, whatever its code", () => {
    for (const code of errorCodes) assert.ok(blameOf(code).on, code);
  });
});

describe('a job that comes from the queue while S3 is away', () => {
  const now = new Date('2026-11-28T03:00:00Z');
  const address = { remote: 'local', project: 'default', instance: 'c1' };
  const by = { dependency: 's3', worker: 'w' } as const;
  const outage = failed(undefined, by, { code: 's3-unavailable', message: 'S3 at x: ECONNREFUSED' }, now);

  /** What is written of a job that another worker had begun. */
  async function paused(
    begun: Operation,
    lease: 'free' | 'held',
    servesSince = Number.NEGATIVE_INFINITY,
  ): Promise<Operation | undefined> {
    let written: Operation | undefined;
    const tools = {
      worker: 'w',
      nats: { servesSince },
      operations: {
        async update(operation: Operation) {
          written = operation;
        },
      },
      waitingRoom: { wait: () => undefined },
      tools: { leases: { acquire: async () => (lease === 'free' ? { release: async () => undefined } : undefined) } },
    };
    const gate = { outage, permits: 'local.=returning.s3' };
    await pause({} as Delivery, gate, { operation: begun, revision: 1 }, tools as unknown as PauseTools);
    return written;
  }
  const begun = begin(newOperation({ id: 'x', kind: 'backup', address }, now), 'dead', now);

  it('waits from then on where the worker that had begun it has died; that attempt counts', async () => {
    const written = await paused(begun, 'free');
    assert.ok(written?.waiting_since);
    const { status, owner, attempt, metadata } = written;
    assert.deepEqual([status, owner, attempt], ['Pending', undefined, 1]);
    assert.equal(metadata.waiting_for, 'S3, away since 2026-11-28T03:00:00Z');
  });

  it('is not charged with an attempt whose end could not be written, for NATS was away; with one that was at work afterwards, it is', async () => {
    assert.equal((await paused(begun, 'free', now.getTime() + 600_000))?.attempt, 0);
    assert.equal((await paused(begun, 'free', now.getTime() - 1000))?.attempt, 1);
  });

  it('may have its manifest stored, if its worker did not record how it ended', async () => {
    const left = { ...begun, checkpoint: { lxdBackup: 'l' } };
    const expected = { lxdBackup: 'l', manifestSent: true };
    assert.deepEqual((await paused(left, 'free'))?.checkpoint, expected);
    assert.deepEqual(begin(left, 'next', now).checkpoint, expected);
    assert.deepEqual(begin({ ...left, status: 'Cancelling', status_code: 104 }, 'next', now).checkpoint, expected);
    const { owner: _, ...recorded } = { ...left, status: 'Pending', status_code: 105 } as const;
    assert.deepEqual(begin(recorded, 'next', now).checkpoint, { lxdBackup: 'l' });
  });

  it('is left alone while another worker is at it', async () => {
    assert.equal(await paused(begun, 'held'), undefined);
  });

  it('keeps the time from which it waits', async () => {
    const since = '2026-11-27T20:00:00.000Z';
    const { owner: _, ...waiting } = { ...begun, status: 'Pending', status_code: 105, waiting_since: since } as const;
    assert.equal((await paused(waiting, 'free'))?.waiting_since, since);
  });
});

it('a job that has waited for other things since an earlier outage is not overdue at the first minute of a new one', () => {
  const hoursAgo = (hours: number) => new Date(Date.now() - hours * 3_600_000);
  const tools = { config: { worker: { patienceHours: 24 } } } as Tools;
  const operation = { waiting_since: hoursAgo(30).toISOString() } as Operation;
  const by = { dependency: 's3', worker: 'w' } as const;
  const gate = (since: Date) => ({
    outage: failed(undefined, by, { code: 's3-unavailable', message: 'ECONNREFUSED' }, since),
    permits: undefined,
  });
  assert.equal(overdueFor(gate(hoursAgo(0.01)), operation, tools), undefined);
  assert.equal(overdueFor(gate(hoursAgo(23)), operation, tools), undefined);
  assert.match(overdueFor(gate(hoursAgo(25)), operation, tools)?.message ?? '', /^waited 24 h for S3, away since/);
});

describe('an S3 outage whose record is lost while NATS is away, too', () => {
  it('does not end the process of the worker that keeps it, and the next outage is kept again', async () => {
    let written = 0;
    const bucket = {
      get: async () => ({ entry: undefined, revision: 0 }),
      async put() {
        written++;
        throw new LxstowError('nats-unavailable', 'NATS is away');
      },
      remove: async () => true,
    };
    const failure = new LxstowError('s3-unavailable', 'S3 at x: ECONNREFUSED');
    const errors: string[] = [];
    const log = { error: (text: string) => errors.push(text), info: () => 0, warn: () => 0, debug: () => 0 };
    await using outages = new Outages({
      ...{ remote: 'local', worker: 'w', bucket: bucket as unknown as Bucket, onFree: () => undefined },
      probes: {
        lxd: async () => '1',
        s3: () => Promise.reject(failure),
      },
      log: log as unknown as Log,
      stopping: new AbortController().signal,
    });
    for (let round = 1; round <= 2; round++) {
      const before = written;
      assert.ok((await outages.examine(failure, 'backup', performance.now())).gate);
      // The worker looks again after a second; then its record is read, and is not there.
      await setTimeout(1200);
      assert.ok(written >= before + 2, 'it is kept');
      assert.equal(await outages.gate('backup'), undefined);
      await setTimeout(1200);
    }
    assert.deepEqual([...new Set(errors)], ['a dependency is away']);
  });
});

describe('a worker that loses its lease while it undoes a backup', () => {
  const id = '0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11';
  const address = { remote: 'local', project: 'default', instance: 'c1' };
  const now = new Date('2026-11-28T03:00:00Z');
  /** As the next worker has written it, for the same operation. */
  const manifest: Manifest = {
    ...{ version: 1, writer: 'lxstow test', operation: id },
    backup: { ...address, name: 'b.tar', created: now.toISOString(), tags: {} },
    archive: {
      ...{ key: 'k', etag: 'e', size: 10, rawSize: 10, compression: 'none', optimized: false, instanceOnly: false },
      blockSize: 10,
      parts: [{ number: 1, rawStart: 0, rawEnd: 10, size: 10, etag: 'e', sha256: 'a'.repeat(64), crc32: 'AAAAAA==' }],
    },
    instance: {
      ...{ config: {}, devices: {}, profiles: [], pool: 'p', driver: 'dir' },
      ...{ architecture: 'x86_64', type: 'container', snapshots: [] },
    },
    lxd: { version: '5.0.2' },
  };

  /** What it changes in S3, LXD and NATS from then on: it learns of it while it reads the manifest, after a cancel or a failure. */
  async function changes(status: 'Running' | 'Cancelling'): Promise<string[]> {
    const changed: string[] = [];
    const change = (what: string) => async () => void changed.push(what);
    const lost = new AbortController();
    const lease = {
      ...{ key: 'lease', lost: lost.signal, assertHeld: () => lost.signal.throwIfAborted() },
      ...{ renew: async () => undefined, release: async () => undefined },
    } as unknown as Lease;
    const log = { debug() {}, info() {}, warn() {}, error() {} } as unknown as Log;
    const queued = newOperation({ id, kind: 'backup', address, body: { backup: 'b.tar' } }, now);
    const operation = { ...queued, checkpoint: { lxdBackup: 'x', key: 'k', uploadId: 'u' } };
    const update = async (next: Operation) => {
      if (lost.signal.aborted) changed.push('operation');
      return { operation: next, revision: 1 };
    };
    const attempt = await Attempt.begin(
      { operation: status === 'Running' ? operation : cancel(operation, now), revision: 1 },
      {
        store: { update, find: async () => undefined } as unknown as OperationStore,
        leases: {} as Leases,
        lease,
        worker: 'w',
        log,
      },
    );
    assert.ok(attempt);
    const store = {
      read: async () => {
        lost.abort(new LxstowError('lease-lost', 'it was not renewed in time'));
        return { body: formatManifest(manifest), etag: 'm' };
      },
      stat: async () => ({ etag: 'e', size: 10, operation: id }),
      ...{ remove: change('object'), replace: change('object'), abortUpload: change('upload') },
    };
    const message = {
      ...{ subject: 'lxstow.jobs.local.backup.default.c1', data: Buffer.from('{}'), seq: 1, working() {} },
      ...{ nak: change('message'), term: change('message'), ackAck: change('message') },
    };
    const bucket = {
      get: async () => ({ entry: changed.includes('checkpoint') ? undefined : { key: 'c' }, revision: 1 }),
      remove: change('checkpoint'),
    };
    const run = async () => Promise.reject(new LxstowError('s3-unavailable', 'S3 said InternalError'));
    await new JobAttempt(
      { kind: 'backup', address, body: {} },
      attempt,
      message as unknown as Delivery,
      {
        nats: { js: { publish: change('dead letter') } },
        nudges: { on: () => ({ [Symbol.dispose]: () => undefined }) },
        outages: { examine: async () => ({ gate: undefined, cut: false }) },
        runners: { backup: { run, undo: undoBackup } },
        handingBack: new AbortController().signal,
        tools: {
          config: {
            s3: { prefix: '', endpoint: 'http://s3' },
            worker: { heartbeatMs: 60_000, attempts: 1, patienceHours: 1, lxdIdleTimeoutMs: 1000 },
          },
          ...{ store, checkpoints: bucket, metrics: createWorkerMetrics(), lxd: { call: change("LXD's copy") } },
          ...{
            keeper: { failed: change('record'), removed: change('record') },
            reservations: { release: change('name') },
          },
        },
      } as unknown as AttemptTools,
    )
      .run()
      .catch((error) => changed.push(error.message));
    assert.ok(lost.signal.aborted);
    return changed;
  }

  it('changes nothing any more, for the next worker may have made the backup', async () => {
    assert.deepEqual(await changes('Running'), []);
    assert.deepEqual(await changes('Cancelling'), []);
  });
});

describe('an LXD that is started again', () => {
  const thrown = new LxstowError('lxd-unavailable', 'LXD (local): ECONNRESET');

  /** A worker's outages, and what LXD says at each probe: which start of it this is, or that it is away. */
  async function opened(says: () => string | undefined): Promise<Outages> {
    const nowhere = {
      get: async () => ({ entry: undefined, revision: 0 }),
      put: async () => 1,
      remove: async () => true,
    };
    const lxd = async () => {
      const start = says();
      if (start === undefined) throw new LxstowError('lxd-unavailable', 'LXD (local): ECONNREFUSED');
      return start;
    };
    const outages = new Outages({
      ...{ remote: 'local', worker: 'w', bucket: nowhere as unknown as Bucket, onFree: () => undefined },
      probes: { lxd, s3: async () => undefined },
      log: { error: () => undefined, info: () => undefined } as unknown as Log,
      stopping: new AbortController().signal,
    });
    await setImmediate();
    return outages;
  }
  const moment = () => performance.now();

  it('has cut all jobs that were at work, also one that notices later than another; none that begins afterwards', async () => {
    let start = '1';
    await using outages = await opened(() => start);
    const begun = moment();
    assert.equal((await outages.examine(thrown, 'backup', begun)).cut, false);
    start = '2';
    for (let job = 0; job < 3; job++) {
      assert.deepEqual(await outages.examine(thrown, 'backup', begun), { gate: undefined, cut: true });
      await setImmediate();
    }
    assert.equal((await outages.examine(thrown, 'backup', moment())).cut, false);
  });

  it('has cut the job that finds it away, too', async () => {
    await using outages = await opened(() => undefined);
    const { gate, cut } = await outages.examine(thrown, 'restore', moment());
    assert.deepEqual([gate?.outage.dependency, cut], ['lxd', true]);
  });
});

describe('S3 that has just come back', () => {
  const by = { dependency: 's3', worker: 'other' } as const;
  const away = failed(undefined, by, { code: 's3-unavailable', message: 'ECONNREFUSED' }, new Date());
  const failure = new LxstowError('s3-unavailable', 'S3 said InternalError');

  /** What keeps a job that fails by S3 from going on, while S3 answers the probe and this is its record. */
  async function gateWith(record: Outage | undefined): Promise<Gate | undefined> {
    const value = Buffer.from(JSON.stringify(record ?? null));
    const entry = record && { key: 'local.=away.s3', value, revision: 1, written: new Date() };
    const bucket = { get: async () => ({ entry, revision: 1 }), put: async () => 1, remove: async () => true };
    await using outages = new Outages({
      ...{ remote: 'local', worker: 'w', bucket: bucket as unknown as Bucket, onFree: () => undefined },
      probes: { lxd: async () => '1', s3: async () => undefined },
      log: { error: () => undefined, info: () => undefined } as unknown as Log,
      stopping: new AbortController().signal,
    });
    return (await outages.examine(failure, 'backup', performance.now())).gate;
  }

  it('is to blame for a request that fails while it comes back, and not for one that fails later', async () => {
    assert.equal((await gateWith(answered(away)))?.outage.allowed, 1);
    assert.equal(await gateWith(undefined), undefined);
  });
});

describe('S3 that takes no writes', () => {
  const by = { dependency: 's3', worker: 'w' } as const;
  const why = { code: 's3-denied', message: 'AccessDenied', only: 'writes' } as const;
  const outage = failed(undefined, by, why, new Date('2026-11-28T03:00:00Z'));

  it('has backups wait, and nothing else', () => {
    assert.deepEqual(faultsOf('outage.json', outage), []);
    const kinds = (['backup', 'restore', 'delete'] as const).filter((kind) => concerns(outage, kind));
    assert.deepEqual(kinds, ['backup']);
    assert.equal(describeOutage(outage), 'S3, which takes no writes since 2026-11-28T03:00:00Z');
  });
});

describe('a dependency', () => {
  const by = { dependency: 's3', worker: 'w' } as const;
  const why = { code: 's3-unavailable', message: 'S3 at x: ECONNREFUSED' } as const;
  const begun = new Date('2026-11-28T03:00:00Z');

  it('that is away, answers, fails again …: since when stays, and jobs begin one, two, four … until it is back', () => {
    fc.assert(
      fc.property(fc.array(fc.boolean(), { maxLength: 30 }), (answers) => {
        let outage: Outage | undefined = failed(undefined, by, why, begun);
        let streak = 0;
        for (const [index, answer] of answers.entries()) {
          if (!outage) break;
          outage = answer ? answered(outage) : failed(outage, by, why, new Date(begun.getTime() + index * 1000));
          streak = answer ? streak + 1 : 0;
          if (!outage) assert.equal(streak, 7);
          else {
            assert.equal(outage.allowed, streak === 0 ? 0 : 2 ** (streak - 1));
            assert.equal(outage.since, begun.toISOString());
            assert.deepEqual(faultsOf('outage.json', outage), []);
            assert.deepEqual(parseOutage(JSON.stringify(outage)), outage);
          }
        }
      }),
    );
  });

  it('is asked after 1 s at first, and every 30 s in the end', () => {
    const outage = failed(undefined, by, why, begun);
    const after = (ms: number) => nextLookMs(outage, new Date(begun.getTime() + ms));
    assert.deepEqual([0, 8000, 3_600_000].map(after), [1000, 2000, 30_000]);
  });

  it('is said to be away in words that stay the same', () => {
    const outage = failed(undefined, by, why, begun);
    assert.equal(describeOutage(outage), 'S3, away since 2026-11-28T03:00:00Z');
    assert.equal(describeOutage({ ...outage, code: 's3-denied', reason: 'other words' }), describeOutage(outage));
  });

  it('that a later version has recorded is not known', () => {
    assert.equal(parseOutage('{"dependency":"moon"}'), undefined);
    assert.equal(parseOutage('{'), undefined);
  });
});
