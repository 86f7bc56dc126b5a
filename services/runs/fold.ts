/** Counts the children of a run by their state, and shows a run to clients. Pure. */
import type {
  Operation,
  Run,
  RunChild,
  RunCounts,
  RunFailure,
  RunTally,
  ShownRun,
  ShownRunChild,
} from '../contract/schemas.ts';
import { childId, longestReason } from './plan.ts';

type ChildState = RunChild['state'];
/** The state of a child with its details, from its operation or from the feeder. */
export type Outcome = Omit<RunChild, 'remote' | 'project' | 'instance'>;

const childStates = ['success', 'failure', 'skipped', 'cancelled', 'running', 'pending'] as const;
const openStates: ChildState[] = ['running', 'pending'];
/** How many failures a head holds. */
const mostFailures = 50;

const codes = { Running: 103, Cancelling: 104, Success: 200, Failure: 400, Cancelled: 401 } as const;

export function isOpen({ state }: Pick<RunChild, 'state'>): boolean {
  return openStates.includes(state);
}

export function hasEnded({ status }: Pick<Run, 'status'>): boolean {
  return codes[status] >= 200;
}

/** The code of a child's operation that ended before it began, because another job works on the instance. */
export const skippedCode = 'instance-busy';

/** The code of a child that had not begun when its schedule's window ended. */
export const windowCode = 'window';

/** Whether the operation is the child's backup. The message of another job may have had the same id. */
export function isBackupOf({ project, instance }: RunChild, operation: Operation): boolean {
  return operation.kind === 'backup' && operation.project === project && operation.instance === instance;
}

/** The child's state according to the operation with its id. */
export function outcomeFor(child: RunChild, operation: Operation): Outcome {
  if (isBackupOf(child, operation)) return outcomeOf(operation);
  const reason = `operation ${operation.id} is the ${operation.kind} of ${operation.instance}: another message had its id`;
  return { state: 'failure', reason: reason.slice(0, longestReason), error_code: 'conflict' };
}

function outcomeOf({ status, err, error_code, backup, metadata }: Operation): Outcome {
  const reason = { reason: err.slice(0, longestReason), ...(error_code !== undefined && { error_code }) };
  switch (status) {
    case 'Pending':
      return { state: 'pending' };
    case 'Running':
    case 'Cancelling':
      return { state: 'running' };
    case 'Success':
      return { state: 'success', ...(backup !== undefined && { backup }), bytes: metadata.bytes_stored ?? 0 };
    case 'Failure':
      return { state: 'failure', ...reason };
    case 'Cancelled':
      return { state: error_code === skippedCode ? 'skipped' : 'cancelled', ...reason };
  }
}

function placeOf({ remote, project }: Pick<RunChild, 'remote' | 'project'>): string {
  return `${remote}/${project}`;
}

/** Counts the children of each place. */
export function tally(children: Iterable<RunChild>): Run['places'] {
  const places: Run['places'] = {};
  for (const child of children) count(places, child, 1);
  return places;
}

/** Adds a child to the counts, or removes it with -1. */
export function count(places: Run['places'], child: RunChild, by: 1 | -1): void {
  const place = placeOf(child);
  const counted: RunTally = { ...places[place] };
  counted[child.state] = (counted[child.state] ?? 0) + by;
  if (counted[child.state] === 0) delete counted[child.state];
  if (child.bytes) counted.bytes = (counted.bytes ?? 0) + by * child.bytes;
  places[place] = counted;
}

export function failureOf({ remote, project, instance, reason = '', error_code }: RunChild): RunFailure {
  return { remote, project, instance, reason, ...(error_code !== undefined && { error_code }) };
}

/** Adds a failure, up to the number that a head holds. */
export function withFailure(failures: RunFailure[], failure: RunFailure): RunFailure[] {
  return failures.length < mostFailures ? [...failures, failure] : failures;
}

export function countsOf(tallies: Iterable<RunTally>): RunCounts {
  const counts: RunCounts = { total: 0, success: 0, failure: 0, skipped: 0, cancelled: 0, running: 0, pending: 0 };
  for (const each of tallies)
    for (const state of childStates) {
      counts[state] += each[state] ?? 0;
      counts.total += each[state] ?? 0;
    }
  return counts;
}

