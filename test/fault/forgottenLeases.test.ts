/** A nats-server that was killed may never end an entry that has a TTL: leases of processes that have died stay until a worker removes them. */

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { loadConfig } from '../../services/contract/config.ts';
import { Leases } from '../../services/coordination/leases.ts';
import { Reservations } from '../../services/coordination/reservations.ts';
import { Bucket } from '../../services/nats/bucket/bucket.ts';
import { claimKey, instanceLeaseKey, reservationKey, transferPermits } from '../../services/nats/bucketKeys.ts';
import { connectNats, type Nats } from '../../services/nats/connection.ts';
import { leasesBucket } from '../../services/nats/streams.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { openStack, type Stack, until } from '../integration/stack.ts';
import type { LabNats } from '../lab/nats.ts';

const ttlMs = 3000;
const address = { remote: 'local', project: 'default', instance: 'c1' };

describe('a lease that NATS has forgotten to end', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  let nats: Nats;
  let bucket: Bucket;
  before(async () => {
    stack = await openStack('forgotten');
    await stack.launch('c1');
    const config = loadConfig({ file: stack.stow.configFile, env: {} });
    nats = await connectNats(config.nats, 'forgotten', createLogger({ level: 'error', format: 'text' }, {}));
    bucket = new Bucket(nats, leasesBucket, 30_000);
  });
  after(async () => {
    await nats?.[Symbol.asyncDispose]();
    await stack?.[Symbol.asyncDispose]();
  });

  it('is removed by a worker, so that the backup of a reader that died can be deleted; a reserved name stays', async () => {
    const backup = await stack.backup('c1');
    const operation = randomUUID();
    const died = [
      claimKey(address, backup, operation),
      instanceLeaseKey({ ...address, instance: 'c2' }),
      `${transferPermits('local')}.1`,
      `${transferPermits('local', 'default')}.1`,
    ];
    const leases = new Leases(bucket, ttlMs);
    for (const key of died) assert.ok(await leases.acquire(key, { worker: 'died', operation }));
    assert.ok(await new Reservations(bucket).take({ ...address, instance: 'c2' }, 'b.tar.gz', operation));
    await restartForgetting(stack.nats, `KV_${leasesBucket}`);
    const left = await until(
      () => bucket.entries('local.>'),
      (entries) => entries.every(({ written }) => Date.now() - written.getTime() > 2 * ttlMs),
    );
    const reserved = reservationKey({ ...address, instance: 'c2' }, 'b.tar.gz');
    assert.deepEqual(left.map(({ key }) => key).sort(), [...died, reserved].sort());

    const path = `/1.0/instances/c1/backups/${backup}`;
    const refused = await stack.stow.request('DELETE', path);
    assert.equal(refused.status, 409, refused.text);
    await until(
      () => stack.stow.request('DELETE', path),
      ({ status }) => status === 200,
    );
    assert.deepEqual(await bucket.keys('local.>'), [reserved]);
  });
});

/** Kills the server, and has it start as if it had ended all that the stream's TTLs were to end: with a list of them that is empty, and says to be whole. */
async function restartForgetting(nats: LabNats, stream: string): Promise<void> {
  await nats.kill();
  // thw.db: version, number of entries, and up to which sequence they are known (nats-server's server/thw/thw.go).
  const wheel = Buffer.alloc(17);
  wheel.writeUInt8(1);
  wheel.writeBigUInt64LE(2n ** 62n, 9);
  await writeFile(join(nats.dir, 'store/jetstream/$G/streams', stream, 'msgs/thw.db'), wheel);
  await nats.start();
}
