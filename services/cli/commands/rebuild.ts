/** `lxstow rebuild`: rebuilds the records of all instances from the bucket in S3 and the hosts. */
import { asLxstowError } from '../../contract/errors.ts';
import type { Config } from '../../contract/schemas.ts';
import { Leases } from '../../coordination/leases.ts';
import { FleetStore } from '../../fleet/fleetStore.ts';
import { compareBackups, compareInstances } from '../../fleet/rounds.ts';
import { atWork } from '../../fleet/takeInventory.ts';
import { askInventory } from '../../hosts/hostInventory.ts';
import type { LxdInstance } from '../../lxd/inventory.ts';
import { Bucket } from '../../nats/bucket/bucket.ts';
import { connectNats, type Nats } from '../../nats/connection.ts';
import { verifySetUp } from '../../nats/setup.ts';
import { leasesBucket } from '../../nats/streams.ts';
import type { ObjectStore } from '../../storage/objectStore.ts';
import { retrying } from '../../storage/retrying.ts';
import { createS3Store } from '../../storage/s3/s3.ts';
import type { Log } from '../../telemetry/logger.ts';
import { type Exit, exits } from '../exit.ts';
import { parseTime } from '../terminal/dates.ts';
import { type Format, print, say, size, time } from '../terminal/output.ts';
import { liftMarkers, type ShownDeleted } from './liftMarkers.ts';

interface RebuildOptions {
  config: Config;
  log: Log;
  stop: AbortSignal;
  format: Format;
  /** Remove the delete markers that are found. */
  yes?: boolean;
  deletedSince?: string;
}

interface Rebuilt {
  host: string;
  /** Number of records that were wrong; null if they could not be checked. */
  backups: number | null;
  instances: number | null;
  error: string | null;
  /** The host's backups that were deleted by other means than lxstow, and that the bucket still keeps as old versions. */
  deleted: Omit<ShownDeleted, 'host'>[];
}

/** A host with thousands of instances is slow to answer. */
const inventoryTimeoutMs = 120_000;

/** Prints what was corrected. Returns 1 if a host or the store did not answer; the records concerned then stay unchanged. */
export async function rebuildCommand(options: RebuildOptions): Promise<Exit> {
  const { config, log, stop, format } = options;
  using s3 = createS3Store(config.s3);
  const store = retrying(s3, {
    attempts: config.s3.attempts,
    onRetry: (call, error) => log.warn('retrying the object store', { call, error }),
  });
  await using nats = await connectNats(config.nats, 'lxstow rebuild', log);
  await verifySetUp(nats);
  const fleet = new FleetStore(nats);
  const isAtWork = atWork(new Leases(new Bucket(nats, leasesBucket), config.worker.leaseTtlMs));
  const deleted = await showDeleted(options, store, nats);
  const results: Rebuilt[] = [];
  const configured = Object.keys(config.remotes);
  const deletedOf = (host: string) => (deleted.get(host) ?? []).map(({ host: _, ...each }) => each);
  for (const host of configured) {
    const result: Rebuilt = { host, backups: null, instances: null, error: null, deleted: deletedOf(host) };
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
  for (const host of deleted.keys())
    if (!configured.includes(host))
      results.push({ host, backups: null, instances: null, error: null, deleted: deletedOf(host) });
  const rows = results.map(({ host, backups, instances, error }) => [
    ...[host, said(backups), said(instances)],
    error ?? '-',
  ]);
  const heading = ['HOST', 'LAST BACKUPS CORRECTED', 'INSTANCES CORRECTED', 'ERROR'];
  print(format, { heading, rows, raw: results, empty: 'no host is configured' });
  return results.some(({ error }) => error !== null) ? exits.failed : exits.ok;
}

/** Lists the backups that were deleted by other means than lxstow, by host; with `yes`, removes their delete markers. Without `yes`, an error of the store is only a warning. */
async function showDeleted(
  { config, stop, format, yes = false, deletedSince }: RebuildOptions,
  store: ObjectStore,
  nats: Nats,
): Promise<Map<string, ShownDeleted[]>> {
  const since = deletedSince === undefined ? undefined : parseTime(deletedSince, '--deleted-since');
  try {
    const { shown, others } = await liftMarkers({ config, store, nats, yes, since, stop });
    if (format === 'table' && shown.length > 0)
      print(format, {
        heading: ['HOST', 'PROJECT', 'INSTANCE', 'BACKUP', 'DELETED (UTC)', 'SIZE', 'LIFTED', 'WHY'],
        rows: shown.map(({ host, project, instance, backup, deleted, size: bytes, lifted, why }) => [
          ...[host, project, instance, backup, time(deleted), size(bytes), lifted ? 'yes' : 'no', why],
        ]),
        raw: shown,
        empty: '',
      });
    const left = shown.filter(({ lifted }) => !lifted).length;
    if (left > 0)
      say(yes ? `${left} are being deleted or read now` : `${left} can be brought back: lxstow rebuild --yes`);
    if (others > 0 && deletedSince === undefined)
      say(
        `${others} more deleted backups are kept as old versions: --deleted-since brings back what was deleted since a time`,
      );
    return Map.groupBy(shown, ({ host }) => host);
  } catch (error) {
    stop.throwIfAborted();
    // lxstow's own user may lack these rights, and the store may keep no versions. The records can be rebuilt all the same.
    if (yes) throw error;
    say(`old versions could not be searched: ${asLxstowError(error).message}`);
    return new Map();
  }
}

function said(count: number | null): string {
  return count === null ? '-' : String(count);
}