/** The final status of a run that has no open child and waits for no host. */
export function endOf(run: Run): 'Success' | 'Failure' | 'Cancelled' {
  const { failure } = countsOf(Object.values(run.places));
  if (run.status === 'Cancelling') return 'Cancelled';
  return failure > 0 || run.failures.length > 0 ? 'Failure' : 'Success';
}

/** Whether the client may see this project of this host. */
export type MaySee = (remote: string, project: string) => boolean;
export const everything: MaySee = () => true;

/** The places of a run that the client may see. */
export function seenPlaces({ places }: Run, may: MaySee): string[] {
  return Object.keys(places).filter((place) => {
    const slash = place.indexOf('/');
    return may(place.slice(0, slash), place.slice(slash + 1));
  });
}

/** The run, reduced to the places that the client may see; undefined when there are none. */
export function shownRun(run: Run, may: MaySee, now: Date): ShownRun | undefined {
  const places = seenPlaces(run, may);
  const all = places.length === Object.keys(run.places).length;
  const { projects = [''], remotes = [''] } = run.request.selector;
  // Leave out the request if it names more than the client may see.
  const whole = all && projects.every((project) => remotes.every((remote) => may(remote, project)));
  if (places.length === 0 && !whole) return undefined;
  const tallies = places.map((place) => run.places[place] ?? {});
  const counts = countsOf(tallies);
  const bytes = tallies.reduce((sum, each) => sum + (each.bytes ?? 0), 0);
  const { id, status, retry_of, note, created_at, updated_at, ended_at, request, away, excluded } = run;
  const { selector, id: _, notifyEndpoint: __, ping: ___, keep, ...how } = request;
  const seconds = Math.max(0, Date.parse(ended_at ?? now.toISOString()) - Date.parse(created_at)) / 1000;
  const ended = counts.total - counts.running - counts.pending;
  const worked = counts.success + counts.failure;
  const left = hasEnded(run) || worked === 0 ? undefined : Math.round((seconds / worked) * (counts.total - ended));
  const seenRemotes = new Set(places.map((place) => place.slice(0, place.indexOf('/'))));
  return {
    id,
    status,
    status_code: codes[status],
    class: run.class,
    ...(retry_of !== undefined && { retry_of }),
    ...(whole && run.schedule && { schedule: run.schedule }),
    ...(whole && note !== undefined && { note }),
    created_at,
    updated_at,
    ...(ended_at !== undefined && { ended_at }),
    selector: whole ? selector : { projects: [...new Set(places.map((place) => place.slice(place.indexOf('/') + 1)))] },
    // Backups show how they were made.
    options: { ...how, ...(whole && keep && { keep }) },
    counts,
    bytes,
    ...(bytes > 0 && seconds > 0 && { bytes_per_second: Math.round(bytes / seconds) }),
    ...(left !== undefined && status === 'Running' && { seconds_left: left }),
    away: away.filter(({ remote }) => all || seenRemotes.has(remote)),
    failures: run.failures.filter(({ remote, project }) => whole || (project !== '' && may(remote, project))),
    excluded: whole ? excluded : 0,
    operation: `/1.0/operations/${id}`,
  };
}

export function shownChild(run: Pick<Run, 'id' | 'plan'>, child: RunChild): ShownRunChild {
  const { first: _, ...shown } = child;
  return { ...shown, operation: `/1.0/operations/${childId(run, child)}` };
}

/** A run's operation, as LXD shows operations. */
export function runOperation(run: ShownRun) {
  const { id, created_at, updated_at, status, status_code, counts, bytes } = run;
  const { total, success, failure, skipped } = counts;
  const failed = `${failure} of ${total} failed`;
  const remotes = run.failures.filter(({ instance }) => instance === '').map(({ reason }) => reason);
  const err = status === 'Failure' ? [...(failure > 0 ? [failed] : []), ...remotes].join('; ') : '';
  return {
    id,
    class: 'task' as const,
    description: 'Backing up instances',
    created_at,
    updated_at,
    status,
    status_code,
    resources: { runs: [`/1.0/runs/${id}`] },
    metadata: {
      counts,
      bytes,
      run_progress: `${success + failure + skipped + counts.cancelled} of ${total}`,
      ...(run.seconds_left !== undefined && { seconds_left: run.seconds_left }),
      ...(run.away.length > 0 && { away: run.away }),
    },
    may_cancel: status === 'Running',
    err: status === 'Cancelled' ? 'cancelled' : err,
    location: 'none',
  };
}
