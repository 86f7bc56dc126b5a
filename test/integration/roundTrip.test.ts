/** What lxstow is for: an instance goes, and comes back the same. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { zstdDecompress } from 'node:zlib';
import { parseManifest } from '../../services/backups/manifest.ts';
import { publish } from './publisher.ts';
import { assertError, assertSame, failed, openStack, type Stack, succeeded, until } from './stack.ts';

describe('an instance', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  before(async () => {
    stack = await openStack('roundtrip');
    await stack.launch('c1', { dataMiB: 60 });
  });
  after(() => stack?.[Symbol.asyncDispose]());

  for (const compression of ['gzip', 'zstd', 'none'] as const) {
    for (const optimize of [false, true]) {
      it(`is backed up, listed, shown, lost, restored and the same: ${compression}${optimize ? ', optimized' : ''}`, async () => {
        const { stow } = stack;
        const files = await stack.fingerprint('c1');
        const created = await stow.request(
          'POST',
          `/1.0/instances/c1/backups?compression=${compression}&optimize=${optimize}`,
          {
            headers: { 'x-amz-tagging': 'os=Ubuntu&version=20.04' },
          },
        );
        const { name } = created.body.metadata;
        assert.match(
          name,
          { gzip: /^backup_\d{4}-\d\d-\d\d-\d\d-\d{4}(-\d)?\.tar\.gz$/, zstd: /\.tar\.zst$/, none: /\.tar$/ }[
            compression
          ],
        );
        assert.deepEqual(
          [created.body.metadata.optimized, created.body.metadata.compressed],
          [optimize, compression !== 'none'],
        );
        assert.equal(created.headers.location, created.body.operation);
        await succeeded(stow, created);

        const listed = await stow.request('GET', '/1.0/instances/c1/backups');
        const found = listed.body.metadata.find((each: { name: string }) => each.name === name);
        const contract = ['compressed', 'created', 'name', 'optimized', 'size', 'tags'];
        for (const field of contract) assert.ok(field in found, field);
        assert.deepEqual([found.created_at, found.optimized_storage], [found.created, found.optimized]);
        assert.deepEqual([found.instance, found.project, found.location], ['c1', 'default', 'local']);
        assert.deepEqual([found.optimized, found.compressed], [optimize, compression !== 'none']);
        const shown = await stow.request('GET', `/1.0/instances/c1/backups/${name}`);
        assert.deepEqual({ ...shown.body.metadata, ...found }, shown.body.metadata);
        assert.deepEqual(found.tags, { os: 'Ubuntu', version: '20.04' });
        assert.deepEqual(await tagsOf(stack, `local/default/c1/${name}`), { os: 'Ubuntu', version: '20.04' });

        await stack.remove('c1');
        await succeeded(
          stow,
          await stow.request('POST', `/1.0/instances/c1/backups/${name}`, { body: { start: true } }),
        );
        assertSame(await stack.fingerprint('c1'), files);
        const instance = await stack.lxd.get<{ status: string }>('/1.0/instances/c1', {}, AbortSignal.timeout(60_000));
        assert.equal(instance.status, 'Running');
        await stack.assertNothingLeft();
      });
    }
  }

  it('has a .tar.gz in the bucket that plain tar reads', async () => {
    const name = await stack.backup('c1', '?compression=gzip');
    const archive = await stack.bucket().getObject(stack.s3.bucket, `local/default/c1/${name}`);
    const tar = spawn('tar', ['tzf', '-'], { stdio: ['pipe', 'pipe', 'pipe'] });
    archive.pipe(tar.stdin);
    const [text, errors] = await Promise.all(
      [tar.stdout.toArray(), tar.stderr.toArray()].map(async (chunks) => Buffer.concat(await chunks).toString()),
    );
    assert.equal(errors, '');
    assert.match(text ?? '', /^backup\/index\.yaml\n/);
    assert.ok((text ?? '').split('\n').length > 300);
  });

  it('comes back by lxc import from the bucket, without lxstow', { skip: false }, async (context) => {
    if (!stack.lab.lxd) return context.skip(`no real LXD: ${stack.lab.lxdUnavailable}`);
    const files = await stack.fingerprint('c1');
    for (const compression of ['gzip', 'zstd', 'none']) {
      const name = await stack.backup('c1', `?compression=${compression}`);
      const archive = await stack.bucket().getObject(stack.s3.bucket, `local/default/c1/${name}`);
      const bytes = Buffer.concat(await archive.toArray());
      // Whole by itself: what LXD does not import then is LXD's.
      if (compression === 'zstd') await promisify(zstdDecompress)(bytes);
      await stack.lab.lxd.lxc(['import', '-', 'plain'], { input: bytes });
      assertSame(await stack.fingerprint('plain'), files);
      await stack.remove('plain');
    }
  });

  it('is restored under another name, in another pool and project, beside the original', async () => {
    const { stow } = stack;
    const name = await stack.backup('c1');
    const body = { name: 'c2', pool: stack.pools.dir, project: stack.project };
    const { metadata } = await succeeded(
      stow,
      await stow.request('POST', `/1.0/instances/c1/backups/${name}`, { body }),
    );
    assert.deepEqual((metadata as { source?: object }).source, {
      location: 'local',
      project: 'default',
      instance: 'c1',
      name,
    });
    assert.equal('stage' in metadata, false, 'what has ended is at no stage');
    assertSame(await stack.fingerprint('c2', stack.project), await stack.fingerprint('c1'));
    const { expanded_devices } = await stack.lxd.get<{ expanded_devices: { root: { pool: string } } }>(
      '/1.0/instances/c2',
      { project: stack.project },
      AbortSignal.timeout(60_000),
    );
    assert.equal(expanded_devices.root.pool, stack.pools.dir);
  });

  it('in another project is backed up there', async () => {
    const { stow, project } = stack;
    const name = await stack.backup('c2', `?project=${project}&compression=zstd`);
    const files = await stack.fingerprint('c2', project);
    assert.deepEqual((await stow.request('GET', '/1.0/instances/c2/backups')).status, 404);
    const listed = await stow.request('GET', `/1.0/instances/c2/backups?project=${project}`);
    assert.deepEqual(
      listed.body.metadata.map((each: { name: string }) => each.name),
      [name],
    );
    await stack.remove('c2', project);
    await succeeded(stow, await stow.request('POST', `/1.0/instances/c2/backups/${name}?project=${project}`));
    assertSame(await stack.fingerprint('c2', project), files);
    assert.equal((await stow.request('DELETE', `/1.0/instances/c2/backups/${name}?project=${project}`)).status, 200);
  });

  it('gets back the profiles that are gone meanwhile', async () => {
    const { stow, lxd } = stack;
    const signal = AbortSignal.timeout(30_000);
    const profile = { name: 'special', description: 'for a test', config: { 'user.color': 'blue' }, devices: {} };
    await lxd.call({ method: 'POST', path: '/1.0/profiles', body: profile, signal });
    await lxd.call({ method: 'PATCH', path: '/1.0/instances/c1', body: { profiles: ['default', 'special'] }, signal });
    const name = await stack.backup('c1');
    await stack.remove('c1');
    await lxd.call({ method: 'DELETE', path: '/1.0/profiles/special', signal });
    await succeeded(stow, await stow.request('POST', `/1.0/instances/c1/backups/${name}`, { body: { start: true } }));
    const { config, description } = await lxd.get<typeof profile>('/1.0/profiles/special', {}, signal);
    assert.deepEqual([config, description], [profile.config, profile.description]);
  });

  it('can be watched while it is backed up', async () => {
    const { stow } = stack;
    await stack.launch('large', { dataMiB: 250 });
    const created = await stow.request('POST', '/1.0/instances/large/backups', { headers: { 'x-amz-tagging': 'a=b' } });
    const path = `/1.0/instances/large/backups/${created.body.metadata.name}`;
    const states = new Set<string>();
    const last = await until(
      async () => (await stow.request('GET', path)).body.metadata,
      (shown) => {
        states.add(shown.stage);
        if (shown.stage) {
          assert.deepEqual(
            [shown.optimized, shown.compressed, shown.tags, shown.operation],
            [false, true, { a: 'b' }, created.body.operation],
          );
          assert.ok(shown.progress >= 0 && shown.progress <= 100);
        }
        return shown.stage === undefined;
      },
    );
    assert.ok(states.has('generating') && states.has('uploading'), [...states].join(' '));
    assert.ok(last.size > 250_000_000 / 4);
  });

  it('whose archive LXD would not take back has no backup, and is told why at once', async () => {
    const { stow, lxd } = stack;
    const signal = AbortSignal.timeout(30_000);
    const note = (length: number) => ({ config: { 'user.note': 'x'.repeat(length) } });
    const change = { method: 'PATCH', path: '/1.0/instances/c1', signal } as const;
    await lxd.call({ ...change, body: note(600_000) });
    const { code, err } = await failed(stow, await stow.request('POST', '/1.0/instances/c1/backups'));
    assert.equal(code, 'too-large');
    assert.match(err, /its index\.yaml is 12\d{5} bytes, and LXD reads at most 1048576.*--instance-only/);
    await stack.assertNothingLeft();
    await lxd.call({ ...change, body: note(0) });
  });

  it('that exists is never restored over', async () => {
    const { stow } = stack;
    const name = await stack.backup('c1');
    const files = await stack.fingerprint('c1');
    assertError(
      await stow.request('POST', `/1.0/instances/c1/backups/${name}`, { body: { pool: stack.pools.dir } }),
      409,
      /c1 already exists/,
    );
    assertSame(await stack.fingerprint('c1'), files);
  });

  it('that is not there: 404 at once', async () => {
    assertError(await stack.stow.request('POST', '/1.0/instances/nobody/backups'), 404, /nobody does not exist/);
    assertError(await stack.stow.request('GET', '/1.0/instances/nobody/backups'), 404, /nobody does not exist/);
  });

  it('has its manifest beside the archive, with all that a restore needs', async () => {
    const name = await stack.backup('c1', '?compression=zstd');
    const object = await stack.bucket().getObject(stack.s3.bucket, `local/default/c1/${name}.manifest.json`);
    const manifest = parseManifest(Buffer.concat(await object.toArray()), {
      remote: 'local',
      project: 'default',
      instance: 'c1',
      backup: name,
    });
    assert.deepEqual(
      manifest.instance.profiles.map(({ name }) => name),
      ['default', 'special'],
    );
    assert.deepEqual(
      [manifest.instance.pool, manifest.instance.driver, manifest.instance.type],
      [stack.pools.btrfs, 'btrfs', 'container'],
    );
    assert.ok(manifest.instance.config['volatile.uuid']);
  });

  it('all backups of all instances are listed under * and all', async () => {
    const each = await Promise.all(
      ['*', 'all', '%2A'].map((name) => stack.stow.request('GET', `/1.0/instances/${name}/backups`)),
    );
    const lists = each.map(({ body }) => body.metadata);
    assert.deepEqual(lists[0], lists[1]);
    assert.deepEqual(lists[0], lists[2]);
    assert.deepEqual(new Set(lists[0].map(({ instance }: { instance: string }) => instance)), new Set(['c1', 'large']));
  });

  it('keeps its backups when it is deleted, and they can be deleted', async () => {
    const { stow } = stack;
    await stack.remove('large');
    const { metadata } = (await stow.request('GET', '/1.0/instances/large/backups')).body;
    assert.equal(metadata.length, 1);
    const deleted = await stow.request('DELETE', `/1.0/instances/large/backups/${metadata[0].name}`);
    assert.deepEqual(
      [deleted.status, deleted.body.type, deleted.body.status, deleted.body.status_code],
      [200, 'sync', 'Success', 200],
    );
    assertError(
      await stow.request('DELETE', `/1.0/instances/large/backups/${metadata[0].name}`),
      404,
      /does not exist/,
    );
    assert.deepEqual(
      (await stack.keys()).filter((key) => key.includes('/large/')),
      [],
    );
  });

  it('is refused by the worker, unharmed, when the gateway could not look', async () => {
    // A program that publishes by itself gets the same care as a request.
    const { stow } = stack;
    const name = await stack.backup('c1');
    const files = await stack.fingerprint('c1');
    const id = await publish(stack.nats.url, 'lxstow.jobs.local.restore.default.c1', { backup: name });
    const operation = await until(
      async () => (await stow.request('GET', `/1.0/operations/${id}`)).body.metadata,
      (found) => found?.status_code >= 200,
    );
    assert.match(operation.err, /c1 already exists/);
    assertSame(await stack.fingerprint('c1'), files);
    assert.equal(operation.metadata.code, 'conflict');
  });
});

async function tagsOf(stack: Stack, key: string): Promise<Record<string, string>> {
  const tags = (await stack.bucket().getObjectTagging(stack.s3.bucket, key)) as unknown as {
    Key: string;
    Value: string;
  }[];
  return Object.fromEntries(
    tags.flat().map(({ Key, Value }) => [Key, Key === 'version' ? Number(Value).toFixed(2) : String(Value)]),
  );
}
