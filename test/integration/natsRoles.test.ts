/** The users of nats.conf, on a real nats-server with it: each can do all its work, and nothing else. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parseEnv } from 'node:util';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect, headers as natsHeaders, PermissionViolationError } from '@nats-io/transport-node';
import type { BackupPage, StatusPage } from '../../services/contract/schemas.ts';
import { operationIdOf } from '../../services/jobs/jobs.ts';
import { openFolder } from '../lab/folder.ts';
import { lxstow, startLxstow } from '../lab/lxstow.ts';
import {
  connectAs,
  type LabNatsWithRoles,
  type NatsUser,
  type Role,
  startConfigured,
  startNatsWithRoles,
} from '../lab/nats.ts';
import { findNatsServer } from '../lab/parts.ts';
import { type Receiver, startReceiver } from '../lab/receiver.ts';
import { attempt } from '../lab/run.ts';
import { assertSame, openStack, type Stack, succeeded, until } from './stack.ts';

const cli = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));

describe("nats.conf's users", { timeout: 1_800_000 }, () => {
  let nats: LabNatsWithRoles;
  let stack: Stack;
  let receiver: Receiver;
  before(async () => {
    receiver = await startReceiver();
    nats = await startNatsWithRoles({ name: 'roles', log: () => undefined });
    stack = await openStack('roles', {
      nats,
      limits: { transfers: 2, transfersPerPool: 1 },
      config: { remotes: { other: {} }, notify: { endpoints: [receiver.url] } },
    });
    await stack.launch('c1');
  });
  after(async () => {
    await stack?.[Symbol.asyncDispose]();
    await nats?.[Symbol.asyncDispose]();
    await receiver?.[Symbol.asyncDispose]();
  });

  it('gateway and worker do all their work, and are never refused', async () => {
    const { stow } = stack;
    const files = await stack.fingerprint('c1');
    const backup = await stack.backup('c1');
    assert.equal((await stow.request('GET', '/1.0/instances/c1/backups')).body.metadata.length, 1);
    await succeeded(stow, await stow.request('POST', `/1.0/instances/c1/backups/${backup}`, { body: { name: 'c2' } }));
    assertSame(await stack.fingerprint('c2'), files);
    const path = `/1.0/instances/c1/backups/${backup}`;
    assert.equal((await stow.request('PATCH', path, { body: { tags: { os: 'busybox' } } })).status, 200);
    assert.equal((await stow.request('DELETE', path)).status, 200);
    assert.ok((await stow.request('GET', '/1.0/instances')).body.metadata.includes('/1.0/instances/c1'));
    const token = { name: 'laptop', type: 'client', token: true };
    assert.equal((await stow.request('POST', '/1.0/certificates', { body: token })).status, 202);
    assert.ok((await stow.request('GET', '/1.0/operations?all-projects=true')).body.metadata.success.length >= 3);
    const run = await stow.request('POST', '/1.0/runs', { body: { selector: { instances: ['c1'] } } });
    assert.equal((await stow.finished(run)).status, 'Success');
    await stack.launch('large', { dataMiB: 200 });
    const cancelled = await stow.request('POST', '/1.0/instances/large/backups');
    await stow.request('DELETE', cancelled.body.operation);
    assert.equal((await stow.finished(cancelled)).status, 'Cancelled');
    const dead = 'lxstow.jobs.local.backup.default.c1';
    await using admin = await nats.connect('admin');
    const { seq } = await jetstream(admin).publish(dead, 'no JSON');
    const id = operationIdOf({ messageId: undefined, sequence: seq });
    await until(
      () => stow.request('GET', `/1.0/operations/${id}`),
      ({ body }) => body.metadata?.status === 'Failure',
    );
    const lxstowAs = (role: Role, ...args: string[]) =>
      lxstow(['--config', stow.configFile, ...args, '--format', 'json'], nats.environment(role));
    await until(
      () => lxstowAs('admin', 'dead-letters', 'list'),
      (listed) => listed.includes(dead),
    );
    assert.match(await lxstowAs('admin', 'trust', 'list-tokens'), /laptop/);
    const told = (await receiver.until('/', 6)).map(({ notice }) => `${notice.opType} ${notice.state}`);
    for (const each of [
      'backup success',
      'run success',
      'restore success',
      'delete success',
      'backup cancelled',
      'backup failed',
    ])
      assert.ok(told.includes(each), `nobody was told: ${each}`);
    // The gateway asks NATS about the queue.
    assert.match(await (await fetch(`${stow.healthUrl.gateway}/metrics`)).text(), /^lxstow_nats_up 1$/m);
    // As a worker runs it every hour.
    await lxstowAs('worker', 'janitor');
    for (const role of ['gateway', 'worker'] as const) {
      const findings = JSON.parse(await lxstowAs(role, 'doctor', role, '--only', 'nats'));
      assert.deepEqual(
        findings.filter(
          ({ level, finding }: Record<string, string>) => level === 'problem' || /may not/.test(finding ?? ''),
        ),
        [],
      );
    }
    for (const process of [stow.gateway, ...stow.workers]) {
      await process.stop();
      await process.start();
    }
    assert.doesNotMatch(await nats.log(), /Violation/);
  });

  it('a publisher has a backup made, waits for it and finds it', async () => {
    await using publisher = await nats.connect('publisher');
    const ask = async (subject: string, body: object) =>
      (await publisher.request(`lxstow.api.${subject}`, JSON.stringify(body), { timeout: 30_000 })).json<
        Record<string, unknown>
      >();
    const id = randomUUID();
    const ack = await jetstream(publisher).publish('lxstow.jobs.local.backup.default.c1', '', { msgID: id });
    assert.equal(ack.stream, 'LXSTOW_JOBS');
    assert.equal((await ask('operations.wait.local.default', { id })).status, 'Success');
    const { backups } = (await ask('backups.list.local.default.c1', {})) as unknown as BackupPage;
    const { instances } = (await ask('status.list.local.default', { limit: 1 })) as unknown as StatusPage;
    assert.equal(instances[0]?.instance, 'c1');
    const before = backups.length;
    const run = await ask('runs.create.local.default', { selector: { instances: ['c1'] } });
    await until(
      () => ask('runs.show.local.default', { id: run.id }),
      ({ status }) => status === 'Success',
    );
    const after = (await ask('backups.list.local.default.c1', {})) as unknown as BackupPage;
    assert.equal(after.backups.length, before + 1);
    const definition = { cron: '@yearly', selector: { instances: ['c1'] } };
    await ask('schedules.create.local.default', { name: 'mine', definition });
    assert.equal((await ask('schedules.delete.local.default', { name: 'mine' })).name, 'mine');
    assert.doesNotMatch(await nats.log(), /Violation/);
  });

  it('the audit trail says which user of which account asks, whatever he writes himself', async () => {
    await using publisher = await nats.connect('publisher');
    const forged = natsHeaders();
    forged.set('Nats-Request-Info', JSON.stringify({ acc: 'LXSTOW', user: 'admin' }));
    for (const [limit, headers] of [[21], [22, forged]] as const)
      await publisher.request('lxstow.api.runs.list.local.default', JSON.stringify({ limit }), {
        timeout: 30_000,
        ...(headers && { headers }),
      });
    await publisher.request('lxstow.api.runs.show.local.default', '{"id": 1}', { timeout: 30_000, headers: forged });
    const audited = await until(
      async () =>
        (await stack.stow.logOf('gateway'))
          .split('\n')
          .filter((line) => line.includes('"audit":true') && line.includes('"protocol":"nats"'))
          .map((line) => JSON.parse(line)),
      (lines) => lines.some(({ status, subject }) => status === 400 && subject.includes('runs.show')),
    );
    for (const { requestor } of audited)
      assert.deepEqual([requestor.username, requestor.account], ['publisher', 'PUBLISHER']);
  });

  const operation = '0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11';
  const everything = [
    'LXSTOW_JOBS',
    'LXSTOW_DEAD',
    'LXSTOW_NOTICES',
    'KV_lxstow_operations',
    'KV_lxstow_leases',
    'KV_lxstow_checkpoints',
    'KV_lxstow_instances',
    'KV_lxstow_runs',
    'KV_lxstow_schedules',
    'KV_lxstow_trust',
  ];
  const administration = everything.flatMap((stream) => [
    `$JS.API.STREAM.CREATE.${stream}`,
    `$JS.API.STREAM.UPDATE.${stream}`,
    `$JS.API.STREAM.DELETE.${stream}`,
    `$JS.API.STREAM.PURGE.${stream}`,
    `$JS.API.STREAM.MSG.DELETE.${stream}`,
  ]);
  const refused: Record<Exclude<Role, 'admin'>, { publish: string[]; subscribe: string[] }> = {
    worker: {
      publish: [
        ...administration,
        `$KV.lxstow_operations.other.${operation}`,
        `$KV.lxstow_checkpoints.other.${operation}.start`,
        '$KV.lxstow_instances.other.default.c1',
        '$KV.lxstow_leases.other.default.c1',
        '$KV.lxstow_leases.other.default.c1.backup_1',
        '$KV.lxstow_leases.janitor.other',
        '$KV.lxstow_leases.other.=pool.default.1',
        '$KV.lxstow_leases.other.=transfers.1',
        'lxstow.freed.other',
        'lxstow.jobs.local.backup.default.c1',
        'lxstow.jobs.other.delete.default.c1',
        'lxstow.dead.other.backup.default.c1',
        'lxstow.ask.other.look',
        '$KV.lxstow_trust.certificate.00',
        '$JS.API.STREAM.MSG.GET.KV_lxstow_trust',
        `$KV.lxstow_runs.${operation}.head`,
        '$KV.lxstow_leases.feeder.runs',
        '$JS.API.STREAM.MSG.GET.KV_lxstow_runs',
        '$JS.API.CONSUMER.MSG.NEXT.KV_lxstow_runs.notices',
        'lxstow.api.backups.list.local.default',
        '$JS.API.STREAM.MSG.GET.LXSTOW_JOBS',
        '$JS.API.STREAM.MSG.GET.LXSTOW_DEAD',
        `lxstow.notices.local.${operation}`,
        '$JS.API.STREAM.MSG.GET.LXSTOW_NOTICES',
        '$JS.API.CONSUMER.MSG.NEXT.LXSTOW_NOTICES.deliver',
        '$JS.API.CONSUMER.MSG.NEXT.KV_lxstow_operations.notices',
        '$JS.ACK.KV_lxstow_operations.notices.1.1.1.1.1',
        '$JS.API.DIRECT.GET.LXSTOW_JOBS',
        '$JS.API.CONSUMER.MSG.NEXT.LXSTOW_JOBS.other_transfer',
        '$JS.API.CONSUMER.CREATE.LXSTOW_JOBS.mine',
        '$JS.API.CONSUMER.DELETE.LXSTOW_JOBS.local_transfer',
        '$JS.API.CONSUMER.PAUSE.LXSTOW_JOBS.other_transfer',
        '$JS.ACK.LXSTOW_JOBS.other_transfer.1.1.1.1.1',
      ],
      subscribe: [
        '>',
        '_INBOX.>',
        '_INBOX_gateway.>',
        'lxstow.jobs.>',
        'lxstow.ask.other.>',
        'lxstow.freed.other',
        'lxstow.api.>',
        '$KV.>',
        '$SRV.PING',
      ],
    },
    gateway: {
      publish: [
        ...administration,
        `$KV.lxstow_checkpoints.local.${operation}.start`,
        'lxstow.dead.local.backup.default.c1',
        '$JS.API.STREAM.MSG.GET.LXSTOW_DEAD',
        '$JS.API.CONSUMER.MSG.NEXT.LXSTOW_JOBS.local_transfer',
        '$JS.API.CONSUMER.CREATE.LXSTOW_JOBS.mine',
        '$JS.API.CONSUMER.DELETE.LXSTOW_JOBS.local_transfer',
        '$JS.ACK.LXSTOW_JOBS.local_transfer.1.1.1.1.1',
        '$JS.API.CONSUMER.CREATE.LXSTOW_NOTICES.mine',
        '$JS.API.CONSUMER.DELETE.LXSTOW_NOTICES.deliver',
        '$JS.API.STREAM.MSG.GET.LXSTOW_NOTICES',
      ],
      subscribe: ['>', '_INBOX.>', '_INBOX_worker.>', 'lxstow.jobs.>', 'lxstow.ask.local.>', '$KV.>'],
    },
    publisher: {
      publish: [
        ...administration,
        ...everything.flatMap((stream) => [
          `$JS.API.STREAM.INFO.${stream}`,
          `$JS.API.STREAM.MSG.GET.${stream}`,
          `$JS.API.DIRECT.GET.${stream}`,
          `$JS.API.CONSUMER.CREATE.${stream}.mine`,
        ]),
        `$JS.API.DIRECT.GET.KV_lxstow_operations.$KV.lxstow_operations.local.${operation}`,
        `$KV.lxstow_operations.local.${operation}`,
        '$KV.lxstow_leases.local.default.c1',
        '$KV.lxstow_instances.local.default.c1',
        '$KV.lxstow_trust.certificate.00',
        'lxstow.jobs.local.restore.default.c1',
        'lxstow.jobs.local.delete.default.c1',
        'lxstow.jobs.local.backup.lxstow-lab.c1',
        'lxstow.api.schedules.create.local.lxstow-lab',
        'lxstow.api.schedules.delete.other.default',
        'lxstow.api.schedules.list.=all.=all',
        '$KV.lxstow_schedules.nightly',
        'lxstow.jobs.other.backup.default.c1',
        'lxstow.dead.local.backup.default.c1',
        'lxstow.ask.local.look',
        `lxstow.nudge.local.${operation}`,
        `lxstow.notices.local.${operation}`,
        'lxstow.freed.local',
        'lxstow.api.backups.list.other.default',
        'lxstow.api.backups.list.local.lxstow-lab',
        'lxstow.api.backups.show.local.lxstow-lab.c1',
        'lxstow.api.operations.list.local.lxstow-lab',
        'lxstow.api.status.list.local.lxstow-lab',
        'lxstow.api.operations.cancel.local.default',
        `$KV.lxstow_runs.${operation}.head`,
        'lxstow.api.runs.create.=all.=all',
        'lxstow.api.runs.create.local.=all',
        'lxstow.api.runs.create.local.lxstow-lab',
        'lxstow.api.runs.create.other.default',
        'lxstow.api.runs.show.=all.=all',
        'lxstow.api.runs.list.local.lxstow-lab',
        'lxstow.api.runs.children.local.lxstow-lab',
        'lxstow.api.runs.cancel.local.default',
        'lxstow.api.runs.retry.local.default',
        '_INBOX_gateway.forged',
      ],
      subscribe: ['>', '_INBOX.>', '_INBOX_gateway.>', '_INBOX_worker.>', 'lxstow.>', '$KV.>', '$JS.>'],
    },
  };
  const connections = new AsyncDisposableStack();
  after(() => connections.disposeAsync());
  const opened = new Map<Role, Promise<NatsUser>>();
  async function connectionOf(role: Role): Promise<NatsUser> {
    const before = opened.get(role);
    if (before) return before;
    const connecting = nats.connect(role).then((connection) => connections.use(connection));
    opened.set(role, connecting);
    return connecting;
  }
  for (const [role, { publish, subscribe }] of Object.entries(refused) as [Role, typeof refused.worker][]) {
    for (const subject of publish) {
      it(`${role} may not publish ${subject}`, async () => {
        const connection = await connectionOf(role);
        await assert.rejects(connection.request(subject, ''), (error: Error) => {
          const { cause } = error;
          assert.ok(cause instanceof PermissionViolationError, String(error));
          assert.deepEqual([cause.operation, cause.subject], ['publish', subject]);
          return true;
        });
      });
    }
    for (const subject of subscribe) {
      it(`${role} may not subscribe ${subject}`, async () => {
        const connection = await connectionOf(role);
        const refusal = await new Promise((resolve) => {
          connection.subscribe(subject, { callback: resolve });
        });
        assert.ok(refusal instanceof PermissionViolationError);
      });
    }
  }

  it('the server of `lxstow nats-config` has a worker for each host, who does all its work and none of another host', async () => {
    await using folder = await openFolder('nats-config', () => undefined);
    const made = await lxstow(['nats-config', '--hosts', 'berlin,oslo', '--out', folder.path, '--server', '127.0.0.1']);
    assert.match(made, /^oslo +worker-oslo\.env server\.crt/m);
    const again = attempt(process.execPath, [cli, 'nats-config', '--hosts', 'berlin', '--out', folder.path]);
    assert.deepEqual([(await again).status, /exists, and nothing was written/.test((await again).stderr)], [73, true]);
    const environments = new Map<string, Record<string, string>>();
    for (const name of await readdir(folder.path)) {
      const { mode } = await stat(join(folder.path, name));
      assert.equal(mode & 0o777, name === 'server.crt' ? 0o644 : 0o600, name);
      const [, user] = /^(.+)\.env$/.exec(name) ?? [];
      if (user)
        environments.set(user, parseEnv(await readFile(join(folder.path, name), 'utf8')) as Record<string, string>);
    }
    assert.deepEqual([...environments.keys()].sort(), [
      'admin',
      'gateway',
      'publisher',
      'worker-berlin',
      'worker-oslo',
    ]);
    const file = join(folder.path, 'nats.conf');
    const conf = await readFile(file, 'utf8');
    await writeFile(file, conf.replace('store_dir: "/var/lib/nats"', `store_dir: "${folder.path}/store"`));
    const { url, daemon } = await startConfigured(folder, await findNatsServer(() => undefined));
    const environment = (user: string) => ({ ...environments.get(user), LXSTOW_NATS_SERVERS: url });
    const { socket } = stack.lab.lxd ?? stack.simulator ?? {};
    const remotes = { local: { socket }, berlin: { socket }, oslo: { socket } };
    const hosts = ['berlin', 'oslo'];
    await using stow = await startLxstow({
      name: 'nats-config',
      log: () => undefined,
      natsUrl: url,
      s3: { ...stack.s3, bucket: 'nats-config' },
      socket: socket ?? '',
      workers: 2,
      environment: (part) => environment(part === 'worker' ? `worker-${hosts.shift()}` : part),
      config: { remotes, gateway: { defaultRemote: 'berlin' } },
    });
    const ca = await readFile(join(folder.path, 'server.crt'), 'utf8');
    const connection = (user: string) => {
      const { NATS_PASSWORD, LXSTOW_NATS_PASSWORD: password = NATS_PASSWORD ?? '' } = environments.get(user) ?? {};
      return connectAs({ url, user, password, ca });
    };
    for (const host of ['berlin', 'oslo']) {
      const made = await stow.request('POST', `/1.0/instances/c1/backups?target=${host}`);
      await succeeded(stow, made);
      const path = `/1.0/instances/c1/backups/${made.body.metadata.name}?target=${host}`;
      const body = { name: `of-${host}`, target: host };
      await succeeded(stow, await stow.request('POST', path, { body }));
      await using publisher = await connection('publisher');
      assert.equal(
        (await jetstream(publisher).publish(`lxstow.jobs.${host}.backup.default.c1`, '')).stream,
        'LXSTOW_JOBS',
      );
    }
    assert.doesNotMatch(await readFile(join(folder.path, 'daemon.log'), 'utf8'), /Violation/);
    await using oslo = await connection('worker-oslo');
    for (const subject of [
      '$KV.lxstow_leases.berlin.default.c1',
      'lxstow.dead.berlin.backup.default.c1',
      '$JS.API.CONSUMER.MSG.NEXT.LXSTOW_JOBS.berlin_transfer',
      '$KV.lxstow_trust.certificate.00',
    ])
      await assert.rejects(oslo.request(subject, ''), ({ cause }: Error) => cause instanceof PermissionViolationError);
    await daemon.stop();
  });

  it("NATS's own answers to a publisher end nowhere but in its inbox", async () => {
    await using publisher = await nats.connect('publisher');
    await using admin = await nats.connect('admin');
    const record = `$KV.lxstow_operations.other.${operation}`;
    await jetstream(admin).publish(record, '{}');
    publisher.publish('lxstow.jobs.local.backup.default.c1', '', { reply: record });
    publisher.publish('$SRV.PING', '', { reply: record });
    publisher.publish('lxstow.api.backups.list.local.default', '', { reply: record });
    await jetstream(publisher).publish('lxstow.jobs.local.backup.default.c1', '');
    // Behind all that those could have written.
    await jetstream(admin).publish('$KV.lxstow_operations.other.last', '{}');
    const { streams } = await jetstreamManager(admin);
    assert.equal((await streams.getMessage('KV_lxstow_operations', { last_by_subj: record }))?.string(), '{}');
    for (const subject of [record, '$KV.lxstow_operations.other.last'])
      await streams.purge('KV_lxstow_operations', { filter: subject });
  });

  it('nobody gets in without TLS, a user, or the right password', async () => {
    const ca = await readFile(nats.ca, 'utf8');
    const servers = nats.url;
    const pass = nats.passwords.worker;
    await assert.rejects(connect({ servers, tls: { ca } }), /Authorization Violation/i);
    await assert.rejects(connect({ servers, tls: { ca }, user: 'gateway', pass }), /Authorization Violation/i);
    await assert.rejects(connect({ servers, user: 'worker', pass }), /self-signed certificate|unable to verify/);
  });
});
