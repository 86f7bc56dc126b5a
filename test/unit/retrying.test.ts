import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { beforeEach, describe, it } from 'node:test';
import { type ErrorCode, LxstowError } from '../../services/contract/errors.ts';
import { measured } from '../../services/storage/measured.ts';
import type {
  ListOptions,
  ObjectStore,
  OpenUpload,
  StoredObject,
  UploadedPart,
} from '../../services/storage/objectStore.ts';
import { retrying } from '../../services/storage/retrying.ts';
import type { StoreMetrics } from '../../services/telemetry/metrics.ts';

type Call = keyof ObjectStore;

/** What goes wrong, in the order in which it is to happen. */
interface Fault {
  fail: Call;
  /** How often; then the next fault of this call is due, or none. Default: 1. */
  times?: number;
  with: ErrorCode;
  /** The store does what it was asked, and only its answer is lost. */
  afterwards?: boolean;
  /** Of a listing: how many objects are given out before it fails. */
  after?: number;
  /** Happens with the fault. */
  meanwhile?: (store: FaultyStore) => void;
}

/** A store in memory that keeps to a script. */
class FaultyStore implements ObjectStore {
  readonly objects = new Map<string, { body: Buffer; etag: string }>();
  readonly calls: Call[] = [];
  readonly #order: string[] = [];
  readonly #uploads = new Map<string, Buffer[]>();
  readonly #script: (Fault & { left: number })[];

  constructor(script: Fault[], keys: string[] = []) {
    this.#script = script.map((fault) => ({ ...fault, left: fault.times ?? 1 }));
    for (const key of keys) this.put(key, key);
  }

  put(key: string, body: string): void {
    this.#order.push(key);
    this.objects.set(key, { body: Buffer.from(body), etag: md5(body) });
  }

