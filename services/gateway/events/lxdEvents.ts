/** Changes of operations and runs as LXD's events. Pure. */

import type { Address, BackupAddress, Operation, RestoreJob, Run } from '../../contract/schemas.ts';
import { everything, runOperation, shownRun } from '../../runs/fold.ts';
import { shownOperation } from '../views/operationView.ts';

export const eventTypes = ['operation', 'lifecycle', 'logging'] as const;
export type EventType = (typeof eventTypes)[number];

export interface Event {
  type: EventType;
  timestamp: string;
  metadata: object;
  /** The host of the event. */
  location?: string;
  /** Absent if the event belongs to no project. */
  project?: string;
  /** The projects of an event about several: only clients that may see all of them get it. */
  projects?: string[];
}

/** LXD's words, and one of ours, because LXD restores from an upload and sends only instance-created. */
type Action = 'instance-backup-created' | 'instance-backup-deleted' | 'instance-backup-restored' | 'instance-created';

/**
 * The events of one change of an operation. An operation ends with a single change, which every gateway sees once. So a client gets each lifecycle event once, and
 * before the operation says Success, as in LXD.
 */
export function eventsOf(operation: Operation): Event[] {
  const { updated_at: timestamp, location, project } = operation;
  const about = { timestamp, location, project };
  return [
    ...lifecycleOf(operation).map((metadata) => ({ type: 'lifecycle' as const, ...about, metadata })),
    { type: 'operation', ...about, metadata: shownOperation(operation) },
  ];
}

/**
 * The event of a run's change, which belongs to no single host or project. A run without children is about its selector's projects; without those, about
 * all, which '' stands for, as in `shownRun`.
 */
export function runEvent(run: Run): Event {
  const shown = shownRun(run, everything, new Date());
  const placed = [...new Set(Object.keys(run.places).map((place) => place.slice(place.indexOf('/') + 1)))];
  const { projects: selected = [''] } = run.request.selector;
  return {
    type: 'operation',
    timestamp: run.updated_at,
    location: 'none',
    projects: placed.length > 0 ? placed : selected,
    metadata: shown ? runOperation(shown) : {},
  };
}

function lifecycleOf(operation: Operation): object[] {
  const { kind, status, backup, requestor } = operation;
  if (status !== 'Success' || backup === undefined) return [];
  const address = { ...operation, backup };
  const said = (action: Action, source: string, context?: object) => ({
    action,
    source,
    ...(context && { context }),
    ...(requestor && { requestor }),
  });
  switch (kind) {
    case 'backup':
    case 'upload':
      return [said('instance-backup-created', backupPath(address))];
    case 'delete':
      return [said('instance-backup-deleted', backupPath(address))];
    case 'restore': {
      const { source = {}, replace = false } = (operation.request ?? {}) as Partial<RestoreJob>;
      const restored = said('instance-backup-restored', backupPath({ ...address, ...source }), {
        instance: instancePath(address),
        replaced: String(replace),
      });
      return replace ? [restored] : [said('instance-created', instancePath(address)), restored];
    }
    default:
      return [];
  }
}

const longestLine = 2000;
const longestField = 500;
const mostFields = 20;

/** The event of a log line. LXD's clients accept only strings as fields; long ones are truncated. */
export function loggingEvent(line: Record<string, unknown>): Event {
  const { level, message, timestamp, ...fields } = line;
  const context = Object.entries(fields)
    .slice(0, mostFields)
    .map(([key, value]) => [
      key,
      (typeof value === 'string' ? value : (JSON.stringify(value) ?? '')).slice(0, longestField),
    ]);
  return {
    type: 'logging',
    timestamp: typeof timestamp === 'string' ? timestamp : new Date().toISOString(),
    metadata: {
      message: String(message).slice(0, longestLine),
      level: String(level),
      context: Object.fromEntries(context),
    },
  };
}

function instancePath({ project, instance }: Address, rest = ''): string {
  const query = project === 'default' ? '' : `?project=${encodeURIComponent(project)}`;
  return `/1.0/instances/${instance}${rest}${query}`;
}

function backupPath(address: BackupAddress): string {
  return instancePath(address, `/backups/${address.backup}`);
}
