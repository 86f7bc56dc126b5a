/** Operations of several hosts in their bucket: workers and publishers of one host can give theirs the id of another's. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { describe, it } from 'node:test';
import type { Operation } from '../../services/contract/schemas.ts';
import { cancelOperation } from '../../services/gateway/views/cancelOperation.ts';
import type { Nats } from '../../services/nats/connection.ts';
import { newOperation } from '../../services/operations/operation.ts';
import { OperationStore } from '../../services/operations/operationStore.ts';

const id = randomUUID();

function operationOf(remote: string, project: string, createdMs: number): Operation {
  const address = { remote, project, instance: 'c1' };
  return newOperation({ id, kind: 'backup', address, body: {} }, new Date(createdMs));
}

/** A NATS with these values in the bucket of operations, by their keys, written in this order. */
function natsOf(values: Record<string, Operation | string>) {
  const written: string[] = [];
  const header = { get: () => '', has: () => false };
  const stored = Object.entries(values).map(([key, value], index) => ({
    ...{ subject: `$KV.lxstow_operations.${key}`, seq: index + 1, time: new Date(), header },
    data: Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)),
  }));
  const matches = (filter: string) => {
    const pattern = new RegExp(`^${filter.replace(/[$.]/g, '\\$&').replaceAll('*', '[^.]+')}$`);
    return stored.filter(({ subject }) => pattern.test(subject));
  };
  const info = async (_: string, { subjects_filter = '$KV.lxstow_operations.*.*' } = {}) => {
    const subjects = Object.fromEntries(matches(subjects_filter).map(({ subject }) => [subject, 1]));
    return { state: { subjects, first_seq: 1, last_seq: stored.length, messages: stored.length } };
  };
  const getMessage = async (_: string, { last_by_subj }: { last_by_subj: string }) =>
    matches(last_by_subj).at(-1) ?? null;
  const getBatch = async (
    _: string,
    { seq, batch, callback }: { seq: number; batch: number; callback: (done: object | null, message?: object) => void },
  ) => {
    setImmediate(() => {
      for (const message of stored.filter((each) => each.seq >= seq).slice(0, batch)) callback(null, message);
      callback({});
    });
    return { stop: () => undefined };
  };
  const publish = async (subject: string) => {
    written.push(subject);
    return { seq: stored.length + written.length };
  };
  const nats = {
    ...{ js: { publish }, jsm: { streams: { info, getMessage }, direct: { getBatch } } },
    ...{ whileConnected: (ask: () => unknown) => ask(), ask: (_: string, ask: () => unknown) => ask() },
    ...{ log: { error: () => undefined }, connection: { publish: () => undefined } },
  } as unknown as Nats;
  return { nats, store: new OperationStore(nats, 1), written };
}

const isIn = (project: string) => (each: Operation) => each.project === project;

describe('an operation that is found by its id alone', () => {
  it('is not that of another host which a record of this host names', async () => {
    const forged = operationOf('a', 'default', 0);
    const { nats, store, written } = natsOf({ [`a.${id}`]: operationOf('a', 'prod', 1), [`b.${id}`]: forged });
    const found = await store.findAnywhere(id, isIn('default'));
    const parts = { nats, operations: store, reservations: {} } as Parameters<typeof cancelOperation>[0];
    if (found) await cancelOperation(parts, found.operation);
    assert.deepEqual(written, []);
    assert.equal(found, undefined);
    await assert.rejects(store.find(id, 'b'), { code: 'internal' });
  });

  it('is there although the record of another host is none', async () => {
    for (const bad of ['no JSON', '{}']) {
      const { store } = natsOf({ [`a.${id}`]: operationOf('a', 'prod', 1), [`b.${id}`]: bad });
      assert.equal((await store.findAnywhere(id, () => true))?.operation.remote, 'a', bad);
      await assert.rejects(store.find(id, 'b'), { code: 'internal' });
    }
  });

  it('is the first of those that the client may see, not the one that was written last', async () => {
    const all = { [`a.${id}`]: operationOf('a', 'prod', 1), [`b.${id}`]: operationOf('b', 'default', 2) };
    const { store } = natsOf(all);
    assert.equal((await store.findAnywhere(id, () => true))?.operation.remote, 'a');
    assert.equal((await store.findAnywhere(id, isIn('default')))?.operation.remote, 'b');
    assert.equal(await store.findAnywhere(randomUUID(), () => true), undefined);
  });
});

describe('a list of operations', () => {
  it('has those of each host, although they have one id', async () => {
    const { store } = natsOf({ [`a.${id}`]: operationOf('a', 'prod', 1), [`b.${id}`]: operationOf('b', 'default', 2) });
    const remotes = (all: Operation[]) => all.map(({ remote }) => remote).toSorted();
    assert.deepEqual(remotes(await store.list()), ['a', 'b']);
    assert.deepEqual(remotes((await store.page(() => true, { limit: 2 })).operations), ['a', 'b']);
  });
});
