/** Changes of stored backups that fail halfway, and are asked for again. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { archiveKey, manifestKey } from '../../services/backups/keys.ts';
import { LxstowError } from '../../services/contract/errors.ts';
import { never, place, storeWith } from './storeInMemory.ts';

const address = { ...place, backup: 'a.tar' };
const [archive, manifest] = [archiveKey('', address), manifestKey('', address)];
const away = async () => {
  throw new LxstowError('s3-unavailable', 'away');
};

describe('a change that fails halfway', () => {
  it('of the tags: the same again tags the archive', async () => {
    const { store, catalog, tags } = storeWith('a.tar');
    const expire = () => catalog.change(address, () => ({ tags: { expire: '1d' } }), never);
    const { tag } = store;
    store.tag = away;
    await assert.rejects(expire(), { code: 's3-unavailable' });
    store.tag = tag;
    await expire();
    assert.deepEqual(tags.get(archive), { expire: '1d' });
  });

  it('of the notes only: tags nothing', async () => {
    const { store, catalog } = storeWith('a.tar');
    store.tag = away;
    const { manifest } = await catalog.change(address, () => ({ notes: 'n' }), never);
    assert.equal(manifest.backup.notes, 'n');
  });

  it('of the tags of a backup whose archive is gone: has them in its manifest', async () => {
    const { store, catalog } = storeWith('a.tar');
    store.tag = async (key) => {
      throw new LxstowError('not-found', key);
    };
    const { manifest } = await catalog.change(address, () => ({ tags: { a: 'b' } }), never);
    assert.deepEqual(manifest.backup.tags, { a: 'b' });
  });

  it('a hold: the manifest says so; the same again completes it, and an unpin ends it', async () => {
    const { store, catalog, held } = storeWith('a.tar');
    const pin = () => catalog.change(address, () => ({ pinned: true, held: true }), never);
    const { hold } = store;
    store.hold = away;
    await assert.rejects(pin(), { code: 's3-unavailable' });
    assert.equal((await catalog.manifest(address, never)).backup.held, true);
    store.hold = hold;
    await pin();
    assert.deepEqual([...held], [archive]);
    const { manifest } = await catalog.change(address, () => ({}), never);
    assert.deepEqual([...held], []);
    assert.deepEqual([manifest.backup.pinned, manifest.backup.held], [undefined, undefined]);
  });

  it('a release: the manifest says held until the archive is released', async () => {
    const { store, catalog, held } = storeWith('a.tar');
    await catalog.change(address, () => ({ pinned: true, held: true }), never);
    const { replace } = store;
    store.replace = away;
    const unpin = () => catalog.change(address, () => ({}), never);
    await assert.rejects(unpin(), { code: 's3-unavailable' });
    assert.equal((await catalog.manifest(address, never)).backup.held, true);
    store.replace = replace;
    await unpin();
    assert.deepEqual([...held], []);
  });

  it('an unpin leaves a hold that the manifest does not name; `held`: false ends it', async () => {
    const { catalog, held } = storeWith('a.tar');
    held.add(archive);
    await catalog.change(address, () => ({ pinned: true }), never);
    await catalog.change(address, () => ({}), never);
    assert.deepEqual([...held], [archive]);
    await catalog.change(address, () => ({ held: false }), never);
    assert.deepEqual([...held], []);
  });

  it('an unpin that overtakes a hold: the archive is not held', async () => {
    const { store, catalog, held } = storeWith('a.tar');
    const { hold } = store;
    store.hold = async (...args) => {
      store.hold = hold;
      await catalog.change(address, () => ({}), never);
      await hold(...args);
    };
    await catalog.change(address, () => ({ pinned: true, held: true }), never);
    assert.deepEqual([...held], []);
  });

  it('an unpin in a bucket without Object Lock, or without the right to hold, needs none', async () => {
    for (const code of ['s3-refused', 's3-denied'] as const) {
      const { store, catalog, objects } = storeWith('a.tar');
      await catalog.change(address, () => ({ pinned: true }), never);
      store.hold = async () => {
        throw new LxstowError(code, 'no');
      };
      await catalog.change(address, () => ({ held: false }), never);
      assert.doesNotMatch(String(objects.get(manifest)), /pinned|held/);
    }
  });
});
