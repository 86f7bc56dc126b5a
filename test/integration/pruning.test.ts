/** Pruning and pins, on real parts: by HTTP, by NATS, and by the command line. */

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { after, before, beforeEach, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { archiveKey } from '../../services/backups/keys.ts';
import { loadConfig } from '../../services/contract/config.ts';
import type { InstanceStatus, Manifest, Operation, PruneVerdict } from '../../services/contract/schemas.ts';
import { Leases } from '../../services/coordination/leases.ts';
import { type Job, publishJob } from '../../services/jobs/jobs.ts';
import { changeInstance } from '../../services/lxd/instanceChanges.ts';
import { Bucket } from '../../services/nats/bucket/bucket.ts';
import { claimKey } from '../../services/nats/bucketKeys.ts';
import { connectNats } from '../../services/nats/connection.ts';
import { leasesBucket } from '../../services/nats/streams.ts';
import { newOperation } from '../../services/operations/operation.ts';
import { OperationStore } from '../../services/operations/operationStore.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { type ScriptedS3, scriptedS3 } from '../fault/scriptedS3.ts';
import { type Certificate, makeCertificate } from '../lab/certificates.ts';
import { lxstow } from '../lab/lxstow.ts';
import { attempt } from '../lab/run.ts';
import { publish } from './publisher.ts';
import { assertError, failed, openStack, type Stack, succeeded, until } from './stack.ts';

const main = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));

