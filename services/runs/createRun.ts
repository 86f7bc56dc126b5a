/** Creates a run from a checked request. */
import { randomUUID } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { asLxstowError, isCode, LxstowError } from '../contract/errors.ts';
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
import { chosenOfKnown, chosenOnAll, type KnownInstance } from './candidates.ts';
import { hasEnded, tally, windowCode, withFailure } from './fold.ts';
import { addressKey, plan } from './plan.ts';
import type { RunStore } from './runStore.ts';
import { checkSelector } from './selector.ts';
import { missedFailure, missingFailure, missingNames, whyEmpty } from './unmatched.ts';

export interface RunTools {
  nats: Nats;
  runs: RunStore;
  inventoryTimeoutMs: number;
  /** The instances that these hosts had at their last inventory. */
  lastKnown(remotes: string[]): Promise<KnownInstance[]>;
}

export interface Asker {
  requestor?: Requestor;
  trace: Trace;
  occasion?: Occasion;
}

/** Set for a schedule's run. It is planned even if nothing matches or no host answers, because there is no client to get an error. */
export interface Occasion {
  class: Run['class'];
  schedule: RunSchedule;
  /** The schedule's previous run: instances that its window left out go first. */
  before?: string;
  /** Why nothing is backed up for this slot. */
  missed?: string;
  /** A note about the run, in addition to its outcome. */
  note?: string;
}

/**
 * Plans a run on these hosts; the run is durable when this resolves. Hosts that do not answer are planned from their last inventory. The same request with the same id
 * returns the same run. Throws bad-request for a selector that chooses nothing, not-found if no instance matches it, conflict if another run has the id;
 * and the first host's error if no host answers.
 */
export async function createRun(
  tools: RunTools,
  request: CreateRunBody,
  remotes: string[],
  { requestor, trace, occasion }: Asker,
): Promise<Run> {
  const { nats, runs, inventoryTimeoutMs, lastKnown } = tools;
  const { selector, id = randomUUID() } = request;
  checkSelector(selector);
  const before = request.id === undefined ? undefined : await runs.find(id);
  if (before) return sameRun(before.run, request);
  nats.assertConnected();
  const asked = occasion?.missed === undefined ? remotes : [];
  const heard = await chosenOnAll(nats, asked, selector, inventoryTimeoutMs);
  const { addresses: answered, excluded, silent } = heard;
  const [error] = silent.values();
  if (error && silent.size === remotes.length && !occasion) throw error;
  const isEmpty = answered.length === 0 && silent.size === 0;
  if (isEmpty && !occasion) throw new LxstowError('not-found', whyEmpty(excluded));
  const now = new Date().toISOString();
  // If every named instance was found, hosts that did not answer do not matter.
  const waited = areAllFound(selector, answered) ? [] : [...silent];
  const unread = (error: unknown): KnownInstance[] => {
    // A schedule waits for these hosts even if nobody can tell what they had.
    if (!occasion) throw error;
    nats.log.warn('hosts do not answer, and their records cannot be read', { error });
    return [];
  };
  const known = waited.length > 0 ? await lastKnown(waited.map(([remote]) => remote)).catch(unread) : [];
  const fromRecords = chosenOfKnown(known, selector);
  const away = waited.map(([remote, { message }]) => ({
    ...{ remote, since: now, reason: message, planned: false },
    ...(fromRecords.some((each) => each.remote === remote) && { planned_from: 'records' as const }),
  }));
  const missing = occasion?.missed === undefined ? missingNames(selector, heard.known) : [];
  const first = occasion?.before === undefined ? new Set<string>() : await leftByWindow(tools, occasion.before);
  const missed = occasion?.missed ?? (isEmpty ? whyEmpty(excluded) : undefined);
  const addresses = [...answered, ...fromRecords];
  const head = {
    ...headOf({ id, request, class: occasion?.class ?? 'hand', addresses, now, away, excluded, requestor, trace }),
    ...(occasion && { schedule: occasion.schedule }),
    ...(occasion?.note !== undefined && { note: occasion.note }),
    // A host that has not answered may have what no other host has.
    ...(away.length > 0 && { missing }),
    failures: [
      ...(missed === undefined ? [] : [missedFailure(missed)]),
      ...(away.length > 0 ? [] : missing.map((name) => missingFailure(name, remotes[0]))),
    ].reduce(withFailure, [] as RunFailure[]),
  };
  const made = await runs.create(head, plan(addresses, first));
  return made ?? sameRun((await runs.find(id))?.run, request);
}

/** Creates a run from the failed children of another. Throws conflict if that run has not ended, or nothing failed. */
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
  if (addresses.length === 0) throw new LxstowError('conflict', `no backup has failed in run ${of.id}`);
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

/** Whether the selector chooses instances only by name, and each of them is there. A schedule's selector also chooses instances that name the schedule, so for it this is false. */
function areAllFound({ instances = [], schedule }: RunSelector, addresses: Address[]): boolean {
  const found = new Set(addresses.map(({ instance }) => instance));
  return schedule === undefined && instances.length > 0 && instances.every((name) => found.has(name));
}

/** The instances that the window of this run left out; none if the run cannot be read, because that is no reason to make no backup. */
async function leftByWindow({ nats, runs }: Pick<RunTools, 'nats' | 'runs'>, id: string): Promise<Set<string>> {
  const left = new Set<string>();
  try {
    const run = (await runs.find(id))?.run;
    for (let index = 0; run && index < run.chunks; index++)
      for (const child of (await runs.chunk(run, index)).children)
        if (child.error_code === windowCode) left.add(addressKey(child));
  } catch (error) {
    if (!isCode(asLxstowError(error), 'internal')) throw error;
    nats.log.warn('the previous run of a schedule cannot be read', { run: id, error });
  }
  return left;
}

function sameRun(before: Run | undefined, request: CreateRunBody): Run {
  // The stored request has been through JSON.
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
