/** The name of a backup is its operation's for as long as that lasts. */
import assert from 'node:assert/strict';
import { describe, it, mock } from 'node:test';
import { mostRemembered, Reservations } from '../../services/coordination/reservations.ts';
import type { Bucket } from '../../services/nats/bucket/bucket.ts';

const dayMs = 24 * 3_600_000;
const address = { remote: 'local', project: 'default', instance: 'c1' };

/** A bucket whose keys end when their time is over, by the mocked clock. */
function bucket(): Bucket {
  const kept = new Map<string, { value: Buffer; revision: number; until: number }>();
  let revision = 0;
  const found = (key: string) => {
    const entry = kept.get(key);
    return entry && entry.until > Date.now() ? entry : undefined;
  };
  const put = async (key: string, value: string, expected: number, { ttlMs = 0 } = {}) => {
    if ((kept.get(key)?.revision ?? 0) !== expected) return undefined;
    revision += 1;
    kept.set(key, { value: Buffer.from(value), revision, until: Date.now() + ttlMs });
    return revision;
  };
  return {
    put,
    get: async (key: string) => ({ entry: found(key), revision: kept.get(key)?.revision ?? 0 }),
    remove: async (key: string, expected: number) => kept.get(key)?.revision === expected && kept.delete(key),
    create: async (key: string, value: string, options: object) =>
      found(key) ? undefined : put(key, value, kept.get(key)?.revision ?? 0, options),
  } as unknown as Bucket;
}

describe('a reserved name', () => {
  it('is held for longer than its time by who lasts longer, and by nobody else', async () => {
    mock.timers.enable({ apis: ['setInterval', 'Date'] });
    try {
      const reservations = new Reservations(bucket());
      assert.ok(await reservations.take(address, 'b', 'one'));
      {
        using _kept = reservations.keep(address, 'b', 'one', assert.ifError);
        for (let day = 0; day < 30; day++) {
          mock.timers.tick(dayMs);
          await new Promise(setImmediate);
          assert.equal(await reservations.take(address, 'b', 'two'), false, `day ${day}`);
        }
      }
      mock.timers.tick(8 * dayMs);
      assert.ok(await reservations.take(address, 'b', 'two'));
      assert.equal(await reservations.renew(address, 'b', 'one'), false);
    } finally {
      mock.timers.reset();
    }
  });

  it('is released though it was made long ago: only the last revisions are remembered', async () => {
    const made = bucket();
    const read = mock.method(made, 'get');
    const reservations = new Reservations(made);
    for (let index = 0; index <= mostRemembered; index++)
      assert.ok(await reservations.take(address, `b${index}`, 'one'));
    for (const [name, reads] of [
      [`b${mostRemembered}`, 0],
      ['b0', 1],
    ] as const) {
      read.mock.resetCalls();
      await reservations.release(address, name, 'one');
      assert.equal(read.mock.callCount(), reads);
      assert.equal(await reservations.holder(address, name), undefined);
    }
  });
});
