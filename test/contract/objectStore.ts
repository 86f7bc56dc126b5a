/** What lxstow relies on an object store for. Every implementation must pass it, on every server that we say we support. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it, type TestContext } from 'node:test';
import zlib from 'node:zlib';
import { archiveKey } from '../../services/backups/keys.ts';
import { isCode, LxstowError } from '../../services/contract/errors.ts';
import type { Config, Tags } from '../../services/contract/schemas.ts';
import type { ObjectStore, StoredObject, Upload, UploadedPart } from '../../services/storage/objectStore.ts';
import { type Differences, type Trait, traits } from './servers.ts';

/** A store under test, and what the suite cannot do by way of it. */
export interface ContractStore extends AsyncDisposable {
  /** The store on the same server with other settings. */
  open(change?: Partial<Config['s3']>): ObjectStore;
  readonly bucket: string;
  readonly secretKey: string;
  /** The object's tags and content type, read past the store. */
  look(key: string): Promise<{ tags: Tags; contentType: string | undefined }>;
  /** The server answers nothing, though connections to it are accepted. */
  freeze(): Promise<void>;
  thaw(): Promise<void>;
  /** Kills the server and starts it again; undefined where the test did not start it. */
  restart?: (() => Promise<void>) | undefined;
}

/** How the contract is run. */
interface Running {
  /** What the server does differently, and must. Undefined for a server that nobody has described: what it does is printed. */
  differs?: Differences | undefined;
  /** Parts of keys that do not come back as they were sent. */
  unusable?: readonly string[] | undefined;
  /** Where listings of thousands are tested, if not here: they take a while. */
  pages?: string;
}

const mib = 1024 * 1024;
/** The smallest that S3 takes for any part but the last. */
const leastPart = 5 * mib;
const testTimeoutMs = 120_000;

/** One by one in the middle of names; S3 wants each of them to come back as it went. */
const oddCharacters = ['&', '+', ' ', '%', '%2F', '~', '#', '?', '=', ';', ':', ',', '@', '$', '!', "'", '(', ')', '[']
  .concat([']', '{', '}', '|', '^', '`', '<', '>', '"', '\\', '*', 'é', '日本', '\u{1F600}', 'e\u0301', '\uFF5E', '..'])
  .map((character) => `o${character}o`);

