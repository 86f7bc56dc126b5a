/** People who do nothing wrong, at the same time: one of them wins, the others are told, and nothing is half done. */
import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { Operation } from '../../services/contract/schemas.ts';
import { publish } from '../integration/publisher.ts';
import { assertError, assertSame, openStack, type Stack, succeeded, until } from '../integration/stack.ts';
import { type Answer, type Lxstow, startLxstow } from '../lab/lxstow.ts';
import { archiveOf, assertClean, assertNoInstance, assertOneBackup, assertRestores } from './workers.ts';

/** In the long form the dice are thrown more often. */
const rounds = (count: number) =>
  Array.from({ length: count * Number(process.env.LXSTOW_LAB_RACE_FACTOR ?? 1) }, (_, i) => i);
const quiet = () => undefined;

describe('at the same time', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  /** A second gateway of the same NATS and bucket: clients need not have asked the same one. */
  let other: Lxstow;
  let files: Map<string, string>;
  /** How long a backup of c1 takes: what races with it starts within that. */
  let usualMs = 0;
  before(async () => {
    process.env.LXSTOW_LAB_LXD = 'none';
    stack = await openStack('races', { workers: 2, config: { worker: { slots: 2 } } });
    const { nats, s3 } = stack;
    other = await startLxstow({ name: 'races2', log: quiet, natsUrl: nats.url, s3, socket: '/none', workers: 0 });
    await stack.launch('c1', { dataMiB: 20 });
    files = await stack.fingerprint('c1');
    const begun = performance.now();
    await stack.backup('c1');
    usualMs = Math.ceil(performance.now() - begun);
  });
  after(async () => {
    await other?.[Symbol.asyncDispose]();
    await stack?.[Symbol.asyncDispose]();
  });

  const gateways = () => [stack.stow, other];
  const someTime = (most = usualMs) => delay(randomInt(Math.ceil(most)));
  const create = (name: string, stow = stack.stow) =>
    stow.request('POST', '/1.0/instances/c1/backups', { body: { name } });
  const restore = (backup: string, name: string, stow = stack.stow) =>
    stow.request('POST', `/1.0/instances/c1/backups/${backup}`, { body: { name } });
  const remove = (backup: string) => stack.stow.request('DELETE', `/1.0/instances/c1/backups/${backup}`);
  const isThere = async (backup: string) =>
    (await stack.keys()).filter((key) => key.startsWith(archiveOf('c1', backup))).length > 0;
  const ended = async (answer: Answer): Promise<Operation> => {
    assert.equal(answer.status, 202, answer.text);
    return (await stack.stow.finished(answer)) as Operation;
  };

  it('the same name is wanted by four clients of two gateways: one gets it, the others 409', async () => {
    for (const worker of stack.stow.workers) await worker.stop();
    for (const round of rounds(25)) {
      const answers = await Promise.all([0, 1, 0, 1].map((which) => create(`mine-${round % 5}`, gateways()[which])));
      assert.deepEqual(answers.map(({ status }) => status).sort(), [202, 409, 409, 409]);
      for (const answer of answers) if (answer.status === 409) assertError(answer, 409, /already exists/);
      const winner = answers.find(({ status }) => status === 202);
      // Cancelled it is free again, for the next round.
      assert.equal((await stack.stow.request('DELETE', winner?.body.operation ?? '')).status, 200);
    }
    for (const worker of stack.stow.workers) await worker.start();
  });

  it('no name is wanted, by eight clients of two gateways in one second: each gets one of its own', async () => {
    const answers = await Promise.all(
      rounds(8).map((round) => gateways()[round % 2]?.request('POST', '/1.0/instances/c1/backups')),
    );
    const names = answers.map((answer) => answer?.body.metadata.name);
    assert.equal(new Set(names).size, answers.length, names.join(' '));
    for (const answer of answers) {
      assert.ok(answer);
      const { id } = await succeeded(stack.stow, answer);
      await assertOneBackup(stack, 'c1', answer.body.metadata.name, id);
    }
  });

  it('a backup is deleted and restored: it is restored whole, or not at all', async () => {
    const ends = new Map<string, number>();
    for (const round of rounds(8)) {
      const backup = await stack.backup('c1', '?compression=none');
      const name = `back-${round}`;
      const restoring = restore(backup, name);
      await someTime();
      const deleted = await remove(backup);
      assert.ok([200, 409].includes(deleted.status), deleted.text);
      const answer = await restoring;
      const { status, err } =
        answer.status === 202 ? await ended(answer) : { status: 'refused', err: answer.body.error };
      if (status === 'Success') {
        assertSame(await stack.fingerprint(name), files);
        await stack.remove(name);
      } else {
        assert.match(err, /does not exist/);
        await assertNoInstance(stack, name);
      }
      if (deleted.status === 409) assert.equal(status, 'Success', err);
      assert.equal(await isThere(backup), deleted.status === 409, `${status}, deletion ${deleted.status}`);
      ends.set(`${status}, deletion ${deleted.status}`, (ends.get(`${status}, deletion ${deleted.status}`) ?? 0) + 1);
    }
    console.log(`races: ${JSON.stringify(Object.fromEntries(ends))}`);
    await assertClean(stack);
  });

  it('one backup is restored under two names: both are whole', async () => {
    const backup = await stack.backup('c1');
    const answers = await Promise.all(['left', 'right'].map((name) => restore(backup, name)));
    for (const answer of answers) await succeeded(stack.stow, answer);
    for (const name of ['left', 'right']) {
      assertSame(await stack.fingerprint(name), files);
      await stack.remove(name);
    }
  });

  it('two restores need a profile that is gone: both are whole', async () => {
    const { simulator } = stack;
    assert.ok(simulator);
    simulator.addProfile({ name: 'front', config: { 'user.role': 'front' } });
    await simulator.createInstance('fronted', { profiles: ['default', 'front'] });
    const backup = await stack.backup('fronted');
    await stack.remove('fronted');
    simulator.deleteProfile('front');
    const begin = (name: string) =>
      stack.stow.request('POST', `/1.0/instances/fronted/backups/${backup}`, { body: { name } });
    // The first one to make it has looked, and makes it only after the second one has.
    const making = simulator.faults.next('POST /1.0/profiles', { hold: true });
    const first = await begin('fronted-1');
    await making.reached;
    await succeeded(stack.stow, await begin('fronted-2'));
    making.release();
    await succeeded(stack.stow, first);
    for (const name of ['fronted-1', 'fronted-2']) await stack.remove(name);
    simulator.deleteProfile('front');
  });

  it('two restore under one name: one of them does, the other is told, the instance is whole', async () => {
    const backup = await stack.backup('c1');
    for (const round of rounds(3)) {
      const name = `one-${round}`;
      const body = { backup, source: { instance: 'c1' } };
      const [one, two, three] = await Promise.all([
        restore(backup, name),
        restore(backup, name, other),
        publish(stack.nats.url, `lxstow.jobs.local.restore.default.${name}.from.local.default.c1.unrestricted`, body),
      ]);
      const operations = [await ended(one), await ended(two), await operationOf(three)];
      assert.deepEqual(operations.map(({ status }) => status).sort(), ['Failure', 'Failure', 'Success']);
      for (const { status, err } of operations) if (status === 'Failure') assert.match(err, /already exists/);
      assertSame(await stack.fingerprint(name), files);
      await stack.remove(name);
    }
  });

  it('an instance is backed up and deleted: the backup can be restored, or the operation says why there is none', async () => {
    const ends = new Map<string, number>();
    for (const round of rounds(8)) {
      const name = `brief-${round}`;
      await stack.launch(name, { dataMiB: 20 });
      const answer = await stack.stow.request('POST', `/1.0/instances/${name}/backups?compression=none`);
      await someTime(usualMs / 2);
      await stack.remove(name);
      const operation = await ended(answer);
      ends.set(operation.status, (ends.get(operation.status) ?? 0) + 1);
      const { name: backup } = answer.body.metadata;
      const objects = (await stack.keys()).filter((key) => key.startsWith(archiveOf(name, backup)));
      if (operation.status === 'Success') {
        await assertOneBackup(stack, name, backup, operation.id);
        await succeeded(stack.stow, await stack.stow.request('POST', `/1.0/instances/${name}/backups/${backup}`));
        await stack.remove(name);
      } else {
        assert.equal(operation.status, 'Failure');
        assert.notEqual(operation.err, '');
        assert.deepEqual(objects, []);
      }
    }
    console.log(`races: ${JSON.stringify(Object.fromEntries(ends))}`);
    await assertClean(stack);
  });

  it('a backup is made and deleted: 409 until it is made', async () => {
    for (const _ of rounds(5)) {
      const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups');
      await someTime();
      const { name } = answer.body.metadata;
      const deleted = await remove(name);
      if (deleted.status !== 200) assertError(deleted, 409, /is still being made: see \/1\.0\/operations\//);
      await succeeded(stack.stow, answer);
      assert.equal(await isThere(name), deleted.status === 409);
      if (deleted.status === 409) assert.equal((await remove(name)).status, 200);
    }
    await assertClean(stack);
  });

  it('a backup ends and is cancelled: what the operation says is so', async () => {
    const ends = new Map<string, number>();
    for (const round of rounds(15)) {
      const name = `torn-${round}`;
      const answer = await create(name);
      await delay(usualMs / 3 + randomInt(usualMs));
      const cancelled = await stack.stow.request('DELETE', answer.body.operation);
      const operation = await ended(answer);
      ends.set(operation.status, (ends.get(operation.status) ?? 0) + 1);
      assert.ok([200, 400].includes(cancelled.status), cancelled.text);
      if (cancelled.status === 400) assert.equal(operation.status, 'Success');
      if (operation.status === 'Success') {
        await assertOneBackup(stack, 'c1', name, operation.id);
      } else {
        assert.equal(operation.status, 'Cancelled', operation.err);
        assert.equal(await isThere(name), false, 'cancelled, and there');
        assertError(await stack.stow.request('GET', `/1.0/instances/c1/backups/${name}`), 404, /does not exist/);
      }
    }
    console.log(`races: ${JSON.stringify(Object.fromEntries(ends))}`);
    await assertClean(stack);
  });

  it('a restore ends and is cancelled: what the operation says is so', async () => {
    const backup = await stack.backup('c1', '?compression=none');
    const ends = new Map<string, number>();
    for (const round of rounds(10)) {
      const name = `half-${round}`;
      const answer = await restore(backup, name);
      await delay(randomInt(usualMs));
      await stack.stow.request('DELETE', answer.body.operation);
      const operation = await ended(answer);
      ends.set(operation.status, (ends.get(operation.status) ?? 0) + 1);
      if (operation.status === 'Success') {
        assertSame(await stack.fingerprint(name), files);
        await stack.remove(name);
      } else {
        assert.equal(operation.status, 'Cancelled', operation.err);
        await assertNoInstance(stack, name);
      }
    }
    console.log(`races: ${JSON.stringify(Object.fromEntries(ends))}`);
  });

  it('a job is published three times, with its id: it is done once', async () => {
    const id = '4be0643f-1d98-573b-97cd-ca98a65347dd';
    const subject = 'lxstow.jobs.local.backup.default.c1';
    await Promise.all([1, 2, 3].map(() => publish(stack.nats.url, subject, { backup: 'thrice' }, id)));
    assert.equal((await operationOf(id)).status, 'Success');
    await assertOneBackup(stack, 'c1', 'thrice', id);
    const logs = (await Promise.all([0, 1].map((worker) => stack.stow.logOf(worker)))).join('\n').split('\n');
    assert.equal(logs.filter((line) => line.includes('"job begun"') && line.includes(id)).length, 1);
    await assertRestores(stack, 'c1', 'thrice', files);
  });

  const operationOf = (id: string) =>
    until(
      async () => (await stack.stow.request('GET', `/1.0/operations/${id}`)).body.metadata as Operation,
      (operation) => operation?.status_code >= 200,
    );
});
