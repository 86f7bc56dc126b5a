/** Deletions, on a store in memory. */
import assert from 'node:assert/strict';
import { createHash, randomUUID } from 'node:crypto';
import { describe, it } from 'node:test';
import { Catalog } from '../../services/backups/catalog.ts';
import { archiveKey, manifestKey } from '../../services/backups/keys.ts';
import { formatManifest } from '../../services/backups/manifest.ts';
import { LxstowError } from '../../services/contract/errors.ts';
import type { Checkpoint, Manifest, OperationMetadata } from '../../services/contract/schemas.ts';
import type { Attempt } from '../../services/operations/attempt.ts';
import type { ObjectStore } from '../../services/storage/objectStore.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { assertNotBeingDeleted } from '../../services/worker/backup/settleName.ts';
import { finishRemoval, removeBackup } from '../../services/worker/remove.ts';
import type { Tools } from '../../services/worker/tools.ts';

const place = { remote: 'local', project: 'default', instance: 'c1' };
const log = createLogger({ level: 'error', format: 'json' }, {});
const never = new AbortController().signal;

function manifestOf(name: string, created: string): Manifest {
  const part = { number: 1, size: 1, rawStart: 0, rawEnd: 1, sha256: 'a'.repeat(64), crc32: 'AAAAAA==' };
  return {
    version: 1,
    writer: 'lxstow test',
    operation: randomUUID(),
    backup: { name, ...place, created, tags: {} },
    archive: {
      ...{ key: archiveKey('', { ...place, backup: name }), etag: etagOf(Buffer.from(name)), size: 1, rawSize: 1 },
      ...{ compression: 'none', optimized: false, instanceOnly: false, blockSize: 1024 },
      parts: [{ ...part, etag: 'e' }],
    },
    instance: {
      ...{ architecture: 'x86_64', config: {}, devices: {}, type: 'container', pool: 'p', driver: 'btrfs' },
      ...{ profiles: [], snapshots: [] },
    },
    lxd: { version: '5.0.2' },
  };
}

function etagOf(body: Buffer): string {
  return createHash('md5').update(body).digest('hex');
}

/** A store with backups of these names, the oldest first, and a worker's tools on it. */
function open(...names: string[]) {
  const objects = new Map<string, Buffer>();
  for (const [index, backup] of names.entries()) {
    const address = { ...place, backup };
    objects.set(archiveKey('', address), Buffer.from(backup));
    const manifest = manifestOf(backup, `2026-11-0${index + 1}T00:00:00.000Z`);
    objects.set(manifestKey('', address), formatManifest(manifest));
  }
  const bodyOf = (key: string) => {
    const body = objects.get(key);
    if (!body) throw new LxstowError('not-found', key);
    return body;
  };
  const store: Partial<ObjectStore> = {
    read: async (key) => ({ body: bodyOf(key), etag: etagOf(bodyOf(key)) }),
    stat: async (key) => ({ size: bodyOf(key).length, etag: etagOf(bodyOf(key)) }),
    async remove(key) {
      objects.delete(key);
      return false;
    },
    async *list(prefix) {
      for (const [key, body] of [...objects].toSorted(([a], [b]) => (a < b ? -1 : 1)))
        if (key.startsWith(prefix))
          yield { key, size: body.length, etag: etagOf(body), modified: '2026-11-01T00:00:00Z' };
    },
  };
  const tools = {
    store,
    catalog: new Catalog(store as ObjectStore, '', log),
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
