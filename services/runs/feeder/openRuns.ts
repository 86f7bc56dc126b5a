/** The feeder's model of all open runs: the state of each child, and which children are queued next. Pure. */
import type { Operation, Run, RunChild } from '../../contract/schemas.ts';
import { count, failureOf, isOpen, type Outcome, outcomeFor, withFailure } from '../fold.ts';
import { addressKey, childId, dueMs } from '../plan.ts';

/** At least this many children of a host are queued or running. */
export const fewestChildren = 4;
/** At most this many may have been handed back to the queue: each waits for a limit, a dependency, or its next attempt, while others run. */
export const mostHandedBack = 16;
const ranks: Record<Run['class'], number> = { hand: 0, retry: 1, 'catch-up': 2, scheduled: 3 };

export interface OpenRun {
  run: Run;
  chunks: OpenChild[][];
  /** Indexes of the chunks that have changed since they were written. */
  dirty: Set<number>;
  /** The head has changed since it was written. */
  changed: boolean;
}

export interface OpenChild {
  id: string;
  of: OpenRun;
  chunk: number;
  child: RunChild;
  /** Whether it is on the queue, or being put there. */
  fed: boolean;
  /** Whether it was ever fed, so its operation may exist, and even its job: a publish may have failed halfway. */
  tried: boolean;
  /** Whether a worker took it and handed it back. */
  handedBack: boolean;
  /** Whether its operation is being cancelled. */
  cancelling: boolean;
  /** When it may begin, by Date.now(). */
  dueMs: number;
}

/** A host, with its children of all runs. */
interface Host {
  /** Open children on the queue or at work. */
  readonly fed: Set<OpenChild>;
  /** Counts up, so that runs of one class take turns. */
  turn: number;
  /** Children that are not fed, by run. */
  readonly waiting: Map<OpenRun, OpenChild[]>;
}

export class Fleet {
  readonly #runs = new Map<string, OpenRun>();
  readonly #children = new Map<string, OpenChild>();
  /** By instance: the open child of the first run that is sure to back it up. */
  readonly #holders = new Map<string, OpenChild>();
  /** Children that were added since the last call of `next`. */
  #added: OpenChild[] = [];
  readonly #hosts = new Map<string, Host>();

  /** Children of runs with a keep rule that have been backed up, and whose rule has not been applied yet. */
  readonly backedUp: OpenChild[] = [];

  /** Returns `backedUp`, and empties it. */
  takeBackedUp(): OpenChild[] {
    return this.backedUp.splice(0);
  }

