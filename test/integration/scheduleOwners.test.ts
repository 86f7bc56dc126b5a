/** Whose schedules are, and what they say of the instances that they cover. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { InstanceStatus, ShownSchedule } from '../../services/contract/schemas.ts';
import { FleetStore } from '../../services/fleet/fleetStore.ts';
import type { Certificate } from '../lab/certificates.ts';
import { lxstow } from '../lab/lxstow.ts';
import { attempt } from '../lab/run.ts';
import { cliFile, openScheduleStack, type ScheduleStack } from './scheduleStack.ts';
import { assertError, type Stack, until } from './stack.ts';

describe('schedules of several clients', { timeout: 1_800_000 }, () => {
  let world: ScheduleStack;
  let stack: Stack;
  before(async () => {
    world = await openScheduleStack('schedule-owners');
    ({ stack } = world);
  });
  after(() => world?.[Symbol.asyncDispose]());

  it('are for operators, in their projects', async () => {
    const { certificate: viewer } = await world.client('viewer');
    assertError(
      await world.ask('POST', '', { name: 'v', definition: { cron: '@yearly' } }, viewer),
      403,
      /not authorized/,
    );
    assert.equal((await world.ask('GET', '', undefined, viewer)).status, 200);
    const { certificate: operator } = await world.client('operator', [stack.project]);
    await world.create('taken', { cron: '@yearly' });
    assertError(await world.ask('GET', '/taken', undefined, operator), 404, /does not exist/);
    assertError(await world.ask('DELETE', '/taken', undefined, operator), 404, /does not exist/);
    const wide = { cron: '@yearly', selector: { all: true, projects: ['default'] } };
    assertError(await world.ask('POST', '', { name: 'wide', definition: wide }, operator), 403, /not authorized/);
    assert.equal(
      (await world.ask('POST', '', { name: 'own', definition: { cron: '@yearly', selector: { all: true } } }, operator))
        .status,
      201,
    );
    assert.deepEqual((await world.show('own')).definition.selector?.projects, [stack.project]);
    assert.deepEqual((await world.ask('GET', '', undefined, operator)).body.metadata, ['/1.0/schedules/own']);
  });

  it('show the URLs that they call, which may be secret, to operators only', async () => {
    const ping = `${world.receiver.url}/ping/secret`;
    const { origin } = new URL(ping);
    await world.create('pings', { cron: '@yearly', ping });
    const { certificate: viewer } = await world.client('viewer');
    const { certificate: operator } = await world.client('operator');
    const seen = async (path: string, certificate: Certificate) => {
      const { metadata } = (await world.ask('GET', path, undefined, certificate)).body;
      return [metadata].flat().find(({ name }: ShownSchedule) => name === 'pings').definition.ping;
    };
    for (const path of ['/pings', '?recursion=1'])
      assert.deepEqual([await seen(path, viewer), await seen(path, operator)], [origin, ping]);
    // It is not refused, though `notify.allowed` has only URLs below /ping.
    const { definition } = (await world.ask('GET', '/pings', undefined, viewer)).body.metadata;
    assert.equal((await world.ask('PUT', '/pings', definition, operator)).body.metadata.definition.ping, ping);
  });

  it('are exported only by clients that see their URLs in full', async () => {
    const ping = `${world.receiver.url}/ping/hidden`;
    await world.create('hidden', { cron: '@yearly', ping });
    await world.create('open', { cron: '@yearly' });
    const home = join(world.home, 'viewer');
    const token = (await lxstow(['-c', stack.stow.configFile, 'trust', 'token', 'looks', '--role', 'viewer'])).trim();
    const asViewer = async (...args: string[]) => {
      const env = { ...process.env, XDG_CONFIG_HOME: home };
      const { status, stdout, stderr } = await attempt(process.execPath, [cliFile, ...args], { env });
      return { status, stdout: stdout.toString(), stderr: stderr.toString() };
    };
    assert.equal((await asViewer('remote', 'add', 'stow', token)).status, 0);
    const refused = await asViewer('schedule', 'export');
    assert.deepEqual([refused.status, refused.stdout], [77, '']);
    assert.match(refused.stderr, /sees only a part of ping of schedule \w+\n.*certificate of an operator/);
    assert.match((await asViewer('schedule', 'export', 'open')).stdout, /open:/);
    const exported = await world.cli('schedule', 'export', 'hidden');
    assert.ok(exported.includes(ping));
    const file = join(world.home, 'hidden.yaml');
    await writeFile(file, exported);
    const checked = await asViewer('schedule', 'apply', '--dry-run', file);
    assert.deepEqual([checked.status, checked.stdout], [0, 'hidden: unchanged\n']);
    assert.match(checked.stderr, /hidden: of ping, this client sees only scheme, host and port/);
  });

  it('are what the states of the instances that they cover are judged by', async () => {
    const fleet = new FleetStore(world.nats);
    const address = { remote: 'local', project: 'default', instance: 's1' };
    const of = async (instance: string): Promise<InstanceStatus> => {
      const { body } = await stack.stow.request('GET', `/1.0/status?recursion=1&project=default`);
      return body.metadata.find((each: InstanceStatus) => each.instance === instance);
    };
    const metric = async (name: string) =>
      (await (await fetch(`${stack.stow.healthUrl.gateway}/metrics`)).text())
        .split('\n')
        .find((line) => line.startsWith(`lxstow_${name}{`));
    // Those of other tests cover it, too.
    for (const { name } of (await world.ask('GET', '?recursion=1')).body.metadata)
      await world.ask('DELETE', `/${name}`);
    const agoMs = 50 * 3_600_000;
    const ago = new Date(Date.now() - agoMs).toISOString();
    await fleet.change(address, ({ last: _, ...record }) => ({ ...record, good: { backup: 'b', at: ago, size: 1 } }));
    assert.match((await of('s1')).reason, /^its last backup is 50 h old$/);

    await world.set('s1', { 'user.backup': 'often' });
    await world.create('often', {
      cron: '0 0 * * *',
      zone: 'Europe/Berlin',
      selector: { match: ['user.backup=often'] },
    });
    const covered = await of('s1');
    assert.deepEqual([covered.state, covered.reason, covered.schedules], ['ok', '', ['often']]);
    assert.match((await metric('backup_expected_timestamp_seconds')) ?? '', /instance="s1"} 0$/);
    const { next = '' } = await world.show('often');
    assert.equal(await metric('schedule_due_timestamp_seconds'), due('often', next));

    // As if it had been made long ago.
    await world.ask('POST', '/often/pause', { reason: 'the NAS moves' });
    const found = await world.schedules.find('often');
    assert.ok(found);
    await world.schedules.update(
      { ...found.schedule, begun: new Date(Date.now() - agoMs).toISOString() },
      found.revision,
    );
    const paused = await until(
      () => of('s1'),
      ({ state }) => state === 'overdue',
    );
    const slot = '\\d{4}-\\d\\d-\\d\\d 00:00 Europe/Berlin';
    assert.match(
      paused.reason,
      new RegExp(`^schedule often was due ${slot} and is paused since .* UTC: the NAS moves$`),
    );
    assert.doesNotMatch((await metric('backup_expected_timestamp_seconds')) ?? '', / 0$/);
    assert.equal(await metric('schedule_due_timestamp_seconds'), undefined);
    const asked = await stack.stow.request('GET', `/1.0/status?recursion=1&project=default&older-than=90h`);
    assert.equal(asked.body.metadata.find((each: InstanceStatus) => each.instance === 's1').state, 'ok');
    await world.ask('POST', '/often/resume');
    assert.match((await of('s1')).reason, new RegExp(`^schedule often was due ${slot} while it was paused$`));
    assert.match(await world.cli('schedule', 'run', 'often', '--wait', '--quiet'), /1 of 1 backed up/);
    assert.deepEqual([(await of('s1')).state, (await of('s1')).reason], ['ok', '']);

    await world.create('named', { cron: '@daily' });
    await world.set('s2', { 'user.lxstow.schedule': 'named' });
    await until(
      () => of('s2'),
      ({ schedules: names }) => names?.join() === 'named',
    );
    const viewer = (await world.client('viewer', ['default'])).certificate;
    const restricted = await stack.stow.request('GET', `/1.0/status?recursion=1&project=default`, {
      certificate: viewer,
    });
    for (const { schedules: names } of restricted.body.metadata) assert.equal(names, undefined);
    for (const name of ['often', 'named']) await world.ask('DELETE', `/${name}`);
    await world.set('s2', { 'user.lxstow.schedule': '' });
    assert.equal((await of('s1')).schedules, undefined);
  });

  function due(name: string, at: string): string {
    return `lxstow_schedule_due_timestamp_seconds{schedule="${name}"} ${Date.parse(at) / 1000}`;
  }

  describe('whose owner is no longer trusted', { concurrency: true }, () => {
    const listed = async (name: string) =>
      (await world.cli('schedule', 'list')).split('\n').find((line) => line.includes(name)) ?? '';
    const remove = async ({ fingerprint }: { fingerprint: string }) =>
      assert.equal((await stack.stow.request('DELETE', `/1.0/certificates/${fingerprint}`)).status, 200);
    const definition = { cron: '* * * * *', selector: { instances: ['none'] } };

    it('go on if it was not restricted, and say so', async () => {
      const owner = await world.client('operator');
      await world.ask('POST', '', { name: 'ownerless', definition }, owner.certificate);
      await remove(owner);
      const { owner_trouble, paused } = await until(
        () => world.show('ownerless'),
        ({ owner_trouble: trouble }) => trouble !== undefined,
      );
      assert.match(owner_trouble ?? '', /^its owner, client [0-9a-f]{12}, is no longer trusted$/);
      assert.equal(paused, undefined);
      assert.match(await listed('ownerless'), /active; its owner, client .* is no longer trusted/);
      await world.turnBack('ownerless', 61_000);
      await until(
        () => world.show('ownerless'),
        ({ last }) => last !== undefined,
      );
      await world.ask('DELETE', '/ownerless');
    });

    it('are paused if it was restricted, until somebody else resumes them', async () => {
      const owner = await world.client('operator', [stack.project]);
      await world.ask('POST', '', { name: 'orphan', definition }, owner.certificate);
      await remove(owner);
      const { paused } = await until(
        () => world.show('orphan'),
        (shown) => shown.paused !== undefined,
      );
      assert.match(paused?.reason ?? '', /^its owner, client [0-9a-f]{12}, is no longer trusted$/);
      await world.ask('POST', '/orphan/resume');
      await world.turnBack('orphan', 61_000);
      const { last, owner_trouble } = await until(
        () => world.show('orphan'),
        (shown) => shown.last !== undefined,
      );
      assert.ok(last);
      assert.equal(owner_trouble, undefined);
      await world.ask('DELETE', '/orphan');
    });

    for (const [name, change, why] of [
      ['no longer use a project of theirs', { projects: ['default'] }, /operator, may no longer use project/],
      ['only look', { role: 'viewer' }, /its owner, operator, is only a viewer now/],
    ] as const)
      it(`are paused if it may ${name}`, async () => {
        const owner = await world.client('operator', [stack.project]);
        const schedule = name.replaceAll(' ', '-');
        await world.ask('POST', '', { name: schedule, definition }, owner.certificate);
        const path = `/1.0/certificates/${owner.fingerprint}`;
        assert.equal((await stack.stow.request('PATCH', path, { body: change })).status, 200);
        const { paused } = await until(
          () => world.show(schedule),
          (shown) => shown.paused !== undefined,
        );
        assert.match(paused?.reason ?? '', why);
        await world.ask('DELETE', `/${schedule}`);
      });
  });
});