  async #run<T>(call: Call, answer: () => T): Promise<T> {
    this.calls.push(call);
    const fault = this.#due(call);
    if (!fault) return answer();
    if (fault.afterwards) answer();
    this.#happen(fault);
    throw new LxstowError(fault.with, `${call} failed`);
  }

  #due(call: Call) {
    return this.#script.find(({ fail, left }) => fail === call && left > 0);
  }

  #happen(fault: Fault & { left: number }): void {
    fault.left -= 1;
    fault.meanwhile?.(this);
  }

  #get(key: string): { body: Buffer; etag: string } {
    const found = this.objects.get(key);
    if (!found) throw new LxstowError('not-found', `${key} is not there`);
    return found;
  }

  probe() {
    return this.#run('probe', () => undefined);
  }

  beginUpload(key: string) {
    return this.#run('beginUpload', () => {
      const uploadId = `upload ${this.#uploads.size + 1}`;
      this.#uploads.set(uploadId, []);
      return { key, uploadId };
    });
  }

  putPart({ uploadId }: { uploadId: string }, number: number, body: Buffer) {
    return this.#run('putPart', () => {
      this.#uploads.get(uploadId)?.splice(number - 1, 1, Buffer.from(body));
      return md5(body);
    });
  }

  completeUpload({ key, uploadId }: { key: string; uploadId: string }, parts: UploadedPart[]) {
    return this.#run('completeUpload', () => {
      const bodies = this.#uploads.get(uploadId);
      if (!bodies) throw new LxstowError('not-found', 'there is no such upload');
      if (this.objects.has(key)) throw new LxstowError('conflict', `${key} is there`);
      const etag = `${md5(Buffer.concat(parts.map((part) => Buffer.from(part.etag, 'hex'))))}-${parts.length}`;
      this.objects.set(key, { body: Buffer.concat(bodies), etag });
      this.#uploads.delete(uploadId);
      return etag;
    });
  }

  copyPart(_: unknown, number: number) {
    return this.#run('copyPart', () => ({ number, etag: '' }));
  }

  listParts() {
    return this.#run('listParts', () => [] as { number: number; size: number; etag: string }[]);
  }

  abortUpload({ uploadId }: { uploadId: string }) {
    return this.#run('abortUpload', () => void this.#uploads.delete(uploadId));
  }

  create(key: string, body: Buffer) {
    return this.#run('create', () => {
      if (this.objects.has(key)) throw new LxstowError('conflict', `${key} is there`);
      this.put(key, body.toString());
      return md5(body);
    });
  }

  replace(key: string, etag: string, body: Buffer) {
    return this.#run('replace', () => {
      if (this.#get(key).etag !== etag) throw new LxstowError('conflict', `${key} has changed`);
      this.put(key, body.toString());
      return md5(body);
    });
  }

  tag() {
    return this.#run('tag', () => undefined);
  }

  tagsOf() {
    return this.#run('tagsOf', () => ({}));
  }

  read(key: string) {
    return this.#run('read', () => this.#get(key));
  }

  stat(key: string) {
    return this.#run('stat', () => ({ size: this.#get(key).body.length, etag: this.#get(key).etag }));
  }

  readRange(key: string, _etag: string, start: number, into: Buffer) {
    return this.#run('readRange', () => void this.#get(key).body.copy(into, 0, start));
  }

  remove(key: string) {
    return this.#run('remove', () => {
      this.objects.delete(key);
      return false;
    });
  }

  flush() {
    return this.#run('flush', () => undefined);
  }

  hold() {
    return this.#run('hold', () => undefined);
  }

  /** In the order in which the objects were put, also behind one that is gone. */
  async *list(prefix: string, _signal: AbortSignal, { after }: ListOptions = {}): AsyncGenerator<StoredObject> {
    this.calls.push('list');
    const from = after === undefined ? 0 : this.#order.indexOf(after) + 1;
    let given = from;
    for (const key of this.#order.slice(from)) {
      const object = this.objects.get(key);
      if (!object || !key.startsWith(prefix)) continue;
      const { body, etag } = object;
      this.#breakOff(given);
      yield { key, size: body.length, etag, modified: '2026-02-26T07:52:18Z' };
      given += 1;
    }
    this.#breakOff(given);
  }

  /** Of none of these tests. */
  async *folders(prefix: string): AsyncGenerator<string> {
    yield prefix;
  }

  async *listUploads(prefix: string): AsyncGenerator<OpenUpload> {
    this.calls.push('listUploads');
    let given = 0;
    for (const uploadId of [...this.#uploads.keys()]) {
      this.#breakOff(given, 'listUploads');
      yield { key: `${prefix}${uploadId}`, uploadId, initiated: '2026-02-26T07:52:18Z' };
      given += 1;
    }
    this.#breakOff(given, 'listUploads');
  }

  #breakOff(given: number, call: 'list' | 'listUploads' = 'list'): void {
    const fault = this.#due(call);
    if (!fault || given < (fault.after ?? 0)) return;
    this.#happen(fault);
    throw new LxstowError(fault.with, `the listing broke off after ${given}`);
  }
}

function md5(body: Buffer | string): string {
  return createHash('md5').update(body).digest('hex');
}

const never = new AbortController().signal;
const settings = { tags: {}, contentType: 'text/plain' };
const body = Buffer.from('body');

function open(script: Fault[], { attempts = 4, keys = [] as string[] } = {}) {
  const faulty = new FaultyStore(script, keys);
  const told: string[] = [];
  const store = retrying(faulty, {
    attempts,
    firstDelayMs: 1,
    onRetry: (call, error) => told.push(`${call}: ${error.message}`),
  });
  return { faulty, store, told };
}

type Single = Exclude<Call, 'list' | 'folders' | 'listUploads'>;

/** Every call but listings, as one that a test can make on a store that holds `key`. */
const calls: Record<Single, (store: ObjectStore, signal: AbortSignal) => Promise<unknown>> = {
  probe: (store, signal) => store.probe(signal),
  beginUpload: (store, signal) => store.beginUpload('new', settings, signal),
  putPart: (store, signal) => store.putPart({ key: 'new', uploadId: 'u' }, 1, body, 'crc', signal),
  completeUpload: async (store, signal) => {
    const upload = await store.beginUpload('new', settings, signal);
    const etag = await store.putPart(upload, 1, body, 'crc', signal);
    return store.completeUpload(upload, [{ number: 1, etag, crc32: 'crc' }], signal);
  },
  listParts: (store, signal) => store.listParts({ key: 'new', uploadId: 'u' }, signal),
  copyPart: (store, signal) =>
    store.copyPart({ key: 'new', uploadId: 'u' }, 1, { etag: '', start: 0, size: 1 }, signal),
  abortUpload: (store, signal) => store.abortUpload({ key: 'new', uploadId: 'u' }, signal),
  create: (store, signal) => store.create('new', body, settings, signal),
  replace: (store, signal) => store.replace('key', md5('key'), body, settings, signal),
  tag: (store, signal) => store.tag('key', {}, signal),
  tagsOf: (store, signal) => store.tagsOf('key', signal),
  read: (store, signal) => store.read('key', signal),
  stat: (store, signal) => store.stat('key', signal),
  readRange: (store, signal) => store.readRange('key', md5('key'), 0, Buffer.alloc(3), signal),
  remove: (store, signal) => store.remove('key', signal),
  flush: (store, signal) => store.flush(signal),
  hold: (store, signal) => store.hold('key', true, signal),
};

