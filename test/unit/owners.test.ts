/** Whether what the janitor finds has an owner. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { describe, it } from 'node:test';
import { archiveKey } from '../../services/backups/keys.ts';
import { LxstowError } from '../../services/contract/errors.ts';
import type { Operation } from '../../services/contract/schemas.ts';
import { Owners } from '../../services/janitor/owners.ts';
import { Bucket } from '../../services/nats/bucket/bucket.ts';
import { instanceLeaseKey, operationKey } from '../../services/nats/bucketKeys.ts';
import type { Nats } from '../../services/nats/connection.ts';
import { leasesBucket, operationsBucket } from '../../services/nats/streams.ts';
import { cancel, fail, newOperation, succeed } from '../../services/operations/operation.ts';

const hourMs = 3_600_000;
const address = { remote: 'local', project: 'default', instance: 'c1' };

interface StoredEntry {
  bucket: string;
  key: string;
  value: object;
}

/** A NATS whose clock is ahead of this host's by so much, with these entries, written so long ago by that clock. */
function natsOf(aheadMs: number, ageMs: number, entries: StoredEntry[]): Nats {
  const now = () => Date.now() + aheadMs;
  const subjectOf = ({ bucket, key }: StoredEntry) => `$KV.${bucket}.${key}`;
  const streams = {
    info: async (stream: string) => ({
      ts: new Date(now()).toISOString(),
      state: {
        subjects: Object.fromEntries(
          entries.filter(({ bucket }) => stream === `KV_${bucket}`).map((each) => [subjectOf(each), 1]),
        ),
      },
    }),
    getMessage: async (_: string, { last_by_subj }: { last_by_subj: string }) => {
      const wanted = new RegExp(`^${last_by_subj.replace(/[$.]/g, '\\$&').replace('*', '[^.]+')}$`);
      const found = entries.find((each) => wanted.test(subjectOf(each)));
      if (!found) return null;
      const data = Buffer.from(JSON.stringify(found.value));
      const time = new Date(now() - ageMs);
      return { subject: subjectOf(found), data, seq: 1, time, header: { get: () => '', has: () => false } };
    },
  };
  return {
    jsm: { streams },
    whileConnected: (ask: () => unknown) => ask(),
    ask: (_: string, request: () => unknown) => request(),
  } as unknown as Nats;
}

describe('the holder of a lease', () => {
  for (const aheadMs of [-hourMs, 0, hourMs])
    for (const [ageMs, state] of [
      [5000, 'living'],
      [60_000, 'unclear'],
    ] as const)
      it(`is ${state} ${ageMs} ms after it was renewed, with NATS ${aheadMs} ms ahead`, async () => {
        const operation = randomUUID();
        const value = { worker: 'w', operation };
        const nats = natsOf(aheadMs, ageMs, [{ bucket: leasesBucket, key: instanceLeaseKey(address), value }]);
        const leases = new Bucket(nats, leasesBucket);
        const owners = await Owners.read(nats, leases, { remote: 'local', prefix: '', settledMs: 30_000 });
        assert.equal((await owners.ofOperation(operation)).state, state);
      });
});

describe('what an operation has made', () => {
  it('is not left over while that runs, though another host has an operation of the same id that has ended', async () => {
    const id = randomUUID();
    const long = new Date(Date.now() - hourMs);
    const running = newOperation({ id, kind: 'backup', address }, long);
    const ended = cancel(newOperation({ id, kind: 'backup', address: { ...address, remote: 'other' } }, long), long);
    const entries = [ended, running].map((value) => {
      return { bucket: operationsBucket, key: operationKey(value.remote, id), value };
    });
    const nats = natsOf(0, hourMs, entries);
    const options = { remote: 'local', prefix: '', settledMs: 30_000 };
    const owners = await Owners.read(nats, new Bucket(nats, leasesBucket), options);
    assert.equal((await owners.ofOperation(id)).state, 'living');
  });
});

describe('an archive without its manifest', () => {
  const backup = '20260101T000000Z.tar';
  const longAgo = new Date(Date.now() - hourMs);
  const running = (kind: 'backup' | 'delete', facts: Partial<Operation> = {}): Operation => ({
    ...newOperation({ id: randomUUID(), kind, address, body: { backup } }, longAgo),
    ...{ status: 'Running', status_code: 103, attempt: 1, ...facts },
  });
  const failed = (operation: Operation) => fail(operation, new LxstowError('conflict', 'it is pinned'), longAgo);
  const removing = { manifest: 'm', archive: 'a' };

  for (const [what, state, operations] of [
    ['one that is unknown', 'unclear', []],
    ['a deletion that was refused', 'unclear', [failed(running('delete'))]],
    ['a deletion that failed halfway', 'unclear', [failed(running('delete', { checkpoint: { key: 'k', removing } }))]],
    ['a deletion that succeeded', 'ended', [succeed(running('delete'), longAgo)]],
    ['a backup that failed before it began', 'unclear', [failed(running('backup'))]],
    ['a backup that failed', 'ended', [failed(running('backup', { checkpoint: { lxdBackup: 'l' } }))]],
    ['a backup that succeeded', 'unclear', [succeed(running('backup'), longAgo)]],
  ] as const)
    it(`was left by ${what}: ${state}`, async () => {
      const entries = operations.map((value) => {
        return { bucket: operationsBucket, key: operationKey('local', value.id), value };
      });
      const nats = natsOf(0, hourMs, entries);
      const leases = new Bucket(nats, leasesBucket);
      const owners = await Owners.read(nats, leases, { remote: 'local', prefix: '', settledMs: 30_000 });
      const key = archiveKey('', { ...address, backup });
      assert.equal((await owners.ofBackup({ ...address, backup }, key, 'archive')).state, state);
    });
});
