/** Whether the holder of a lease lives is judged by NATS's clock: the one of this host may be an hour off. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { describe, it } from 'node:test';
import { Owners } from '../../services/janitor/owners.ts';
import { Bucket } from '../../services/nats/bucket/bucket.ts';
import { instanceLeaseKey } from '../../services/nats/bucketKeys.ts';
import type { Nats } from '../../services/nats/connection.ts';
import { leasesBucket } from '../../services/nats/streams.ts';

const hourMs = 3_600_000;
const address = { remote: 'local', project: 'default', instance: 'c1' };

/** A NATS whose clock is ahead of this host's by so much, with one lease, written so long ago by that clock. */
function natsOf(aheadMs: number, ageMs: number, { key, value }: { key: string; value: object }): Nats {
  const now = () => Date.now() + aheadMs;
  const subject = `$KV.${leasesBucket}.${key}`;
  const streams = {
    info: async (stream: string) => ({
      ts: new Date(now()).toISOString(),
      state: { subjects: stream === `KV_${leasesBucket}` ? { [subject]: 1 } : {} },
    }),
    getMessage: async (stream: string) =>
      stream === `KV_${leasesBucket}`
        ? {
            ...{ subject, data: Buffer.from(JSON.stringify(value)), seq: 1, time: new Date(now() - ageMs) },
            header: { get: () => '', has: () => false },
          }
        : null,
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
