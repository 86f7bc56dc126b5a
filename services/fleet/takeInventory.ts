/** The inventory of a host, taken by its workers at intervals: which instances exist, and once a day whether the records agree with the store. */
import { jittered } from '../concurrency/jitter.ts';
import { sleep } from '../concurrency/sleep.ts';
import { asLxstowError } from '../contract/errors.ts';
import type { Address } from '../contract/schemas.ts';
import type { Leases } from '../coordination/leases.ts';
import type { LxdInstance } from '../lxd/inventory.ts';
import { instanceLeaseKey } from '../nats/bucketKeys.ts';
import type { ObjectStore } from '../storage/objectStore.ts';
import type { Log } from '../telemetry/logger.ts';
import type { FleetStore } from './fleetStore.ts';
import type { Keeper } from './keeper.ts';
import { compareBackups, compareInstances } from './rounds.ts';

const compareEveryMs = 24 * 3_600_000;
const compareTimeoutMs = 3_600_000;
const listTimeoutMs = 120_000;

interface InventoryTools {
  remote: string;
  fleet: FleetStore;
  keeper: Keeper;
  store: ObjectStore;
  prefix: string;
  /** All instances that LXD has. */
  list: (signal: AbortSignal) => Promise<LxdInstance[]>;
  leases: Leases;
  log: Log;
}

/** Takes the inventory at intervals until `stop`. Of several workers of a host, mostly one does. */
export async function takeInventoryRegularly(
  tools: InventoryTools,
  { everySeconds, stop }: { everySeconds: number; stop: AbortSignal },
): Promise<void> {
  const { fleet, keeper, remote, log } = tools;
  let seen: number | undefined;
  while (!stop.aborted) {
    try {
      await keeper.askToCompare();
      const { revision } = await fleet.inventory(remote);
      // Another worker has taken it since our last look, or a process has asked to compare: then the next look takes it. Revisions are compared, because clocks of hosts may differ.
      if (seen === undefined || seen === revision) seen = await takeInventory(tools, stop);
      else seen = revision;
    } catch (error) {
      if (!stop.aborted) log.warn('the inventory was not taken', { error: asLxstowError(error) });
    }
    await sleep(jittered(everySeconds * 1000, 0.1), stop);
  }
}

/** Whether a job has the lease on an instance. */
export function atWork(leases: Leases): (address: Address) => Promise<boolean> {
  return async (address) => (await leases.holder(instanceLeaseKey(address))) !== undefined;
}

/** Takes the inventory now. Returns the revision of its entry. */
async function takeInventory(tools: InventoryTools, stop: AbortSignal): Promise<number> {
  const { remote, fleet, store, prefix, list, leases, log } = tools;
  let { inventory, revision } = await fleet.inventory(remote);
  const at = new Date().toISOString();
  const signal = AbortSignal.any([stop, AbortSignal.timeout(listTimeoutMs)]);
  const changed = await compareInstances(fleet, remote, () => list(signal), atWork(leases));
  if (changed > 0) log.info('instances have changed', { remote, changed });
  let { compared } = inventory ?? {};
  if (compared === undefined || Date.now() - Date.parse(compared) > compareEveryMs) {
    // Without a note, no process could ask to compare while we do.
    if (!inventory) revision = (await fleet.noteInventory(remote, { at }, revision)) ?? revision;
    try {
      const long = AbortSignal.any([stop, AbortSignal.timeout(compareTimeoutMs)]);
      const corrected = await compareBackups(fleet, remote, { store, prefix }, long);
      if (corrected > 0) log.info('records of instances corrected by the store', { remote, corrected });
      compared = at;
    } catch (error) {
      compared = undefined;
      if (!stop.aborted) log.warn('the records of instances were not compared', { error: asLxstowError(error) });
    }
  }
  const noted = await fleet.noteInventory(remote, { at, ...(compared && { compared }) }, revision);
  return noted ?? (await fleet.inventory(remote)).revision;
}
