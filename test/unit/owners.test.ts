/** Whether the holder of a lease lives is judged by NATS's clock: the one of this host may be an hour off. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { describe, it } from 'node:test';
import type { Operation } from '../../services/contract/schemas.ts';
import { Owners } from '../../services/janitor/owners.ts';
import { Bucket } from '../../services/nats/bucket/bucket.ts';
import { instanceLeaseKey, operationKey } from '../../services/nats/bucketKeys.ts';
import type { Nats } from '../../services/nats/connection.ts';
import { leasesBucket, operationsBucket } from '../../services/nats/streams.ts';
import { cancel, newOperation } from '../../services/operations/operation.ts';

const hourMs = 3_600_000;
const address = { remote: 'local', project: 'default', instance: 'c1' };

/** A NATS whose clock is ahead of this host's by so much, with one lease, written so long ago by that clock, and with operations. */
function natsOf(
  aheadMs: number,
  ageMs: number,
  { key, value }: { key: string; value: object },
  operations: Operation[] = [],
): Nats {
  const now = () => Date.now() + aheadMs;
  const subject = `$KV.${leasesBucket}.${key}`;
  const written = operations.map((operation) => ({
    subject: `$KV.${operationsBucket}.${operationKey(operation.remote, operation.id)}`,
    value: operation as object,
  }));
  const streams = {
    info: async (stream: string) => ({
      ts: new Date(now()).toISOString(),
      state: {
        subjects:
          stream === `KV_${leasesBucket}`
            ? { [subject]: 1 }
            : Object.fromEntries(written.map((each) => [each.subject, 1])),
      },
    }),
    getMessage: async (_stream: string, { last_by_subj: asked }: { last_by_subj: string }) => {
      const tokens = asked.split('.');
      const fits = (to: string) => to.split('.').every((token, index) => ['*', token].includes(tokens[index] ?? ''));
      const found = [{ subject, value }, ...written].findLast((each) => fits(each.subject));
      return found
        ? {
            ...{ subject: found.subject, data: Buffer.from(JSON.stringify(found.value)), seq: 1 },
            ...{ time: new Date(now() - ageMs), header: { get: () => '', has: () => false } },
          }
        : null;
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
        const nats = natsOf(aheadMs, ageMs, { key: instanceLeaseKey(address), value: { worker: 'w', operation } });
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
    const nats = natsOf(0, hourMs, { key: 'x', value: {} }, [running, ended]);
    const options = { remote: 'local', prefix: '', settledMs: 30_000 };
    const owners = await Owners.read(nats, new Bucket(nats, leasesBucket), options);
    assert.equal((await owners.ofOperation(id)).state, 'living');
  });
});