async function keysOf(store: ObjectStore, prefix = '', signal = never): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of store.list(prefix, signal)) keys.push(key);
  return keys;
}

describe('a store with retries', () => {
  for (const [call, run] of Object.entries(calls) as [Single, (typeof calls)['probe']][]) {
    it(`${call}: is tried again until it works, and somebody is told`, async () => {
      const { faulty, store, told } = open([{ fail: call, times: 2, with: 's3-unavailable' }], { keys: ['key'] });
      const { store: calm } = open([], { keys: ['key'] });
      assert.deepEqual(await run(store, never), await run(calm, never));
      assert.equal(faulty.calls.filter((made) => made === call).length, 3);
      assert.deepEqual(told, [`${call}: ${call} failed`, `${call}: ${call} failed`]);
    });

    it(`${call}: is given up after so many tries, with the last error`, async () => {
      const script: Fault[] = [
        { fail: call, times: 3, with: 's3-unavailable' },
        { fail: call, with: 'lxd-unavailable' },
        { fail: call, with: 's3-refused' },
      ];
      const { faulty, store, told } = open(script, { keys: ['key'] });
      await assert.rejects(run(store, never), { code: 'lxd-unavailable' });
      assert.equal(faulty.calls.filter((made) => made === call).length, 4);
      assert.equal(told.length, 3);
    });

    it(`${call}: what no try can help is thrown at once`, async () => {
      for (const code of ['s3-refused', 's3-full', 'not-found', 'conflict'] as const) {
        const { faulty, store, told } = open([{ fail: call, with: code }], { keys: ['key'] });
        await assert.rejects(run(store, never), { code });
        assert.equal(faulty.calls.filter((made) => made === call).length, 1);
        assert.deepEqual(told, []);
      }
    });

    it(`${call}: is not tried again once it is told to end`, async () => {
      const controller = new AbortController();
      const reason = new LxstowError('stopping', 'told so');
      const script: Fault[] = [
        { fail: call, with: 's3-unavailable', meanwhile: () => controller.abort(reason) },
        { fail: call, with: 's3-refused' },
      ];
      const { faulty, store } = open(script, { keys: ['key'] });
      await assert.rejects(run(store, controller.signal), (error) => error === reason);
      assert.equal(faulty.calls.filter((made) => made === call).length, 1);
    });
  }

  it('ends while it waits for the next try', { timeout: 5000 }, async () => {
    const controller = new AbortController();
    const reason = new LxstowError('stopping', 'told so');
    const store = retrying(new FaultyStore([{ fail: 'probe', times: 9, with: 's3-unavailable' }]), {
      attempts: 9,
      firstDelayMs: 3_600_000,
      onRetry: () => setImmediate(() => controller.abort(reason)),
    });
    await assert.rejects(store.probe(controller.signal), (error) => error === reason);
  });

  it('does not try again if it stood still in the pause, and is told to end by another timer that is due', async (t) => {
    const controller = new AbortController();
    const reason = new LxstowError('lease-lost', 'it was not renewed in time');
    const faulty = new FaultyStore([{ fail: 'remove', times: 9, with: 's3-unavailable' }]);
    const store = retrying(faulty, { attempts: 9, firstDelayMs: 1 });
    const { setTimeout: set } = globalThis;
    t.mock.method(globalThis, 'setTimeout', (run: () => void, ms: number) => {
      const timer = set(run, ms);
      set(() => controller.abort(reason), ms + 1);
      const until = performance.now() + ms + 20;
      while (performance.now() < until);
      return timer;
    });
    await assert.rejects(store.remove('key', controller.signal), (error) => error === reason);
    assert.deepEqual(faulty.calls, ['remove']);
  });

  it('waits 0.2 to 0.4 s before the second try', async () => {
    const store = retrying(new FaultyStore([{ fail: 'probe', with: 's3-unavailable' }]), { attempts: 2 });
    const begun = performance.now();
    await store.probe(never);
    const waited = performance.now() - begun;
    assert.ok(waited >= 195 && waited < 1000, `${waited}`);
  });

  it('does not try again what is a mistake in the program', async () => {
    let tries = 0;
    const broken = new FaultyStore([]);
    broken.probe = async () => {
      tries += 1;
      throw new RangeError('a mistake');
    };
    await assert.rejects(retrying(broken, { attempts: 3, firstDelayMs: 1 }).probe(never), RangeError);
    assert.equal(tries, 1);
  });
});

