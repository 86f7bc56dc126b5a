/** Builds the notices of operations and runs that have ended. Pure. */
import type {
  Address,
  BackupJob,
  DeleteJob,
  Notice,
  Operation,
  RestoreJob,
  Run,
  RunNotice,
} from '../contract/schemas.ts';
import { everything, runOperation, shownRun } from '../runs/fold.ts';

/** The fields that matter here, of any kind of job's message. */
type Asked = Partial<Pick<BackupJob, 'run' | 'tags'> & Pick<RestoreJob, 'source'> & Pick<DeleteJob, 'notifyEndpoint'>>;

const states = { Success: 'success', Failure: 'failed', Cancelled: 'cancelled' } as const;
type Ended = keyof typeof states;

function hasEnded(status: string): status is Ended {
  return status in states;
}

/** The fields of every notice: how the operation or run ended, and when. */
function ending(status: Ended, startedAt: string, ended_at: string, error: string) {
  const state = states[status];
  return {
    ...{ state, startedAt, status, ended_at },
    ...(state === 'success' && { completedAt: ended_at }),
    ...(state === 'failed' && { failedAt: ended_at }),
    ...(error !== '' && { error }),
    duration_seconds: Math.max(0, Date.parse(ended_at) - Date.parse(startedAt)) / 1000,
  };
}

/** The notice of an operation; undefined while it has not ended. */
export function noticeOf(operation: Operation): Notice | undefined {
  const { id, kind, status, backup, err, error_code, created_at, updated_at, metadata } = operation;
  if (!hasEnded(status)) return undefined;
  const { tags, source } = asked(operation);
  const { bytes_stored, bytes_total, warnings } = metadata;
  return {
    opType: kind,
    name: backup ?? '',
    instance: operation.instance,
    ...ending(status, created_at, updated_at, err),
    rawURL: pathOf(operation),
    operation: id,
    kind,
    status_code: operation.status_code as Notice['status_code'],
    ...(error_code !== undefined && { code: error_code }),
    location: operation.remote,
    project: operation.project,
    ...(backup !== undefined && { backup }),
    ...(source && { source: shownSource(source) }),
    ...(tags && { tags }),
    ...(bytes_stored !== undefined && { size: bytes_stored }),
    ...(bytes_total !== undefined && { raw_size: bytes_total }),
    attempts: operation.attempt,
    ...(operation.trace !== undefined && { trace: operation.trace }),
    ...(warnings && { warnings }),
  };
}

/** The notice of a run; undefined while it has not ended. */
export function runNoticeOf(run: Run): RunNotice | undefined {
  const { id, status, created_at, updated_at, ended_at = updated_at } = run;
  const shown = shownRun(run, everything, new Date(updated_at));
  if (!hasEnded(status) || !shown) return undefined;
  return {
    opType: 'run',
    ...ending(status, created_at, ended_at, runOperation(shown).err),
    rawURL: `/1.0/runs/${id}`,
    operation: id,
    kind: 'run',
    status_code: shown.status_code as RunNotice['status_code'],
    run: shown,
  };
}

/** In the words of the API. */
function shownSource({ remote, ...rest }: NonNullable<RestoreJob['source']>): Notice['source'] {
  return { ...rest, ...(remote !== undefined && { location: remote }) };
}

/** The endpoint that the request named. */
export function endpointIn(operation: Operation): string | undefined {
  return asked(operation).notifyEndpoint;
}

/** Whether the operation belongs to a run, whose own notice covers it. */
export function isOfRun(operation: Operation): boolean {
  return asked(operation).run !== undefined;
}

/** Always the same for one end of an operation: receivers recognise a repeated notice by it. Operations of several hosts may have one id; runs have no host. */
export function noticeId({
  location,
  operation,
  state,
}: Pick<Notice, 'operation' | 'state'> & { location?: string }): string {
  return [...(location === undefined ? [] : [location]), operation, state].join('_');
}

function asked({ request }: Operation): Asked {
  return (request ?? {}) as Asked;
}

function pathOf(operation: Operation): string {
  const { kind, backup = '' } = operation;
  if (kind === 'upload') return withPlace('/1.0/instances', operation);
  const whose: Address = kind === 'restore' ? { ...addressOf(operation), ...asked(operation).source } : operation;
  const backups = `/1.0/instances/${whose.instance}/backups`;
  return withPlace(kind === 'backup' ? backups : `${backups}/${backup}`, whose);
}

function addressOf({ remote, project, instance }: Operation): Address {
  return { remote, project, instance };
}

function withPlace(path: string, { remote, project }: Address): string {
  return `${path}?${new URLSearchParams({ project, target: remote })}`;
}
