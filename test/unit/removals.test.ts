/** Deletions, on a store in memory. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { describe, it } from 'node:test';
import { archiveKey, manifestKey } from '../../services/backups/keys.ts';
import { LxstowError } from '../../services/contract/errors.ts';
import type { Checkpoint, OperationMetadata } from '../../services/contract/schemas.ts';
import type { Attempt } from '../../services/operations/attempt.ts';
import { assertNotBeingDeleted } from '../../services/worker/backup/settleName.ts';
import { finishRemoval, removeBackup } from '../../services/worker/remove.ts';
import type { Tools } from '../../services/worker/tools.ts';
import { etagOf, log, never, place, storeWith } from './storeInMemory.ts';

function open(...names: string[]) {
  const { objects, store, catalog } = storeWith(...names);
  const tools = {
    store,
    catalog,
    config: { s3: { prefix: '' } },
    keeper: { removed: async () => undefined },
    leases: { holder: async () => undefined },
    leasesBucket: { keys: async () => [] },
    reservations: { holder: async () => undefined },
  };
  return { objects, store, tools: tools as unknown as Tools };
}

/** An attempt at an operation; what it writes is in `operation`. */
function attemptAt(kind: 'delete' | 'prune') {
  const operation = { id: randomUUID(), kind, checkpoint: undefined as Checkpoint | undefined, metadata: {} };
  const facts = {
    operation,
    log,
    signal: never,
    claims: [] as string[],
    isLost: false,
    assertOwned() {
      if (facts.isLost) throw new LxstowError('lease-lost', 'it was not renewed in time');
    },
    async claim(key: string) {
      facts.claims.push(key);
      return { [Symbol.asyncDispose]: async () => undefined };
    },
    async checkpoint(written: Checkpoint) {
      operation.checkpoint = { ...operation.checkpoint, ...written };
    },
    report(metadata: OperationMetadata) {
      operation.metadata = { ...operation.metadata, ...metadata };
    },
    warn: () => undefined,
  };
  return Object.assign(facts, { attempt: facts as unknown as Attempt });
}

describe('a deletion', () => {
  const address = { ...place, backup: 'a.tar' };

  it('leaves the archive if its claim was lost while it removed the manifest: it may be of the next backup', async () => {
    const { objects, store, tools } = open('a.tar');
    const facts = attemptAt('delete');
    store.remove = async (key) => {
      facts.isLost = true;
      objects.delete(key);
      return false;
    };
    await assert.rejects(removeBackup(address, facts.attempt, tools, assert.ok), { code: 'lease-lost' });
    assert.deepEqual([...objects.keys()], [archiveKey('', address)]);
  });

  it('is finished under the same claim', async () => {
    const { objects, tools } = open('a.tar');
    objects.delete(manifestKey('', address));
    const { attempt, claims } = attemptAt('delete');
    await finishRemoval(address, { manifest: 'm', archive: etagOf(Buffer.from('a.tar')) }, attempt, tools);
    assert.deepEqual([...objects.keys()], []);
    assert.deepEqual(claims, ['local.default.c1.a=2Etar.delete']);
  });

  it('keeps a new backup from having its name', async () => {
    const { tools } = open();
    const { attempt } = attemptAt('delete');
    await assertNotBeingDeleted(address, attempt, tools);
    const asked: string[] = [];
    tools.leases.holder = async (key) => {
      asked.push(key);
      return { worker: 'w', operation: randomUUID() };
    };
    await assert.rejects(assertNotBeingDeleted(address, attempt, tools), { code: 'instance-busy' });
    assert.deepEqual(asked, ['local.default.c1.a=2Etar.delete']);
  });
});
