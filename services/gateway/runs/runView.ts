/** What clients can do with runs, for both APIs. */
import { knownRemote } from '../../contract/config.ts';
import { LxstowError } from '../../contract/errors.ts';
import type {
  Config,
  Run,
  RunChild,
  RunChildPage,
  RunPage,
  RunSelector,
  ShownRun,
  ShownRunChild,
} from '../../contract/schemas.ts';
import type { RunTools } from '../../runs/createRun.ts';
import { hasEnded, type MaySee, seenPlaces, shownChild, shownRun } from '../../runs/fold.ts';
import { chunkSize } from '../../runs/plan.ts';
import { type RunStore, runCursor } from '../../runs/runStore.ts';
import type { GatewayParts } from '../gatewayParts.ts';

export function runTools({ nats, runs, config, fleet }: GatewayParts): RunTools {
  return {
    nats,
    runs,
    inventoryTimeoutMs: config.gateway.inventoryTimeoutMs,
    async lastKnown(remotes) {
      const { instances } = await fleet.current();
      return instances
        .filter(({ address, record }) => remotes.includes(address.remote) && record.seen && !record.seen.gone)
        .map(({ address, record: { seen } }) => {
          const { excluded = false, schedules = [] } = seen ?? {};
          return { ...address, excluded, schedules };
        });
    },
  };
}

/** The hosts that a run covers. Throws not-found for a host that is not configured. */
export function chosenRemotes({ remotes }: RunSelector, config: Config): string[] {
  const known = Object.keys(config.remotes);
  return [...new Set(remotes ?? known)].map((remote) => knownRemote(remote, known));
}

export function missingRun(id: string): LxstowError {
  return new LxstowError('not-found', `run ${id} does not exist`);
}

/** The run, if the client may see part of it. Throws not-found. */
export async function visibleRun(runs: RunStore, id: string, may: MaySee): Promise<Run> {
  const found = (await runs.find(id))?.run;
  if (!found || !shownRun(found, may, new Date())) throw missingRun(id);
  return found;
}

/** A page of the runs that the client may see, each limited to the client's part. */
export async function runPage(
  runs: RunStore,
  { limit, after }: { limit: number; after?: string | undefined },
  may: MaySee,
): Promise<RunPage> {
  const now = new Date();
  const behind = (await runs.list()).filter(({ run }) => after === undefined || runCursor(run) < after);
  const seen = behind.flatMap(({ run }) => {
    const shown = shownRun(run, may, now);
    return shown ? [shown] : [];
  });
  const page = seen.slice(0, limit);
  const last = page.length < seen.length ? page.at(-1) : undefined;
  return { runs: page, ...(last && { next: runCursor(last) }) };
}

/** All runs that the client may see, newest first. */
export async function* runBatches(runs: RunStore, may: MaySee): AsyncGenerator<ShownRun[]> {
  const now = new Date();
  yield (await runs.list()).flatMap(({ run }) => shownRun(run, may, now) ?? []);
}

interface ChildrenAsked {
  state?: RunChild['state'] | undefined;
  limit: number;
  after?: string | undefined;
  /** Most bytes of the page. */
  room?: number;
}

/** A page of a run's children that the client may see, in the order of the plan. Throws bad-request for a cursor of another list. */
export async function childPage(
  runs: RunStore,
  run: Run,
  { state, limit, after, room = Number.POSITIVE_INFINITY }: ChildrenAsked,
  may: MaySee,
): Promise<RunChildPage> {
  const from = after === undefined ? 0 : Number(/^\d{1,7}$/.exec(after)?.[0]) + 1;
  if (Number.isNaN(from))
    throw new LxstowError('bad-request', `after: ${JSON.stringify(after)} is not a cursor of this list`);
  const found: ShownRunChild[] = [];
  let [last, bytes] = [0, 0];
  for (let index = Math.floor(from / chunkSize); index < run.chunks; index++) {
    const { children } = await runs.chunk(run, index);
    for (const [at, child] of children.entries()) {
      const place = index * chunkSize + at;
      if (place < from || (state !== undefined && child.state !== state) || !may(child.remote, child.project)) continue;
      const shown = shownChild(run, child);
      bytes += Buffer.byteLength(JSON.stringify(shown)) + 1;
      if (found.length === limit || (bytes > room && found.length > 0)) return { children: found, next: String(last) };
      found.push(shown);
      last = place;
    }
  }
  return { children: found };
}

/** All requested children of a run that the client may see, a chunk at a time. */
export async function* childBatches(
  runs: RunStore,
  run: Run,
  { state }: Pick<ChildrenAsked, 'state'>,
  may: MaySee,
): AsyncGenerator<ShownRunChild[]> {
  for (let index = 0; index < run.chunks; index++)
    yield (await runs.chunk(run, index)).children
      .filter((child) => (state === undefined || child.state === state) && may(child.remote, child.project))
      .map((child) => shownChild(run, child));
}

/** Throws forbidden if a run has children that the client may not touch, or may get some from a host that it waits for. */
export function assertAllOfIt(run: Run, may: MaySee): void {
  const { projects = [''] } = run.request.selector;
  const mayGet = run.away.some(({ remote, planned }) => !planned && !projects.every((each) => may(remote, each)));
  if (mayGet || seenPlaces(run, may).length < Object.keys(run.places).length)
    throw new LxstowError(
      'forbidden',
      `run ${run.id} also ${mayGet ? 'may get' : 'has'} instances of other hosts or projects: only a client that may use all of them can change it`,
    );
}

/** Asks a run to end, with all its children; returns it as it is after that. Throws bad-request if it has ended. */
export async function cancelRun(runs: RunStore, id: string): Promise<Run> {
  for (;;) {
    const found = await runs.find(id);
    if (!found) throw missingRun(id);
    const { run, revision } = found;
    if (hasEnded(run))
      throw new LxstowError(
        'bad-request',
        `Only running operations can be cancelled: run ${id} has ended as ${run.status}`,
      );
    if (run.status === 'Cancelling') return run;
    const asked: Run = { ...run, status: 'Cancelling', updated_at: new Date().toISOString() };
    // If the feeder has written it in between, read it again.
    if ((await runs.update(asked, revision)) !== undefined) return asked;
  }
}
