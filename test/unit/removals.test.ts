/** Deletions, on a store in memory. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { describe, it } from 'node:test';
import { gunzipSync, gzipSync } from 'node:zlib';
import { Catalog } from '../../services/backups/catalog.ts';
import { archiveKey, indexKey, manifestKey } from '../../services/backups/keys.ts';
import { LxstowError } from '../../services/contract/errors.ts';
import type { BackupAddress, Checkpoint, OperationMetadata } from '../../services/contract/schemas.ts';
import type { JobOf } from '../../services/jobs/jobs.ts';
import type { Attempt } from '../../services/operations/attempt.ts';
import { assertNotBeingDeleted } from '../../services/worker/backup/settleName.ts';
import { runPrune } from '../../services/worker/prune.ts';
import { finishRemoval, removeBackup } from '../../services/worker/remove.ts';
import type { Tools } from '../../services/worker/tools.ts';
import { etagOf, log, never, place, storeWith } from './storeInMemory.ts';

function open(...names: string[]) {
  const { objects, store, catalog } = storeWith(...names);
  const audited: string[] = [];
  const tools = {
    store,
    catalog,
    config: { s3: { prefix: '' } },
    keeper: { removed: async () => undefined },
    leases: { holder: async () => undefined },
    leasesBucket: { keys: async () => [] },
    reservations: { holder: async () => undefined },
    fleet: { read: async () => ({ record: { seen: {} } }) },
    audit: { info: (_: string, { backup }: { backup: string }) => void audited.push(backup) },
  };
  return { objects, audited, store, catalog, tools: tools as unknown as Tools };
}

/** An attempt at an operation; what it writes is in `operation`. */
function attemptAt(kind: 'delete' | 'prune') {
  const operation = {
    id: randomUUID(),
    kind,
    checkpoint: undefined as Checkpoint | undefined,
    metadata: {} as OperationMetadata,
  };
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

function prune(keep: object): JobOf<'prune'> {
  return { kind: 'prune', address: place, body: { keep } } as unknown as JobOf<'prune'>;
}

describe('a prune that fails, and is tried again', () => {
  const [first, second] = ['a.tar', 'b.tar'].map((backup) => ({ ...place, backup })) as [BackupAddress, BackupAddress];
  const open3 = () => ({ ...open('a.tar', 'b.tar', 'c.tar'), facts: attemptAt('prune') });
  const job = prune({ keep_last: 1 });
  const denied = async () => {
    throw new LxstowError('s3-denied', 'no right to delete');
  };

  it('counts no deletion, and has none in the audit log, that did not take place', async () => {
    const { store, catalog, tools, audited, facts } = open3();
    const { remove } = store;
    store.remove = denied;
    for (const _ of [1, 2, 3]) await assert.rejects(runPrune(job, facts.attempt, tools), { code: 's3-denied' });
    assert.deepEqual(audited, []);
    store.remove = remove;
    await catalog.change(first, () => ({ pinned: true }), never);
    await runPrune(job, facts.attempt, tools);
    assert.deepEqual(audited, ['b.tar']);
    assert.equal(facts.operation.metadata.backups_deleted, 1);
  });

  it('counts each deletion, and has it in the audit log, once', async () => {
    const { store, tools, audited, facts } = open3();
    const { read } = store;
    // The first backup is deleted, and the attempt fails before it records that it begins with the second.
    store.read = async (key, signal) => {
      if (key === manifestKey('', second) && audited.length === 1) return denied();
      return read(key, signal);
    };
    await assert.rejects(runPrune(job, facts.attempt, tools), { code: 's3-denied' });
    await assert.rejects(runPrune(job, facts.attempt, tools), { code: 's3-denied' });
    store.read = read;
    await runPrune(job, facts.attempt, tools);
    assert.deepEqual(audited, ['a.tar', 'b.tar']);
    assert.equal(facts.operation.metadata.backups_deleted, 2);
  });

  it('counts the deletion that it finishes', async () => {
    const { store, objects, tools, audited, facts } = open3();
    const { remove } = store;
    store.remove = async (key, signal) => (key === archiveKey('', first) ? denied() : remove(key, signal));
    await assert.rejects(runPrune(job, facts.attempt, tools), { code: 's3-denied' });
    assert.deepEqual(audited, []);
    store.remove = remove;
    await runPrune(job, facts.attempt, tools);
    assert.deepEqual(audited, ['a.tar', 'b.tar']);
    const { backups_deleted, bytes_freed } = facts.operation.metadata;
    assert.deepEqual({ backups_deleted, bytes_freed }, { backups_deleted: 2, bytes_freed: 'a.tar'.length + 1 });
    assert.deepEqual([...objects.keys()].length, 2);
  });
});

it('a prune decides by the manifests, not by the index', async () => {
  const names = Array.from({ length: 70 }, (_, index) => `${index + 100}.tar`);
  const { store, objects, catalog, tools } = open(...names);
  store.create = async (key, body) => {
    objects.set(key, body);
    return etagOf(body);
  };
  store.readRange = async (key, _, start, into) => void objects.get(key)?.copy(into, 0, start);
  // A list of the whole project writes an index.
  await catalog.list({ remote: 'local', project: 'default' }, never);
  const index = indexKey('', { remote: 'local', project: 'default' });
  const lines = gunzipSync(objects.get(index) ?? assert.fail('no index')).toString();
  // It makes the oldest backup the newest.
  objects.set(index, gzipSync(lines.replace('2026-01-01', '2026-12-31')));
  const fresh = { ...tools, catalog: new Catalog(store, '', log) };
  await runPrune(prune({ keep_last: 1 }), attemptAt('prune').attempt, fresh);
  const left = await catalog.list(place, never);
  assert.deepEqual(
    left.map(({ address }) => address.backup),
    names.slice(-1),
  );
});
