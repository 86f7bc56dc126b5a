import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Catalog } from '../../services/backups/catalog.ts';
import { archiveKey, type BackupScope, manifestKey } from '../../services/backups/keys.ts';
import { LxstowError } from '../../services/contract/errors.ts';
import type { ListOptions, ObjectStore, StoredObject } from '../../services/storage/objectStore.ts';
import { createLogger } from '../../services/telemetry/logger.ts';

const never = new AbortController().signal;
const log = createLogger({ level: 'error', format: 'json' }, {});

/** A store that lists these keys by their bytes, and counts what it is asked for. */
class Listed {
  readonly #keys: string[];
  readonly asked = { lists: 0, objects: 0, reads: 0 };
  /** By key. */
  readonly written = new Map<string, Buffer>();
  /** As some servers: `web` before `web-1`, not `web-1/` before `web/`. */
  byFolder = false;

  constructor(keys: string[]) {
    this.#keys = keys.sort();
  }

  get store(): ObjectStore {
    const { asked } = this;
    const store: Partial<ObjectStore> = {
      list: (prefix, _, options) => this.#list(prefix, options),
      folders: (prefix) => this.#folders(prefix),
      stat: async (key) => ({ size: this.#body(key).length, etag: 'e' }),
      readRange: async (key, _, start, into) => void this.#body(key).copy(into, 0, start),
      create: async (key, body) => {
        this.written.set(key, body);
        return 'e';
      },
      async read(key) {
        asked.reads++;
        return { body: manifestOf(key), etag: 'e' };
      },
    };
    return store as ObjectStore;
  }

  #body(key: string): Buffer {
    const body = this.written.get(key);
    if (!body) throw new LxstowError('not-found', key);
    return body;
  }

  async *#list(prefix: string, { after = '' }: ListOptions = {}): AsyncGenerator<StoredObject> {
    this.asked.lists++;
    const from = after >= prefix ? after : prefix;
    let [low, high] = [0, this.#keys.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#keys[middle] ?? '') < from) low = middle + 1;
      else high = middle;
    }
    let end = low;
    while (this.#keys[end]?.startsWith(prefix)) end++;
    const keys = this.byFolder ? byFolder(this.#keys.slice(low, end)) : this.#keys;
    for (let at = this.byFolder ? 0 : low; keys[at]?.startsWith(prefix); at++) {
      const key = keys[at] ?? '';
      if (key === after) continue;
      this.asked.objects++;
      yield { key, size: manifestOf(key).length, etag: 'e', modified: '2026-11-23T13:45:47Z' };
    }
  }

  async *#folders(prefix: string): AsyncGenerator<string> {
    const found = new Set(this.#keys.map((key) => key.slice(0, key.indexOf('/', prefix.length) + 1)));
    yield* [...found].filter((folder) => folder.startsWith(prefix));
  }
}

function manifestOf(key: string): Buffer {
  const [remote, project, instance, file = ''] = key.split('/');
  const name = file.replace('.manifest.json', '');
  return Buffer.from(JSON.stringify({ ...whole, backup: { ...whole.backup, name, remote, project, instance } }));
}

function byFolder(keys: string[]): string[] {
  const words = (key: string) => key.replaceAll('/', '\0');
  return keys.toSorted((a, b) => (words(a) < words(b) ? -1 : 1));
}

const whole = {
  version: 1,
  writer: 'lxstow test',
  operation: '4414c3d3-52ea-43a6-aa47-23439a72fc3f',
  backup: { created: '2026-11-23T13:45:47.278Z', tags: {} },
  archive: {
    ...{ key: 'k', etag: 'e', compression: 'none', optimized: false, instanceOnly: false, blockSize: 1024, size: 1 },
    rawSize: 1,
    parts: [{ number: 1, size: 1, rawStart: 0, rawEnd: 1, sha256: 'a'.repeat(64), crc32: 'AAAAAA==', etag: 'e' }],
  },
  instance: {
    ...{ architecture: 'x86_64', config: {}, devices: {}, type: 'container', pool: 'bt', driver: 'btrfs' },
    ...{ profiles: [], snapshots: [] },
  },
  lxd: { version: '5.0.2' },
};

function keysFor(places: [remote: string, project: string, instance: string][], names: string[]): string[] {
  return places.flatMap(([remote, project, instance]) =>
    names.flatMap((backup) => {
      const address = { remote, project, instance, backup };
      return [archiveKey('', address), manifestKey('', address)];
    }),
  );
}

describe('a page of backups', () => {
  const names = ['a.tar', 'a.tar.gz', 'b.tar', 'z-1.tar'];
  const places: [string, string, string][] = ['h1', 'h1-b', 'h2'].flatMap((remote) =>
    ['default', 'red'].flatMap((project) =>
      ['web', 'web-1', 'db'].map((instance): [string, string, string] => [remote, project, instance]),
    ),
  );
  const scopes: [what: string, of: BackupScope, of: (place: [string, string, string]) => boolean][] = [
    ['all', {}, () => true],
    ['of a host', { remote: 'h1' }, ([remote]) => remote === 'h1'],
    ['of a project of a host', { remote: 'h1', project: 'red' }, ([r, p]) => r === 'h1' && p === 'red'],
    ['of a project of all hosts', { project: 'red' }, ([, project]) => project === 'red'],
    [
      'of an instance',
      { remote: 'h2', project: 'red', instance: 'web' },
      ([r, p, i]) => r === 'h2' && p === 'red' && i === 'web',
    ],
  ];
  for (const [what, of, isOf] of scopes)
    for (const limit of [1, 2, 3, 7, 100])
      it(`${what}, ${limit} at a time: all pages have each once, and nothing else`, async () => {
        const catalog = new Catalog(new Listed(keysFor(places, names)).store, '', log);
        const found: string[] = [];
        for (let after: string | undefined, pages = 0; ; pages++) {
          const { summaries, next } = await catalog.page(of, { limit, after }, never);
          found.push(...summaries.map(({ address: a }) => `${a.remote}/${a.project}/${a.instance}/${a.backup}`));
          assert.ok(summaries.length <= limit && pages < 100);
          if (next === undefined) break;
          assert.equal(summaries.length, limit);
          after = next;
        }
        const wanted = places.filter(isOf).flatMap((place) => names.map((name) => `${place.join('/')}/${name}`));
        assert.deepEqual(found.toSorted(), wanted.toSorted());
      });

  it('costs a page where there are a million', async () => {
    const padded = (number: number, digits: number) => String(number).padStart(digits, '0');
    const keys = Array.from({ length: 2_000_000 }, (_, index) => {
      const backup = `h/default/web-${padded(Math.floor(index / 200), 5)}/backup_${padded(Math.floor(index / 2) % 100, 3)}.tar.gz`;
      return index % 2 === 0 ? backup : `${backup}.manifest.json`;
    });
    const listed = new Listed(keys);
    const catalog = new Catalog(listed.store, '', log);
    const after = 'h/default/web-05000/backup_042.tar.gz';
    await catalog.page({}, { limit: 100 }, never);
    const before = { ...listed.asked };
    const cpu = process.cpuUsage();
    const { summaries, next } = await catalog.page({}, { limit: 100, after }, never);
    const { user, system } = process.cpuUsage(cpu);
    assert.equal(summaries[0]?.address.backup, 'backup_043.tar.gz');
    assert.equal(next, 'h/default/web-05001/backup_042.tar.gz');
    const { lists, objects, reads } = listed.asked;
    assert.deepEqual([lists - before.lists, objects - before.objects, reads - before.reads], [1, 202, 100]);
    assert.ok(user + system < 50_000, `${(user + system) / 1000} ms`);
  });
});

describe('a walk through all backups', () => {
  const count = 24_000;
  const keys = Array.from({ length: count }, (_, index) => {
    const number = Math.floor(index / 100);
    const instance = number % 3 === 0 ? `web${number}` : `web${number - (number % 3)}-${number}`;
    return keysFor([['h', 'default', instance]], [`b${String(index % 100).padStart(2, '0')}.tar`]);
  }).flat();
  /** As a gateway that has just started. */
  const walk = async (listed: Listed) => {
    const before = { ...listed.asked };
    const batches = await Array.fromAsync(new Catalog(listed.store, '', log).batches({}, never));
    const names = batches.flat().map(({ address: { instance, backup } }) => `${instance}/${backup}`);
    assert.deepEqual([names.length, new Set(names).size], [count, count]);
    const { objects, reads } = listed.asked;
    return {
      objects: objects - before.objects,
      reads: reads - before.reads,
      most: Math.max(...batches.map((each) => each.length)),
    };
  };
  /** Once the first page, to see whether there is another, then everything. */
  const objects = 1000 + 2 * count;

  for (const folders of [false, true])
    it(`goes once through listing and index, where the store lists by ${folders ? 'folders' : 'bytes'}`, async () => {
      const listed = new Listed(keys);
      listed.byFolder = folders;
      assert.deepEqual(await walk(listed), { objects, reads: count, most: 5000 });
      assert.deepEqual(await walk(listed), { objects, reads: 0, most: 5000 });
    });

  it('hardly needs manifests where the index was written in another order', async () => {
    const listed = new Listed(keys);
    await walk(listed);
    listed.byFolder = true;
    const { reads } = await walk(listed);
    assert.ok(reads <= count / 3, `${reads} manifests`);
  });

  it('reads the manifests of one instance rather than an index that is much larger', async () => {
    const listed = new Listed(keys);
    await walk(listed);
    const { asked, store } = listed;
    const before = asked.reads;
    const stat = async () => ({ size: 10_000_000, etag: 'e' });
    const of = { remote: 'h', project: 'default', instance: 'web0' };
    assert.equal((await new Catalog({ ...store, stat }, '', log).list(of, never)).length, 100);
    assert.equal(asked.reads - before, 100);
    assert.equal((await new Catalog(store, '', log).list(of, never)).length, 100);
    assert.equal(asked.reads - before, 100);
  });
});
