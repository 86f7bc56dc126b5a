/** What lxstow relies on NATS for, on a real nats-server: names that one alone holds, operations that stay, jobs that are durable. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import { DeliverPolicy } from '@nats-io/jetstream';
import { forEach } from '../../services/concurrency/orderedMap.ts';
import { LxstowError } from '../../services/contract/errors.ts';
import type { Config, Operation } from '../../services/contract/schemas.ts';
import { type Lease, Leases } from '../../services/coordination/leases.ts';
import { Reservations } from '../../services/coordination/reservations.ts';
import { type Job, publishJob, UncertainPublish } from '../../services/jobs/jobs.ts';
import { Bucket } from '../../services/nats/bucket/bucket.ts';
import { claimKey, instanceLeaseKey } from '../../services/nats/bucketKeys.ts';
import { connectNats, type Nats } from '../../services/nats/connection.ts';
import { setUp, verifySetUp } from '../../services/nats/setup.ts';
import {
  checkpointsBucket,
  consumerName,
  jobsStream,
  leasesBucket,
  operationsBucket,
} from '../../services/nats/streams.ts';
import { Attempt } from '../../services/operations/attempt.ts';
import { amend, begin, fail, newOperation, requeue, succeed } from '../../services/operations/operation.ts';
import { OperationStore, type Stored } from '../../services/operations/operationStore.ts';
import { ProgressFeed } from '../../services/operations/progressFeed.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { BackupCheckpoint, type BackupStart, type SentPart } from '../../services/worker/backup/checkpoint.ts';
import { type LabNats, startNats } from '../lab/nats.ts';
import { until } from './stack.ts';

const at = { timeout: 1_800_000 };
const log = createLogger({ level: 'error', format: 'json' }, {});
const settings = { replicas: 1, operationsKeptHours: 1, runsKeptHours: 1, maxQueuedJobs: 100_000 };
const config = (nats: Partial<Config['nats']> = {}, remotes: string[] = ['local']) =>
  ({
    nats: { servers: [server.url], ...settings, ...nats },
    remotes: Object.fromEntries(remotes.map((remote) => [remote, {}])),
  }) as Config;

let server: LabNats;
let nats: Nats;
let leasesStore: Bucket;
let operations: OperationStore;

const open = (url = server.url) => connectNats({ servers: [url], ...settings }, 'lxstow-test', log);

before(async () => {
  // It is killed, and its power is never cut: it need not sync each of the thousands of messages.
  server = await startNats({ name: 'queue', log: () => undefined, sync: false });
  nats = await open();
  await setUp(nats, config());
  leasesStore = new Bucket(nats, leasesBucket);
  operations = new OperationStore(nats, settings.operationsKeptHours);
});
after(async () => {
  await nats?.[Symbol.asyncDispose]();
  await server?.[Symbol.asyncDispose]();
});

let names = 0;
/** A name of one test's own. */
const fresh = (word: string) => `${word}-${++names}`;
const address = (instance = fresh('c')) => ({ remote: 'local', project: 'default', instance });
const job = (instance?: string): Job => ({ kind: 'backup', address: address(instance), body: {} });
const pending = (id: string = randomUUID(), remote = 'local', now = new Date()): Operation =>
  newOperation({ id, kind: 'backup', address: { ...address(), remote } }, now);
const present = <T>(value: T | undefined): T => {
  assert.ok(value !== undefined);
  return value;
};

/** Resolves when the key has no value any more: the server says so. */
async function expired(key: string, bucket: Bucket = leasesStore): Promise<void> {
  const consumer = await nats.js.consumers.get(`KV_${bucket.name}`, {
    filter_subjects: `$KV.${bucket.name}.${key}`,
    deliver_policy: DeliverPolicy.LastPerSubject,
  });
  const messages = await consumer.consume();
  for await (const message of messages) if (message.headers?.has('Nats-Marker-Reason')) break;
  await messages.close();
}

/** Resolves when the client is in this state. */
async function untilConnected(connected: boolean, client: Nats = nats): Promise<void> {
  const events = client.connection.status();
  for await (const _ of events) if (client.connected === connected) return;
}

async function kill(): Promise<void> {
  const noticed = untilConnected(false);
  await server.kill();
  await noticed;
}

async function restart(): Promise<void> {
  const noticed = untilConnected(true);
  await server.start();
  await noticed;
}

async function isLost(run: () => unknown): Promise<void> {
  await assert.rejects(async () => run(), { code: 'lease-lost' });
}

/** Stands between client and server, and can keep back what the server says. */
class Middleman extends EventEmitter {
  readonly #server = createServer();
  readonly #pairs = new Set<[near: Socket, far: Socket]>();
  #held: (() => void)[] | undefined;

  static async open(port: number): Promise<Middleman> {
    const middleman = new Middleman();
    middleman.#server.on('connection', (near) => {
      const far = connect({ port, host: '127.0.0.1' });
      const pair: [Socket, Socket] = [near, far];
      middleman.#pairs.add(pair);
      near.on('data', (data) => {
        far.write(data);
        middleman.emit('said', data.toString('latin1'));
      });
      far.on('data', (data) => {
        const pass = () => void near.write(data);
        if (middleman.#held) middleman.#held.push(pass);
        else pass();
        middleman.emit('answered', data.toString('latin1'));
      });
      for (const [one, other] of [pair, pair.toReversed() as [Socket, Socket]]) {
        one.on('error', () => other.destroy());
        one.on('close', () => {
          other.destroy();
          middleman.#pairs.delete(pair);
        });
      }
    });
    middleman.#server.listen(0, '127.0.0.1');
    await once(middleman.#server, 'listening');
    return middleman;
  }