export function objectStoreContract(
  name: string,
  openSubject: () => Promise<ContractStore>,
  { differs, unusable = [], pages }: Running = {},
): void {
  describe(name, { timeout: 10 * testTimeoutMs }, () => {
    const never = new AbortController().signal;
    const settings = { tags: {}, contentType: 'application/octet-stream' };
    const kept = (tags: Tags) => (differs?.tags ? {} : tags);
    let subject: ContractStore;
    let store: ObjectStore;
    const run = randomBytes(4).toString('hex');
    let folders = 0;
    /** A prefix of one test's own. */
    const folder = () => `contract-${run}-${++folders}/`;
    const at = { timeout: testTimeoutMs };
    const seen: Differences = {};

    /** A test of what not every server does: where one is known to do it differently, the test must fail. */
    function trait(name: Trait, what: string, run: (context: TestContext) => Promise<void>): void {
      const instead = differs?.[name];
      it(instead === undefined ? what : `${what}: not here (${instead})`, {
        ...at,
        skip: instead !== undefined && name === 'completionOnce' && 'a race',
      }, async (context) => {
        if (differs !== undefined && instead === undefined) return run(context);
        const failure = await run(context).then(() => undefined, asError);
        if (differs === undefined) seen[name] = failure?.message ?? seen[name] ?? traits[name].kept;
        else {
          assert.ok(failure, `this server does it now: take ${name} out of test/contract/servers.ts`);
          assert.ok(!isCode(failure, 's3-unavailable'), failure);
        }
      });
    }

    after(() => {
      for (const [name, found] of Object.entries(seen)) console.log(`${traits[name as Trait].row}: ${found}`);
    });
    before(async () => {
      subject = await openSubject();
      store = subject.open();
    });
    after(() => subject?.[Symbol.asyncDispose]());

    const put = (key: string, body: string | Buffer = key) => store.create(key, Buffer.from(body), settings, never);
    const listed = (prefix: string) => all(store.list(prefix, never));
    const keysOf = async (prefix: string) => (await listed(prefix)).map(({ key }) => key);
    const send = async (upload: Upload, number: number, body: Buffer): Promise<UploadedPart> => {
      const crc32 = crcOf(body);
      return { number, crc32, etag: await store.putPart(upload, number, body, crc32, never) };
    };
    const upload = async (key: string, bodies: Buffer[], options: { tags: Tags; contentType: string } = settings) => {
      const begun = await store.beginUpload(key, options, never);
      const parts = await Promise.all(bodies.map((body, i) => send(begun, i + 1, body)));
      return { begun, parts, etag: await store.completeUpload(begun, parts, never) };
    };
    const whole = async (key: string): Promise<Buffer> => {
      const { size, etag } = await store.stat(key, never);
      const bytes = Buffer.alloc(size);
      await store.readRange(key, etag, 0, bytes, never);
      return bytes;
    };
    const missing = (run: Promise<unknown>) => assert.rejects(run, isError('not-found'));

    describe('can be asked whether it is there', () => {
      it('and is', at, () => store.probe(never));

      it('a wrong secret is refused, and not told to anybody', at, async () => {
        const secretKey = 'x'.repeat(32);
        await assert.rejects(subject.open({ secretKey }).probe(never), (error: unknown) => {
          assert.ok(isError('s3-denied')(error));
          assert.doesNotMatch(`${(error as Error).message}${(error as Error).stack}`, /x{32}/);
          return true;
        });
      });

      it('a bucket that is not there is named', at, async () => {
        const bucket = 'nobody-made-this';
        await assert.rejects(subject.open({ bucket }).probe(never), (error: unknown) => {
          assert.ok(isError('s3-refused')(error));
          assert.match((error as Error).message, /NoSuchBucket.*nobody-made-this/);
          return true;
        });
      });

      it('a bucket that is not there is no missing backup', at, async () => {
        const elsewhere = subject.open({ bucket: 'nobody-made-this' });
        await assert.rejects(elsewhere.read('any', never), isError('s3-refused'));
        await assert.rejects(all(elsewhere.list('local/', never)), isError('s3-refused'));
      });

      trait('bucketNeeded', 'a bucket that is not there takes nothing', async () => {
        const elsewhere = subject.open({ bucket: 'nobody-made-this' });
        await assert.rejects(elsewhere.create('any', Buffer.from('x'), settings, never), isError('s3-refused'));
        await assert.rejects(elsewhere.beginUpload('any', settings, never), isError('s3-refused'));
      });

      it('where nothing listens, it is unavailable, and the endpoint is named', at, async () => {
        const endpoint = 'http://127.0.0.1:9';
        await assert.rejects(subject.open({ endpoint }).probe(never), (error: unknown) => {
          assert.ok(isError('s3-unavailable')(error));
          assert.match((error as Error).message, /127\.0\.0\.1:9\b/);
          return true;
        });
      });
    });

    describe('takes an upload', () => {
      it('of one part, as it was sent', at, async () => {
        const key = `${folder()}one`;
        const body = randomBytes(100_001);
        const { etag } = await upload(key, [body]);
        assert.deepEqual(await store.stat(key, never), { size: body.length, etag });
        assert.ok((await whole(key)).equals(body));
      });

      it('of three parts sent side by side, in the order of their numbers', at, async () => {
        const key = `${folder()}three`;
        const bodies = [randomBytes(leastPart), randomBytes(16 * mib + 1), randomBytes(3)];
        const { etag } = await upload(key, bodies);
        assert.deepEqual(await store.stat(key, never), { size: leastPart + 16 * mib + 4, etag });
        assert.ok((await whole(key)).equals(Buffer.concat(bodies)));
      });

      it('that cannot be seen before it is complete', at, async () => {
        const prefix = folder();
        const begun = await store.beginUpload(`${prefix}open`, settings, never);
        await send(begun, 1, Buffer.from('x'));
        assert.deepEqual(await keysOf(prefix), []);
        await missing(store.stat(`${prefix}open`, never));
        await store.abortUpload(begun, never);
      });

      it('whose part is sent again: the last one counts', at, async () => {
        const key = `${folder()}again`;
        const begun = await store.beginUpload(key, settings, never);
        await send(begun, 1, Buffer.from('first'));
        const part = await send(begun, 1, Buffer.from('second'));
        await store.completeUpload(begun, [part], never);
        assert.equal((await whole(key)).toString(), 'second');
      });

      it('and leaves the buffer to its owner as soon as the part is there', at, async () => {
        const key = `${folder()}buffer`;
        const begun = await store.beginUpload(key, settings, never);
        const buffer = randomBytes(leastPart);
        const sent = Buffer.from(buffer);
        const part = await send(begun, 1, buffer);
        buffer.fill(0);
        await store.completeUpload(begun, [part], never);
        assert.ok((await whole(key)).equals(sent));
      });

      it('with its content type', at, async () => {
        const key = `${folder()}typed`;
        await upload(key, [Buffer.from('x')], { tags: {}, contentType: 'application/zstd' });
        assert.equal((await subject.look(key)).contentType, 'application/zstd');
      });

      trait('partSum', 'but no part whose CRC-32 is another', async () => {
        const key = `${folder()}damaged`;
        const begun = await store.beginUpload(key, settings, never);
        const body = randomBytes(1000);
        await assert.rejects(
          store.putPart(begun, 1, Buffer.from(body).fill(0, 10, 11), crcOf(body), never),
          (error: unknown) => error instanceof LxstowError && error.code.startsWith('s3-'),
        );
        const good = await send(begun, 1, body);
        await store.completeUpload(begun, [good], never);
        assert.ok((await whole(key)).equals(body));
      });

      it('but does not complete one with parts that it has not got', at, async () => {
        const prefix = folder();
        const begun = await store.beginUpload(`${prefix}gap`, settings, never);
        const part = await send(begun, 1, randomBytes(leastPart));
        const invented = { number: 2, etag: '0'.repeat(32), crc32: crcOf(Buffer.from('x')) };
        await assert.rejects(store.completeUpload(begun, [part, invented], never), isError('s3-refused'));
        assert.deepEqual(await keysOf(prefix), []);
        await store.abortUpload(begun, never);
      });

      it('once: completing again gives the same object, or says that the upload is gone', at, async () => {
        const key = `${folder()}twice`;
        const { begun, parts, etag } = await upload(key, [Buffer.from('x')]);
        const second = await store.completeUpload(begun, parts, never).catch((error: unknown) => {
          assert.ok(error instanceof LxstowError && ['not-found', 'conflict'].includes(error.code), String(error));
          return etag;
        });
        assert.equal(second, etag);
        assert.equal((await whole(key)).toString(), 'x');
      });

      // With retries, the answer to the first may have been lost.
      if (!pages)
        trait('completionTwice', 'and refuses to complete it again', async () => {
          const { begun, parts } = await upload(`${folder()}twice`, [Buffer.from('x')]);
          await assert.rejects(store.completeUpload(begun, parts, never), isGone);
        });

      trait('completionOnce', 'of four uploads of a key that are completed at once, one', async () => {
        for (let round = 0; round < 20; round++) {
          const key = `${folder()}raced`;
          const racers = await Promise.all(
            Array.from({ length: 4 }, async (_, i) => {
              const begun = await store.beginUpload(key, settings, never);
              return { begun, parts: [await send(begun, 1, Buffer.from(`racer ${i}`))] };
            }),
          );
          const completing = racers.map(({ begun, parts }) => store.completeUpload(begun, parts, never));
          const winners = (await Promise.allSettled(completing)).filter(({ status }) => status === 'fulfilled');
          assert.equal(winners.length, 1, `${winners.length} won`);
        }
      });

      trait('completionCondition', 'but not over an object that is there', async () => {
        const key = `${folder()}taken`;
        const begun = await store.beginUpload(key, settings, never);
        const parts = [await send(begun, 1, Buffer.from('late'))];
        await put(key, 'early');
        await assert.rejects(store.completeUpload(begun, parts, never), isError('conflict'));
        assert.equal((await whole(key)).toString(), 'early');
        await store.abortUpload(begun, never);
      });

      it('that can be given up, twice, and is gone then', at, async () => {
        const prefix = folder();
        const begun = await store.beginUpload(`${prefix}aborted`, settings, never);
        const part = await send(begun, 1, Buffer.from('x'));
        await store.abortUpload(begun, never);
        await store.abortUpload(begun, never);
        await assert.rejects(store.completeUpload(begun, [part], never), LxstowError);
        await missing(send(begun, 2, Buffer.from('y')));
        assert.deepEqual(await keysOf(prefix), []);
      });

      trait('goneUpload', 'and says so when it is completed', async () => {
        const begun = await store.beginUpload(`${folder()}aborted`, settings, never);
        const part = await send(begun, 1, Buffer.from('x'));
        await store.abortUpload(begun, never);
        const refusal = await store.completeUpload(begun, [part], never).catch((error: unknown) => error);
        assert.ok(isCode(refusal, 'not-found'), 'another answer');
      });

      it('and giving up a finished one leaves the object alone', at, async () => {
        const key = `${folder()}finished`;
        const { begun } = await upload(key, [Buffer.from('x')]);
        await store.abortUpload(begun, never);
        assert.equal((await whole(key)).toString(), 'x');
      });

      it('of the same key twice at once, each with its own parts', at, async () => {
        const key = `${folder()}both`;
        const [a, b] = await Promise.all([
          store.beginUpload(key, settings, never),
          store.beginUpload(key, settings, never),
        ]);
        assert.notEqual(a.uploadId, b.uploadId);
        const [part] = await Promise.all([send(a, 1, Buffer.from('a')), send(b, 1, Buffer.from('b'))]);
        await store.abortUpload(b, never);
        await store.completeUpload(a, [part], never);
        assert.equal((await whole(key)).toString(), 'a');
      });
    });

    describe('tells what is open', () => {
      const openOf = async (prefix: string) => {
        const found: string[] = [];
        for await (const { key, uploadId } of store.listUploads(prefix, never)) found.push(`${key} ${uploadId}`);
        return found.toSorted();
      };

      it('the parts that it has, by number', at, async () => {
        const begun = await store.beginUpload(`${folder()}parts`, settings, never);
        assert.deepEqual(await store.listParts(begun, never), []);
        await send(begun, 3, Buffer.alloc(3));
        const first = await send(begun, 1, Buffer.alloc(1, 'x'));
        await send(begun, 2, Buffer.alloc(2));
        const parts = await store.listParts(begun, never);
        assert.deepEqual(
          parts.map(({ number, size }) => [number, size]),
          [
            [1, 1],
            [2, 2],
            [3, 3],
          ],
        );
        assert.equal(parts[0]?.etag, first.etag);
        await store.abortUpload(begun, never);
        await missing(store.listParts(begun, never));
      });

      trait('partOnce', 'a part that was sent again once', async () => {
        const begun = await store.beginUpload(`${folder()}parts`, settings, never);
        await send(begun, 1, Buffer.alloc(10));
        const { number, etag } = await send(begun, 1, Buffer.alloc(1));
        assert.deepEqual(await store.listParts(begun, never), [{ number, etag, size: 1 }]);
        await store.abortUpload(begun, never);
      });

      it('more parts than one page has', { timeout: 2 * testTimeoutMs, skip: pages ?? false }, async () => {
        const begun = await store.beginUpload(`${folder()}parts`, settings, never);
        const numbers = Array.from({ length: 1003 }, (_, i) => i + 1);
        for (let i = 0; i < numbers.length; i += 32) {
          await Promise.all(numbers.slice(i, i + 32).map((number) => send(begun, number, Buffer.alloc(1))));
        }
        assert.deepEqual(
          (await store.listParts(begun, never)).map(({ number }) => number),
          numbers,
        );
        await store.abortUpload(begun, never);
      });

      it('the uploads below a prefix, and of one key, until they are completed or given up', at, async () => {
        const prefix = folder();
        const begin = (name: string) => store.beginUpload(prefix + name, settings, never);
        const [a, b, other] = [await begin('x/a'), await begin('x/a'), await begin('y/b')];
        const said = ({ key, uploadId }: Upload) => `${key} ${uploadId}`;
        assert.deepEqual(await openOf(prefix), [a, b, other].map(said).toSorted());
        assert.deepEqual(await openOf(`${prefix}x/`), [a, b].map(said).toSorted());
        assert.deepEqual(await openOf(`${prefix}x/a`), [a, b].map(said).toSorted());
        assert.deepEqual(await openOf(`${prefix}z/`), []);
        await store.completeUpload(a, [await send(a, 1, Buffer.from('a'))], never);
        await store.abortUpload(b, never);
        assert.deepEqual(await openOf(prefix), [said(other)]);
        for await (const { initiated } of store.listUploads(`${prefix}y/b`, never)) {
          assert.ok(Math.abs(Date.parse(initiated) - Date.now()) < 60_000);
        }
        await store.abortUpload(other, never);
        assert.deepEqual(await openOf(prefix), []);
      });

      const beginAll = async (keys: string[]) => {
        for (let i = 0; i < keys.length; i += 32)
          await Promise.all(keys.slice(i, i + 32).map((key) => store.beginUpload(key, settings, never)));
      };

      it('more uploads than one page has', { timeout: 2 * testTimeoutMs, skip: pages ?? false }, async () => {
        const prefix = folder();
        const keys = Array.from({ length: 1003 }, (_, i) => `${prefix}many/${i.toString().padStart(4, '0')} +&%`);
        await beginAll(keys);
        const found = await all(store.listUploads(`${prefix}many/`, never));
        assert.deepEqual(found.map(({ key }) => key).toSorted(), keys);
      });

      let ofOneKey = 0;
      it('of one key, the first thousand', { timeout: 2 * testTimeoutMs, skip: pages ?? false }, async () => {
        const key = `${folder()}one`;
        await beginAll(Array.from({ length: 1003 }, () => key));
        const ids = (await all(store.listUploads(key, never))).map(({ uploadId }) => uploadId);
        ofOneKey = ids.length;
        assert.ok(ofOneKey >= 1000 && new Set(ids).size === ofOneKey, `${ofOneKey} of one key`);
      });
      if (!pages) {
        trait('uploadsOfOneKey', 'and those behind it', async () => assert.equal(ofOneKey, 1003));

        trait('uploadsKept', 'the uploads below a prefix, after a restart', async (context) => {
          const prefix = folder();
          const { key, uploadId } = await store.beginUpload(`${prefix}x/a`, settings, never);
          if (!subject.restart) return context.skip('somebody else started it');
          await subject.restart();
          assert.deepEqual(await openOf(prefix), [`${key} ${uploadId}`]);
        });
      }
    });

    describe('goes on with an object in a new upload', () => {
      it('by copying it: its bytes, then new ones', at, async () => {
        const key = `${folder()}grown`;
        const [old, added] = [randomBytes(leastPart), randomBytes(1000)];
        const { etag } = await upload(key, [old]);
        const next = await store.beginUpload(key, { ...settings, copies: true }, never);
        const copied = await store.copyPart(next, 1, { etag, start: 0, size: old.length }, never);
        const more = await send(next, 2, added);
        const grown = await store.completeUpload(next, [copied, more], never, etag);
        assert.deepEqual(await store.stat(key, never), { size: old.length + added.length, etag: grown });
        assert.ok((await whole(key)).equals(Buffer.concat([old, added])));
      });

      trait('copyCondition', 'but not with another object than was meant', async () => {
        const key = `${folder()}other`;
        await upload(key, [Buffer.from('theirs')]);
        const next = await store.beginUpload(key, { ...settings, copies: true }, never);
        const from = { etag: '0'.repeat(32), start: 0, size: 6 };
        await assert.rejects(store.copyPart(next, 1, from, never), isError('conflict'));
        await store.abortUpload(next, never);
      });

      trait('completionCondition', 'nor over one', async () => {
        const key = `${folder()}other`;
        await upload(key, [Buffer.from('theirs')]);
        const next = await store.beginUpload(key, { ...settings, copies: true }, never);
        const parts = [await send(next, 1, Buffer.from('ours'))];
        await assert.rejects(store.completeUpload(next, parts, never, '0'.repeat(32)), isError('conflict'));
        assert.equal((await whole(key)).toString(), 'theirs');
        await store.abortUpload(next, never);
      });
    });

    describe('keeps tags', () => {
      const tagSets: Record<string, Tags> = {
        'that look like numbers and words': { '1': '007', true: 'false', null: '', version: '1.0', big: '1e400' },
        'of every allowed character': { '+-=._:/@ a': ' +-=._:/@ z ', 'a+b': 'c d', 'e=f': 'g=h', 'i/j': 'k@l' },
        'of the greatest length and number': Object.fromEntries(
          Array.from({ length: 10 }, (_, i) => [`${i}`.padEnd(128, 'k'), `${i}`.padEnd(256, 'v')]),
        ),
      };
      for (const [what, tags] of Object.entries(tagSets)) {
        it(`${what}, on a small object`, at, async () => {
          const key = `${folder()}small`;
          await store.create(key, Buffer.from('x'), { tags, contentType: 'text/plain' }, never);
          assert.deepEqual((await subject.look(key)).tags, kept(tags));
        });

        trait('tagsOfUploads', `${what}, on an upload`, async () => {
          const key = `${folder()}upload`;
          await upload(key, [Buffer.from('x')], { tags, contentType: 'text/plain' });
          assert.deepEqual((await subject.look(key)).tags, tags);
        });
      }
    });

    describe('creates a small object', () => {
      it('and gives it back', at, async () => {
        const key = `${folder()}small`;
        const body = randomBytes(70_000);
        const etag = await store.create(key, body, { contentType: 'application/json' }, never);
        assert.match(etag, /^[^"]+$/);
        assert.deepEqual(await store.read(key, never), { body, etag });
        assert.deepEqual(await store.stat(key, never), { size: body.length, etag });
        assert.equal((await subject.look(key)).contentType, 'application/json');
      });

      it('and tells which operation made it', at, async () => {
        const key = `${folder()}ours`;
        const body = randomBytes(70_000);
        const made = { ...settings, crc32: crcOf(body), operation: 'an-operation' };
        const etag = await store.create(key, body, made, never);
        assert.deepEqual(await store.stat(key, never), { size: body.length, etag, operation: 'an-operation' });
        assert.deepEqual(await whole(key), body);
      });

      trait('partSum', 'only if it has its CRC-32', async () => {
        const key = `${folder()}damaged`;
        const made = { ...settings, crc32: crcOf(Buffer.from('sent')) };
        await assert.rejects(store.create(key, Buffer.from('came'), made, never), LxstowError);
        await missing(store.stat(key, never));
      });

      it('even an empty one', at, async () => {
        const key = `${folder()}empty`;
        const etag = await put(key, '');
        assert.deepEqual(await store.read(key, never), { body: Buffer.alloc(0), etag });
      });

      trait('createOnce', 'only where there is none', async () => {
        const key = `${folder()}taken`;
        await put(key, 'first');
        await assert.rejects(put(key, 'second'), isError('conflict'));
        assert.equal((await store.read(key, never)).body.toString(), 'first');
        await store.remove(key, never);
        await put(key, 'third');
        assert.equal((await store.read(key, never)).body.toString(), 'third');
      });

      trait('createOnce', 'for exactly one of eight who try at once', async () => {
        for (let round = 0; round < 10; round++) {
          const key = `${folder()}raced`;
          const racers = Array.from({ length: 8 }, (_, i) => `racer ${i}`);
          const results = await Promise.allSettled(racers.map((racer) => put(key, racer)));
          const winners = racers.filter((_, i) => results[i]?.status === 'fulfilled');
          assert.equal(winners.length, 1, winners.join(', '));
          for (const result of results) {
            if (result.status === 'rejected') assert.ok(isError('conflict')(result.reason));
          }
          assert.equal((await store.read(key, never)).body.toString(), winners[0]);
        }
      });
    });

    describe('replaces a small object', () => {
      const over = (key: string, etag: string, body: string, tags: Tags = {}) =>
        store.replace(key, etag, Buffer.from(body), { tags, contentType: 'application/json' }, never);

      it('with its tags', at, async () => {
        const key = `${folder()}small`;
        const first = await store.create(key, Buffer.from('old'), { ...settings, tags: { a: 'b', c: 'd' } }, never);
        const etag = await over(key, first, 'new', { a: 'x' });
        assert.deepEqual(await store.read(key, never), { body: Buffer.from('new'), etag });
        assert.deepEqual((await subject.look(key)).tags, kept({ a: 'x' }));
      });

      trait('replaceOnce', 'only as it was seen', async () => {
        const key = `${folder()}changed`;
        const first = await put(key, 'first');
        await over(key, first, 'second');
        await assert.rejects(over(key, first, 'third'), isError('conflict'));
        assert.equal((await store.read(key, never)).body.toString(), 'second');
      });

      trait('replaceGone', 'but never one that is gone', async () => {
        const prefix = folder();
        const etag = await put(`${prefix}gone`);
        await store.remove(`${prefix}gone`, never);
        await assert.rejects(over(`${prefix}gone`, etag, 'back again'), isGone);
        assert.deepEqual(await keysOf(prefix), []);
      });

      trait('replaceOnce', 'for exactly one of eight who try at once', async () => {
        for (let round = 0; round < 10; round++) {
          const key = `${folder()}raced`;
          const etag = await put(key, 'first');
          const racers = Array.from({ length: 8 }, (_, i) => `racer ${i}`);
          const results = await Promise.allSettled(racers.map((racer) => over(key, etag, racer)));
          const winners = racers.filter((_, i) => results[i]?.status === 'fulfilled');
          assert.equal(winners.length, 1, winners.join(', '));
          assert.equal((await store.read(key, never)).body.toString(), winners[0]);
        }
      });
    });

    describe('changes tags', () => {
      it('of an object that stays as it is', at, async () => {
        const key = `${folder()}archive`;
        const { etag } = await upload(key, [Buffer.from('x')], { tags: { old: '1' }, contentType: 'text/plain' });
        const tags = { '+-=._:/@ a': ' +-=._:/@ z ', n: '007' };
        await store.tag(key, tags, never);
        assert.deepEqual((await subject.look(key)).tags, kept(tags));
        assert.deepEqual(await store.tagsOf(key, never), kept(tags));
        await store.tag(key, {}, never);
        assert.deepEqual((await subject.look(key)).tags, {});
        assert.deepEqual(await store.tagsOf(key, never), {});
        assert.deepEqual(await store.stat(key, never), { size: 1, etag });
      });

      trait('tags', 'of nothing where there is nothing', async () => {
        await missing(store.tag(`${folder()}missing`, { a: 'b' }, never));
        await missing(store.tagsOf(`${folder()}missing`, never));
      });
    });

    describe('reads', () => {
      it('nothing where there is nothing', at, async () => {
        const key = `${folder()}missing`;
        await missing(store.read(key, never));
        await missing(store.stat(key, never));
        await missing(store.readRange(key, '0'.repeat(32), 0, Buffer.alloc(1), never));
      });

      it('exactly the bytes that were asked for, into exactly where they belong', at, async () => {
        const key = `${folder()}range`;
        const body = randomBytes(300_000);
        const etag = await put(key, body);
        for (const [start, length] of [
          [0, 1],
          [0, 300_000],
          [299_999, 1],
          [65_535, 2],
          [1, 200_000],
        ] as const) {
          const around = Buffer.alloc(length + 20, 0xee);
          await store.readRange(key, etag, start, around.subarray(10, 10 + length), never);
          assert.ok(around.subarray(10, 10 + length).equals(body.subarray(start, start + length)), `${start}`);
          assert.ok(around.subarray(0, 10).every((byte) => byte === 0xee) && around.at(-1) === 0xee);
        }
      });

      it('no other object than the one that was meant', at, async () => {
        const key = `${folder()}other`;
        const etag = await put(key, 'old');
        await store.remove(key, never);
        await put(key, 'new');
        await assert.rejects(store.readRange(key, etag, 0, Buffer.alloc(3), never), isError('conflict'));
      });

      it('nothing beyond the end', at, async () => {
        const key = `${folder()}short`;
        const etag = await put(key, '0123456789');
        await assert.rejects(store.readRange(key, etag, 10, Buffer.alloc(1), never), LxstowError);
        await assert.rejects(store.readRange(key, etag, 8, Buffer.alloc(3), never), LxstowError);
      });
    });

    it('removes an object, and does not mind when it is gone', at, async () => {
      const prefix = folder();
      await put(`${prefix}a`);
      await put(`${prefix}b`);
      await store.remove(`${prefix}a`, never);
      await store.remove(`${prefix}a`, never);
      await store.remove(`${prefix}never-there`, never);
      assert.deepEqual(await keysOf(prefix), [`${prefix}b`]);
      await missing(store.read(`${prefix}a`, never));
    });

    describe('lists', () => {
      // No key of ours is a folder of another: all are equally deep. MinIO would list nothing below such a one.
      it('what begins with the prefix, each once, and nothing else', at, async () => {
        const prefix = folder();
        const keys = ['a/b', 'a/c/d', 'a/bc', 'a0/x', 'a b/x', 'a-b/x', 'a.b/x', 'b/x'].map((key) => prefix + key);
        for (const key of keys) await put(key);
        const sorted = async (below: string) => (await keysOf(prefix + below)).toSorted(byBytes);
        assert.deepEqual(await sorted('a/'), [`${prefix}a/b`, `${prefix}a/bc`, `${prefix}a/c/d`]);
        assert.deepEqual(await sorted('a/b'), [`${prefix}a/b`, `${prefix}a/bc`]);
        assert.deepEqual(await sorted('a/c/'), [`${prefix}a/c/d`]);
        assert.deepEqual(await sorted('c'), []);
        assert.deepEqual(await sorted(''), keys.toSorted(byBytes));
      });

      it('size, ETag and time of each', at, async () => {
        const prefix = folder();
        const begun = Date.now();
        const small = await put(`${prefix}a`, '12345');
        const { etag: large } = await upload(`${prefix}b`, [randomBytes(leastPart), Buffer.from('end')]);
        const [a, b, ...more] = await listed(prefix);
        assert.deepEqual([more, a?.size, a?.etag, b?.size, b?.etag], [[], 5, small, leastPart + 3, large]);
        for (const { modified } of [a, b] as StoredObject[]) {
          assert.match(modified, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/);
          assert.ok(Math.abs(Date.parse(modified) - begun) < 60_000);
        }
      });

      trait('order', 'in order of the keys, by their bytes', async () => {
        const prefix = folder();
        const names = ['B', 'a/x', 'a-b/x', 'a.b/x', 'a b/x', 'ab', 'é', '日', '\uFF5E', '\u{1F600}'];
        const keys = names.map((key) => prefix + key);
        await Promise.all(keys.map((key) => put(key)));
        assert.deepEqual(await keysOf(prefix), keys.toSorted(byBytes));
      });

      it('the folders below a prefix, each once, whatever is in them', at, async () => {
        const prefix = folder();
        const names = ['a/x', 'a/y/z', 'a-b/x', 'a b/x', 'ab', 'é/x'];
        await Promise.all(names.map((name) => put(prefix + name)));
        const foldersIn = async (within: string) => (await all(store.folders(within, never))).toSorted(byBytes);
        assert.deepEqual(
          await foldersIn(prefix),
          ['a b/', 'a-b/', 'a/', 'é/'].map((name) => prefix + name),
        );
        assert.deepEqual(await foldersIn(`${prefix}a/`), [`${prefix}a/y/`]);
        assert.deepEqual(await foldersIn(`${prefix}a-`), [`${prefix}a-b/`]);
        assert.deepEqual(await foldersIn(`${prefix}none/`), []);
      });

      it('what is behind a key, in its own order, also where that key is gone', at, async () => {
        const prefix = folder();
        const names = ['a/b', 'a/b.manifest', 'a/c', 'a-b/x', 'a.b/x', 'a b/x', 'a0/x', 'b/x'];
        await Promise.all(names.map((name) => put(prefix + name)));
        const keys = await keysOf(prefix);
        const behind = async (after: string, below = prefix) =>
          (await all(store.list(below, never, { after, atOnce: 3 }))).map(({ key }) => key);
        for (const [index, key] of keys.entries()) assert.deepEqual(await behind(key), keys.slice(index + 1), key);
        assert.deepEqual(await behind(`${prefix}a/bc`, `${prefix}a/`), [`${prefix}a/c`]);
        assert.deepEqual(await behind(`${prefix}a/d`, `${prefix}a/`), []);
      });

      it('more than one page', { timeout: 2 * testTimeoutMs, skip: pages ?? false }, async () => {
        const prefix = folder();
        const keys = Array.from({ length: 1005 }, (_, i) => `${prefix}${i.toString().padStart(4, '0')} +&%.json`);
        for (let i = 0; i < keys.length; i += 32) {
          await Promise.all(keys.slice(i, i + 32).map((key) => put(key, '{}')));
        }
        assert.deepEqual(await keysOf(prefix), keys);
        for await (const { key } of store.list(prefix, never)) {
          assert.equal(key, keys[0]);
          break;
        }
      });
    });

    describe('takes odd keys', () => {
      for (const odd of oddCharacters) {
        const comesBack = async () => {
          const prefix = folder();
          const keys = [archiveKey(prefix + odd, { remote: 'r', project: odd, instance: 'c1', backup: 'b.tar' })];
          keys.push(`${keys[0]}.manifest.json`);
          const [archive = '', manifest = ''] = keys;
          const { etag } = await upload(archive, [Buffer.from('archive')]);
          await put(manifest, 'manifest');
          assert.deepEqual(await store.stat(archive, never), { size: 7, etag });
          assert.equal((await whole(archive)).toString(), 'archive');
          assert.equal((await store.read(manifest, never)).body.toString(), 'manifest');
          assert.deepEqual(await keysOf(prefix), keys);
          assert.deepEqual(await keysOf(`${prefix}${odd}/r/${odd}/`), keys);
          if (!differs?.createOnce) await assert.rejects(put(manifest, 'another'), isError('conflict'));
          const next = await store.beginUpload(archive, { ...settings, copies: true }, never);
          for await (const open of store.listUploads(archive, never)) assert.equal(open.uploadId, next.uploadId);
          const copied = await store.copyPart(next, 1, { etag, start: 0, size: 7 }, never);
          await store.completeUpload(next, [copied], never, etag);
          assert.equal((await whole(archive)).toString(), 'archive');
          for (const key of keys) await store.remove(key, never);
          assert.deepEqual(await keysOf(prefix), []);
        };
        if (differs && !unusable.includes(odd)) it(JSON.stringify(odd), at, comesBack);
        else trait('oddKeys', JSON.stringify(odd), comesBack);
      }
    });

    describe('ends when it is told to', () => {
      const calls: Record<string, (key: string, etag: string, open: Upload, signal: AbortSignal) => Promise<unknown>> =
        {
          probe: (_key, _etag, _open, signal) => store.probe(signal),
          beginUpload: (key, _etag, _open, signal) => store.beginUpload(`${key}-begin`, settings, signal),
          putPart: (_key, _etag, open, signal) => {
            const body = Buffer.alloc(16 * mib);
            return store.putPart(open, 1, body, crcOf(body), signal);
          },
          completeUpload: (_key, etag, open, signal) =>
            store.completeUpload(open, [{ number: 1, etag, crc32: crcOf(Buffer.from('x')) }], signal),
          copyPart: (_key, etag, open, signal) => store.copyPart(open, 2, { etag, start: 0, size: 1 }, signal),
          listParts: (_key, _etag, open, signal) => store.listParts(open, signal),
          abortUpload: (_key, _etag, open, signal) => store.abortUpload(open, signal),
          create: (key, _etag, _open, signal) => store.create(`${key}-new`, Buffer.from('x'), settings, signal),
          replace: (key, etag, _open, signal) =>
            store.replace(`${key}-replaced`, etag, Buffer.from('x'), settings, signal),
          tag: (key, _etag, _open, signal) => store.tag(key, {}, signal),
          tagsOf: (key, _etag, _open, signal) => store.tagsOf(key, signal),
          read: (key, _etag, _open, signal) => store.read(key, signal),
          stat: (key, _etag, _open, signal) => store.stat(key, signal),
          readRange: (key, etag, _open, signal) => store.readRange(key, etag, 0, Buffer.alloc(1), signal),
          remove: (key, _etag, _open, signal) => store.remove(`${key}-other`, signal),
          list: (key, _etag, _open, signal) => all(store.list(key, signal)),
          folders: (key, _etag, _open, signal) => all(store.folders(key, signal)),
          listUploads: (key, _etag, _open, signal) => all(store.listUploads(key, signal)),
        };

      it('before it began: every call', at, async () => {
        const key = `${folder()}k`;
        const reason = new LxstowError('stopping', 'told so');
        for (const [call, run] of Object.entries(calls)) {
          await assert.rejects(
            run(key, '', { key, uploadId: 'x' }, AbortSignal.abort(reason)),
            (error) => error === reason,
            call,
          );
        }
      });

      it('while the server says nothing: every call, with the reason, and it works afterwards', at, async () => {
        const key = `${folder()}k`;
        const etag = await put(key, 'x');
        const open = await store.beginUpload(`${key}-open`, settings, never);
        await subject.freeze();
        try {
          for (const [call, run] of Object.entries(calls)) {
            const controller = new AbortController();
            const reason = new LxstowError('stopping', call);
            const running = run(key, etag, open, controller.signal);
            setImmediate(() => controller.abort(reason));
            await assert.rejects(running, (error) => error === reason, call);
          }
        } finally {
          await subject.thaw();
        }
        await store.probe(never);
        assert.equal((await whole(key)).toString(), 'x');
      });
    });
  });
}

async function all<T>(listing: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const one of listing) found.push(one);
  return found;
}

/** As S3 writes it. */
export function crcOf(body: Buffer): string {
  const sum = Buffer.alloc(4);
  sum.writeUInt32BE(zlib.crc32(body));
  return sum.toString('base64');
}

function isGone(error: unknown): boolean {
  return isCode(error, 'conflict') || isCode(error, 'not-found');
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(String(error));
}

function isError(code: string): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof LxstowError, String(error));
    assert.equal(error.code, code, error.message);
    return true;
  };
}

function byBytes(a: string, b: string): number {
  return Buffer.compare(Buffer.from(a), Buffer.from(b));
}
