/** How a backup finds out what an earlier attempt has done under its name. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import type { Attempt } from '../../services/operations/attempt.ts';
import { isDone } from '../../services/worker/backup/settleName.ts';
import type { Tools } from '../../services/worker/tools.ts';
import { never, place, storeWith } from './storeInMemory.ts';

it('a backup that an earlier attempt has finished is done once it is on the disk', async () => {
  const address = { ...place, backup: 'a.tar' };
  const { store, catalog } = storeWith('a.tar');
  const { operation: id } = await catalog.manifest(address, never);
  const steps: string[] = [];
  store.flush = async () => void steps.push('flush');
  const keeper = { made: async () => void steps.push('recorded') };
  const tools = { store, keeper, config: { s3: { prefix: '' } } } as unknown as Tools;
  assert.equal(await isDone(address, { operation: { id }, signal: never } as unknown as Attempt, tools), true);
  assert.deepEqual(steps, ['flush', 'recorded']);
});
