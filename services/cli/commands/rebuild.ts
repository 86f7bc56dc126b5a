/** `lxstow rebuild`: rebuilds the records of all instances from the bucket in S3 and the hosts. */
import { asLxstowError } from '../../contract/errors.ts';
import type { Config } from '../../contract/schemas.ts';
import { Leases } from '../../coordination/leases.ts';
import { FleetStore } from '../../fleet/fleetStore.ts';
import { compareBackups, compareInstances } from '../../fleet/rounds.ts';
import { atWork } from '../../fleet/takeInventory.ts';
import { askInventory } from '../../hosts/hostInventory.ts';
import type { LxdInstance } from '../../lxd/inventory.ts';
import { Bucket } from '../../nats/bucket.ts';
import { connectNats } from '../../nats/connection.ts';
import { verifySetUp } from '../../nats/setup.ts';
import { leasesBucket } from '../../nats/streams.ts';
import { retrying } from '../../storage/retrying.ts';
import { createS3Store } from '../../storage/s3.ts';
import type { Log } from '../../telemetry/logger.ts';
import { type Exit, exits } from '../exit.ts';
import { type Format, print } from '../terminal/output.ts';

export interface RebuildOptions {
  config: Config;
  log: Log;
  stop: AbortSignal;
  format: Format;
}

interface Rebuilt {
  host: string;
  /** Records that were wrong; null where they could not be checked. */
  backups: number | null;
  instances: number | null;
  error: string | null;
}

/** A host with thousands of instances is slow to answer. */
const inventoryTimeoutMs = 120_000;

/** Prints what was corrected. Returns 1 when a host or the store did not answer: its records stay unchanged. */
export async function rebuildCommand({ config, log, stop, format }: RebuildOptions): Promise<Exit> {
  using s3 = createS3Store(config.s3);
  const store = retrying(s3, {
    attempts: config.s3.attempts,
    onRetry: (call, error) => log.warn('retrying the object store', { call, error }),
  });
  await using nats = await connectNats(config.nats, 'lxstow rebuild', log);
  await verifySetUp(nats);
  const fleet = new FleetStore(nats);
  const isAtWork = atWork(new Leases(new Bucket(nats, leasesBucket), config.worker.leaseTtlMs));
  const results: Rebuilt[] = [];
  for (const host of Object.keys(config.remotes)) {
    const result: Rebuilt = { host, backups: null, instances: null, error: null };
    const list = async () =>
      (await askInventory(nats, host, { kind: 'instances', full: false }, inventoryTimeoutMs)) as LxdInstance[];
    try {
      result.backups = await compareBackups(fleet, host, { store, prefix: config.s3.prefix }, stop);
      result.instances = await compareInstances(fleet, host, list, isAtWork);
    } catch (error) {
      stop.throwIfAborted();
      result.error = asLxstowError(error).message;
    }
    results.push(result);
  }
  const rows = results.map(({ host, backups, instances, error }) => [
    ...[host, said(backups), said(instances)],
    error ?? '-',
  ]);
  const heading = ['HOST', 'LAST BACKUPS CORRECTED', 'INSTANCES CORRECTED', 'ERROR'];
  print(format, { heading, rows, raw: results, empty: 'no host is configured' });
  return results.some(({ error }) => error !== null) ? exits.failed : exits.ok;
}

function said(count: number | null): string {
  return count === null ? '-' : String(count);
}
