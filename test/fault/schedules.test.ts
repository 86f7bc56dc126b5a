/** Schedules while gateways, workers and NATS die: what is due is backed up once. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { PruneJob, Run } from '../../services/contract/schemas.ts';
import { uuid5 } from '../../services/jobs/jobs.ts';
import { newOperation } from '../../services/operations/operation.ts';
import { OperationStore } from '../../services/operations/operationStore.ts';
import { childId, plan } from '../../services/runs/plan.ts';
import { RunStore } from '../../services/runs/runStore.ts';
import { openScheduleStack, type ScheduleStack } from '../integration/scheduleStack.ts';
import { type Stack, until } from '../integration/stack.ts';
import { type Lxstow, startLxstow } from '../lab/lxstow.ts';

describe('schedules whose gateways die', { timeout: 1_800_000 }, () => {
  let world: ScheduleStack;
  let stack: Stack;
  let other: Lxstow;
  before(async () => {
    world = await openScheduleStack('schedules-fault');
    ({ stack } = world);
    const { socket = '' } = stack.lab.lxd ?? stack.simulator ?? {};
    other = await startLxstow({
      ...{ name: 'schedules-other', log: () => undefined, natsUrl: stack.nats.url, s3: stack.s3, socket },
      ...{ workers: 0, config: world.config },
    });
  });
  after(async () => {
    await other?.[Symbol.asyncDispose]();
    await world?.[Symbol.asyncDispose]();
  });

  it('are due once, with two gateways of which one is killed', async () => {
    await world.create('twice', { cron: '* * * * *', selector: { instances: ['s1'] } });
    await world.turnBack('twice', 61_000);
    await stack.stow.gateway.kill();
    await until(
      async () => (await world.schedules.find('twice'))?.schedule.last,
      (last) => last !== undefined,
    );
    await stack.stow.gateway.start();
    await world.ask('POST', '/twice/pause', {});
    const { last } = await world.show('twice');
    await world.turnBack('twice', 61_000);
    const runs = new RunStore(world.nats, 1);
    const made = (await runs.list()).filter(
      ({ run }) => run.schedule?.name === 'twice' && run.schedule.slot === last?.slot,
    );
    assert.equal(made.length, 1);
    // While its backup is queued or running, other runs skip the instance.
    assert.equal((await world.endOf(last?.run ?? '')).status, 'Success');
    await world.ask('DELETE', '/twice');
  });

  it('delete what they do not keep where a gateway died between the operation and its job', async () => {
    const runs = new RunStore(world.nats, 1);
    const operations = new OperationStore(world.nats, 1);
    const now = new Date();
    const address = { remote: 'local', project: 'default', instance: 's1' };
    const head: Omit<Run, 'plan' | 'chunks'> = {
      ...{ id: randomUUID(), status: 'Running', class: 'scheduled' },
      ...{ created_at: now.toISOString(), updated_at: now.toISOString() },
      request: { selector: { all: true }, keep: { keep_last: 1 } },
      schedule: { name: 'halfway', slot: 'then', starts_at: new Date(now.getTime() + 3000).toISOString() },
      ...{ places: {}, away: [], failures: [], excluded: 0 },
    };
    const run = await runs.create(head, plan([address]));
    assert.ok(run);
    const id = uuid5(`${childId(run, address)}|prune`);
    const body: PruneJob = { keep: { keep_last: 1 }, run: run.id };
    await operations.create(newOperation({ id, kind: 'prune', address, body }, now));
    const { counts } = await world.endOf(run.id);
    assert.equal(counts.success, 1, JSON.stringify(counts));
    const { status } = await until(
      async () => (await operations.find(id, 'local'))?.operation ?? assert.fail(),
      ({ status: each }) => each !== 'Pending' && each !== 'Running',
    );
    assert.equal(status, 'Success');
  });

  it('are due once, whatever is killed at their minute: NATS, both gateways, the worker', async () => {
    const before = await world.backups('s2');
    const all = [stack.stow.gateway, other.gateway, ...stack.stow.workers];
    const minute = Math.ceil((Date.now() + 15_000) / 60_000) * 60_000;
    const at = new Date(minute);
    const cron = `${at.getUTCMinutes()} ${at.getUTCHours()} * * *`;
    await world.create('minute', { cron, selector: { instances: ['s2'] } });
    await delay(minute - 300 - Date.now());
    await stack.nats.kill('SIGKILL');
    await delay(minute + 200 - Date.now());
    await stack.nats.start();
    await until(
      async () => (await world.show('minute').catch(() => undefined))?.last,
      (last) => last !== undefined,
    );
    await Promise.all(all.map((each) => each.kill('SIGKILL')));
    await Promise.all(all.map((each) => each.start()));
    const run = await world.ended('minute');
    assert.deepEqual([run.status, run.class, run.counts.success], ['Success', 'scheduled', 1]);
    await world.turnBack('minute', Date.now() - minute + 1000);
    await until(
      () => world.schedules.find('minute'),
      (found) => Date.parse(found?.schedule.since ?? '') === minute,
    );
    const runs = (await new RunStore(world.nats, 1).list()).filter(({ run: each }) => each.schedule?.name === 'minute');
    assert.equal(runs.length, 1);
    assert.equal(await world.backups('s2'), before + 1);
    await world.ask('DELETE', '/minute');
  });
});
