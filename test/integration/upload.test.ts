/** Archives come in by the gateway, become backups that are as good as our own, or leave nothing. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import https from 'node:https';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import zlib from 'node:zlib';
import type { Operation } from '../../services/contract/schemas.ts';
import { openFolder } from '../lab/folder.ts';
import { hasLxc, openUserLxc } from '../lab/lxc.ts';
import { type Answer, lxstow } from '../lab/lxstow.ts';
import { entriesOf, tarOf } from '../lab/tar.ts';
import { assertError, assertSame, openStack, type Stack, succeeded, until } from './stack.ts';

describe('an uploaded archive', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  let files: Map<string, string>;
  /** As LXD made it. */
  let tar: Buffer;
  before(async () => {
    stack = await openStack('upload', {
      config: {
        gateway: { clientIdleTimeoutMs: 20_000 },
        worker: { janitorEveryMinutes: 0, leaseTtlMs: 5000, heartbeatMs: 500 },
      },
    });
    await stack.launch('c1', { dataMiB: 20 });
    files = await stack.fingerprint('c1');
    tar = await object('c1', await stack.backup('c1', '?compression=none'));
  });
  after(() => stack?.[Symbol.asyncDispose]());

  async function object(instance: string, backup: string): Promise<Buffer> {
    const archive = await stack.bucket().getObject(stack.s3.bucket, `local/default/${instance}/${backup}`);
    return Buffer.concat(await archive.toArray());
  }

  function open(headers: Record<string, string> = {}, query = '') {
    const { client, url } = stack.stow;
    return https.request(`${url}/1.0/instances${query}`, {
      method: 'POST',
      headers: { 'content-type': 'application/octet-stream', ...headers },
      ...client,
      rejectUnauthorized: false,
      agent: false,
    });
  }

  async function answerTo(request: ReturnType<typeof open>): Promise<Answer> {
    const [response] = await once(request, 'response');
    const text = Buffer.concat(await response.toArray()).toString();
    return { status: response.statusCode, headers: response.headers, text, body: JSON.parse(text) };
  }

  async function send(body: Buffer, headers: Record<string, string> = {}, query = ''): Promise<Answer> {
    const request = open(headers, query);
    // A refusal may come while we still send.
    request.on('error', () => undefined);
    request.end(body);
    return answerTo(request);
  }

  async function operations(): Promise<Operation[]> {
    const { metadata } = (await stack.stow.request('GET', '/1.0/operations?recursion=1')).body;
    return Object.values(metadata as Record<string, Operation[]>).flat();
  }

  async function assertNothingOf(instance: string): Promise<void> {
    await stack.assertNothingLeft();
    assert.deepEqual(
      (await stack.keys()).filter((key) => key.startsWith(`local/default/${instance}/`)),
      [],
    );
  }

  const forms: [what: string, bytes: () => Promise<Buffer>][] = [
    ['tar', async () => tar],
    ['gzip', async () => zlib.gzipSync(tar, { level: 1 })],
    ['zstd, in one frame', async () => zlib.zstdCompressSync(tar)],
    [
      'gzip of many members, as lxstow stores it',
      async () => object('c1', await stack.backup('c1', '?compression=gzip')),
    ],
    [
      'zstd of many frames, as lxstow stores it',
      async () => object('c1', await stack.backup('c1', '?compression=zstd')),
    ],
  ];
  for (const [index, [what, bytes]] of forms.entries()) {
    it(`of ${what} is listed, and restored the same`, async () => {
      const { stow } = stack;
      const name = `form${index}`;
      const compression = ['none', 'gzip', 'zstd'][index % 3] ?? 'gzip';
      const answer = await send(
        await bytes(),
        { 'x-lxd-name': name, 'x-amz-tagging': 'from=elsewhere' },
        `?compression=${compression}`,
      );
      const operation = await succeeded(stow, answer);
      const backup = answer.body.metadata.name;
      assert.deepEqual(operation.resources.backups, [`/1.0/backups/${backup}`]);
      const shown = (await stow.request('GET', `/1.0/instances/${name}/backups/${backup}`)).body.metadata;
      assert.deepEqual(
        [shown.name, shown.compressed, shown.optimized, shown.tags],
        [backup, compression !== 'none', false, { from: 'elsewhere' }],
      );
      await succeeded(stow, await stow.request('POST', `/1.0/instances/${name}/backups/${backup}`));
      assertSame(await stack.fingerprint(name), files);
      await stack.remove(name);
      await stack.assertNothingLeft();
    });
  }

  it('has the name of its instance, unless it is given another', async () => {
    const answer = await send(tar);
    await succeeded(stack.stow, answer);
    const { name } = answer.body.metadata;
    assert.equal((await stack.stow.request('GET', `/1.0/instances/c1/backups/${name}`)).status, 200);
  });

  it('comes from lxc import, and goes by lxc export', async (context) => {
    if (!(await hasLxc())) return context.skip('no lxc');
    await using folder = await openFolder('upload-lxc', () => undefined);
    await using lxc = await openUserLxc(stack.stow, 'upload');
    const [file, again] = [join(folder.path, 'c1.tar.gz'), join(folder.path, 'again.tar.gz')];
    await lxc(['export', 'stow:c1', file]);
    await lxc(['import', 'stow:', file, 'fromlxc']);
    const listed = await stack.stow.request('GET', '/1.0/instances/fromlxc/backups');
    assert.equal(listed.body.metadata.length, 1, listed.text);
    const { name } = listed.body.metadata[0];
    await succeeded(stack.stow, await stack.stow.request('POST', `/1.0/instances/fromlxc/backups/${name}`));
    assertSame(await stack.fingerprint('fromlxc'), files);
    await lxc(['export', 'stow:fromlxc', again]);
    if (stack.lab.lxd) {
      await stack.lab.lxd.lxc(['import', again, 'lastly']);
      assertSame(await stack.fingerprint('lastly'), files);
    }
    // As with LXD, an export deletes the backup that it was made of.
    const left = await stack.stow.request('GET', '/1.0/instances/fromlxc/backups');
    assert.deepEqual(
      left.body.metadata.map((each: { name: string }) => each.name),
      [name],
    );
  });

  const indexOf = (over: Record<string, string>) =>
    tarOf(
      'backup/index.yaml',
      Object.entries({ name: 'c1', pool: 'ssd', ...over })
        .map(([key, value]) => `${key}: ${value}\n`)
        .join(''),
    );
  const refusals: [why: string, bytes: () => Buffer, text: RegExp, headers?: Record<string, string>][] = [
    ['xz', () => Buffer.concat([Buffer.from('fd377a585a00', 'hex'), Buffer.alloc(1000)]), /is xz: lxstow takes tar/],
    ['nothing', () => Buffer.alloc(0), /is not a tar archive/],
    ['noise', () => Buffer.alloc(100_000, 'noise'), /is not a tar archive/],
    ['no archive of LXD', () => tarOf('etc/passwd', 'root'), /does not begin with backup\/index.yaml/],
    ['an index that is none', () => tarOf('backup/index.yaml', 'a: [b'), /index.yaml is not YAML/],
    ['an index without a name', () => tarOf('backup/index.yaml', 'pool: x'), /names no instance/],
    ['an index without an instance', () => indexOf({ config: '{pool: {}}' }), /describes no instance/],
    ['an index with a list for its config', () => indexOf({ config: '[]' }), /is not a mapping/],
    ['a volume', () => indexOf({ type: 'custom' }), /is of a custom, not of an instance/],
    ['an instance whose name cannot be', () => indexOf({ name: '../x' }), /the archive's instance: "..\/x" is not/],
    ['a pool whose name cannot be', () => indexOf({ pool: '../x' }), /pool: "..\/x" is not allowed/],
    ...['..', 'a/b', 's0/../../x', 'a b', '""'].map((name): (typeof refusals)[number] => [
      `a snapshot ${name}`,
      () => indexOf({ snapshots: `[${name}]` }),
      /the archive: snapshots\.0: ".*" is not allowed/,
    ]),
    [
      'a profile whose name cannot be',
      () => indexOf({ config: '{container: {}, profiles: [{name: ../x}]}' }),
      /profiles\.0\.name: "..\/x" is not allowed/,
    ],
    [
      'a snapshot that only the index names',
      () => indexOf({ config: '{container: {}}', snapshots: '[lost]' }),
      /it has no files of snapshot lost, which its index names/,
    ],
    ['a tar that is cut', () => tar.subarray(0, tar.length - 20_000), /the archive ends/],
    ['gzip that is cut', () => zlib.gzipSync(tar, { level: 1 }).subarray(0, 1_000_000), /damaged or truncated/],
    ['zstd that is cut', () => zlib.zstdCompressSync(tar).subarray(0, 1_000_000), /damaged or truncated/],
    ['a name that cannot be', () => tar, /X-LXD-name/, { 'x-lxd-name': 'a/b' }],
    ['JSON', () => Buffer.from('{}'), /creates instances only by restoring/, { 'content-type': 'application/json' }],
  ];
  for (const [why, bytes, text, headers = {}] of refusals) {
    it(`of ${why} is refused, and leaves nothing`, async () => {
      assertError(await send(bytes(), { 'x-lxd-name': 'refused', ...headers }), 400, text);
      await assertNothingOf('refused');
      assert.deepEqual(
        (await operations()).filter(({ status }) => status === 'Running'),
        [],
      );
    });
  }

  /** An upload that has sent so much that some is stored, and sends no more. */
  async function begun(instance: string) {
    const request = open({ 'x-lxd-name': instance });
    request.on('error', () => undefined);
    const answer = answerTo(request);
    answer.catch(() => undefined);
    request.write(tar.subarray(0, 5 * 1024 * 1024));
    return { request, answer, operation: await running(instance) };
  }

  async function running(instance: string): Promise<Operation> {
    const is = ({ status, resources }: Operation) =>
      status === 'Running' && resources.instances?.[0] === `/1.0/instances/${instance}`;
    return (await until(operations, (all) => all.some(is))).find(is) as Operation;
  }

  const ended = async (id: string) =>
    (await stack.stow.request('GET', `/1.0/operations/${id}/wait`)).body.metadata as Operation;

  it('whose client goes away leaves a failed operation, and nothing else', async () => {
    const { request, operation } = await begun('left');
    request.destroy();
    const { status, err } = await ended(operation.id);
    assert.deepEqual([status, err], ['Failure', 'the client has disconnected']);
    await assertNothingOf('left');
  });

  it('that announces far more than it sends is stored in parts as usual, and no other such upload is taken', async () => {
    const headers = { 'x-lxd-name': 'boaster', 'content-length': '30000000000000' };
    const request = open(headers, '?compression=none');
    request.on('error', () => undefined);
    const index = { name: 'backup/index.yaml', text: 'name: c1\npool: ssd\nconfig: {container: {}}\n' };
    const disk = { name: 'backup/container/disk', text: Buffer.alloc(80 * 1024 * 1024) };
    request.write(zlib.gzipSync(entriesOf([index, disk])));
    const { id } = await running('boaster');
    const show = async () => (await stack.stow.request('GET', `/1.0/operations/${id}`)).body.metadata as Operation;
    await until(show, ({ metadata }) => Number(metadata?.bytes_stored) === 64 * 1024 * 1024);
    assertError(await send(tar, { ...headers, 'x-lxd-name': 'second' }), 503, /another upload of more than 450 GiB/);
    request.destroy();
    await ended(id);
    await assertNothingOf('boaster');
  });

  it('can be cancelled, and leaves nothing', async () => {
    const { request, answer, operation } = await begun('cancelled');
    assert.equal((await stack.stow.request('DELETE', `/1.0/operations/${operation.id}`)).status, 200);
    const feeding = setInterval(() => request.write(Buffer.alloc(65_536)), 100);
    try {
      assertError(await answer, 400, /cancelled/);
    } finally {
      clearInterval(feeding);
      request.destroy();
    }
    assert.equal((await ended(operation.id)).status, 'Cancelled');
    await assertNothingOf('cancelled');
  });

  it('whose gateway is killed is ended by the janitor, and what was stored removed', async () => {
    const { request, operation } = await begun('orphan');
    await stack.stow.gateway.kill('SIGKILL');
    request.destroy();
    await stack.stow.gateway.start();
    const show = async () => (await stack.stow.request('GET', `/1.0/operations/${operation.id}`)).body.metadata;
    assert.equal((await show()).status, 'Running');
    const tidy = () => lxstow(['--config', stack.stow.configFile, 'janitor']);
    await until(
      async () => {
        await tidy();
        return show();
      },
      ({ status }) => status === 'Failure',
    );
    assert.equal((await show()).err, 'the gateway that took the upload has died');
    await until(
      async () => {
        await tidy();
        const uploads = [];
        for await (const upload of stack.bucket().listIncompleteUploads(stack.s3.bucket, '', true))
          uploads.push(upload);
        return uploads;
      },
      (uploads) => uploads.length === 0,
    );
    await assertNothingOf('orphan');
  });
});