  get runs(): OpenRun[] {
    return [...this.#runs.values()];
  }

  get(run: string): OpenRun | undefined {
    return this.#runs.get(run);
  }

  /** Adds a run. The next call of `next` skips children whose instance another run has already; by then, `see` has been called with the operations that exist. */
  add(run: Run, chunks: RunChild[][]): OpenRun {
    const open: OpenRun = { run, chunks: [], dirty: new Set(), changed: false };
    this.#runs.set(run.id, open);
    for (const chunk of chunks) this.addChunk(open, chunk);
    return open;
  }

  /** Adds children to a run: those of a host that was away when it was planned. */
  addChunk(of: OpenRun, children: RunChild[]): void {
    const chunk = of.chunks.length;
    const added = children.map((child) => ({
      ...{ id: childId(of.run, child), of, chunk, child, dueMs: dueMs(of.run, child) },
      ...{ fed: false, tried: false, handedBack: false, cancelling: false },
    }));
    of.chunks.push(added);
    for (const each of added) {
      this.#noteBackedUp(each);
      if (!isOpen(each.child)) continue;
      this.#children.set(each.id, each);
      const host = this.#host(each.child.remote);
      const queue = host.waiting.get(of) ?? [];
      host.waiting.set(of, queue);
      queue.push(each);
      this.#added.push(each);
    }
    if (of.run.schedule?.jitter_seconds)
      for (const host of this.#hosts.values()) host.waiting.get(of)?.sort((a, b) => a.dueMs - b.dueMs);
  }

  /** Forgets a run that has ended. */
  remove({ run }: OpenRun): void {
    this.#runs.delete(run.id);
  }

  /** Open children, fed or not. */
  open({ run }: OpenRun): OpenChild[] {
    return [...this.#children.values()].filter(({ of }) => of.run.id === run.id);
  }

  /** Open children that are on the queue or at work. */
  fed(): OpenChild[] {
    return [...this.#children.values()].filter(({ fed }) => fed);
  }

  /** All children of a run on a remote. */
  on({ chunks }: OpenRun, remote: string): OpenChild[] {
    return chunks.flat().filter(({ child }) => child.remote === remote);
  }

  /** The remotes that have open children of this run. */
  remotes(of: OpenRun): Set<string> {
    return new Set(this.open(of).map(({ child }) => child.remote));
  }

  /** Applies a change of an operation; returns undefined when it belongs to no open child. */
  see(operation: Operation): OpenChild | undefined {
    const child = this.#children.get(operation.id);
    // Workers and publishers of another host can give an operation this id.
    if (!child || operation.remote !== child.child.remote) return undefined;
    this.markFed(child);
    child.handedBack = isHandedBack(operation);
    child.cancelling = operation.status === 'Cancelling';
    this.settle(child, outcomeFor(child.child, operation));
    return child;
  }

  markFed(open: OpenChild): void {
    if (open.fed) return;
    Object.assign(open, { fed: true, tried: true });
    const host = this.#host(open.child.remote);
    host.fed.add(open);
    this.#waitsNoLonger(open, host);
  }

  /** Takes back markFed, for a child that could not be queued. */
  unmarkFed(open: OpenChild): void {
    if (!open.fed || !this.#children.has(open.id)) return;
    Object.assign(open, { fed: false, handedBack: false, cancelling: false });
    const host = this.#host(open.child.remote);
    host.fed.delete(open);
    host.waiting.set(open.of, [open, ...(host.waiting.get(open.of) ?? [])]);
  }

  /** Sets the state of a child; a final state stays as it is. */
  settle(open: OpenChild, outcome: Outcome): void {
    const { child, of, chunk } = open;
    if (!isOpen(child) || (outcome.state === child.state && isOpen(outcome))) return;
    const { remote, project, instance } = child;
    const settled: RunChild = { remote, project, instance, ...outcome };
    count(of.run.places, child, -1);
    count(of.run.places, settled, 1);
    if (settled.state === 'failure') of.run.failures = withFailure(of.run.failures, failureOf(settled));
    const at = of.chunks[chunk]?.indexOf(open) ?? -1;
    open.child = settled;
    if (at >= 0) of.dirty.add(chunk);
    of.changed = true;
    if (!isOpen(settled)) this.#end(open);
    this.#noteBackedUp(open);
  }

  #noteBackedUp(open: OpenChild): void {
    if (open.child.state === 'success' && open.of.run.request.keep) this.backedUp.push(open);
  }

  /**
   * The children to queue now, marked as fed: for each host, as few as keep its slots busy, so that a job started by hand does not wait behind many. Runs of the first
   * class go first; runs of one class take turns. Leaves out children that are due later than `nowMs`.
   */
  next(nowMs = Date.now()): OpenChild[] {
    const chosen: OpenChild[] = [];
    for (const each of this.#added) if (isOpen(each.child)) this.#hold(each);
    this.#added = [];
    for (const [remote, host] of this.#hosts) {
      for (let room = roomOf(host); room > 0; room--) {
        const child = this.#nextOf(remote, host, nowMs);
        if (!child) break;
        this.markFed(child);
        chosen.push(child);
      }
    }
    return chosen;
  }

  #nextOf(remote: string, host: Host, nowMs: number): OpenChild | undefined {
    const isDue = (of: OpenRun) => (host.waiting.get(of)?.[0]?.dueMs ?? 0) <= nowMs;
    const runs = [...host.waiting.keys()].filter(
      (of) => of.run.status === 'Running' && !isUnheard(of.run, remote) && isDue(of),
    );
    const first = Math.min(...runs.map(({ run }) => ranks[run.class]));
    const alike = runs.filter(({ run }) => ranks[run.class] === first);
    const of = alike[host.turn++ % Math.max(1, alike.length)];
    return of && host.waiting.get(of)?.[0];
  }

  #hold(open: OpenChild): void {
    const instance = addressKey(open.child);
    const holder = this.#holders.get(instance);
    if (!holder || !isOpen(holder.child)) return void this.#holders.set(instance, open);
    // If an operation exists, the backup may be queued or running already. Then the queue decides which of the two is skipped.
    if (holder.of === open.of || open.tried || open.child.state === 'running') return;
    // If the other run may end without the backup, the queue decides, too.
    if (!isSure(holder, open)) return void this.#holders.set(instance, open);
    const by = holder.of.run;
    const reason = `run ${by.id}, created ${by.created_at}, backs it up`;
    this.settle(open, { state: 'skipped', reason, by: by.id, since: by.created_at });
  }

  #end(open: OpenChild): void {
    this.#children.delete(open.id);
    const host = this.#host(open.child.remote);
    host.fed.delete(open);
    this.#waitsNoLonger(open, host);
    const instance = addressKey(open.child);
    if (this.#holders.get(instance) === open) this.#holders.delete(instance);
  }

  #waitsNoLonger(open: OpenChild, { waiting }: Host): void {
    const queue = waiting.get(open.of);
    const at = queue?.indexOf(open) ?? -1;
    if (at >= 0) queue?.splice(at, 1);
    if (queue?.length === 0) waiting.delete(open.of);
  }

  #host(remote: string): Host {
    const known = this.#hosts.get(remote);
    if (known) return known;
    const host = { fed: new Set<OpenChild>(), turn: 0, waiting: new Map() };
    this.#hosts.set(remote, host);
    return host;
  }
}

/**
 * How many more children of a host to queue. If all running ones end at once, there is one for each slot, and one more. The running ones are known from the
 * operations, so the queue grows with the number of slots, which the feeder does not know.
 */
function roomOf({ fed }: Host): number {
  const each = [...fed];
  const running = each.filter(({ child }) => child.state === 'running').length;
  const handedBack = each.filter((open) => open.handedBack).length;
  if (handedBack >= mostHandedBack) return 0;
  return Math.max(2 * running + 1, fewestChildren) - (fed.size - handedBack);
}

function isHandedBack({ status, attempt, metadata }: Operation): boolean {
  return status === 'Pending' && (attempt > 0 || metadata.waiting_for !== undefined);
}

/** Whether `other` can rely on this child: neither it nor its run is being cancelled, and the run's window cannot end without the backup unless that of `other` has ended, too. */
function isSure({ of: { run }, fed, cancelling }: OpenChild, { of: other }: OpenChild): boolean {
  const ends = (each: Run) => Date.parse(each.schedule?.window_ends ?? '') || Number.POSITIVE_INFINITY;
  return run.status === 'Running' && !cancelling && (fed || ends(run) >= ends(other.run));
}

/** Whether a host has not answered for this run yet. Its children so far come from the records, and wait. */
function isUnheard({ away }: Run, remote: string): boolean {
  return away.some((each) => each.remote === remote && !each.planned);
}