  get url(): string {
    return `nats://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** From now on the server's answers wait. */
  hold(): void {
    this.#held = [];
  }

  /** They go on. */
  release(): void {
    for (const pass of this.#held ?? []) pass();
    this.#held = undefined;
  }

  /** Resolves when the server has answered something that matches, whether that was passed on or not. */
  async heard(what: 'said' | 'answered', words: RegExp): Promise<void> {
    await new Promise<void>((resolve) => {
      const listen = (text: string) => {
        if (!words.test(text)) return;
        this.off(what, listen);
        resolve();
      };
      this.on(what, listen);
    });
  }

  /** Ends all connections, and what was held back is gone. */
  cut(): void {
    this.#held = undefined;
    for (const [near, far] of this.#pairs) {
      near.destroy();
      far.destroy();
    }
  }

  /** Ends all connections, and takes no new ones. */
  async end(): Promise<void> {
    this.#server.close();
    this.cut();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.end();
  }
}

describe('lxstow setup', at, () => {
  const jobsConfig = async () => (await nats.jsm.streams.info(jobsStream)).config;

  it('can be repeated, and changes what is there', async () => {
    await setUp(nats, config());
    await verifySetUp(nats, 'local');
    const id = randomUUID();
    await publishJob(nats, id, job());
    await setUp(nats, config({ maxQueuedJobs: 17 }, ['local', 'other']));
    const { config: changed, state } = await nats.jsm.streams.info(jobsStream);
    assert.equal(changed.max_msgs, 17);
    assert.equal(state.messages, 1);
    await verifySetUp(nats, 'other');
    await setUp(nats, config());
    assert.equal((await jobsConfig()).max_msgs, settings.maxQueuedJobs);
    await nats.jsm.streams.purge(jobsStream);
  });

  it('mends a bucket whose settings are not ours', async () => {
    await nats.jsm.streams.update(`KV_${operationsBucket}`, {
      allow_direct: false,
      subject_delete_marker_ttl: 1_000_000_000,
    });
    await setUp(nats, config());
    const { config: mended } = await nats.jsm.streams.info(`KV_${operationsBucket}`);
    assert.equal(mended.allow_direct, true);
    assert.equal(mended.subject_delete_marker_ttl, 60_000_000_000);
  });

  it('is what somebody is told to run when something is missing', async () => {
    const missing = async (remote?: string) => {
      await assert.rejects(verifySetUp(nats, remote), (error: unknown) => {
        assert.ok(error instanceof LxstowError);
        assert.equal(error.code, 'nats-unfit');
        assert.match(error.message, /lxstow setup/);
        return true;
      });
    };
    await missing('never-set-up');
    await nats.jsm.consumers.delete(jobsStream, consumerName('local', 'quick'));
    await missing('local');
    await verifySetUp(nats);
    await nats.jsm.streams.delete(`KV_${leasesBucket}`);
    await missing();
    await setUp(nats, config());
    await verifySetUp(nats, 'local');
  });
});

describe('a bucket', at, () => {
  const ttlMs = 2000;

  it('writes over the revision that was read, and no other', async () => {
    const key = fresh('cas');
    assert.deepEqual(await leasesStore.get(key), { entry: undefined, revision: 0 });
    const first = present(await leasesStore.put(key, 'one', 0));
    assert.equal(await leasesStore.put(key, 'two', 0), undefined);
    const second = present(await leasesStore.put(key, 'two', first));
    assert.equal(await leasesStore.put(key, 'three', first), undefined);
    const entry = present((await leasesStore.get(key)).entry);
    assert.deepEqual([entry.key, entry.value.toString(), entry.revision], [key, 'two', second]);
  });

  it('creates a key for one of twenty', async () => {
    const key = fresh('raced');
    const racers = Array.from({ length: 20 }, (_, i) => `racer ${i}`);
    const revisions = await Promise.all(racers.map((racer) => leasesStore.create(key, racer)));
    const winners = racers.filter((_, i) => revisions[i] !== undefined);
    assert.equal(winners.length, 1);
    assert.equal((await leasesStore.get(key)).entry?.value.toString(), winners[0]);
  });

  it('removes the revision that was read, and the key is free again', async () => {
    const key = fresh('removed');
    const first = present(await leasesStore.create(key, 'one'));
    const second = present(await leasesStore.put(key, 'two', first));
    assert.equal(await leasesStore.remove(key, first), false);
    assert.equal(await leasesStore.remove(key, second), true);
    const { entry, revision } = await leasesStore.get(key);
    assert.equal(entry, undefined);
    assert.ok(revision > second);
    assert.ok(await leasesStore.create(key, 'again'));
    assert.equal(await leasesStore.create(key, 'twice'), undefined);
  });

  it('forgets a key after its time; who then creates it anew is forgotten, too', async () => {
    const key = fresh('expires');
    // Over an expired key the KV client's own create() would lose the TTL: the third round would never come.
    for (let round = 0; round < 3; round++) {
      const revision = present(await leasesStore.create(key, `${round}`, { ttlMs }));
      assert.equal(await leasesStore.create(key, 'too early', { ttlMs }), undefined);
      assert.equal((await leasesStore.get(key)).entry?.revision, revision);
      await expired(key);
      assert.equal((await leasesStore.get(key)).entry, undefined);
    }
  });

  it('gives a key that is written again its time again', async () => {
    const key = fresh('renewed');
    let revision = present(await leasesStore.create(key, 'x', { ttlMs }));
    const other = fresh('clock');
    for (let i = 0; i < 2; i++) {
      // Another key that lives as long tells when the time of the first one would have been over.
      const clock = leasesStore.create(other, 'x', { ttlMs });
      revision = present(await leasesStore.put(key, 'x', revision, { ttlMs: 3 * ttlMs }));
      await clock;
      await expired(other);
      assert.equal((await leasesStore.get(key)).entry?.revision, revision);
    }
    await expired(key);
  });

  it('finds by wildcard, and tells the keys that hold a value', async () => {
    const [a, b, gone, short] = ['a', 'b', 'gone', 'short'].map((name) => `wild-${names}.${name}`) as [
      string,
      string,
      string,
      string,
    ];
    await leasesStore.create(short, 'short', { ttlMs });
    await leasesStore.create(a, 'A');
    await leasesStore.create(b, 'B');
    await leasesStore.remove(gone, present(await leasesStore.create(gone, 'x')));
    await expired(short);
    assert.deepEqual((await leasesStore.keys(`wild-${names}.*`)).toSorted(), [a, b]);
    assert.deepEqual(await leasesStore.keys('nothing.*'), []);
    const { entry } = await leasesStore.get(`*.${'b'}`);
    assert.equal(entry?.key, b);
    assert.deepEqual(await leasesStore.get('nothing.*'), { entry: undefined, revision: 0 });
  });

  it('tells all of 2 000 keys', async () => {
    const prefix = fresh('many');
    const keys = Array.from({ length: 2000 }, (_, i) => `${prefix}.${i}`);
    await forEach(keys, 50, (key) => leasesStore.create(key, key));
    assert.deepEqual((await leasesStore.keys(`${prefix}.*`)).toSorted(), keys.toSorted());
  });
});

describe('a lease', at, () => {
  const ttlMs = 1000;
  const holder = (worker = 'w1') => ({ worker, operation: randomUUID() });
  /** For what does not end by itself: a busy machine may take its time. */
  let leases: Leases;
  let short: Leases;
  before(() => {
    leases = new Leases(leasesStore, 60_000);
    short = new Leases(leasesStore, ttlMs);
  });
  const take = async (key: string, of = leases): Promise<Lease> => present(await of.acquire(key, holder()));

  it('is had by one of twenty, and says by whom', async () => {
    const key = fresh('lease');
    const racers = Array.from({ length: 20 }, (_, i) => holder(`w${i}`));
    const taken = await Promise.all(racers.map((racer) => leases.acquire(key, racer)));
    const winners = racers.filter((_, i) => taken[i]);
    assert.equal(winners.length, 1);
    assert.deepEqual(await leases.holder(key), winners[0]);
  });

  it('that is renewed outlives its time', async () => {
    const key = fresh('lease');
    const long = new Leases(leasesStore, 5 * ttlMs);
    const lease = await take(key, long);
    const timer = setInterval(() => void lease.renew(), 500);
    try {
      // Two of these one after the other take longer than the lease's time.
      for (const clock of [fresh('clock'), fresh('clock'), fresh('clock')]) {
        await leasesStore.create(clock, 'x', { ttlMs: 3 * ttlMs });
        await expired(clock);
        assert.equal(await long.acquire(key, holder('w2')), undefined);
        lease.assertHeld();
      }
    } finally {
      clearInterval(timer);
    }
  });

  it('that is not renewed goes to the next; the old holder knows, and cannot take it back', async () => {
    const key = fresh('lease');
    const old = await take(key, short);
    await expired(key);
    await isLost(() => old.assertHeld());
    const next = await take(key);
    await old.renew();
    assert.equal((old.lost.reason as LxstowError).code, 'lease-lost');
    await old.release();
    next.assertHeld();
    await next.renew();
    next.assertHeld();
    assert.equal(await leases.acquire(key, holder()), undefined);
  });

  it('is lost when the program stood still for too long, before anybody is asked', async () => {
    const lease = await take(fresh('lease'), short);
    const until = performance.now() + ttlMs;
    while (performance.now() < until);
    await isLost(() => lease.assertHeld());
    assert.ok(lease.lost.aborted);
  });

  it('is lost, and says so, when another has it at the next renewal', async () => {
    const key = fresh('lease');
    const lease = await take(key);
    const { revision } = await leasesStore.get(key);
    await leasesStore.put(key, JSON.stringify(holder('thief')), revision);
    await lease.renew();
    await isLost(() => lease.assertHeld());
    assert.match((lease.lost.reason as Error).message, /another worker/);
  });

  it('that is given back is free at once, and is no longer held', async () => {
    const key = fresh('lease');
    const lease = await take(key);
    await lease.release();
    await isLost(() => lease.assertHeld());
    assert.equal(await leases.holder(key), undefined);
    const next = await take(key);
    await lease.release();
    await lease.renew();
    assert.ok(await leases.holder(key));
    next.assertHeld();
  });

  it('may be renewed twice at once', async () => {
    const lease = await take(fresh('lease'));
    await Promise.all([lease.renew(), lease.renew(), lease.renew()]);
    lease.assertHeld();
    await lease.renew();
    lease.assertHeld();
  });

  it('given back while it is being renewed is free', async () => {
    const key = fresh('lease');
    const lease = await take(key);
    const renewing = lease.renew();
    await lease.release();
    await renewing;
    assert.equal(await leases.holder(key), undefined);
  });

  it('is not lost when the answer to a renewal is', async () => {
    await using middleman = await Middleman.open(server.port);
    await using between = await open(middleman.url);
    const key = fresh('lease');
    const long = new Leases(new Bucket(between, leasesBucket), 20_000);
    const lease = await take(key, long);
    middleman.hold();
    const answered = middleman.heard('answered', /"seq"/);
    const renewing = lease.renew();
    await answered;
    const back = untilConnected(true, between);
    middleman.cut();
    await renewing;
    await back;
    lease.assertHeld();
    await lease.renew();
    lease.assertHeld();
    assert.ok(await long.holder(key));
    await lease.release();
    assert.equal(await long.holder(key), undefined);
  });

  it('outlives NATS, killed and started again in its time', async () => {
    const key = fresh('lease');
    const lease = await take(key);
    await kill();
    await lease.renew();
    lease.assertHeld();
    await restart();
    lease.assertHeld();
    await lease.renew();
    lease.assertHeld();
    assert.equal(await leases.acquire(key, holder()), undefined);
    await lease.release();
  });

  it('is lost in its time when NATS stays away', async () => {
    const lease = await take(fresh('lease'), short);
    const lost = once(lease.lost, 'abort');
    await kill();
    const timer = setInterval(() => void lease.renew(), 100);
    try {
      await lost;
      await isLost(() => lease.assertHeld());
    } finally {
      clearInterval(timer);
      await restart();
    }
  });
});

describe('a backup’s name', at, () => {
  const second = new Date('2026-02-26T07:52:18.123Z');
  const name = 'backup_2026-02-26-07-5218.tar.gz';
  const free = async () => false;
  let reservations: Reservations;
  before(() => {
    reservations = new Reservations(leasesStore);
  });

  it('is one operation’s, as often as that asks', async () => {
    const place = address();
    const [mine, theirs] = [randomUUID(), randomUUID()];
    const taken = await Promise.all([reservations.take(place, name, mine), reservations.take(place, name, theirs)]);
    assert.deepEqual(taken.toSorted(), [false, true]);
    const [owner, other] = taken[0] ? [mine, theirs] : [theirs, mine];
    assert.equal(await reservations.holder(place, name), owner);
    assert.equal(await reservations.take(place, name, owner), true);
    assert.equal(await reservations.take(place, name, other), false);
    assert.equal(await reservations.take(address(), name, other), true);
  });

  it('is given back by its owner only', async () => {
    const place = address();
    const [mine, theirs] = [randomUUID(), randomUUID()];
    await reservations.take(place, name, mine);
    await reservations.release(place, name, theirs);
    assert.equal(await reservations.holder(place, name), mine);
    await reservations.release(place, name, mine);
    assert.equal(await reservations.holder(place, name), undefined);
    await reservations.release(place, name, mine);
    assert.equal(await reservations.take(place, name, theirs), true);
  });

  it('in a second in which others begin is numbered before its extension', async () => {
    const place = address();
    const next = () => reservations.takeNext(place, second, 'gzip', randomUUID(), free);
    const taken = await Promise.all([next(), next(), next(), next()]);
    assert.deepEqual(taken.toSorted(), [
      'backup_2026-02-26-07-5218-2.tar.gz',
      'backup_2026-02-26-07-5218-3.tar.gz',
      'backup_2026-02-26-07-5218-4.tar.gz',
      name,
    ]);
  });

  it('that a stored backup has is not taken, nor kept reserved', async () => {
    const place = address();
    const stored = async (wanted: string) => wanted === name;
    assert.equal(
      await reservations.takeNext(place, second, 'gzip', randomUUID(), stored),
      'backup_2026-02-26-07-5218-2.tar.gz',
    );
    assert.equal(await reservations.holder(place, name), undefined);
  });

  it('does not meet the instance’s lease, nor claims on the backup', async () => {
    const place = address();
    const leases = new Leases(leasesStore, 10_000);
    assert.ok(await leases.acquire(instanceLeaseKey(place), { worker: 'w', operation: 'o' }));
    assert.equal(await reservations.take(place, name, 'o'), true);
    assert.ok(await leases.acquire(claimKey(place, name, 'h'), { worker: 'w', operation: 'o' }));
    assert.deepEqual(await leasesStore.keys(claimKey(place, name, '*')), [claimKey(place, name, 'h')]);
  });
});

describe('operations', at, () => {
  const now = new Date();
  const createdFor = async (remote = 'local') => present(await operations.create(pending(undefined, remote)));
  beforeEach(() => nats.jsm.streams.purge(`KV_${operationsBucket}`));

  it('are created once', async () => {
    const operation = pending();
    const stored = present(await operations.create(operation));
    assert.equal(await operations.create({ ...operation, description: 'another' }), undefined);
    assert.deepEqual(await operations.find(operation.id, '*'), stored);
    assert.deepEqual(stored.operation, operation);
  });

  it('are changed by whoever knows the last state, and nobody else', async () => {
    const stored = await createdFor();
    const running = present(await operations.update(begin(stored.operation, 'w1', now), stored.revision));
    assert.equal(await operations.update(begin(stored.operation, 'w2', now), stored.revision), undefined);
    assert.deepEqual(await operations.find(stored.operation.id, '*'), running);
    const both = ['a', 'b', 'c', 'd'].map((backup) =>
      operations.update(amend(running.operation, { backup }, now), running.revision),
    );
    assert.equal((await Promise.all(both)).filter(Boolean).length, 1);
  });

  it('are found by id, on whichever remote', async () => {
    const [here, there] = [await createdFor('local'), await createdFor('far-away')];
    assert.deepEqual(await operations.find(here.operation.id, '*'), here);
    assert.deepEqual(await operations.find(there.operation.id, '*'), there);
    assert.deepEqual(await operations.find(there.operation.id, 'far-away'), there);
    assert.equal(await operations.find(there.operation.id, 'local'), undefined);
    assert.equal(await operations.find(randomUUID(), '*'), undefined);
  });

  /** So many; not all at once, for NATS writes each to its disk. */
  async function createdMany(count: number): Promise<Operation[]> {
    const all = Array.from({ length: count }, () => pending());
    await forEach(all, 50, (operation) => operations.create(operation));
    return all;
  }

  it('are listed: none, some, and what was removed is not', async () => {
    assert.deepEqual(await operations.list(), []);
    const bucket = new Bucket(nats, operationsBucket);
    const gone = await createdFor();
    await bucket.remove(`local.${gone.operation.id}`, gone.revision);
    assert.deepEqual(await operations.list(), []);
    const kept = [await createdFor(), await createdFor('far-away')];
    assert.deepEqual(byId(await operations.list()), byId(kept.map(({ operation }) => operation)));
  });

  it('are listed all, 2 000 of them', async () => {
    const all = await createdMany(2000);
    assert.deepEqual(byId(await operations.list()), byId(all));
  });

  it('are listed once each, in their last state, while they change', async () => {
    const all = await Promise.all(Array.from({ length: 500 }, () => createdFor()));
    let rounds = 0;
    let stop = false;
    const changing = (async () => {
      while (!stop) {
        await Promise.all(
          all.map(async (stored, i) => {
            const changed = amend(stored.operation, { backup: `round-${rounds}` }, now);
            all[i] = present(await operations.update(changed, stored.revision));
          }),
        );
        rounds += 1;
      }
    })();
    try {
      for (let i = 0; i < 10; i++) {
        const before = rounds;
        const seen = await operations.list();
        assert.deepEqual(seen.map(({ id }) => id).toSorted(), all.map(({ operation }) => operation.id).toSorted());
        for (const { backup } of seen) assert.ok(before === 0 || Number(backup?.slice(6)) >= before - 1, backup);
      }
    } finally {
      stop = true;
      await changing;
    }
  });

  it('are not waited for without end when NATS falls silent in the middle of a listing', async () => {
    await using middleman = await Middleman.open(server.port);
    await using between = await open(middleman.url);
    await createdMany(2000);
    const begun = middleman.heard('answered', /\$KV\.lxstow_operations\.local/).then(() => middleman.hold());
    await assert.rejects(new OperationStore(between, 1).list(), { code: 'nats-unavailable' });
    await begun;
  });

  it('are seen as they change, until one looks away', async () => {
    const controller = new AbortController();
    const stored = await createdFor();
    const seen = watched(controller.signal);
    await operations.watch(seen.see, controller.signal, () => undefined);
    const running = present(await operations.update(begin(stored.operation, 'w1', now), stored.revision));
    await seen.until(1);
    const done = present(await operations.update(succeed(running.operation, now), running.revision));
    const other = await createdFor('far-away');
    await seen.until(3);
    assert.deepEqual(seen.all, [running.operation, done.operation, other.operation]);
    controller.abort();
    await createdFor();
    await nats.connection.flush();
    assert.equal(seen.all.length, 3);
  });

  it('are no longer there some time after they ended, and who watches is not harmed', async () => {
    const shortly = new OperationStore(nats, 1 / 3600);
    const controller = new AbortController();
    const seen = watched(controller.signal);
    await operations.watch(seen.see, controller.signal, () => undefined);
    const { operation, revision } = await createdFor();
    const kept = await createdFor();
    await seen.until(2);
    const failed = fail(operation, new LxstowError('internal', 'broken'), now);
    await shortly.update(failed, revision);
    const bucket = new Bucket(nats, operationsBucket);
    await expired(`local.${operation.id}`, bucket);
    assert.equal(await operations.find(operation.id, '*'), undefined);
    assert.deepEqual(await operations.list(), [kept.operation]);
    const later = await createdFor();
    await bucket.remove(`local.${kept.operation.id}`, kept.revision);
    const last = await createdFor();
    await seen.until(5);
    assert.deepEqual(seen.all, [operation, kept.operation, failed, later.operation, last.operation]);
    controller.abort();
  });

  it('are watched by nobody whose signal had ended', async () => {
    const seen = watched(new AbortController().signal);
    await operations.watch(seen.see, AbortSignal.abort(), () => undefined);
    const controller = new AbortController();
    const witness = watched(controller.signal);
    await operations.watch(witness.see, controller.signal, () => undefined);
    await createdFor();
    await witness.until(1);
    assert.deepEqual(seen.all, []);
    controller.abort();
  });

  it('survive NATS, killed and started again; who watches sees what comes after', async () => {
    const controller = new AbortController();
    const seen = watched(controller.signal);
    await operations.watch(seen.see, controller.signal, () => undefined);
    const stored = await createdFor();
    await seen.until(1);
    await kill();
    await assert.rejects(operations.find(stored.operation.id, '*'), { code: 'nats-unavailable' });
    await assert.rejects(operations.list(), { code: 'nats-unavailable' });
    await assert.rejects(operations.create(pending()), { code: 'nats-unavailable' });
    await restart();
    assert.deepEqual(await operations.list(), [stored.operation]);
    const running = present(await operations.update(begin(stored.operation, 'w1', now), stored.revision));
    await seen.until(2);
    assert.deepEqual(seen.all, [stored.operation, running.operation]);
    controller.abort();
  });

  function byId(list: Operation[]): Operation[] {
    return list.toSorted((a, b) => (a.id < b.id ? -1 : 1));
  }

  function watched(signal: AbortSignal) {
    const all: Operation[] = [];
    const events = new EventEmitter();
    return {
      all,
      see(operation: Operation) {
        all.push(operation);
        events.emit('seen');
      },
      async until(count: number) {
        while (all.length < count) await once(events, 'seen', { signal });
      },
    };
  }
});

describe('a job', at, () => {
  beforeEach(() => nats.jsm.streams.purge(jobsStream));
  const queued = async () => (await nats.jsm.streams.info(jobsStream)).state.messages;

  it('is one message, however often it is published under its id', async () => {
    const id = randomUUID();
    const same = job();
    await publishJob(nats, id, same);
    await Promise.all([publishJob(nats, id, same), publishJob(nats, id, same)]);
    assert.equal(await queued(), 1);
    await publishJob(nats, randomUUID(), same);
    assert.equal(await queued(), 2);
  });

  it('is refused when too many wait, until one is done', async () => {
    await setUp(nats, config({ maxQueuedJobs: 2 }));
    try {
      await publishJob(nats, randomUUID(), job());
      await publishJob(nats, randomUUID(), job());
      await assert.rejects(publishJob(nats, randomUUID(), job()), { code: 'queue-full' });
      assert.equal(await queued(), 2);
      const consumer = await nats.js.consumers.get(jobsStream, consumerName('local', 'transfer'));
      await (await consumer.next())?.ackAck();
      await publishJob(nats, randomUUID(), job());
    } finally {
      await setUp(nats, config());
    }
  });

  it('is refused where nothing was set up, with what to do', async () => {
    await nats.jsm.streams.delete(jobsStream);
    try {
      await assert.rejects(publishJob(nats, randomUUID(), job()), {
        code: 'nats-unavailable',
        message: /lxstow setup/,
      });
    } finally {
      await setUp(nats, config());
    }
  });

  it('is refused at once while NATS is away, and does not turn up later', async () => {
    await kill();
    try {
      await assert.rejects(publishJob(nats, randomUUID(), job()), (error: unknown) => {
        assert.ok(error instanceof LxstowError && !(error instanceof UncertainPublish));
        assert.equal(error.code, 'nats-unavailable');
        return true;
      });
    } finally {
      await restart();
    }
    await nats.connection.flush();
    assert.equal(await queued(), 0);
    await publishJob(nats, randomUUID(), job());
    assert.equal(await queued(), 1);
  });

  it('is durable once it is published', async () => {
    for (let i = 0; i < 20; i++) await publishJob(nats, randomUUID(), job());
    await kill();
    await restart();
    assert.equal(await queued(), 20);
  });

  it('is uncertain when the connection dies before NATS has answered', async () => {
    await using middleman = await Middleman.open(server.port);
    await using between = await open(middleman.url);
    const id = randomUUID();
    middleman.hold();
    const said = middleman.heard('said', /HPUB lxstow\.jobs/);
    const publishing = publishJob(between, id, job());
    publishing.catch(() => undefined);
    await said;
    await middleman.end();
    await assert.rejects(publishing, (error: unknown) => {
      assert.ok(error instanceof UncertainPublish, String(error));
      assert.equal(error.code, 'nats-unavailable');
      assert.match(error.message, new RegExp(`unless operation ${id} has begun$`));
      return true;
    });
  });

  it('is tried again when only the answer is late, and is one message', async () => {
    await using middleman = await Middleman.open(server.port);
    await using between = await open(middleman.url);
    middleman.hold();
    const twice = (async () => {
      for (let i = 0; i < 2; i++) await middleman.heard('said', /HPUB lxstow\.jobs/);
    })();
    const publishing = publishJob(between, randomUUID(), job());
    await twice;
    middleman.release();
    await publishing;
    assert.equal(await queued(), 1);
  });
});

describe('a backup’s checkpoint', at, () => {
  const operation = pending();
  const upload = { key: 'k', uploadId: 'u' };
  const start = { lxdBackup: 'b', compression: 'none', upload, begun: 0, session: 'u', instance: {} } as BackupStart;
  const mib = 1024 * 1024;
  let bucket: Bucket;
  before(() => {
    bucket = new Bucket(nats, checkpointsBucket);
  });
  const part = (number: number, from: number, to: number) => {
    const [rawStart, rawEnd] = [from * mib, to * mib];
    const size = rawEnd - rawStart;
    return { number, rawStart, rawEnd, size, etag: '', sha256: '', crc32: '', tar: {} } as unknown as SentPart;
  };
  const load = () => BackupCheckpoint.load(bucket, operation, log);

  it('has the parts up to the first that is missing, or that does not go on where the one before it ended', async () => {
    const checkpoint = BackupCheckpoint.create(bucket, operation, start, log);
    const numbers = ({ parts }: BackupCheckpoint) => parts.map(({ number }) => number);
    for (const each of [part(1, 0, 10), part(2, 10, 20), part(4, 30, 40)]) checkpoint.add(each);
    assert.deepEqual(numbers(checkpoint), [1, 2]);
    // Larger parts from here on: the fourth is of before.
    checkpoint.add(part(3, 20, 35));
    assert.deepEqual(numbers(checkpoint), [1, 2, 3]);
    // Nobody can resume while LXD may still write.
    assert.equal(await load(), undefined);
    const made = { size: 35 * mib, optimized: false };
    await checkpoint.settle(made);
    const loaded = present(await load());
    assert.deepEqual([numbers(loaded), loaded.recorded, loaded.start.made], [[1, 2, 3], 4, made]);
    checkpoint.add(part(100, 40, 50));
    await until(load, (again) => again?.recorded === 5);
    await checkpoint.remove();
    assert.equal(await load(), undefined);
  });

  it('is not written when it is larger than a message: the backup goes on without it', async () => {
    const checkpoint = BackupCheckpoint.create(bucket, operation, start, log);
    const pax = { bytes: 'x'.repeat(2 * mib), left: 1 };
    checkpoint.add({ ...part(1, 0, 20), tar: { pax } as SentPart['tar'] });
    await checkpoint.settle({ size: 40 * mib, optimized: false });
    assert.equal(await load(), undefined);
    await checkpoint.renew({ upload: { key: 'k', uploadId: 'next' }, begun: 1 });
    assert.equal(checkpoint.start.upload?.uploadId, 'next');
    checkpoint.add(part(2, 20, 40));
    assert.equal(checkpoint.parts.length, 2);
    await checkpoint.remove();
    assert.equal(await load(), undefined);
  });

  it('is not written of a backup that is one part', async () => {
    const checkpoint = BackupCheckpoint.create(bucket, operation, start, log);
    checkpoint.add(part(1, 0, 16));
    const before = (await nats.jsm.streams.info(`KV_${checkpointsBucket}`)).state.last_seq;
    await checkpoint.settle({ size: 16 * mib, optimized: false });
    await checkpoint.remove();
    assert.deepEqual(checkpoint.parts.length, 1);
    assert.equal((await nats.jsm.streams.info(`KV_${checkpointsBucket}`)).state.last_seq, before);
  });
});

describe('an attempt', at, () => {
  const now = () => new Date();
  const ttlMs = 10_000;
  let leases: Leases;
  before(() => {
    leases = new Leases(leasesStore, ttlMs);
  });
  const attempts: Attempt[] = [];
  afterEach(async () => {
    for (const attempt of attempts.splice(0)) await attempt.release();
  });

  async function start(worker = 'w1', from?: Stored): Promise<Attempt> {
    const stored = from ?? present(await operations.create(pending()));
    const lease = from ? undefined : await leases.acquire(fresh('attempt'), { worker, operation: stored.operation.id });
    const attempt = present(await Attempt.begin(stored, { store: operations, leases, lease, worker, log }));
    attempts.push(attempt);
    return attempt;
  }
  const found = async ({ operation }: Attempt) => present(await operations.find(operation.id, '*'));

  it('runs under its worker’s name, counted, and begins once', async () => {
    const stored = present(await operations.create(pending()));
    const options = { store: operations, leases, lease: undefined, log };
    const begun = await Promise.all([
      Attempt.begin(stored, { ...options, worker: 'w1' }),
      Attempt.begin(stored, { ...options, worker: 'w2' }),
    ]);
    const winner = present(begun.find(Boolean));
    assert.equal(begun.filter(Boolean).length, 1);
    const { operation } = await found(winner);
    assert.deepEqual([operation.status, operation.attempt], ['Running', 1]);
    assert.equal(operation.owner, begun[0] ? 'w1' : 'w2');
  });

  it('keeps each fact and each step of its checkpoint, written side by side', async () => {
    const attempt = await start();
    await Promise.all([
      attempt.record({ backup: 'b.tar', metadata: { stage: 'generating' } }),
      attempt.checkpoint({ lxdBackup: 'x' }),
      attempt.record({ metadata: { bytes_done: 5 } }),
    ]);
    await attempt.checkpoint({ key: 'k', uploadId: 'u' });
    const { operation } = await found(attempt);
    assert.equal(operation.backup, 'b.tar');
    assert.deepEqual(operation.metadata, { stage: 'generating', bytes_done: 5 });
    assert.deepEqual(operation.checkpoint, { lxdBackup: 'x', key: 'k', uploadId: 'u' });
    assert.deepEqual(operation, attempt.operation);
  });

  it('keeps both of two steps of its checkpoint that are taken at once', async () => {
    const attempt = await start();
    await Promise.all([attempt.checkpoint({ lxdBackup: 'x' }), attempt.checkpoint({ key: 'k', uploadId: 'u' })]);
    assert.deepEqual((await found(attempt)).operation.checkpoint, { lxdBackup: 'x', key: 'k', uploadId: 'u' });
  });

  it('tells its progress once a second, records it with its next stage, and the last of it at the end', async () => {
    const controller = new AbortController();
    const feed = await operations.feed(log, controller.signal);
    using progress = new ProgressFeed(nats, operations, feed);
    const attempt = await start();
    const { id } = attempt.operation;
    const seen: Operation[] = [];
    const events = new EventEmitter();
    progress.onProgress((operation) => {
      if (operation.id !== id) return;
      seen.push(operation);
      events.emit('seen');
    });
    const begun = performance.now();
    const timer = setInterval(() => attempt.report({ bytes_done: Math.round(performance.now() - begun) }), 5);
    try {
      while (seen.length < 3) await once(events, 'seen');
    } finally {
      clearInterval(timer);
    }
    assert.ok(performance.now() - begun > 1900);
    const recorded = (await found(attempt)).operation;
    assert.deepEqual(recorded, attempt.operation);
    assert.equal(progress.latest(recorded).metadata.bytes_done, seen.at(-1)?.metadata.bytes_done);
    attempt.report({ bytes_done: 1_000_000, stage: 'uploading' });
    await until(
      async () => (await found(attempt)).operation.metadata,
      ({ stage, bytes_done }) => stage === 'uploading' && bytes_done === 1_000_000,
    );
    attempt.report({ bytes_done: 2_000_000 });
    await attempt.finish((operation) => succeed(operation, now()));
    attempt.report({ bytes_done: 3_000_000 });
    const { operation } = await found(attempt);
    assert.deepEqual(
      [operation.status, operation.metadata],
      ['Success', { bytes_done: 2_000_000, stage: 'uploading' }],
    );
    assert.equal(progress.latest(operation), operation);
    assert.equal(operation.owner, undefined);
    assert.equal(operation.checkpoint, undefined);
    controller.abort();
  });

  it('that ended cannot be changed', async () => {
    const attempt = await start();
    await attempt.finish((operation) => succeed(operation, now()));
    await assert.rejects(attempt.record({ backup: 'late' }));
    assert.equal((await found(attempt)).operation.backup, undefined);
  });

  it('handed back waits for the next, with its reason and its checkpoint', async () => {
    const attempt = await start();
    await attempt.checkpoint({ lxdBackup: 'x' });
    await attempt.finish((operation) => requeue(operation, 'later', now(), true));
    const stored = await found(attempt);
    assert.equal(stored.operation.status, 'Pending');
    const second = await start('w2', stored);
    assert.equal(second.operation.attempt, 2);
    assert.deepEqual(second.operation.checkpoint, { lxdBackup: 'x' });
  });

  it('taken over by another worker ends: it can write nothing, and its signal says why', async () => {
    const first = await start('w1');
    const second = await start('w2', await found(first));
    assert.equal(second.operation.attempt, 2);
    await assert.rejects(first.record({ backup: 'mine' }), { code: 'lease-lost' });
    assert.ok(first.signal.aborted);
    assert.equal((first.signal.reason as LxstowError).code, 'lease-lost');
    await isLost(() => first.assertOwned());
    await assert.rejects(
      first.finish((operation) => succeed(operation, now())),
      { code: 'lease-lost' },
    );
    await second.record({ backup: 'theirs' });
    const { operation } = await found(second);
    assert.deepEqual([operation.status, operation.owner, operation.backup], ['Running', 'w2', 'theirs']);
  });

  it('taken over by the same worker ends just so', async () => {
    const first = await start('w1');
    const second = await start('w1', await found(first));
    await assert.rejects(first.record({}), { code: 'lease-lost' });
    await second.record({});
  });

  it('whose operation is over ends', async () => {
    const attempt = await start();
    const { operation, revision } = await found(attempt);
    await operations.update(fail(operation, new LxstowError('cancelled', 'told so'), now()), revision);
    await assert.rejects(attempt.record({}), { code: 'lease-lost' });
    assert.ok(attempt.signal.aborted);
  });

  it('goes on when somebody else only made a note', async () => {
    const attempt = await start();
    const { operation, revision } = await found(attempt);
    await operations.update({ ...operation, may_cancel: true }, revision);
    await attempt.record({ backup: 'mine' });
    const after = (await found(attempt)).operation;
    assert.deepEqual([after.backup, after.may_cancel], ['mine', true]);
  });

  it('ends when its lease is another’s', async () => {
    const key = fresh('claimed');
    const attempt = await start();
    await attempt.claim(key, 'it is in use');
    await assert.rejects((await start()).claim(key, 'it is in use'), {
      code: 'instance-busy',
      message: 'it is in use',
    });
    const { revision } = await leasesStore.get(key);
    await leasesStore.put(key, JSON.stringify({ worker: 'thief', operation: 'o' }), revision);
    await attempt.renew();
    assert.equal((attempt.signal.reason as LxstowError).code, 'lease-lost');
    await isLost(() => attempt.assertOwned());
    await assert.rejects(attempt.record({}), { code: 'lease-lost' });
  });

  it('keeps its leases as long as they are renewed, and gives all of them back', async () => {
    const keys = [fresh('claimed'), fresh('claimed')];
    const attempt = await start();
    for (const key of keys) await attempt.claim(key, 'busy');
    await attempt.renew();
    attempt.assertOwned();
    for (const key of keys) assert.ok(await leases.holder(key));
    await attempt.release();
    for (const key of keys) assert.equal(await leases.holder(key), undefined);
  });

  it('goes on when the answer to what it wrote was lost', async () => {
    await using middleman = await Middleman.open(server.port);
    await using between = await open(middleman.url);
    const stored = present(await operations.create(pending()));
    const store = new OperationStore(between, 1);
    const attempt = present(await Attempt.begin(stored, { store, leases, lease: undefined, worker: 'w1', log }));
    middleman.hold();
    const answered = middleman.heard('answered', /"seq"/);
    const writing = attempt.record({ backup: 'b.tar' });
    // It may be found out in time that it was written.
    const settled = writing.catch((error: LxstowError) => assert.equal(error.code, 'nats-unavailable'));
    await answered;
    const back = untilConnected(true, between);
    middleman.cut();
    await settled;
    await back;
    await attempt.record({ metadata: { stage: 'uploading' } });
    const { operation } = await found(attempt);
    assert.deepEqual([operation.backup, operation.metadata], ['b.tar', { stage: 'uploading' }]);
    assert.ok(!attempt.signal.aborted);
  });
});
