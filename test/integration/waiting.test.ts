/** Leases of which there are several, and jobs that wait for them, on a real nats-server. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { Consumer, JsMsg } from '@nats-io/jetstream';
import { LxstowError } from '../../services/contract/errors.ts';
import type { Config } from '../../services/contract/schemas.ts';
import { type Lease, Leases } from '../../services/coordination/leases.ts';
import type { Deliveries } from '../../services/jobs/deliveries.ts';
import { operationIdOf } from '../../services/jobs/jobs.ts';
import { WaitingRoom, type WaitingRoomOptions } from '../../services/jobs/waitingRoom.ts';
import { Bucket } from '../../services/nats/bucket/bucket.ts';
import {
  claimKey,
  instanceLeaseKey,
  parseLeaseKey,
  removal,
  transferPermits,
  waitKey,
} from '../../services/nats/bucketKeys.ts';
import { connectNats, type Nats } from '../../services/nats/connection.ts';
import { setUp } from '../../services/nats/setup.ts';
import { consumerName, jobsStream, leasesBucket } from '../../services/nats/streams.ts';
import { jobSubject } from '../../services/nats/subjects.ts';
import type { Attempt } from '../../services/operations/attempt.ts';
import { OperationStore } from '../../services/operations/operationStore.ts';
import { createLogger, type Log } from '../../services/telemetry/logger.ts';
import { createWorkerMetrics } from '../../services/telemetry/metrics.ts';
import { assertNotBeingDeleted } from '../../services/worker/backup/settleName.ts';
import { type AdmissionTools, admit } from '../../services/worker/loop/admission.ts';
import { type LoopOptions, runLoop } from '../../services/worker/loop/runLoop.ts';
import type { Tools } from '../../services/worker/tools.ts';
import { type Lab, openLab } from '../lab/lab.ts';

const log = createLogger({ level: 'error', format: 'json' }, {});
const settings = { replicas: 1, operationsKeptHours: 1, runsKeptHours: 1, maxQueuedJobs: 100_000 };
const holder = { worker: 'w', operation: 'o' };
const never = 600_000;

describe('what is limited', { timeout: 1_800_000 }, () => {
  let lab: Lab;
  let nats: Nats;
  let bucket: Bucket;
  before(async () => {
    lab = await openLab({ name: 'waiting', log: () => undefined, lxd: false, s3: false });
    assert.ok(lab.nats);
    const servers = [lab.nats.url];
    nats = await connectNats({ servers, ...settings }, 'lxstow-test', log);
    const remotes = { local: {}, mass: {}, order: {}, dead: {}, closed: {}, cancelled: {}, kept: {} };
    await setUp(nats, { nats: { servers, ...settings }, remotes } as unknown as Config);
    bucket = new Bucket(nats, leasesBucket);
  });
  after(async () => {
    await nats?.[Symbol.asyncDispose]();
    await lab?.[Symbol.asyncDispose]();
  });

  const lost = (lease: Lease) => new Promise((resolve) => lease.lost.addEventListener('abort', resolve));

  it('is never had by more than so many at a time, and each that is given back can be had again', async () => {
    const leases = new Leases(bucket, 30_000);
    const permits = transferPermits('local', 'a pool.');
    for (let round = 0; round < 3; round++) {
      const taken = await Promise.all(Array.from({ length: 8 }, () => leases.acquireOneOf(permits, 3, holder)));
      // Who meets another over the last one may go without, this time.
      const first = taken.filter((lease) => lease !== undefined);
      assert.ok(first.length >= 1 && first.length <= 3, String(first.length));
      for (let more = first.length; more < 3; more++) {
        const lease = await leases.acquireOneOf(permits, 3, holder);
        assert.ok(lease);
        first.push(lease);
      }
      assert.equal(await leases.acquireOneOf(permits, 3, holder), undefined);
      for (const lease of first) await lease.release();
    }
  });

  it('is given back, and the lease on the instance with it, when the permit cannot be asked for', async () => {
    const leases = new Leases(bucket, 600_000);
    const away = new Error('NATS is away');
    const tools = {
      config: { remotes: { local: { transfers: 1 } } },
      leases: Object.assign(Object.create(leases), {
        acquire: leases.acquire.bind(leases),
        acquireOneOf: async () => Promise.reject(away),
      }),
    } as unknown as AdmissionTools;
    const address = { remote: 'local', project: 'default', instance: 'given-back' };
    const job = { kind: 'backup' as const, address, body: {} };
    await assert.rejects(admit(job, holder, tools, { isBehind: () => false, movesBytes: true }), away);
    assert.ok(await leases.acquire(instanceLeaseKey(address), holder), 'it is free at once');
  });

  describe('is given back, and the lease on the instance with it, when the operation cannot be written', () => {
    const full = new LxstowError('queue-full', 'the bucket is full');
    const cases: { of: string; update: number; run: () => Promise<void> }[] = [
      { of: 'that the attempt begins', update: 1, run: async () => assert.fail('it has begun') },
      { of: 'that the job is done', update: 2, run: async () => undefined },
      { of: 'that another attempt follows', update: 2, run: async () => assert.fail('this one failed') },
      { of: 'that the job has failed', update: 2, run: async () => Promise.reject(new LxstowError('not-found', 'x')) },
    ];
    for (const [index, { of, update, run }] of cases.entries())
      it(of, async () => {
        const address = { remote: 'local', project: 'default', instance: `unwritten-${index}` };
        const leases = new Leases(bucket, 600_000);
        const operations = new OperationStore(nats, 1);
        const stopping = new AbortController();
        let updates = 0;
        let handedBack = 0;
        const failing = Object.assign(Object.create(operations), {
          find: operations.find.bind(operations),
          create: operations.create.bind(operations),
          update: async (...args: Parameters<OperationStore['update']>) => {
            if (++updates === update) throw full;
            return operations.update(...args);
          },
        });
        const message = {
          ...{
            subject: jobSubject('backup', address),
            data: Buffer.from('{}'),
            seq: 1_000_000 + index,
            redelivered: false,
          },
          ...{ time: new Date(), working: () => undefined, nak: () => handedBack++, term: () => handedBack++ },
          ackAck: async () => ++handedBack > 0,
        };
        const lines: string[] = [];
        const note = (what: string) => lines.push(what);
        const quiet = { debug: note, info: note, warn: note, error: note, child: () => quiet } as unknown as Log;
        const config = {
          remotes: { local: { transfers: 1 } },
          worker: { heartbeatMs: 60_000, attempts: 5, patienceHours: 1 },
        };
        await runLoop({
          ...{ nats, worker: 'w', operations: failing, log: quiet, stop: stopping.signal },
          deliveries: {
            next: async () => {
              if (updates === 0) return message;
              stopping.abort();
              return undefined;
            },
          } as unknown as Deliveries,
          nudges: { on: () => ({ [Symbol.dispose]: () => undefined }) },
          tools: { config, leases, metrics: createWorkerMetrics(), keeper: { failed: async () => undefined } },
          runners: { backup: { run } },
          waitingRoom: { arrived: () => undefined, isBehind: () => false, callFirst: () => undefined },
          outages: { gate: async () => undefined, examine: async () => ({ gate: undefined, cut: false }) },
          handingBack: new AbortController().signal,
        } as unknown as LoopOptions);
        assert.equal(updates, update);
        assert.equal(handedBack, 0, 'the message comes again by itself');
        assert.ok(lines.includes('no job could be taken'), lines.join());
        const free = await leases.acquire(instanceLeaseKey(address), holder);
        const permit = await leases.acquireOneOf(transferPermits('local'), 1, holder);
        assert.ok(free && permit, 'both are free at once');
        await permit.release();
      });
  });

  it('a name, while a backup of that name is being deleted: the next backup waits, which counts no attempt', async () => {
    const address = { remote: 'local', project: 'default', instance: 'renamed' };
    const claim = claimKey(address, 'daily', removal);
    const leases = new Leases(bucket, 600_000);
    const deletion = await leases.acquire(claim, holder);
    assert.ok(deletion);
    const operations = new OperationStore(nats, 1);
    const stopping = new AbortController();
    const delivery = {
      ...{ subject: jobSubject('backup', address), data: Buffer.from('{"backup":"daily"}'), seq: 2_000_000 },
      ...{ redelivered: false, time: new Date(), working: () => undefined, nak: () => undefined },
      ...{ ackAck: async () => true, term: () => assert.fail('it is done') },
    };
    const waits: unknown[] = [];
    let runs = 0;
    let deliveries = 0;
    const ended = runLoop({
      ...{ nats, worker: 'w', operations, log, stop: stopping.signal },
      deliveries: {
        next: async () => {
          deliveries += 1;
          if (deliveries === 7) await deletion.release();
          if (deliveries < 8) return delivery;
          stopping.abort();
          return undefined;
        },
      } as unknown as Deliveries,
      nudges: { on: () => ({ [Symbol.dispose]: () => undefined }) },
      tools: {
        config: { remotes: {}, worker: { heartbeatMs: 60_000, attempts: 5, patienceHours: 1 } },
        ...{ leases, metrics: createWorkerMetrics(), keeper: { made: async () => undefined } },
        reservations: { release: async () => undefined, releaseAll: async () => undefined },
      },
      runners: {
        backup: {
          run: async (_job: unknown, attempt: Attempt, tools: Tools) => {
            runs += 1;
            await assertNotBeingDeleted({ ...address, backup: 'daily' }, attempt, tools);
          },
        },
      },
      waitingRoom: {
        ...{ arrived: () => undefined, isBehind: () => false, callFirst: () => undefined },
        wait: (_message: unknown, lease: string) => waits.push(lease),
      },
      outages: { gate: async () => undefined, examine: async () => ({ gate: undefined, cut: false }) },
      handingBack: new AbortController().signal,
    } as unknown as LoopOptions);
    await ended;
    assert.equal(runs, 2);
    assert.deepEqual(waits, Array(5).fill(claim));
    const done = (await operations.find(operationIdOf({ messageId: undefined, sequence: delivery.seq }), 'local'))
      ?.operation;
    assert.deepEqual([done?.status, done?.attempt], ['Success', 2]);
  });

  it('is free again when its holder has died', async () => {
    const permits = transferPermits('local');
    const dead = await new Leases(bucket, 1000).acquireOneOf(permits, 1, holder);
    assert.ok(dead);
    const leases = new Leases(bucket, 30_000);
    let again: Lease | undefined;
    while (!again) again = await leases.acquireOneOf(permits, 1, holder);
    await dead.renew();
    assert.throws(() => dead.assertHeld(), { code: 'lease-lost' });
    again.assertHeld();
    await again.release();
  });

  it('is lost by who does not renew it, like any lease', async () => {
    const lease = await new Leases(bucket, 1000).acquireOneOf(transferPermits('local', 'lost'), 1, holder);
    assert.ok(lease);
    const noticed = lost(lease);
    const timer = setInterval(() => {
      if (performance.now() > begun + 1500) void lease.renew();
    }, 100);
    const begun = performance.now();
    await noticed;
    clearInterval(timer);
  });

  it('has keys that are no instance, backup or claim', () => {
    for (const pool of [undefined, 'default', '=pool', 'a.b c']) {
      const key = `${transferPermits('local', pool)}.12`;
      assert.equal(parseLeaseKey(key), undefined);
      assert.equal(waitKey(key), transferPermits('local', pool));
    }
    for (const project of ['=pool', '=transfers']) {
      const key = instanceLeaseKey({ remote: 'local', project, instance: 'c1' });
      assert.equal(parseLeaseKey(key)?.project, project);
      assert.equal(waitKey(key), key);
    }
  });

  describe('and jobs that wait for it', () => {
    const openRoom = (remote: string, options: Partial<WaitingRoomOptions> = {}) =>
      new WaitingRoom({ nats, remote, callEveryMs: never, handedBackMs: never, ...options });
    const publish = (remote: string, instance: string) =>
      nats.js.publish(jobSubject('backup', { remote, project: 'default', instance }), '{}');
    const consumerOf = (remote: string) => nats.js.consumers.get(jobsStream, consumerName(remote, 'transfer'));

    async function next(consumer: Consumer): Promise<JsMsg> {
      for (;;) {
        const message = await consumer.next({ expires: 5000 });
        if (message) return message;
      }
    }

    /** Nothing comes, as long as anything that is on its way needs. */
    async function assertQuiet(consumer: Consumer): Promise<void> {
      assert.equal((await consumer.next({ expires: 1000 }))?.seq, undefined);
    }

    it('hold nobody up who need not wait, be they a thousand', async () => {
      using room = openRoom('mass');
      const consumer = await consumerOf('mass');
      const count = 1000;
      for (let i = 0; i < count; i += 100)
        await Promise.all(Array.from({ length: 100 }, (_, index) => publish('mass', `c${i + index}`)));
      const lease = transferPermits('mass', 'full');
      for (let i = 0; i < count; i++) room.wait(await next(consumer), lease, 'o');
      const { seq } = await publish('mass', 'free');
      const free = await next(consumer);
      assert.equal(free.seq, seq);
      await free.ackAck();
      await assertQuiet(consumer);
    });

    it('come one by one, the oldest first, as it is given back; a new one does not overtake them', async () => {
      using room = openRoom('order');
      const consumer = await consumerOf('order');
      const leases = new Leases(bucket, 60_000, (key) => room.freed(key));
      const permits = transferPermits('order', 'p');
      const held = await leases.acquireOneOf(permits, 1, holder);
      assert.ok(held);
      for (const name of ['a', 'b', 'c']) await publish('order', name);
      const sequences: number[] = [];
      for (let i = 0; i < 3; i++) {
        const message = await next(consumer);
        sequences.push(message.seq);
        room.wait(message, permits, 'o');
      }
      await publish('order', 'd');
      const late = await next(consumer);
      assert.ok(room.isBehind(permits, late));
      assert.equal(room.isBehind(transferPermits('order', 'other'), late), false);
      room.wait(late, permits, 'o');
      await held.release();
      const first = await next(consumer);
      assert.equal(first.seq, sequences[0]);
      assert.equal(room.isBehind(permits, first), false);
      room.arrived(first.seq);
      await assertQuiet(consumer);
      // Found taken by somebody faster, it waits again, and is the first again.
      room.wait(first, permits, 'o');
      for (const seq of [...sequences, late.seq]) {
        room.freed(`${permits}.1`);
        const message = await next(consumer);
        assert.equal(message.seq, seq);
        room.arrived(seq);
        await message.ackAck();
      }
    });

    it('look again by themselves: a holder that dies gives nothing back', async () => {
      using room = openRoom('dead', { callEveryMs: 200 });
      const consumer = await consumerOf('dead');
      const { seq } = await publish('dead', 'a');
      for (let times = 0; times < 3; times++) {
        const message = await next(consumer);
        assert.equal(message.seq, seq);
        room.arrived(seq);
        room.wait(message, instanceLeaseKey({ remote: 'dead', project: 'default', instance: 'a' }), 'o');
      }
    });

    it('are kept waiting while their worker lives, and come again when it does not', async () => {
      const own = await connectNats({ servers: [lab.nats?.url ?? ''], ...settings }, 'lxstow-test', log);
      using room = openRoom('kept', { nats: own, callEveryMs: 50, handedBackMs: 4000 });
      const consumer = await consumerOf('kept');
      const { seq: first } = await publish('kept', 'a');
      const { seq: second } = await publish('kept', 'b');
      // How often each delivery of the second was handed back.
      const handedBack = new Map<string, number>();
      const acks = nats.connection.subscribe(`$JS.ACK.${jobsStream}.${consumerName('kept', 'transfer')}.>`, {
        callback: (_, message) => {
          const [delivery = ''] = /\.\d+\.\d+\.\d+\.\d+\.\d+$/.exec(message.subject) ?? [];
          const isDelayed = message.string().startsWith('-NAK {');
          if (isDelayed && delivery.split('.')[2] === String(second))
            handedBack.set(delivery, (handedBack.get(delivery) ?? 0) + 1);
        },
      });
      while (Math.max(0, ...handedBack.values()) < 2) {
        const message = await next(consumer);
        room.arrived(message.seq);
        room.wait(message, 'kept.default.a', 'o');
      }
      acks.unsubscribe();
      await own[Symbol.asyncDispose]();
      const seen = new Set<number>();
      while (seen.size < 2) seen.add((await next(consumer)).seq);
      assert.deepEqual(seen, new Set([first, second]));
    });

    it('are anybody’s when their worker stops', async () => {
      const consumer = await consumerOf('closed');
      const counts = new Map<string, number>();
      const onChange = (lease: string, by: number) => counts.set(lease, (counts.get(lease) ?? 0) + by);
      const room = openRoom('closed', { onChange });
      for (const name of ['a', 'b', 'c']) await publish('closed', name);
      for (let i = 0; i < 3; i++) room.wait(await next(consumer), 'closed.default.a', 'o');
      assert.deepEqual([...counts], [['closed.default.a', 3]]);
      room[Symbol.dispose]();
      assert.deepEqual([...counts], [['closed.default.a', 0]]);
      for (let i = 0; i < 3; i++) await (await next(consumer)).ackAck();
    });

    it('are looked at when they are cancelled', async () => {
      using room = openRoom('cancelled');
      const consumer = await consumerOf('cancelled');
      await publish('cancelled', 'a');
      const { seq } = await publish('cancelled', 'b');
      room.wait(await next(consumer), 'cancelled.default.a', 'one');
      room.wait(await next(consumer), 'cancelled.default.a', 'two');
      nats.connection.publish('lxstow.nudge.cancelled.two');
      assert.equal((await next(consumer)).seq, seq);
    });
  });
});
