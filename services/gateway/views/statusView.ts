/** The state of each instance, for both APIs, from the records in the gateway's memory, without asking any host. */
import { hourMs, parseDuration } from '../../contract/durations.ts';
import type { InstanceRecord, InstanceStatus } from '../../contract/schemas.ts';
import { statusOf } from '../../fleet/judge.ts';
import type { Inventory } from '../../fleet/storedRecord.ts';
import type { GatewayParts } from '../gatewayParts.ts';
import type { ScheduleClient } from '../runs/scheduleChanges.ts';

interface StatusQuestion {
  /** Whether records of this host and project are wanted. */
  wants: (place: { remote: string; project: string }) => boolean;
  /** Whether the client may learn that this project exists. */
  mayName: (project: string) => boolean;
  /** Whether the client may see a schedule. */
  maySee: ScheduleClient['may'];
  /** The age from which a backup is too old, such as `26h`. Default: schedules decide, or gateway.backupMaxAgeHours. */
  olderThan?: string | undefined;
  state?: string | undefined;
  /** Only instances after this cursor. */
  after?: string | undefined;
  /** At most this many. */
  most?: number | undefined;
}

interface Statuses {
  /** Sorted by host, project and name. */
  statuses: InstanceStatus[];
  /** The last inventory of each remote that has had one. */
  inventories: ReadonlyMap<string, Inventory>;
}

/** Leaves out records of hosts that are no longer configured. */
export async function instanceStates(
  { fleet, config, expected }: Pick<GatewayParts, 'fleet' | 'config' | 'expected'>,
  { wants, mayName, maySee, olderThan, state, after = '', most = Number.POSITIVE_INFINITY }: StatusQuestion,
): Promise<Statuses> {
  const maxAgeMs = olderThan === undefined ? config.gateway.backupMaxAgeHours * hourMs : parseDuration(olderThan);
  const now = new Date();
  const [{ instances, inventories }, { expectations }] = await Promise.all([fleet.current(), expected.current(now)]);
  const yardstick = { now, maxAgeMs, mayName, maySee, expectations, byAge: olderThan !== undefined };
  const statuses: InstanceStatus[] = [];
  for (const { address, cursor, record } of instances) {
    if (statuses.length >= most) break;
    if (cursor <= after || !Object.hasOwn(config.remotes, address.remote) || !wants(address)) continue;
    const status = statusOf(address, record, yardstick);
    if (state === undefined || status.state === state) statuses.push(status);
  }
  return { statuses, inventories };
}

/** The cursor of an instance in a list. No name contains a slash. */
export function statusCursor({ host, project, instance }: InstanceStatus): string {
  return `${host}/${project}/${instance}`;
}

/** Whether an instance exists and is not excluded. */
export function isCovered({ seen }: InstanceRecord): boolean {
  return !seen?.gone && !seen?.excluded;
}
