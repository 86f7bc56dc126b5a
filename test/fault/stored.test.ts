/** What a user gets when what is stored is not what was stored: a restore that refuses and says why, LXD as it was, and the rest at work. */
import assert from 'node:assert/strict';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { Manifest } from '../../services/contract/schemas.ts';
import { publish } from '../integration/publisher.ts';
import { assertError, assertSame, failed, openStack, type Stack, succeeded, until } from '../integration/stack.ts';
import { scriptedS3 } from './scriptedS3.ts';
import {
  archiveOf,
  assertNoInstance,
  assertRestores,
  manifestOf,
  readManifest,
  readObject,
  startWiredWorker,
  writeObject,
} from './workers.ts';

const impatient = { worker: { attempts: 2 }, s3: { attempts: 2 } };

describe('what is stored', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  let files: Map<string, string>;
  before(async () => {
    stack = await openStack('stored', { config: impatient });
    await stack.launch('c1', { dataMiB: 70 });
    files = await stack.fingerprint('c1');
  });
  after(() => stack?.[Symbol.asyncDispose]());

  const restore = (backup: string, name: string) =>
    stack.stow.request('POST', `/1.0/instances/c1/backups/${backup}`, { body: { name } });

  /** LXD has nothing of this name: no instance, no volume, no half-received archive. */
  async function assertNothingOf(name: string): Promise<void> {
    await assertNoInstance(stack, name);
    const dir = (stack.lab.lxd ?? stack.simulator)?.dir ?? '';
    for (const pool of Object.values(stack.pools)) {
      const volumes = await readdir(join(dir, 'storage-pools', pool, 'containers')).catch((): string[] => []);
      assert.ok(!volumes.includes(name), `there is a volume ${name} on ${pool}`);
    }
    // LXD learns of a connection's end when it reads next.
    await until(
      () => readdir(join(dir, 'backups')),
      (entries) => !entries.some((entry) => entry.startsWith('lxd_backup_')),
    );
    await stack.assertNothingLeft();
  }

  /** The restore is accepted and then fails, permanently and soon, with this; LXD keeps nothing. */
  async function refuses(backup: string, code: string, text: RegExp): Promise<void> {
    const { err, code: got } = await failed(stack.stow, await restore(backup, 'victim'));
    assert.match(err, text);
    assert.equal(got, code);
    await assertNothingOf('victim');
  }

  for (const compression of ['gzip', 'none'] as const) {
    describe(`an archive (${compression})`, () => {
      let backup: string;
      let archive: Buffer;
      let manifest: Manifest;
      before(async () => {
        backup = await stack.backup('c1', `?compression=${compression}`);
        archive = await readObject(stack, archiveOf('c1', backup));
        manifest = await readManifest(stack, 'c1', backup);
        assert.ok(manifest.archive.parts.length >= 3);
      });

      /** Stores other bytes, and a manifest that takes their ETag for the right one, unless it is told otherwise. */
      async function store(bytes: Buffer, knows = true): Promise<void> {
        const etag = await writeObject(stack, archiveOf('c1', backup), bytes);
        const told = { ...manifest, archive: { ...manifest.archive, ...(knows ? { etag } : {}) } };
        await writeObject(stack, manifestOf('c1', backup), JSON.stringify(told));
      }

      it('of which any part has one bit wrong is refused, and the part is named', async () => {
        let start = 0;
        for (const { number, size } of manifest.archive.parts) {
          const damaged = Buffer.from(archive);
          const at = start + Math.floor(size / 2);
          damaged.writeUInt8(damaged.readUInt8(at) ^ 1, at);
          await store(damaged);
          await refuses(
            backup,
            'archive-corrupt',
            new RegExp(`^part ${number} of ${manifest.archive.parts.length} is damaged in the object store`),
          );
          start += size;
        }
        await store(archive);
        await assertRestores(stack, 'c1', backup, files);
      });

      it('that was written anew is refused, even when it has the same size', async () => {
        const damaged = Buffer.from(archive);
        damaged.writeUInt8(damaged.readUInt8(1000) ^ 1, 1000);
        await store(damaged, false);
        await refuses(
          backup,
          'archive-corrupt',
          /the archive of c1\/.* was replaced: its ETag is [\w-]+, the manifest says [\w-]+/,
        );
      });

      it('that is shorter than it was is refused', async () => {
        for (const length of [archive.length - 1, manifest.archive.parts[0]?.size ?? 0, 100]) {
          await store(archive.subarray(0, length));
          await refuses(backup, 'archive-corrupt', /the archive of c1\/.* has \d+ bytes, but its manifest says \d+/);
        }
      });

      it('that is gone is refused; it is listed, shown and can be deleted all the same', async () => {
        await store(archive);
        await stack.bucket().removeObject(stack.s3.bucket, archiveOf('c1', backup));
        await refuses(backup, 'archive-corrupt', /the archive of c1\/.* is gone/);
        await assertCanBeDeleted(backup, true);
      });
    });
  }

  it('a byte that the store changes on its way, ETag and all else as it was: refused, and the part is named', async () => {
    await using server = await scriptedS3(stack.s3.endpoint);
    for (const worker of stack.stow.workers) await worker.stop();
    try {
      await using _wired = await startWiredWorker(stack, { s3: { ...impatient.s3, endpoint: server.endpoint } });
      const backup = await stack.backup('c1', '?compression=gzip');
      const { parts } = (await readManifest(stack, 'c1', backup)).archive;
      server.flip(archiveOf('c1', backup), (parts[0]?.size ?? 0) + 12_345);
      await refuses(backup, 'archive-corrupt', new RegExp(`^part 2 of ${parts.length} is damaged in the object store`));
    } finally {
      for (const worker of stack.stow.workers) await worker.start();
    }
  });

  it("a bit that is wrong on the store's own disk: the restore fails truthfully", async (context) => {
    if (stack.s3.kind !== 'minio') return context.skip('how the other server stores its objects is not known here');
    const backup = await stack.backup('c1', '?compression=none');
    const folder = join(stack.s3.dir, 'data', stack.s3.bucket, archiveOf('c1', backup));
    const part = (await readdir(folder, { recursive: true })).find((path) => path.endsWith('part.2')) ?? '';
    const bytes = await readFile(join(folder, part));
    bytes.writeUInt8(bytes.readUInt8(1_000_000) ^ 1, 1_000_000);
    await writeFile(join(folder, part), bytes);
    // MinIO notices by itself, and sends no such bytes: it is its word against a part that is never there whole.
    const { err } = await failed(stack.stow, await restore(backup, 'victim'));
    assert.match(err, /S3|part 2/);
    await assertNothingOf('victim');
    await assertCanBeDeleted(backup, true);
  });

  /** Others are listed whatever is wrong with this one; it is listed if `listed`; and it can be deleted. */
  async function assertCanBeDeleted(backup: string, listed: boolean): Promise<void> {
    const other = await stack.backup('c1', '?compression=zstd');
    const names = (await stack.stow.request('GET', '/1.0/instances/c1/backups')).body.metadata.map(
      ({ name }: { name: string }) => name,
    );
    assert.ok(names.includes(other));
    assert.equal(names.includes(backup), listed);
    for (const name of [backup, other]) {
      assert.equal((await stack.stow.request('DELETE', `/1.0/instances/c1/backups/${name}`)).status, 200);
    }
    const keys = await stack.keys();
    assert.deepEqual(
      keys.filter((key) => key.startsWith(archiveOf('c1', backup))),
      [],
    );
  }

  describe('a manifest', () => {
    type Parts = Manifest['archive']['parts'];
    const withParts = (change: (parts: Parts) => Parts) => (manifest: Manifest) =>
      JSON.stringify({ ...manifest, archive: { ...manifest.archive, parts: change(manifest.archive.parts) } });
    const cases: [why: string, change: (manifest: Manifest) => string, text: RegExp][] = [
      ['without its second part', withParts((parts) => parts.toSpliced(1, 1)), /part 2 is missing/],
      ['without its last part', withParts((parts) => parts.slice(0, -1)), /its parts do not add up to the archive/],
      ['without any part', withParts(() => []), /archive\.parts/],
      [
        'with two parts in each other’s place',
        withParts(([a, b, ...rest]) => [b, a, ...rest].filter((p) => !!p)),
        /part 1 is missing/,
      ],
      [
        'of a newer version',
        (manifest) => JSON.stringify({ ...manifest, version: 2 }),
        /has version 2, and this lxstow reads up to 1: upgrade lxstow/,
      ],
      ['that is not JSON', (manifest) => JSON.stringify(manifest).slice(0, -100), /is not JSON/],
      ['that is empty', () => ' ', /is not JSON/],
      ['that is another kind of JSON', () => '[1, 2]', /must be object/],
      ['without its archive', ({ archive: _, ...rest }) => JSON.stringify(rest), /archive is missing/],
      [
        'of another instance',
        (manifest) => JSON.stringify({ ...manifest, backup: { ...manifest.backup, instance: 'c9' } }),
        /belongs to another backup: its instance is c9, not c1/,
      ],
    ];
    let backup: string;
    let original: Manifest;
    before(async () => {
      backup = await stack.backup('c1', '?compression=none');
      original = await readManifest(stack, 'c1', backup);
    });

    /** Refused by the gateway at once; and by the worker, when a program publishes the job by itself. */
    async function assertRefused(name: string, text: RegExp): Promise<void> {
      assertError(await restore(name, 'victim'), 500, text);
      assertError(await stack.stow.request('GET', `/1.0/instances/c1/backups/${name}`), 500, text);
      const id = await publish(stack.nats.url, 'lxstow.jobs.local.restore.default.victim.from.local.default.c1', {
        backup: name,
        source: { instance: 'c1' },
      });
      const operation = await until(
        async () => (await stack.stow.request('GET', `/1.0/operations/${id}`)).body.metadata,
        (found) => found?.status_code >= 200,
      );
      assert.match(operation.err, text);
      assert.deepEqual([operation.status, operation.metadata.code], ['Failure', 'bad-manifest']);
      await assertNothingOf('victim');
    }

    for (const [why, change, text] of cases) {
      it(`${why} is refused`, async () => {
        await writeObject(stack, manifestOf('c1', backup), change(original));
        await assertRefused(backup, text);
      });
    }

    it('of another backup, copied over it, is refused; the other restores', async () => {
      const other = await stack.backup('c1', '?compression=none');
      await writeObject(stack, manifestOf('c1', backup), await readObject(stack, manifestOf('c1', other)));
      await assertRefused(backup, new RegExp(`belongs to another backup: ${other.replaceAll('.', '\\.')}`));
      await assertRestores(stack, 'c1', other, files);
    });

    it('whose last part is gone, and whose sums were made to fit, gives a restore that fails and leaves nothing', async () => {
      const parts = original.archive.parts.slice(0, -1);
      const size = parts.reduce((sum, part) => sum + part.size, 0);
      const archive = { ...original.archive, parts, size, rawSize: parts.at(-1)?.rawEnd };
      await writeObject(stack, manifestOf('c1', backup), JSON.stringify({ ...original, archive }));
      const { err } = await failed(stack.stow, await restore(backup, 'victim'));
      assert.notEqual(err, '');
      await assertNothingOf('victim');
    });

    it('that cannot be read does not hide the others, and can be deleted with its archive', async () => {
      await writeObject(stack, manifestOf('c1', backup), 'not a manifest');
      await assertCanBeDeleted(backup, false);
      assert.match(await stack.stow.logOf('gateway'), /"message":"manifest cannot be read"/);
    });
  });

  it('after all of this the instance is as it was, and a new backup of it restores', async () => {
    assertSame(await stack.fingerprint('c1'), files);
    const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups');
    await succeeded(stack.stow, answer);
    await assertRestores(stack, 'c1', answer.body.metadata.name, files);
  });
});
