/** Tags and notes of a backup that is stored: changed in its manifest and on its objects, whoever else does so. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { poor } from '../contract/dialects.ts';
import { scriptedS3 } from '../fault/scriptedS3.ts';
import { startS3 } from '../lab/s3.ts';
import { assertError, openStack, type Stack, succeeded, until } from './stack.ts';

describe('a stored backup', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  let name: string;
  before(async () => {
    stack = await openStack('change');
    await stack.launch('c1');
    name = await stack.backup('c1', '', { 'x-amz-tagging': 'os=Ubuntu&version=20.04' });
  });
  after(() => stack?.[Symbol.asyncDispose]());

  const path = (backup = name) => `/1.0/instances/c1/backups/${backup}`;
  const ask = (method: string, body?: unknown, headers: Record<string, string> = {}) =>
    stack.stow.request(method, path(), { body, headers });
  const shown = async () => (await ask('GET')).body.metadata;

  /** Tags as S3 has them, of the archive and of its manifest. */
  async function stored(): Promise<Record<string, string>[]> {
    const keys = [`local/default/c1/${name}`, `local/default/c1/${name}.manifest.json`];
    return Promise.all(
      keys.map(async (key) => {
        const tags = (await stack.bucket().getObjectTagging(stack.s3.bucket, key)) as { Key: string; Value: string }[];
        return Object.fromEntries(tags.flat().map(({ Key, Value }) => [Key, String(Value)]));
      }),
    );
  }

  it('gets further tags and notes by PATCH, and loses a tag by null', async () => {
    const answer = await ask('PATCH', { tags: { os: null, keep: 'yes' }, notes: 'before the upgrade\n' });
    assert.equal(answer.status, 200, answer.text);
    const { tags, notes } = await shown();
    assert.deepEqual({ tags, notes }, { tags: { version: '20.04', keep: 'yes' }, notes: 'before the upgrade\n' });
    assert.deepEqual(answer.body.metadata, await shown());
    for (const each of await stored()) assert.equal(each.keep, 'yes');
    assert.deepEqual(Object.keys((await stored())[0] ?? {}).sort(), ['keep', 'version']);
  });

  it('gets others by PUT, as GET shows them', async () => {
    const before = await shown();
    assert.equal((await ask('PUT', { ...before, tags: { only: 'this' } })).status, 200);
    assert.deepEqual(await shown(), { ...before, tags: { only: 'this' } });
    assert.equal((await ask('PUT', { tags: {}, notes: '' })).status, 200);
    const { notes: _, ...rest } = before;
    assert.deepEqual(await shown(), { ...rest, tags: {} });
    assert.deepEqual(await stored(), [{}, {}]);
  });

  it('is changed only as the client saw it, where it says so', async () => {
    const { etag } = (await ask('GET')).headers;
    const first = await ask('PATCH', { notes: 'first' }, { 'if-match': String(etag) });
    assert.equal(first.status, 200, first.text);
    assert.notEqual(first.headers.etag, etag);
    assertError(await ask('PATCH', { notes: 'second' }, { 'if-match': String(etag) }), 412, /the ETag is/);
    assert.equal((await shown()).notes, 'first');
  });

  it('loses no change of eight at once, and has the same tags everywhere', async () => {
    const numbers = Array.from({ length: 8 }, (_, i) => i);
    const answers = await Promise.all(numbers.map((i) => ask('PATCH', { tags: { [`t${i}`]: `v${i}` } })));
    assert.deepEqual(
      answers.map(({ status }) => status),
      numbers.map(() => 200),
    );
    const wanted = Object.fromEntries(numbers.map((i) => [`t${i}`, `v${i}`]));
    assert.deepEqual((await shown()).tags, wanted);
    assert.deepEqual(await stored(), [wanted, wanted]);
  });

  it('refuses what is no tag, no note, no field or no backup', async () => {
    assertError(await ask('PATCH', { tags: { 'a<': 'b' } }), 400, /tag/);
    assertError(await ask('PATCH', { tags: { a: 7 } }), 400, /tags/);
    assertError(await ask('PUT', { tags: { a: null } }), 400, /tags/);
    assertError(await ask('PATCH', { notes: 'x'.repeat(5000) }), 400, /notes/);
    assertError(await ask('PUT'), 400, /body: must NOT have fewer than 1 properties/);
    assertError(await ask('PATCH', { note: 'x' }), 400, /unknown field "note"/);
    const many = Object.fromEntries(Array.from({ length: 11 }, (_, i) => [`k${i}`, 'v']));
    assertError(await ask('PUT', { tags: many }), 400, /tags/);
    assertError(
      await stack.stow.request('PATCH', path('nothing.tar'), { body: { notes: 'x' } }),
      404,
      /does not exist/,
    );
  });

  it('is still restored', async () => {
    await succeeded(stack.stow, await stack.stow.request('POST', path(), { body: { name: 'c2' } }));
  });

  it('stays deleted, whoever changes it meanwhile', async () => {
    for (let round = 0; round < 5; round++) {
      const backup = await stack.backup('c1');
      const changes = Array.from({ length: 8 }, (_, i) =>
        stack.stow.request('PATCH', path(backup), { body: { notes: `${i}` } }),
      );
      // Refused where changes follow one another for too long.
      await until(
        () => stack.stow.request('DELETE', path(backup)),
        ({ status }) => status !== 409,
      );
      for (const { status, text } of await Promise.all(changes)) assert.ok([200, 404, 409].includes(status), text);
      assertError(await stack.stow.request('GET', path(backup)), 404, /does not exist/);
      assert.deepEqual(
        (await stack.keys()).filter((key) => key.includes(backup)),
        [],
      );
    }
  });
});

describe('a backup on a store without tags and checksum headers', { timeout: 1_800_000 }, () => {
  it('has its tags in the manifest, where they and notes are changed', async () => {
    await using owned = new AsyncDisposableStack();
    const s3 = owned.use(await startS3({ name: 'tagless', log: () => undefined }));
    const { endpoint } = owned.use(await scriptedS3(s3.endpoint, poor()));
    const config = { s3: { checksumHeaders: false } };
    const stack = owned.use(await openStack('tagless', { s3: { ...s3, endpoint }, config }));
    await stack.launch('c1');
    const name = await stack.backup('c1', '', { 'x-amz-tagging': 'os=Ubuntu' });
    const ask = async (method: string, body?: unknown) => {
      const answer = await stack.stow.request(method, `/1.0/instances/c1/backups/${name}`, { body });
      assert.equal(answer.status, 200, answer.text);
      const { tags, notes } = answer.body.metadata;
      return { tags, notes };
    };
    assert.deepEqual(await ask('GET'), { tags: { os: 'Ubuntu' }, notes: undefined });
    assert.deepEqual(await ask('PATCH', { notes: 'n' }), { tags: { os: 'Ubuntu' }, notes: 'n' });
    assert.deepEqual(await ask('PATCH', { tags: { os: 'Debian' } }), { tags: { os: 'Debian' }, notes: 'n' });
  });
});