describe('an answer that was lost', () => {
  const lost = { with: 's3-unavailable', afterwards: true } as const;

  it('of create: what is there is ours', async () => {
    const { faulty, store } = open([{ fail: 'create', ...lost }]);
    assert.equal(await store.create('new', body, settings, never), md5(body));
    assert.ok(faulty.objects.get('new')?.body.equals(body));
  });

  it('of create: what somebody else put there meanwhile is a conflict', async () => {
    const { store } = open([
      { fail: 'create', with: 's3-unavailable', meanwhile: (faulty) => faulty.put('new', 'theirs') },
    ]);
    await assert.rejects(store.create('new', body, settings, never), { code: 'conflict' });
  });

  it('of create: the look at what is there may fail, too', async () => {
    const { store } = open([
      { fail: 'create', ...lost },
      { fail: 'read', with: 's3-unavailable' },
    ]);
    assert.equal(await store.create('new', body, settings, never), md5(body));
  });

  it('of create: an object that was there before is a conflict, even of the same bytes', async () => {
    const { store } = open([], { keys: ['body'] });
    await assert.rejects(store.create('body', body, settings, never), { code: 'conflict' });
  });

  it('of replace: what is there is ours, or a conflict', async () => {
    const { store } = open([{ fail: 'replace', ...lost }], { keys: ['key'] });
    assert.equal(await store.replace('key', md5('key'), body, settings, never), md5(body));
    const { store: raced } = open(
      [{ fail: 'replace', with: 's3-unavailable', meanwhile: (faulty) => faulty.put('key', 'theirs') }],
      { keys: ['key'] },
    );
    await assert.rejects(raced.replace('key', md5('key'), body, settings, never), { code: 'conflict' });
  });

  it('of completeUpload: the object is ours', async () => {
    const { faulty, store } = open([{ fail: 'completeUpload', ...lost }]);
    assert.equal(await calls.completeUpload(store, never), faulty.objects.get('new')?.etag);
  });

  it('of completeUpload: several times, the look included', async () => {
    const { faulty, store } = open([
      { fail: 'completeUpload', ...lost },
      { fail: 'completeUpload', with: 's3-unavailable' },
      { fail: 'stat', with: 's3-unavailable' },
    ]);
    assert.equal(await calls.completeUpload(store, never), faulty.objects.get('new')?.etag);
  });

  it('of completeUpload: what somebody else put there meanwhile is a conflict', async () => {
    const { store } = open([
      { fail: 'completeUpload', with: 's3-unavailable', meanwhile: (faulty) => faulty.put('new', 'theirs') },
    ]);
    await assert.rejects(calls.completeUpload(store, never), { code: 'conflict' });
  });

  it('of completeUpload: an upload that is gone, and no object, is not found', async () => {
    const { store } = open([
      {
        fail: 'completeUpload',
        with: 's3-unavailable',
        meanwhile: (faulty) => void faulty.abortUpload({ uploadId: 'upload 1' }),
      },
    ]);
    await assert.rejects(calls.completeUpload(store, never), { code: 'not-found' });
  });

  it('of remove and abortUpload: nothing is left to do', async () => {
    const { faulty, store } = open(
      [
        { fail: 'remove', ...lost },
        { fail: 'abortUpload', ...lost },
      ],
      { keys: ['key'] },
    );
    await store.remove('key', never);
    await store.abortUpload({ key: 'new', uploadId: 'u' }, never);
    assert.equal(faulty.objects.size, 0);
  });
});

