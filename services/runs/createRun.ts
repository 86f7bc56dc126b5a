/** From a checked request to a run that is planned for good. */
import { randomUUID } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { LxstowError } from '../contract/errors.ts';
import type {
  Address,
  CreateRunBody,
  Requestor,
  Run,
  RunFailure,
  RunSchedule,
  RunSelector,
} from '../contract/schemas.ts';
import type { Nats } from '../nats/connection.ts';
import type { Trace } from '../telemetry/trace.ts';
import { chosenOnAll } from './candidates.ts';
import { hasEnded, tally, windowCode, withFailure } from './fold.ts';
import { addressKey, plan } from './plan.ts';
import type { RunStore } from './runStore.ts';
import { checkSelector } from './selector.ts';

export interface RunTools {
  nats: Nats;
  runs: RunStore;
  inventoryTimeoutMs: number;
}

export interface Asker {
  requestor?: Requestor;
  trace: Trace;
  occasion?: Occasion;
}

/** Why a schedule makes a run: it is planned even if nothing fits, or no remote answers, for nobody is there to be told. */
export interface Occasion {
  class: Run['class'];
  schedule: RunSchedule;
  /** The schedule's run before: what its window left out goes first. */
  before?: string;
  /** Why nothing is backed up for this slot. */
  missed?: string;
  /** For whoever reads the run. */
  note?: string;
}

/**
 * Plans a run on these remotes; durable when it resolves. The same request under the same id again is the same run. Throws bad-request for a selector
 * that says nothing, not-found where nothing fits it, conflict for an id that another run has, and why the first remote is silent when all are.
 */
export async function createRun(
  { nats, runs, inventoryTimeoutMs }: RunTools,
  request: CreateRunBody,
  remotes: string[],
  { requestor, trace, occasion }: Asker,
): Promise<Run> {
  const { selector, id = randomUUID() } = request;
  checkSelector(selector);
  const before = request.id === undefined ? undefined : await runs.find(id);
  if (before) return sameRun(before.run, request);
  nats.assertConnected();
  const asked = occasion?.missed === undefined ? remotes : [];
  const { addresses, excluded, known, silent } = await chosenOnAll(nats, asked, selector, inventoryTimeoutMs);
  const [error] = silent.values();
  if (error && silent.size === remotes.length && !occasion) throw error;
  const none = `no instance fits the selector${excluded > 0 ? ' that is not excluded' : ''}`;
  const isEmpty = addresses.length === 0 && silent.size === 0;
  if (isEmpty && !occasion) throw new LxstowError('not-found', none);
  const now = new Date().toISOString();
  // Who names instances that are all there does not mean those of a remote that is silent.
  const waited = areAllFound(selector, addresses) ? [] : [...silent];
  const away = waited.map(([remote, { message }]) => ({ remote, since: now, reason: message, planned: false }));
  const missing = silent.size > 0 || occasion?.missed !== undefined ? [] : missingNames(selector, known);
  const first = occasion?.before === undefined ? new Set<string>() : await leftByWindow(runs, occasion.before);
  const occasional = [occasion?.missed ?? (isEmpty ? none : undefined), occasion?.note].filter(
    (text) => text !== undefined,
  );
  const head = {
    ...headOf({ id, request, class: occasion?.class ?? 'hand', addresses, now, away, excluded, requestor, trace }),
    ...(occasion && { schedule: occasion.schedule }),
    failures: [
      ...(occasion ? occasional.map((reason) => missedFailure(reason)) : []),
      ...missing.map((name) => missingFailure(name, remotes)),
    ].reduce(withFailure, [] as RunFailure[]),
  };
  const made = await runs.create(head, plan(addresses, first));
  return made ?? sameRun((await runs.find(id))?.run, request);
}

/** A new run of what failed in one that has ended. Throws conflict where it has not, or nothing failed. */
export async function retryRun(
  { runs }: Pick<RunTools, 'runs'>,
  of: Run,
  id: string | undefined,
  { requestor, trace }: Asker,
): Promise<Run> {
  if (!hasEnded(of)) throw new LxstowError('conflict', `run ${of.id} has not ended`);
  const addresses: Address[] = [];
  for (let index = 0; index < of.chunks; index++)
    for (const { state, remote, project, instance } of (await runs.chunk(of, index)).children)
      if (state === 'failure') addresses.push({ remote, project, instance });
  if (addresses.length === 0) throw new LxstowError('conflict', `nothing has failed in run ${of.id}`);
  const now = new Date().toISOString();
  const request = { ...of.request, id: id ?? randomUUID() };
  const parts = { id: request.id, request, class: 'retry' as const, addresses, now, away: [], excluded: 0 };
  const head = { ...headOf({ ...parts, requestor, trace }), retry_of: of.id };
  const made = await runs.create(head, plan(addresses));
  if (made) return made;
  const before = (await runs.find(request.id))?.run;
  if (before?.retry_of !== of.id) throw new LxstowError('conflict', `there is another run with the id ${request.id}`);
  return before;
}

function areAllFound({ instances = [] }: RunSelector, addresses: Address[]): boolean {
  const found = new Set(addresses.map(({ instance }) => instance));
  return instances.length > 0 && instances.every((name) => found.has(name));
}

/** Names, not patterns, that no instance has. A typo in a script must not go unnoticed. */
function missingNames({ instances = [] }: RunSelector, known: Set<string>): string[] {
  return instances.filter((name) => !/[*?]/.test(name) && !known.has(name));
}

function missingFailure(name: string, [remote = '']: string[]): RunFailure {
  return { remote, project: '', instance: '', reason: `there is no instance ${name}`, error_code: 'not-found' };
}

function missedFailure(reason: string): RunFailure {
  return { remote: '', project: '', instance: '', reason, error_code: 'missed' };
}

/** The instances that the window of this run left out. */
async function leftByWindow(runs: RunStore, id: string): Promise<Set<string>> {
  const left = new Set<string>();
  const run = (await runs.find(id))?.run;
  for (let index = 0; run && index < run.chunks; index++)
    for (const child of (await runs.chunk(run, index)).children)
      if (child.error_code === windowCode) left.add(addressKey(child));
  return left;
}

function sameRun(before: Run | undefined, request: CreateRunBody): Run {
  // Through JSON, as the one before has been.
  const asked = JSON.parse(JSON.stringify(request));
  if (!before || !isDeepStrictEqual(before.request, asked))
    throw new LxstowError('conflict', `there is another run with the id ${request.id}`);
  return before;
}

interface Parts extends Pick<Run, 'id' | 'request' | 'class' | 'away' | 'excluded'> {
  addresses: Address[];
  now: string;
  requestor: Requestor | undefined;
  trace: Trace;
}

function headOf({ addresses, now, requestor, trace, ...parts }: Parts): Omit<Run, 'plan' | 'chunks'> {
  return {
    ...parts,
    status: 'Running',
    created_at: now,
    updated_at: now,
    ...(requestor && { requestor }),
    trace: trace.id,
    places: tally(plan(addresses)),
    failures: [],
  };
}
