/** What the janitor's searches find, and what they need for that. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { archiveKey, manifestKey } from '../../services/backups/keys.ts';
import type { Operation } from '../../services/contract/schemas.ts';
import { abandonedUploads } from '../../services/janitor/inOperations.ts';
import { archives } from '../../services/janitor/inStore.ts';
import type { SearchTools } from '../../services/janitor/leftoverTypes.ts';
import { begin, newOperation } from '../../services/operations/operation.ts';
import type { ObjectStore, StoredObject } from '../../services/storage/objectStore.ts';
import { never, place, storeWith } from './storeInMemory.ts';

function toolsOn(store: ObjectStore, others: object): SearchTools {
  return { store, remote: 'local', prefix: '', signal: never, ...others } as unknown as SearchTools;
}

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

describe('the search for archives without a manifest', () => {
  it('finds them, and keeps nothing of the others, however many there are', async () => {
    const listed: WeakRef<StoredObject>[] = [];
    let kept = 0;
    const bare = archiveKey('', { ...place, backup: '500.tar' });
    const store = {
      async *list() {
        for (let number = 100; number < 1000; number++) {
          const address = { ...place, backup: `${number}.tar` };
          for (const key of [archiveKey('', address), manifestKey('', address)]) {
            if (key === manifestKey('', { ...place, backup: '500.tar' })) continue;
            const object = { key, size: 1, etag: 'e-1', modified: '2026-11-01T00:00:00Z' };
            listed.push(new WeakRef(object));
            yield object;
          }
        }
        await setImmediate();
        collect();
        kept = listed.filter((each) => each.deref()).length;
      },
    } as unknown as ObjectStore;
    const owners = { ofBackup: async () => ({ state: 'unclear' }) };
    const found = await Array.fromAsync(archives(toolsOn(store, { owners, bareArchives: new Map() })));
    assert.deepEqual(
      found.map(({ what }) => what),
      [bare],
    );
    assert.ok(kept < 10, `${kept} of ${listed.length}`);
  });
});

describe('an upload whose gateway has died', () => {
  it('succeeds once its manifest is on the disk', async () => {
    const { store, catalog } = storeWith('a.tar');
    const { operation: id } = await catalog.manifest({ ...place, backup: 'a.tar' }, never);
    const longAgo = new Date(Date.now() - 3_600_000);
    const made = newOperation({ id, kind: 'upload', address: place, body: { backup: 'a.tar' } }, longAgo);
    const operation = begin(made, 'gateway', longAgo);
    const steps: string[] = [];
    store.flush = async () => void steps.push('flush');
    const operations = {
      find: async () => ({ operation, revision: 1 }),
      update: async ({ status }: Operation) => steps.push(status),
    };
    const owners = { known: [operation] };
    const leasesBucket = { get: async () => ({ entry: undefined }) };
    const tools = toolsOn(store, { owners, operations, leasesBucket, settledMs: 1 });
    for await (const leftover of abandonedUploads(tools)) await leftover.remove(never);
    assert.deepEqual(steps, ['flush', 'Success']);
  });
});
