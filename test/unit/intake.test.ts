/** Uploads that lose their lease while they remove objects: another process may have stored others under the same names. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { SlotMemory } from '../../services/archive/slotMemory.ts';
import type { LxdIndex } from '../../services/archive/tar/indexYaml.ts';
import { parseManifest } from '../../services/backups/manifest.ts';
import { IdleWatch } from '../../services/concurrency/idleWatch.ts';
import { LxstowError } from '../../services/contract/errors.ts';
import type { BackupAddress, Manifest, Operation } from '../../services/contract/schemas.ts';
import type { Leases } from '../../services/coordination/leases.ts';
import type { Reservations } from '../../services/coordination/reservations.ts';
import { Intake, type IntakeTools } from '../../services/intake/intake.ts';
import { claimKey, removal } from '../../services/nats/bucketKeys.ts';
import { tarOf } from '../lab/tar.ts';

const id = '0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11';
const place = { remote: 'local', project: 'default', instance: 'c1' };
const name = 'backup_2022-02-17-09-3329.tar';

function lease() {
  const lost = new AbortController();
  return {
    lose: () => lost.abort(new LxstowError('lease-lost', 'it was not renewed in time')),
    taken: {
      ...{ key: 'claim', lost: lost.signal, assertHeld: () => lost.signal.throwIfAborted() },
      ...{ renew: async () => undefined, release: async () => undefined },
    },
  };
}

describe('an upload whose lease is lost', () => {
  const index: LxdIndex = {
    ...{ name: 'c1', optimized: false, applied: [], described: [] },
    instance: {
      ...{ config: {}, devices: {}, profiles: [], pool: 'p', driver: 'dir' },
      ...{ architecture: 'x86_64', type: 'container', snapshots: [] },
    },
  };

  /** The objects that it removes. `lostAt`: the request to the store during which the lease is lost; that of `create` stores the manifest and fails. */
  async function removed(lostAt: 'complete' | 'manifest' | 'remove'): Promise<string[]> {
    const { taken, lose } = lease();
    const removals: string[] = [];
    let manifest: Manifest | undefined;
    const during = (request: string) => {
      if (request === lostAt) lose();
    };
    const store = {
      beginUpload: async (key: string) => ({ key, uploadId: 'u' }),
      putPart: async () => 'e',
      completeUpload: async () => {
        during('complete');
        return 'e';
      },
      create: async (_key: string, body: Buffer) => {
        manifest = parseManifest(body, { ...place, backup: name });
        throw new LxstowError('s3-unavailable', 'the answer was lost');
      },
      abortUpload: async () => undefined,
      remove: async (key: string, signal: AbortSignal) => {
        during('remove');
        signal.throwIfAborted();
        removals.push(key);
      },
    };
    const catalog = {
      has: async () => false,
      async manifest(_address: BackupAddress, signal: AbortSignal) {
        during('manifest');
        // The other process has written it for the same operation.
        signal.throwIfAborted();
        return manifest ?? { operation: id };
      },
    };
    const stored = (operation: Operation) => ({ operation, revision: 1 });
    const operations = {
      create: async (each: Operation) => stored(each),
      update: async (each: Operation) => stored(each),
    };
    const log = { debug() {}, info() {}, warn() {}, error() {}, child: () => log };
    const tools = {
      ...{ prefix: '', name: 'gateway', store, operations, catalog, heartbeatMs: 60_000, log },
      threads: { digest: async () => ({ sha256: 'a'.repeat(64), crc32: 'AAAAAA==' }) },
      cancels: { on: () => ({ [Symbol.dispose]() {} }) },
      leases: { acquire: async () => taken, holder: async () => undefined } as unknown as Leases,
      reservations: {
        ...{ takeNext: async () => name, release: async () => undefined },
        keep: () => ({ [Symbol.dispose]() {} }),
      },
      keeper: { made: async () => undefined, removed: async () => undefined },
    } as unknown as IntakeTools;
    using idle = new IdleWatch(60_000, 'the test');
    const upload = new Intake(tools).take({
      ...{ id, place, index, compression: 'none', tags: {}, length: undefined, idle, memory: new SlotMemory() },
      tar: (async function* () {
        yield tarOf('a', 'b');
      })(),
      gone: new AbortController().signal,
    });
    await assert.rejects(upload, { code: 'lease-lost' });
    return removals;
  }

  it('removes neither manifest nor archive any more, whenever it learns of it', async () => {
    assert.deepEqual(await removed('complete'), []);
    assert.deepEqual(await removed('manifest'), []);
  });

  it('interrupts a removal that the store has not answered', async () => {
    assert.deepEqual(await removed('remove'), []);
  });
});

it('an upload takes another name than that of a backup that is being deleted', async () => {
  const ended = new Error('that is all');
  const asked: boolean[] = [];
  const tools = {
    catalog: { has: async () => false },
    leases: { holder: async (key: string) => (key === claimKey(place, name, removal) ? {} : undefined) },
    reservations: {
      takeNext: async (...[, , , , inUse]: Parameters<Reservations['takeNext']>) => {
        asked.push(await inUse(name), await inUse('other.tar'));
        throw ended;
      },
    },
  } as unknown as IntakeTools;
  await assert.rejects(new Intake(tools).take({ id, place } as Parameters<Intake['take']>[0]), ended);
  assert.deepEqual(asked, [true, false]);
});
