/** What `lxstow status` says of each instance, on real parts: by HTTP, over NATS and on the command line. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import https from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { loadConfig } from '../../services/contract/config.ts';
import type { InstanceStatus } from '../../services/contract/schemas.ts';
import { FleetView } from '../../services/fleet/fleetStore.ts';
import { changeInstance, renameInstance, setState } from '../../services/lxd/instanceChanges.ts';
import { Bucket } from '../../services/nats/bucket/bucket.ts';
import { connectNats } from '../../services/nats/connection.ts';
import { instancesBucket } from '../../services/nats/streams.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { type Certificate, makeCertificate } from '../lab/certificates.ts';
import { lxstow } from '../lab/lxstow.ts';
import { attempt } from '../lab/run.ts';
import { publish } from './publisher.ts';
import { assertError, openStack, type Stack, until } from './stack.ts';

const cli = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));
const waiting = () => ({ signal: AbortSignal.timeout(60_000), idleTimeoutMs: 30_000 });

describe('the state of each instance', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  let home: string;
  before(async () => {
    home = await mkdtemp(join(tmpdir(), 'lxstow-fleet-'));
    stack = await openStack('fleet', {
      // Nobody works for `away`.
      config: { worker: { inventoryEverySeconds: 1 }, remotes: { away: {} } },
    });
    await stack.launch('c1', { dataMiB: 1 });
  });
  after(async () => {
    await stack?.[Symbol.asyncDispose]();
    await rm(home, { recursive: true, force: true });
  });

  const list = async (query = 'all-projects=true', certificate?: Certificate) => {
    const path = `/1.0/status?recursion=1&${query}`;
    const answer = await stack.stow.request('GET', path, certificate ? { certificate } : {});
    assert.equal(answer.status, 200, answer.text);
    return answer.body.metadata as InstanceStatus[];
  };
  const of = async (instance: string, project = 'default') =>
    (await list()).find((each) => each.instance === instance && each.project === project);
  /** Once the next inventory has seen it. */
  const becomes = (instance: string, state: InstanceStatus['state']) =>
    until(
      () => of(instance),
      (found) => found?.state === state,
    ) as Promise<InstanceStatus>;
  const metric = async (name: string) =>
    (await (await fetch(`${stack.stow.healthUrl.gateway}/metrics`)).text())
      .split('\n')
      .filter((line) => line.startsWith(`${name}{`))
      .sort();
  const remove = async (instance: string, backup: string) =>
    assert.equal((await stack.stow.request('DELETE', `/1.0/instances/${instance}/backups/${backup}`)).status, 200);

  it('a new one has never been backed up; then it has, and when its backup is deleted, never again', async () => {
    const never = await becomes('c1', 'never');
    assert.deepEqual(never, {
      ...{ host: 'local', project: 'default', instance: 'c1', state: 'never' },
      ...{ last_success: null, reason: 'it has no backup' },
    });
    const first = await stack.backup('c1');
    const { state, last_success, reason } = (await of('c1')) as InstanceStatus;
    assert.deepEqual([state, reason], ['ok', '']);
    const second = await stack.backup('c1');
    await remove('c1', second);
    // What is left is the first one, as its manifest has it.
    assert.equal((await of('c1'))?.last_success, last_success);
    await remove('c1', first);
    assert.deepEqual(await of('c1'), never);
  });

  it('one whose last backup failed says why, until the next one', async () => {
    const taken = await stack.backup('c1');
    await publish(stack.nats.url, 'lxstow.jobs.local.backup.default.c1', { backup: taken });
    const { last_success, reason } = await becomes('c1', 'failing');
    assert.match(reason, /^the last backup failed, .* UTC: backup c1\/backup_.* already exists$/);
    assert.ok(last_success);
    const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups');
    await stack.stow.request('DELETE', answer.body.operation);
    const { status } = await stack.stow.finished(answer);
    assert.equal((await of('c1'))?.state, status === 'Success' ? 'ok' : 'failing', `a backup that ended as ${status}`);
    await stack.backup('c1');
    assert.equal((await of('c1'))?.state, 'ok');
    // Of what was never there nothing is said.
    await publish(stack.nats.url, 'lxstow.jobs.local.backup.default.nobody', {});
    await stack.backup('c1');
    assert.equal(await of('nobody'), undefined);
  });

  it('is too old for who says so', async () => {
    assert.equal((await list('older-than=8d')).find(({ instance }) => instance === 'c1')?.state, 'ok');
    assertError(await stack.stow.request('GET', '/1.0/status?older-than=0m'), 400, /older-than/);
  });

  it('an archive that is uploaded counts; an instance that LXD does not have is gone', async () => {
    const [backup] = (await stack.stow.request('GET', '/1.0/instances/c1/backups?recursion=1')).body.metadata;
    const stored = await stack.bucket().getObject(stack.s3.bucket, `local/default/c1/${backup.name}`);
    const headers = { 'content-type': 'application/octet-stream', 'x-lxd-name': 'elsewhere' };
    const { client, url } = stack.stow;
    const request = https.request(`${url}/1.0/instances`, {
      ...{ method: 'POST', headers, rejectUnauthorized: false, agent: false },
      ...client,
    });
    request.end(Buffer.concat(await stored.toArray()));
    const [{ statusCode }] = await once(request, 'response');
    assert.equal(statusCode, 202);
    const gone = await becomes('elsewhere', 'gone');
    assert.ok(gone.last_success);
    assert.match(gone.reason, /^LXD does not have it, since/);
  });

  it('excluded, renamed and deleted ones are listed as such, and raise no alert', async () => {
    const series = { c1: 'lxstow_last_success_timestamp_seconds{remote="local",project="default",instance="c1"}' };
    const c1 = { remote: 'local', project: 'default', instance: 'c1' };
    const { signal } = waiting();
    assert.equal((await metric('lxstow_last_success_timestamp_seconds')).length, 1);
    await changeInstance(stack.lxd, c1, () => true, { config: { 'user.lxstow.exclude': 'true' } }, signal);
    await becomes('c1', 'excluded');
    assert.deepEqual(await metric('lxstow_last_success_timestamp_seconds'), []);
    await changeInstance(stack.lxd, c1, () => true, { config: { 'user.lxstow.exclude': '' } }, signal);
    await becomes('c1', 'ok');

    await setState(stack.lxd, c1, 'stop', waiting(), true);
    await renameInstance(stack.lxd, c1, 'c9', waiting());
    assert.match((await becomes('c9', 'never')).reason, /^it has no backup under this name; it was c1$/);
    assert.match((await becomes('c1', 'gone')).reason, /^it is c9 now, since/);
    // What is to be backed up, and is not: 0.
    assert.deepEqual(await metric('lxstow_last_success_timestamp_seconds'), [`${series.c1.replace('"c1"', '"c9"')} 0`]);
    await renameInstance(stack.lxd, { ...c1, instance: 'c9' }, 'c1', waiting());
    await becomes('c9', 'gone');
    assert.equal((await becomes('c1', 'ok')).reason, '');
    const counted = Object.fromEntries((await metric('lxstow_instances')).map((line) => line.split(' ')));
    assert.equal(counted['lxstow_instances{remote="local",state="gone"}'], '2');
    assert.equal(counted['lxstow_instances{remote="local",state="ok"}'], '1');
  });

  it('is made again from the bucket and the hosts, when all of it is lost', async () => {
    const before = (await list()).filter(({ last_success }) => last_success !== null);
    await using connection = Object.assign(await connect({ servers: stack.nats.url }), {
      [Symbol.asyncDispose]: () => connection.close(),
    });
    await (await jetstreamManager(connection)).streams.delete('KV_lxstow_instances');
    await lxstow(['-c', stack.stow.configFile, 'setup']);
    const rebuild = async () => {
      const args = [cli, '-c', stack.stow.configFile, 'rebuild', '--format', 'json'];
      const { status, stdout } = await attempt(process.execPath, args);
      assert.equal(status, 1, 'a host is away');
      return JSON.parse(stdout.toString());
    };
    const rebuilt = await rebuild();
    assert.deepEqual(
      rebuilt.map(({ host, error }: Record<string, unknown>) => [host, error]),
      [
        ['local', null],
        ['away', 'no worker of host away is up'],
      ],
    );
    const states = (all: InstanceStatus[]) => all.map(({ reason: _, ...each }) => each);
    assert.deepEqual(states(await list()), states(before));
    assert.deepEqual(
      (await rebuild()).map(({ backups, instances }: Record<string, number | null>) => [backups, instances]),
      [
        [0, 0],
        [0, null],
      ],
      'nothing was left to correct',
    );
  });

  it('is shown whatever another host has written for a record, and what is no record is made again', async () => {
    const config = loadConfig({ file: stack.stow.configFile, env: {} });
    await using nats = await connectNats(
      config.nats,
      'fleet-test',
      createLogger({ level: 'error', format: 'json' }, {}),
    );
    const bucket = new Bucket(nats, instancesBucket);
    const put = async (key: string, value: string) =>
      assert.ok(await bucket.put(key, value, (await bucket.get(key)).revision));
    const bad = ['null', '{', '[]', '{"seen":{"at":1}}', '{"seen":{"at":"","schedules":"x"}}', '{"good":{}}'];
    for (const [index, value] of bad.entries()) await put(`away.default.bad${index}`, value);
    await put('away.=inventory', '{');
    await put('away.default.later', '{"seen":{"at":"2026-11-28T03:00:00Z","excluded":true},"proof":1}');
    try {
      const seen = (await list()).filter(({ instance }) => /^(bad\d|c1|later)$/.test(instance));
      assert.deepEqual(
        seen.map(({ instance, state }) => [instance, state]),
        [
          ['later', 'excluded'],
          ['c1', 'ok'],
        ],
      );
      const prune = { keep: { keep_last: 9 }, dry_run: true };
      assert.equal((await stack.stow.request('POST', '/1.0/prune', { body: prune })).status, 200);
      // As a gateway that has just started.
      const { instances } = await new FleetView(nats).current();
      assert.ok(instances.some(({ cursor }) => cursor === 'local/default/c1'));
      const counted = await metric('lxstow_instances');
      assert.ok(counted.includes('lxstow_instances{remote="away",state="excluded"} 1'));

      for (const value of ['{', 'null']) {
        await put('local.default.c1', value);
        await becomes('c1', 'never');
        await attempt(process.execPath, [cli, '-c', stack.stow.configFile, 'rebuild']);
        assert.equal((await of('c1'))?.state, 'ok', value);
      }
    } finally {
      for (const key of await bucket.names('away.>')) await bucket.remove(key, (await bucket.get(key)).revision);
    }
  });

  it('comes in pages, by HTTP and over NATS, and as paths', async () => {
    const all = await list('project=default');
    assert.ok(all.length >= 2);
    const found: InstanceStatus[] = [];
    for (let path: string | undefined = '/1.0/status?recursion=1&project=default&limit=1'; path; ) {
      const answer = await stack.stow.request('GET', path);
      found.push(...answer.body.metadata);
      path = /^<(.*)>; rel="next"$/.exec(String(answer.headers.link ?? ''))?.[1];
    }
    assert.deepEqual(found, all);
    const { metadata } = (await stack.stow.request('GET', '/1.0/status?state=ok')).body;
    assert.deepEqual(metadata, ['/1.0/instances/c1']);
    await using connection = Object.assign(await connect({ servers: stack.nats.url }), {
      [Symbol.asyncDispose]: () => connection.close(),
    });
    const over: InstanceStatus[] = [];
    for (let after: string | undefined; ; ) {
      const body = JSON.stringify({ limit: 1, after });
      const page = (await connection.request('lxstow.api.status.list.local.default', body)).json<{
        instances: InstanceStatus[];
        next?: string;
      }>();
      over.push(...page.instances);
      after = page.next;
      if (after === undefined) break;
    }
    assert.deepEqual(over, all);
  });

  it('on the command line, what is red comes first, and makes it exit with 1', async () => {
    const run = async (...args: string[]) => {
      const env = { ...process.env, XDG_CONFIG_HOME: home, NO_COLOR: '1' };
      const { status, stdout, stderr } = await attempt(process.execPath, [cli, ...args], { env });
      return { status, stdout: stdout.toString(), stderr };
    };
    const token = await lxstow(['-c', stack.stow.configFile, 'trust', 'token', 'tester']);
    assert.equal((await run('remote', 'add', 'stow', token.trim())).status, 0);
    assert.equal((await run('status')).status, 0);
    await stack.launch('new', { project: stack.project });
    await until(
      () => of('new', stack.project),
      (found) => found?.state === 'never',
    );
    const { status, stdout, stderr } = await run('status', '--format', 'json');
    assert.equal(status, 1, stderr);
    assert.equal(stderr, 'lxstow: no worker of host away has taken an inventory yet\n');
    const [first, ...others] = JSON.parse(stdout);
    assert.deepEqual(first, {
      ...{ host: 'local', project: stack.project, instance: 'new', state: 'never' },
      ...{ last_success: null, reason: 'it has no backup' },
    });
    assert.ok(others.length >= 2);
    assert.equal((await run('status', '--project', 'default')).status, 0);
    assert.match((await run('status')).stdout, /^STATE +HOST .*\nnever +local +lxstow-lab +new +- +it has no backup\n/);
    assert.match(
      (await run('status', '--summary')).stdout,
      /^1 of \d instances needs attention: never new; 1 ok, 1 gone\n$/,
    );
    assert.equal((await run('status', '--older-than', 'soon')).status, 64);
  });

  it('a viewer looks; who is restricted sees its own projects', async () => {
    const trusted = async (grant: object) => {
      const certificate = await makeCertificate({ commonName: 'looks' });
      const body = { type: 'client', certificate: certificate.cert.replaceAll(/-----.*-----|\s/g, ''), ...grant };
      assert.equal((await stack.stow.request('POST', '/1.0/certificates', { body })).status, 201);
      return certificate;
    };
    const viewer = await trusted({ name: 'viewer', role: 'viewer' });
    assert.ok((await list('all-projects=true', viewer)).length >= 3);
    const grant = { name: 'restricted', restricted: true, projects: [stack.project], role: 'viewer' };
    const restricted = await trusted(grant);
    const seen = (await list('all-projects=true', restricted)).map(({ project, instance }) => [project, instance]);
    assert.deepEqual(seen, [[stack.project, 'new']]);
    const others = await stack.stow.request('GET', '/1.0/status?project=default', { certificate: restricted });
    assertError(others, 403, /^not authorized$/);
    const stranger = await makeCertificate({ commonName: 'stranger' });
    assertError(await stack.stow.request('GET', '/1.0/status', { certificate: stranger }), 403, /^not authorized$/);
  });
});
