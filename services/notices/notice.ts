/** Builds the notice of an operation that has ended. Pure. */
import type { Address, BackupJob, DeleteJob, Notice, Operation, RestoreJob } from '../contract/schemas.ts';

/** The fields that matter here, of any kind of job's message. */
type Asked = Partial<Pick<BackupJob, 'run' | 'tags'> & Pick<RestoreJob, 'source'> & Pick<DeleteJob, 'notifyEndpoint'>>;

const states = { Success: 'success', Failure: 'failed', Cancelled: 'cancelled' } as const;
type Ended = keyof typeof states;

/** The notice of an operation; undefined while it has not ended. */
export function noticeOf(operation: Operation): Notice | undefined {
  const { id, kind, status, backup, err, error_code, created_at, updated_at, metadata } = operation;
  if (!(status in states)) return undefined;
  const state = states[status as Ended];
  const { tags, source } = asked(operation);
  const { bytes_stored, bytes_total, warnings } = metadata;
  return {
    opType: kind,
    state,
    name: backup ?? '',
    instance: operation.instance,
    startedAt: created_at,
    ...(state === 'success' && { completedAt: updated_at }),
    ...(state === 'failed' && { failedAt: updated_at }),
    rawURL: pathOf(operation),
    ...(err !== '' && { error: err }),
    operation: id,
    kind,
    status: status as Ended,
    status_code: operation.status_code as Notice['status_code'],
    ...(error_code !== undefined && { code: error_code }),
    location: operation.remote,
    project: operation.project,
    ...(backup !== undefined && { backup }),
    ...(source && { source: shownSource(source) }),
    ...(tags && { tags }),
    ...(bytes_stored !== undefined && { size: bytes_stored }),
    ...(bytes_total !== undefined && { raw_size: bytes_total }),
    ended_at: updated_at,
    duration_seconds: Math.max(0, Date.parse(updated_at) - Date.parse(created_at)) / 1000,
    attempts: operation.attempt,
    ...(operation.trace !== undefined && { trace: operation.trace }),
    ...(warnings && { warnings }),
  };
}

/** The source with the API's field names. */
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

/** Always the same for one end of an operation: receivers recognise a repeated notice by it. */
export function noticeId({ operation, state }: Pick<Notice, 'operation' | 'state'>): string {
  return `${operation}_${state}`;
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
