/** How a worker's loops take jobs, and how all ask NATS, on a real nats-server that dies and over a wire that is cut and stalls. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { ConnectionError } from '@nats-io/transport-node';
import { LxstowError } from '../../services/contract/errors.ts';
import type { Config } from '../../services/contract/schemas.ts';
import { Deliveries, type Delivery } from '../../services/jobs/deliveries.ts';
import { connectNats, type Nats } from '../../services/nats/connection.ts';
import { isNoResponders } from '../../services/nats/failures.ts';
import { setUp } from '../../services/nats/setup.ts';
import { ackWaitMs, consumerName, jobsStream } from '../../services/nats/streams.ts';
import { jobSubject } from '../../services/nats/subjects.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { startProxy } from '../fault/proxy.ts';
import { type Lab, openLab } from '../lab/lab.ts';
import type { LabNats } from '../lab/nats.ts';
import { until } from './stack.ts';

const log = createLogger({ level: 'error', format: 'json' }, {});
const settings = { replicas: 1, operationsKeptHours: 1, runsKeptHours: 1, maxQueuedJobs: 1000 };
const remotes = ['one', 'killed', 'twice', 'late', 'stopped', 'gone', 'acked'];

describe('jobs and answers', { timeout: 1_800_000 }, () => {
  let lab: Lab;
  let server: LabNats;
  let nats: Nats;
  const open = (port = server.port) =>
    connectNats({ servers: [`nats://127.0.0.1:${port}`], ...settings }, 'lxstow-test', log);
  before(async () => {
    lab = await openLab({ name: 'deliveries', log: () => undefined, lxd: false, s3: false });
    assert.ok(lab.nats);
    server = lab.nats;
    nats = await open();
    const each = Object.fromEntries(remotes.map((remote) => [remote, {}]));
    await setUp(nats, { nats: { servers: [server.url], ...settings }, remotes: each } as unknown as Config);
  });
  after(async () => {
    await nats?.[Symbol.asyncDispose]();
    await lab?.[Symbol.asyncDispose]();
  });

  const never = new AbortController().signal;
  const publish = async (remote: string, instance: string) =>
    (await nats.js.publish(jobSubject('backup', { remote, project: 'default', instance }), '{}')).seq;
  const take = (of: Nats, remote: string, stopping = never) =>
    Deliveries.open(of, consumerName(remote, 'transfer'), stopping);
  const info = (remote: string) => nats.jsm.consumers.info(jobsStream, consumerName(remote, 'transfer'));
  const booked = async (remote: string, count: number) =>
    until(
      () => info(remote),
      ({ num_ack_pending }) => num_ack_pending === count,
    );
  const pulls = async (remote: string, count: number) =>
    until(
      () => info(remote),
      ({ num_waiting }) => num_waiting === count,
    );
  const present = (delivery: Delivery | undefined): Delivery => {
    assert.ok(delivery);
    return delivery;
  };

  describe('a loop', () => {
    it('books the one job that it runs, and no other', async () => {
      const sequences = [await publish('one', 'a'), await publish('one', 'b'), await publish('one', 'c')];
      const deliveries = await take(nats, 'one');
      for (const [index, seq] of sequences.entries()) {
        const delivery = present(await deliveries.next());
        assert.deepEqual([delivery.seq, delivery.redelivered], [seq, false]);
        const { num_ack_pending, num_pending, num_waiting } = await info('one');
        assert.deepEqual([num_ack_pending, num_pending, num_waiting], [1, sequences.length - index - 1, 0]);
        assert.equal(await delivery.ackAck(), true);
        assert.equal(await delivery.ackAck(), false);
      }
      assert.equal((await info('one')).num_ack_pending, 0);
    });

    it('takes what comes after nats-server was killed and is back', async () => {
      await using own = await open();
      const deliveries = await take(own, 'killed');
      for (const instance of ['a', 'b', 'c']) {
        const next = deliveries.next();
        await pulls('killed', 1);
        await server.kill();
        await server.start();
        await until(
          async () => nats.connected,
          (connected) => connected,
        );
        const seq = await publish('killed', instance);
        const delivery = present(await next);
        assert.equal(delivery.seq, seq);
        assert.equal(await delivery.ackAck(), true);
      }
    });

    it('pulls again when its connection is back, and loses nothing of what both pulls bring', async () => {
      await using wire = await startProxy({ target: { port: server.port, host: '127.0.0.1' } });
      await using own = await open(wire.port);
      const deliveries = await take(own, 'twice');
      const next = deliveries.next();
      await pulls('twice', 1);
      wire.cut();
      for await (const { type } of own.connection.status()) if (type === 'reconnect') break;
      const sequences = await Promise.all([publish('twice', 'a'), publish('twice', 'b')]);
      const begun = performance.now();
      const mine = present(await next);
      await mine.ackAck();
      const others = await take(nats, 'twice');
      const theirs = present(await others.next());
      assert.deepEqual([mine.seq, theirs.seq].toSorted(), sequences.toSorted());
      assert.ok(performance.now() - begun < ackWaitMs + 2000);
      await theirs.ackAck();
    });

    it('leaves what is on its way when the worker stops to another one, once ack_wait is over', async () => {
      await using wire = await startProxy({ target: { port: server.port, host: '127.0.0.1' } });
      await using own = await open(wire.port);
      const stop = new AbortController();
      const deliveries = await take(own, 'late', stop.signal);
      const next = deliveries.next();
      await pulls('late', 1);
      wire.stall('down');
      const seq = await publish('late', 'a');
      await booked('late', 1);
      const begun = performance.now();
      stop.abort();
      assert.equal(await next, undefined);
      await wire.heal();
      const others = await take(nats, 'late');
      const again = present(await others.next());
      assert.deepEqual([again.seq, again.redelivered], [seq, true]);
      assert.ok(performance.now() - begun < ackWaitMs + 2000);
      await again.ackAck();
    });

    it('that has stopped leaves no pull behind that could swallow a job', async () => {
      const stop = new AbortController();
      {
        const deliveries = await take(nats, 'stopped', stop.signal);
        const next = deliveries.next();
        await pulls('stopped', 1);
        stop.abort();
        assert.equal(await next, undefined);
        assert.equal(await deliveries.next(), undefined);
      }
      const seq = await publish('stopped', 'a');
      const others = await take(nats, 'stopped');
      const delivery = present(await others.next());
      assert.deepEqual([delivery.seq, delivery.redelivered], [seq, false]);
      await delivery.ackAck();
    });

    it('says so when its consumer is gone', async () => {
      const deliveries = await take(nats, 'gone');
      const refused = assert.rejects(deliveries.next(), { code: 'nats-unavailable', message: /consumer deleted/ });
      await pulls('gone', 1);
      await nats.jsm.consumers.delete(jobsStream, consumerName('gone', 'transfer'));
      await refused;
    });

    it('tells NATS that it works on it, that it can come later, and that it is over', async () => {
      const seq = await publish('acked', 'a');
      const deliveries = await take(nats, 'acked');
      const first = present(await deliveries.next());
      first.working();
      first.nak(1);
      const second = present(await deliveries.next());
      assert.deepEqual([second.seq, second.redelivered], [seq, true]);
      second.term('for good');
      await booked('acked', 0);
    });
  });

  describe('a request', () => {
    const info = (of: Nats, payload: Uint8Array | string = '', timeout = 5000) =>
      of.whileConnected(() => of.connection.request('$JS.API.INFO', payload, { timeout }));

    it('that is too large fails by itself', async () => {
      const large = info(nats, Buffer.alloc(2 * 1024 * 1024));
      const small = info(nats);
      await assert.rejects(large, /max_payload/);
      assert.ok((await small).json<{ streams: number }>().streams > 0);
    });

    it('that nobody hears is not waited for', async () => {
      await assert.rejects(nats.connection.request('nobody.there', ''), isNoResponders);
      await assert.rejects(nats.js.publish('nobody.there', ''), isNoResponders);
    });

    it('fails as soon as the connection is lost, and can be made again when it is back', async () => {
      await using wire = await startProxy({ target: { port: server.port, host: '127.0.0.1' } });
      await using own = await open(wire.port);
      await info(own);
      wire.stall('down');
      const refused = assert.rejects(info(own, '', 600_000), ConnectionError);
      wire.cut();
      await refused;
      await assert.rejects(info(own), LxstowError);
      await wire.heal();
      await until(
        async () => own.connected,
        (connected) => connected,
      );
      await info(own);
    });
  });
});