describe('a listing of uploads that breaks off', () => {
  it('goes on without a gap and without giving any twice, wherever it broke', async () => {
    for (let after = 0; after <= 3; after++) {
      const { store, told } = open([{ fail: 'listUploads', after, times: 2, with: 's3-unavailable' }]);
      for (const key of ['a', 'a', 'b']) await store.beginUpload(key, settings, never);
      const found: string[] = [];
      for await (const { uploadId } of store.listUploads('', never)) found.push(uploadId);
      assert.deepEqual(found, ['upload 1', 'upload 2', 'upload 3'], `after ${after}`);
      assert.equal(told.length, 2);
    }
  });
});

describe('a listing that is seen enough of', () => {
  let closed = 0;
  beforeEach(() => {
    closed = 0;
  });
  const endless = {
    async *list() {
      try {
        for (let i = 0; ; i++) yield { key: `k${i}`, size: 0, etag: 'e', modified: '' };
      } finally {
        closed++;
      }
    },
  } as unknown as ObjectStore;

  it('is closed, the one inside too', async () => {
    for await (const { key } of retrying(endless, { attempts: 3 }).list('', never)) if (key === 'k3') break;
    assert.equal(closed, 1);
  });

  it('is closed by what measures it, too, and counts as one call that went well', async () => {
    const counted: object[] = [];
    const metrics = { s3Requests: { observe: (labels: object) => counted.push(labels) } } as unknown as StoreMetrics;
    for await (const { key } of measured(endless, metrics).list('', never)) if (key === 'k3') break;
    assert.equal(closed, 1);
    assert.deepEqual(counted, [{ call: 'list', result: 'ok' }]);
  });
});

describe('a listing that breaks off', () => {
  // Neither by bytes nor by UTF-16: SeaweedFS goes folder by folder, and MinIO by bytes.
  const keys = ['c1/b', 'c1-x/b', 'c1.x/b', '\uFF5E', '\u{1F600}', 'a'];

  it('goes on without a gap and without giving anything twice, wherever it broke', async () => {
    for (let after = 0; after <= keys.length; after++) {
      const { store, told } = open([{ fail: 'list', after, with: 's3-unavailable' }], { keys });
      assert.deepEqual(await keysOf(store), keys, `after ${after}`);
      assert.equal(told.length, 1);
    }
  });

  it('may do so at every object', async () => {
    const script = keys.flatMap<Fault>((_, after) => [{ fail: 'list', after, times: 3, with: 's3-unavailable' }]);
    const { store } = open(script, { keys });
    assert.deepEqual(await keysOf(store), keys);
  });

  it('is given up when it breaks too often at one place', async () => {
    const { store } = open([{ fail: 'list', after: 2, times: 4, with: 's3-unavailable' }], { keys });
    const seen: string[] = [];
    await assert.rejects(
      async () => {
        for await (const { key } of store.list('', never)) seen.push(key);
      },
      { code: 's3-unavailable' },
    );
    assert.deepEqual(seen, keys.slice(0, 2));
  });

  it('does not miss an object behind the one that has gone meanwhile', async () => {
    const { store } = open(
      [{ fail: 'list', after: 2, with: 's3-unavailable', meanwhile: (faulty) => void faulty.objects.delete('c1-x/b') }],
      { keys },
    );
    assert.deepEqual(await keysOf(store), keys);
  });

  it('of no objects is empty', async () => {
    const { store } = open([{ fail: 'list', with: 's3-unavailable' }], { keys });
    assert.deepEqual(await keysOf(store, 'z'), []);
  });

  it('ends at once when no try can help, or when it is told to', async () => {
    await assert.rejects(keysOf(open([{ fail: 'list', after: 1, with: 's3-refused' }], { keys }).store), {
      code: 's3-refused',
    });
    const controller = new AbortController();
    const reason = new LxstowError('stopping', 'told so');
    const { store } = open(
      [{ fail: 'list', after: 1, with: 's3-unavailable', meanwhile: () => controller.abort(reason) }],
      { keys },
    );
    await assert.rejects(keysOf(store, '', controller.signal), (error) => error === reason);
  });
});