describe('pruning', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  let s3: ScriptedS3;
  let names: string[];
  let home: string;
  before(async () => {
    home = await mkdtemp(join(tmpdir(), 'lxstow-prune-'));
    stack = await openStack('pruning', {
      workers: 0,
      config: {
        worker: { compression: 'none', graceMs: 0, inventoryEverySeconds: 1 },
        s3: { longestLockDays: 3 },
      },
    });
    s3 = await scriptedS3(stack.s3.endpoint);
    await stack.stow.addWorker({ LXSTOW_S3_ENDPOINT: s3.endpoint, LXSTOW_S3_ATTEMPTS: '1' });
    await stack.launch('c1');
    await stack.launch('c2', { project: stack.project });
    const token = await lxstow(['-c', stack.stow.configFile, 'trust', 'token', 'tester']);
    assert.equal((await cli('remote', 'add', 'stow', token.trim())).status, 0);
  });
  after(async () => {
    await stack?.[Symbol.asyncDispose]();
    await s3?.[Symbol.asyncDispose]();
    await rm(home, { recursive: true, force: true });
  });
  beforeEach(async () => {
    for (const { name, pinned } of await listed()) if (pinned) await pin(name, false);
    // By their keys: a test that failed may have left a manifest that no list has.
    for (const key of await stack.keys()) {
      const [, name] = /\/c1\/(.*)\.manifest\.json$/.exec(key) ?? [];
      if (name !== undefined) await stack.stow.request('DELETE', `/1.0/instances/c1/backups/${name}`);
    }
    names = [];
    for (const number of [1, 2, 3, 4])
      names.push(await stack.backup('c1', '', { 'x-amz-tagging': `number=${number}` }));
  });

  async function cli(...args: string[]) {
    const env = { ...process.env, XDG_CONFIG_HOME: home };
    const { status, stdout, stderr } = await attempt(process.execPath, [main, ...args], { env });
    return { status, stdout: stdout.toString(), stderr };
  }
  /** The oldest first. */
  const listed = async (instance = 'c1'): Promise<{ name: string; created: string; pinned: boolean }[]> =>
    (await stack.stow.request('GET', `/1.0/instances/${instance}/backups`)).body.metadata.sort(
      (a: { created: string }, b: { created: string }) => a.created.localeCompare(b.created),
    );
  const left = async () => (await listed()).map(({ name }) => name);
  const prune = (body: object, query = '', as?: Certificate) =>
    stack.stow.request('POST', `/1.0/prune${query}`, { body, ...(as && { certificate: as }) });
  const pin = (name: string, pinned: boolean) =>
    stack.stow.request('PATCH', `/1.0/instances/c1/backups/${name}`, { body: { pinned } });
  /** Waits for the operation; a job over NATS has one as soon as a worker has taken it. */
  async function ended(id: string): Promise<Operation> {
    const ask = () => stack.stow.request('GET', `/1.0/operations/${id}/wait?timeout=120`);
    return (await until(ask, ({ status }) => status === 200)).body.metadata;
  }
  async function audited(part: 'gateway' | number) {
    // The last line may be on its way.
    const lines = (await stack.stow.logOf(part)).split('\n').slice(0, -1);
    return lines.filter((line) => line.includes('"audit":true')).map((line) => JSON.parse(line));
  }
  async function pruned(body: object, query = ''): Promise<Operation[]> {
    const answer = await prune(body, query);
    assert.equal(answer.status, 200, answer.text);
    return Promise.all((answer.body.metadata as Operation[]).map(({ id }) => ended(id)));
  }

  it('says of each backup what would become of it, and deletes nothing', async () => {
    const answer = await prune({ keep: { keep_last: 1, keep_tags: ['number=2'] }, dry_run: true });
    assert.equal(answer.status, 200, answer.text);
    const verdicts: PruneVerdict[] = answer.body.metadata;
    assert.deepEqual(
      verdicts.map(({ instance, backup, action, reasons }) => ({ instance, backup, action, reasons })),
      names.map((backup, index) => ({
        ...{ instance: 'c1', backup, action: index === 1 || index === 3 ? 'keep' : 'delete' },
        reasons: index === 1 ? ['tag number=2'] : index === 3 ? ['last 1'] : [],
      })),
    );
    assert.deepEqual(await left(), names);
    const shown = await cli('prune', 'c1', '--keep-last', '1', '--dry-run', '--format', 'json');
    assert.deepEqual(
      JSON.parse(shown.stdout).map(({ action }: PruneVerdict) => action),
      ['delete', 'delete', 'delete', 'keep'],
    );
  });

  it('deletes what the rule does not keep, archives too, also of an instance that is gone; the same again does nothing', async () => {
    await stack.remove('c1');
    const [operation, ...others] = await pruned({ keep: { keep_last: 2 } });
    assert.deepEqual(others, []);
    assert.equal(operation?.status, 'Success', operation?.err);
    const { backups_deleted, backups_kept, bytes_freed = 0 } = operation.metadata;
    assert.deepEqual({ backups_deleted, backups_kept }, { backups_deleted: 2, backups_kept: 2 });
    assert.ok(bytes_freed > 0);
    assert.deepEqual(await left(), names.slice(2));
    const keys = (await stack.keys()).filter((key) => key.includes('/c1/'));
    assert.deepEqual(
      keys,
      names
        .slice(2)
        .flatMap((name) => [`local/default/c1/${name}`, `local/default/c1/${name}.manifest.json`])
        .sort(),
    );
    assert.deepEqual(await pruned({ keep: { keep_last: 2 } }), []);
    await stack.launch('c1');
    const lines = await until(
      async () => [...(await audited(0)), ...(await audited('gateway'))].filter(({ keep }) => keep?.keep_last === 2),
      ({ length }) => length >= 4,
    );
    const deletions = lines.filter(({ kind }) => kind === 'prune');
    assert.deepEqual(deletions.map(({ backup }) => backup).sort(), names.slice(0, 2).sort());
    for (const line of deletions) {
      assert.deepEqual([line.location, line.project, line.instance], ['local', 'default', 'c1']);
      assert.equal(line.operation, operation.id);
      assert.equal(line.requestor.protocol, 'tls');
    }
    const asked = lines.find(({ path }) => path === '/1.0/prune');
    assert.deepEqual(asked?.operations, [operation.id]);
  });

  it("keeps for longer what an instance's own keys say, also when it is gone, and nothing for less time", async () => {
    const [first = '', second = ''] = names;
    const reasons = async (keep: object) => {
      const { status, body, text, headers } = await prune({ keep, instances: ['c1'], dry_run: true });
      assert.equal(status, 200, text);
      const verdicts: PruneVerdict[] = body.metadata;
      return { reasons: verdicts.map((each) => each.reasons.join()), warning: headers.warning };
    };
    const address = { remote: 'local', project: 'default', instance: 'c1' };
    const set = (config: Record<string, string>) =>
      changeInstance(stack.lxd, address, () => true, { config }, AbortSignal.timeout(20_000));
    const kept = 'last 3 (user.lxstow.keep-last=3)';
    await set({ 'user.lxstow.keep-last': '3', 'user.lxstow.keep-daily': 'many' });
    const read = await until(
      () => reasons({ keep_last: 2 }),
      ({ reasons: found }) => found[1] === kept,
    );
    assert.deepEqual(read.reasons, ['', kept, kept, kept]);
    assert.match(String(read.warning), /c1: user\.lxstow\.keep-daily=many is not valid/);
    assert.deepEqual((await reasons({ keep_last: 4 })).reasons, Array(4).fill('last 4'));
    assert.deepEqual((await reasons({ keep_last: 1, instance_keys: 'ignore' })).reasons, ['', '', '', 'last 1']);
    await stack.remove('c1');
    const states = async () =>
      (await stack.stow.request('GET', '/1.0/status?recursion=1')).body.metadata as InstanceStatus[];
    await until(states, (all) => all.some(({ instance, state }) => instance === 'c1' && state === 'gone'));
    const [operation] = await pruned({ keep: { keep_last: 1 } });
    assert.equal(operation?.metadata.backups_deleted, 1, operation?.err);
    assert.deepEqual(await left(), names.slice(1));
    assert.ok(second && !(await left()).includes(first));
    await stack.launch('c1');
    // Another instance of this name, without the keys: the rule alone counts.
    await until(
      () => reasons({ keep_last: 1 }),
      ({ reasons: found }) => found[0] === '',
    );
  });

  it('is about one project, and the instances that are named', async () => {
    await stack.backup('c2', `?project=${stack.project}`);
    await stack.backup('c2', `?project=${stack.project}`);
    assert.deepEqual((await pruned({ keep: { keep_last: 4 } })).length, 0);
    assertError(await prune({ keep: { keep_last: 1 }, instances: ['c2'] }), 404, /instance c2 has no backups/);
    const of = `?project=${stack.project}`;
    const [operation] = await pruned({ keep: { keep_last: 1 }, instances: ['c2'] }, of);
    assert.equal(operation?.metadata.backups_deleted, 1);
    assert.deepEqual(await left(), names);
  });

  it('leaves a pinned backup, which nothing deletes until it is unpinned', async () => {
    const [first = '', second = ''] = names;
    assert.equal((await pin(first, true)).body.metadata.pinned, true);
    assertError(
      await stack.stow.request('DELETE', `/1.0/instances/c1/backups/${first}`),
      409,
      new RegExp(
        `backup c1/${first} is pinned; it was not deleted. To delete it, unpin it first: lxstow unpin c1 ${first}`,
      ),
    );
    const byNats = await ended(await publish(stack.nats.url, 'lxstow.jobs.local.delete.default.c1', { backup: first }));
    assert.deepEqual([byNats.status, /is pinned/.test(byNats.err)], ['Failure', true]);
    await pruned({ keep: { keep_last: 1 } });
    assert.deepEqual(await left(), [first, names[3]]);
    // Tags are changed by PUT; the pin stays.
    await stack.stow.request('PUT', `/1.0/instances/c1/backups/${first}`, { body: { tags: {} } });
    assert.deepEqual(
      (await listed()).map(({ pinned }) => pinned),
      [true, false],
    );
    assert.equal((await cli('unpin', 'c1', first)).stdout, `c1/${first} is not pinned any more\n`);
    assert.equal((await stack.stow.request('DELETE', `/1.0/instances/c1/backups/${first}`)).status, 200);
    assert.match((await cli('pin', 'c1', 'latest')).stdout, new RegExp(`^c1/${names[3]} is pinned\n$`));
    assert.match((await cli('list', 'c1')).stdout, /\(pinned\) number=4/);
    assert.ok(!(await left()).includes(second));
  });

  it('deletes nothing of an instance with a manifest that cannot be read', async () => {
    const [, second = ''] = names;
    const key = `local/default/c1/${second}.manifest.json`;
    await stack.bucket().putObject(stack.s3.bucket, key, '{');
    const verdicts: PruneVerdict[] = (await prune({ keep: { keep_last: 1 }, dry_run: true })).body.metadata;
    assert.deepEqual(
      verdicts.map(({ action, reasons }) => [action, ...reasons]),
      [1, 2, 3].map(() => ['keep', 'a manifest of this instance cannot be read']),
    );
    const subject = 'lxstow.jobs.local.prune.default.c1';
    const failed = await ended(await publish(stack.nats.url, subject, { keep: { keep_last: 1 } }));
    assert.equal(failed.status, 'Failure');
    assert.match(failed.err, new RegExp(`manifest of c1/${second} cannot be read: no backup of c1 was deleted`));
    assert.equal((await left()).length, 3);
    assert.equal((await stack.stow.request('DELETE', `/1.0/instances/c1/backups/${second}`)).status, 200);
  });

  it('goes on where the store refused it between a manifest and its archive', async () => {
    const [first = ''] = names;
    s3.refuse(new RegExp(`/${first}(\\?|$)`), 1);
    const [operation] = await pruned({ keep: { keep_last: 2 } });
    assert.equal(operation?.status, 'Success', operation?.err);
    assert.equal(operation.metadata.backups_kept, 2);
    const keys = (await stack.keys()).filter((key) => key.includes('/c1/'));
    assert.equal(keys.length, 4, keys.join('\n'));
  });

  it('leaves what was pinned since an attempt to delete it died', async () => {
    const { nats: settings, s3: bucket } = loadConfig({ file: stack.stow.configFile, env: {} });
    await using nats = await connectNats(settings, 'test', createLogger({ level: 'error', format: 'text' }, {}));
    const [backup = ''] = names;
    await pin(backup, true);
    const address = { remote: 'local', project: 'default', instance: 'c1' };
    const job = { kind: 'delete' as const, address, body: { backup } };
    const operation = newOperation({ id: randomUUID(), ...job }, new Date());
    const checkpoint = { key: archiveKey(bucket.prefix, { ...address, backup }) };
    await new OperationStore(nats, 1).create({ ...operation, checkpoint });
    await publishJob(nats, operation.id, job);
    const { status, err } = await ended(operation.id);
    assert.equal(status, 'Failure');
    assert.match(err, /pinned/);
    assert.ok((await left()).includes(backup));
  });

  it('tried again after kill -9, leaves another backup that has got the name', async () => {
    const { nats: settings, s3: bucket } = loadConfig({ file: stack.stow.configFile, env: {} });
    await using nats = await connectNats(settings, 'test', createLogger({ level: 'error', format: 'text' }, {}));
    const address = { remote: 'local', project: 'default', instance: 'c1' };
    const named = async () => {
      const begun = await stack.stow.request('POST', '/1.0/instances/c1/backups', { body: { name: 'again' } });
      await succeeded(stack.stow, begun);
      const key = 'local/default/c1/again.manifest.json';
      return (await new Response(
        Readable.toWeb(await stack.bucket().getObject(stack.s3.bucket, key)) as never,
      ).json()) as Manifest;
    };
    const old = await named();
    await stack.stow.request('DELETE', '/1.0/instances/c1/backups/again');
    const other = await named();
    // As the worker that was killed has left them: a deletion that waits, and one of another archive with this name.
    for (const [kind, body] of [
      ['delete', { backup: 'again' }],
      ['prune', { keep: { keep_last: 9 } }],
    ] as const) {
      const job = { kind, address, body } as Job;
      const operation = newOperation({ id: randomUUID(), ...job }, new Date());
      const removing = { manifest: 'gone', archive: old.archive.etag, operation: old.operation };
      const checkpoint = { key: archiveKey(bucket.prefix, { ...address, backup: 'again' }), removing };
      await new OperationStore(nats, 1).create({ ...operation, checkpoint });
      await publishJob(nats, operation.id, job);
      assert.equal((await ended(operation.id)).status, 'Success');
    }
    assert.ok((await left()).includes('again'));
    const { etag } = await stack.bucket().statObject(stack.s3.bucket, other.archive.key);
    assert.equal(etag, other.archive.etag);
  });

  it('leaves what was pinned or tagged while the prune ran, and says so', async () => {
    const [first = '', second = '', third = ''] = names;
    // By then the worker has listed and judged all of them.
    const hold = s3.hold(new RegExp(`/${first}(\\?|$)`));
    const answer = await prune({ keep: { keep_last: 1 } });
    await hold.reached;
    await pin(second, true);
    const path = `/1.0/instances/c1/backups/${third}`;
    assert.equal((await stack.stow.request('PATCH', path, { body: { tags: { keep: 'me' } } })).status, 200);
    hold.release();
    const operation = await ended(answer.body.metadata[0].id);
    assert.equal(operation.status, 'Success', operation.err);
    assert.deepEqual(
      operation.metadata.warnings,
      [second, third].map(
        (name) => `backup c1/${name} was changed while the rule was being applied; it stays until the next prune`,
      ),
    );
    assert.deepEqual(await left(), names.slice(1));
  });

  it('that fails behind a backup marks neither the backup nor its run', async () => {
    await stack.bucket().putObject(stack.s3.bucket, `local/default/c1/${names[1]}.manifest.json`, '{');
    const body = { selector: { instances: ['c1'] }, keep: { keep_last: 1 } };
    const { id } = (await stack.stow.request('POST', '/1.0/runs', { body })).body.metadata;
    const run = await ended(id);
    assert.equal(run.status, 'Success', run.err);
    const operations = async () =>
      (await stack.stow.request('GET', '/1.0/operations?recursion=1')).body.metadata as Record<string, Operation[]>;
    const failed = await until(
      async () =>
        Object.values(await operations())
          .flat()
          .filter(({ err }) => err.includes(`c1/${names[1]} cannot be read: no backup of c1 was deleted`)),
      ({ length }) => length > 0,
    );
    assert.equal(failed.length, 1);
    assert.equal((await left()).length, 4);
    assert.equal((await stack.stow.request('DELETE', `/1.0/instances/c1/backups/${names[1]}`)).status, 200);
  });

  it('leaves what is being downloaded, and says so', async () => {
    const [first = ''] = names;
    const { nats: settings } = loadConfig({ file: stack.stow.configFile, env: {} });
    await using nats = await connectNats(settings, 'test', createLogger({ level: 'error', format: 'text' }, {}));
    const address = { remote: 'local', project: 'default', instance: 'c1' };
    const claim = claimKey(address, first, 'reader');
    const reader = await new Leases(new Bucket(nats, leasesBucket), 60_000).acquire(claim, {
      worker: 'w',
      operation: 'x',
    });
    const [operation] = await pruned({ keep: { keep_last: 2 } });
    assert.equal(operation?.status, 'Success', operation?.err);
    assert.deepEqual(operation.metadata.warnings, [
      `backup c1/${first} is being restored or exported; it was not deleted; it stays until the next prune`,
    ]);
    assert.deepEqual(await left(), [first, ...names.slice(2)]);
    await reader?.release();
  });

  it('cannot be kept off by a lock or a hold in a bucket without Object Lock: each says so, doctor too', async () => {
    const body = { object_lock: { mode: 'governance', days: 1 } };
    const { err } = await failed(stack.stow, await stack.stow.request('POST', '/1.0/instances/c1/backups', { body }));
    assert.match(err, /the bucket has no Object Lock, which must be enabled when a bucket is created \(docs\/s3.md\)/);
    const tooLong = { object_lock: { mode: 'compliance', days: 4 } };
    const long = await stack.stow.request('POST', '/1.0/instances/c1/backups', { body: tooLong });
    assertError(long, 403, /^object_lock: 4 days are more than the 3 that s3.longestLockDays allows$/);
    const run = { selector: { instances: ['c1'] }, ...tooLong };
    assertError(await stack.stow.request('POST', '/1.0/runs', { body: run }), 403, /4 days are more than the 3/);
    const schedule = { name: 'long', definition: { cron: '@yearly', ...tooLong } };
    assertError(await stack.stow.request('POST', '/1.0/schedules', { body: schedule }), 403, /4 days are more/);
    const published = await ended(await publish(stack.nats.url, 'lxstow.jobs.local.backup.default.c1', tooLong));
    assert.equal(published.status, 'Failure');
    assert.match(published.err, /4 days are more than the 3/);
    const headers = { 'x-amz-object-lock-mode': 'GOVERNANCE' };
    const asked = await stack.stow.request('POST', '/1.0/instances/c1/backups', { headers });
    assertError(asked, 400, /x-amz-object-lock-mode: this does not lock a backup; give object_lock in the body/);
    const uploaded = await stack.stow.request('POST', '/1.0/instances', {
      ...{ body: 'x', headers: { ...headers, 'content-type': 'application/octet-stream' } },
    });
    assertError(uploaded, 400, /cannot be locked; to protect it: lxstow pin INSTANCE BACKUP --hold/);
    const pinned = await stack.stow.request('PATCH', `/1.0/instances/c1/backups/${names[0]}`, { body: { held: true } });
    assert.ok(pinned.status >= 400, pinned.text);
    assert.match(pinned.text, /the bucket has no Object Lock/);
    const said = await lxstow(['-c', stack.stow.configFile, 'doctor', '--only', 's3']);
    assert.match(said, /keeps no versions: a deleted object frees its space; backups cannot be locked/);
    await stack.assertNothingLeft();
    assert.deepEqual(await left(), names);
  });

  it('is for operators, in their projects', async () => {
    const body = { keep: { keep_last: 1 }, dry_run: true };
    const client = async (role: string, projects?: string[]) => {
      const certificate = await makeCertificate({ commonName: role });
      const added = await stack.stow.request('POST', '/1.0/certificates', {
        body: {
          ...{ type: 'client', name: role, role, certificate: certificate.cert.replaceAll(/-----.*-----|\s/g, '') },
          ...(projects && { restricted: true, projects }),
        },
      });
      assert.equal(added.status, 201, added.text);
      return certificate;
    };
    assertError(await prune(body, '', await client('viewer')), 403, /not authorized/i);
    const other = await client('operator', [stack.project]);
    assertError(await prune(body, '', other), 403, /not authorized/i);
    assert.equal((await prune(body, `?project=${stack.project}`, other)).status, 200);
  });

  it('is refused without a rule, with a wrong one, and in words', async () => {
    assertError(await prune({}), 400, /keep is missing/);
    assertError(await prune({ keep: { keep_daily: 0 } }), 400, /the rule keeps nothing; say what to keep/);
    assertError(await prune({ keep: { keep_daily: 1, zone: 'Nowhere' } }), 400, /"Nowhere" is not a time zone/);
    assertError(await prune({ keep: { keep_dayly: 1 } }), 400, /unknown field "keep_dayly"/);
    const { status, stderr } = await cli('prune', 'c1');
    assert.equal(status, 64);
    assert.match(stderr, /prune needs to know what to keep\n {2}for example --keep-daily 14 --keep-monthly 12/);
    const unnamed = await cli('prune', '', '--keep-last', '1');
    assert.deepEqual([unnamed.status, unnamed.stderr], [64, 'lxstow: "" names no instance\n']);
    const subject = 'lxstow.jobs.local.prune.default.c1';
    const failed = await until(
      async () => ended(await publish(stack.nats.url, subject, { keep: {} })),
      ({ status }) => status === 'Failure',
    );
    assert.match(failed.err, /the rule keeps nothing/);
    assert.deepEqual(await left(), names);
  });
});
