/** Lists by a gateway that has just started: as right as if it had read every manifest, whatever the index beside them says. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { gzipSync } from 'node:zlib';
import { Catalog } from '../../services/backups/catalog.ts';
import { indexKey, manifestKey } from '../../services/backups/keys.ts';
import { formatManifest } from '../../services/backups/manifest.ts';
import { loadConfig } from '../../services/contract/config.ts';
import { LxstowError } from '../../services/contract/errors.ts';
import type { IndexedBackup } from '../../services/contract/schemas.ts';
import type { ObjectStore, StoredObject } from '../../services/storage/objectStore.ts';
import { createS3Store } from '../../services/storage/s3/s3.ts';
import { createLogger, onLine } from '../../services/telemetry/logger.ts';
import { type LabS3, startS3 } from '../lab/s3.ts';

const never = new AbortController().signal;
/** More than it takes for an index. */
const many = 80;

describe('a list of many backups', { timeout: 1_800_000 }, () => {
  let s3: LabS3;
  let store: ObjectStore & Disposable;
  let projects = 0;
  before(async () => {
    s3 = await startS3({ log: () => undefined, name: 'listing' });
    const { endpoint, accessKey, secretKey, bucket } = s3;
    const env = { LXSTOW_S3_ENDPOINT: endpoint, LXSTOW_S3_BUCKET: bucket };
    store = createS3Store(
      loadConfig({ env: { ...env, LXSTOW_S3_ACCESS_KEY: accessKey, LXSTOW_S3_SECRET_KEY: secretKey } }).s3,
    );
  });
  after(async () => {
    store?.[Symbol.dispose]();
    await s3?.[Symbol.asyncDispose]();
  });

  /** A project with `many` backups, of sizes 1 to `many`, and gateways that list it. */
  async function project() {
    const place = { remote: 'local', project: `p${++projects}` };
    const addressOf = (size: number) => ({ ...place, instance: 'c1', backup: `b${String(size).padStart(3, '0')}.tar` });
    const manifestOf = (size: number, sized = size, tags = {}) => {
      const { backup: name, ...address } = addressOf(size);
      const part = {
        number: 1,
        rawStart: 0,
        rawEnd: sized,
        size: sized,
        etag: 'e',
        sha256: 'a'.repeat(64),
        crc32: 'AA==',
      };
      const created = new Date(Date.UTC(2026, 1, 1, 0, 0, size)).toISOString();
      return formatManifest({
        version: 1,
        writer: 'test',
        operation: '0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11',
        backup: { ...address, name, created, tags },
        archive: {
          ...{ key: 'k', etag: 'e', size: sized, rawSize: sized, blockSize: sized, parts: [part] },
          ...{ compression: 'none', optimized: false, instanceOnly: false },
        },
        instance: {
          ...{ config: {}, devices: {}, profiles: [], snapshots: [] },
          ...{ pool: 'p', driver: 'dir', architecture: 'x86_64', type: 'container' },
        },
        lxd: { version: '5.0.2' },
      });
    };
    const put = (size: number) =>
      store.create(manifestKey('', addressOf(size)), manifestOf(size), { contentType: 'application/json' }, never);
    const replace = async (size: number, sized: number, tags = {}) => {
      const key = manifestKey('', addressOf(size));
      const { etag } = await store.read(key, never);
      await store.replace(
        key,
        etag,
        manifestOf(size, sized, tags),
        { tags: {}, contentType: 'application/json' },
        never,
      );
    };
    const sizes = Array.from({ length: many }, (_, index) => index + 1);
    await Promise.all(sizes.map(put));
    return {
      ...{ place, addressOf, put, replace },
      remove: (size: number) => store.remove(manifestKey('', addressOf(size)), never),
      /** As a gateway that has just started lists them, by their sizes; and how many manifests it read. */
      async listed(over: Partial<ObjectStore> = {}) {
        const [read, warnings]: [string[], string[]] = [[], []];
        const log = createLogger({ level: 'error', format: 'json' }, {});
        log.level = 'warn';
        for (const transport of log.transports) transport.silent = true;
        using _lines = onLine(log, ({ message }) => warnings.push(String(message)));
        const counting: ObjectStore = {
          ...store,
          read: (key, signal) => {
            if (key.endsWith('.manifest.json')) read.push(key);
            return store.read(key, signal);
          },
          ...over,
        };
        const found = await new Catalog(counting, '', log).list(place, never);
        for (const { address, backup } of found) assert.equal(address.backup, backup.name);
        return { sizes: found.map(({ backup }) => backup.size), read: read.length, warnings };
      },
      async index(): Promise<{ body: Buffer; etag: string }> {
        return store.read(indexKey('', place), never);
      },
      async writeIndex(body: Buffer) {
        const key = indexKey('', place);
        const contentType = 'application/gzip';
        const { etag } = await store.read(key, never).catch(() => ({ etag: undefined }));
        if (etag === undefined) await store.create(key, body, { contentType }, never);
        else await store.replace(key, etag, body, { tags: {}, contentType }, never);
      },
      async listing(): Promise<StoredObject[]> {
        const found: StoredObject[] = [];
        for await (const object of store.list(`${place.remote}/${place.project}/`, never)) found.push(object);
        return found;
      },
      sizes,
    };
  }

  it('reads each manifest once: the next gateway finds an index', async () => {
    const { listed, sizes } = await project();
    assert.deepEqual(await listed(), { sizes, read: many, warnings: [] });
    assert.deepEqual(await listed(), { sizes, read: 0, warnings: [] });
  });

  it('is made from the index for one instance too', async () => {
    const { listed, place, sizes } = await project();
    await listed();
    const log = createLogger({ level: 'error', format: 'json' }, {});
    const refusing = {
      ...store,
      read: (key: string) => (/index/.test(key) ? store.read(key, never) : Promise.reject(new Error(key))),
    };
    const found = await new Catalog(refusing, '', log).list({ ...place, instance: 'c1' }, never);
    assert.deepEqual(
      found.map(({ backup }) => backup.size),
      sizes,
    );
  });

  it('tells of what was deleted, changed and made since', async () => {
    const { listed, put, remove, replace, sizes } = await project();
    await listed();
    await remove(3);
    await replace(5, 500);
    await replace(7, 7, { os: 'Ubuntu' });
    await put(many + 1);
    const expected = [...sizes.filter((size) => size !== 3).map((size) => (size === 5 ? 500 : size)), many + 1];
    assert.deepEqual(await listed(), { sizes: expected, read: 3, warnings: [] });
  });

  it('tells of a backup that was deleted and made again under its name', async () => {
    const { listed, put, remove, replace, sizes } = await project();
    await listed();
    await remove(3);
    await put(3);
    await replace(3, 333);
    assert.deepEqual(
      (await listed()).sizes,
      sizes.map((size) => (size === 3 ? 333 : size)),
    );
  });

  describe('is right where the index', () => {
    const told = (size: number, name: string, more: Partial<IndexedBackup> = {}): IndexedBackup => ({
      ...{ instance: 'c1', name, etag: 'e', manifestSize: 1, created: new Date(0).toISOString() },
      ...{ size, optimized: true, compressed: true, instance_only: false, tags: {}, pinned: false },
      ...{ held: false, locked_until: null, ...more },
    });
    const packed = (lines: unknown[], version = 6) =>
      gzipSync([{ version }, ...lines].map((line) => `${JSON.stringify(line)}\n`).join(''));
    type Bytes = (project: { names: string[]; etags: string[]; whole: Buffer }) => Buffer;
    const indexOf =
      (each: (name: string, etag: string) => IndexedBackup): Bytes =>
      ({ names, etags }) =>
        packed(names.map((name, index) => each(name, etags[index] ?? '')));
    const lies: [string, Bytes, damaged?: true][] = [
      ['knows other ETags', indexOf((name) => told(9999, name))],
      [
        'knows the ETags, but of manifests of another size',
        indexOf((name, etag) => told(9999, name, { etag, manifestSize: 1 })),
      ],
      ['knows the ETags, but of another instance', indexOf((name, etag) => told(9999, name, { etag, instance: 'c2' }))],
      ['tells of backups that are not there', () => packed([told(1, 'a.tar'), told(2, '../c1/b001.tar')])],
      ['is of an earlier version', () => gzipSync(JSON.stringify({ version: 5, backups: [] })), true],
      ['is of a later version', () => packed([], 7), true],
      ['is not as its schema says', () => packed([{ instance: 1 }]), true],
      ['is not JSON', () => gzipSync('{"version":6}\n{"instance\n'), true],
      ['has no lines', () => gzipSync('{"version":6}'), true],
      ['is not packed', () => Buffer.from('{"version":6}\n'), true],
      ['is empty', () => Buffer.alloc(0), true],
      ['has a line that does not end', () => gzipSync(Buffer.alloc(65 * 1024 * 1024)), true],
    ];
    for (const [what, bytes, damaged = false] of lies) {
      it(what, async () => {
        const { listed, listing, writeIndex, index, sizes } = await project();
        await listed();
        const objects = await listing();
        const names = objects.map(({ key }) => key.slice(key.lastIndexOf('/') + 1, -'.manifest.json'.length));
        const { body: whole } = await index();
        await writeIndex(bytes({ names, etags: objects.map(({ etag }) => etag), whole }));
        const warnings = damaged ? ['index of backups not understood, it will be made again'] : [];
        assert.deepEqual(await listed(), { sizes, read: many, warnings });
        assert.deepEqual(await listed(), { sizes, read: 0, warnings: [] });
      });
    }

    it('breaks off', async () => {
      const { listed, writeIndex, index, sizes } = await project();
      await listed();
      const { body: whole } = await index();
      await writeIndex(whole.subarray(0, whole.length - 20));
      const found = await listed();
      assert.deepEqual([found.sizes, found.warnings.length], [sizes, 1]);
      assert.deepEqual(await listed(), { sizes, read: 0, warnings: [] });
    });

    it('is written by several at once', async () => {
      const { listed, sizes } = await project();
      for (const each of await Promise.all(Array.from({ length: 8 }, () => listed())))
        assert.deepEqual([each.sizes, each.warnings], [sizes, []]);
      assert.deepEqual(await listed(), { sizes, read: 0, warnings: [] });
    });

    it('cannot be written, or read', async () => {
      const { listed, sizes } = await project();
      const refuse = async () => {
        throw new LxstowError('s3-refused', 'S3 said AccessDenied');
      };
      const warnings = ['index of backups not written'];
      assert.deepEqual(await listed({ create: refuse, replace: refuse }), { sizes, read: many, warnings });
      await listed();
      for (const over of [{ stat: refuse }, { readRange: refuse }]) {
        const blind = await listed({ ...over, create: refuse, replace: refuse });
        assert.deepEqual([blind.sizes, blind.read], [sizes, many]);
        assert.deepEqual(blind.warnings, ['index of backups not read', ...warnings]);
      }
    });
  });

  describe('where the store lists what was', () => {
    it('tells nothing that was never so, and keeps nothing of it', async () => {
      const { listed, listing, remove, replace, put, sizes } = await project();
      const old = await listing();
      await remove(3);
      await replace(5, 500);
      await put(many + 1);
      const list = async function* () {
        yield* old;
      };
      // Read at this moment: 3 is gone and 5 has changed, whatever the listing says.
      const now = sizes.filter((size) => size !== 3).map((size) => (size === 5 ? 500 : size));
      assert.deepEqual((await listed({ list })).sizes, now);
      assert.deepEqual(await listed(), { sizes: [...now, many + 1], read: 1, warnings: [] });
      // With the index, what is listed as it was is told as it was.
      const again = await listed({ list });
      assert.deepEqual(again.sizes, now);
      assert.equal(again.read, 2);
    });
  });
});
