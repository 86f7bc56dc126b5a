/** All open runs, as the feeder holds them: the state of each child, and which children are queued next. Pure. */
import type { Operation, Run, RunChild } from '../contract/schemas.ts';
import { count, failureOf, hasEnded, isOpen, type Outcome, outcomeOf, withFailure } from './fold.ts';
import { addressKey, childId, dueMs } from './plan.ts';

/** Children of a host that may wait on the queue besides two for each that is at work: so a job by hand waits behind 2 × slots + 16 at most. */
export const spareChildren = 16;
const ranks: Record<Run['class'], number> = { hand: 0, retry: 1, 'catch-up': 2, scheduled: 3 };

export interface OpenRun {
  run: Run;
  chunks: OpenChild[][];
  /** Of the chunks that have changed since they were written. */
  dirty: Set<number>;
  /** Whether the head has. */
  changed: boolean;
}

export interface OpenChild {
  id: string;
  of: OpenRun;
  chunk: number;
  child: RunChild;
  /** It is on the queue, or may be. */
  fed: boolean;
  /** When it may begin, by Date.now(). */
  dueMs: number;
}

/** A host, over all runs. */
interface Host {
  /** Children that are fed and open, and those of them that are at work. */
  fed: number;
  running: number;
  /** Whose turn it is among runs of one class. */
  turn: number;
  /** Those that are not fed, by run. */
  waiting: Map<OpenRun, OpenChild[]>;
}

export class Fleet {
  readonly #runs = new Map<string, OpenRun>();
  readonly #children = new Map<string, OpenChild>();
  /** Who has an instance: the open child of the run that came first. */
  readonly #holders = new Map<string, OpenChild>();
  readonly #hosts = new Map<string, Host>();

  /** Children of runs with a keep rule that have been backed up, and behind which nothing has been deleted yet. */
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

  /** Takes a run on. What another run has planned already for its instances is skipped. */
  add(run: Run, chunks: RunChild[][]): OpenRun {
    const open: OpenRun = { run, chunks: [], dirty: new Set(), changed: false };
    this.#runs.set(run.id, open);
    for (const chunk of chunks) this.addChunk(open, chunk);
    return open;
  }

  /** More children of a run: those whose remote was away when it was planned. */
  addChunk(of: OpenRun, children: RunChild[]): void {
    const chunk = of.chunks.length;
    const added = children.map((child) => ({
      id: childId(of.run.id, child),
      of,
      chunk,
      child,
      fed: false,
      dueMs: dueMs(of.run, child),
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
      if (each.child.state === 'running') host.running++;
      this.#hold(each);
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

  /** The remotes that have open children of this run. */
  remotes(of: OpenRun): Set<string> {
    return new Set(this.open(of).map(({ child }) => child.remote));
  }

  /** A change of an operation; undefined where it is no open child's. */
  see(operation: Operation): OpenChild | undefined {
    const child = this.#children.get(operation.id);
    if (!child) return undefined;
    this.markFed(child);
    this.settle(child, outcomeOf(operation));
    return child;
  }

  markFed(open: OpenChild): void {
    if (open.fed) return;
    open.fed = true;
    const host = this.#host(open.child.remote);
    host.fed++;
    const queue = host.waiting.get(open.of);
    const at = queue?.indexOf(open) ?? -1;
    if (at >= 0) queue?.splice(at, 1);
    if (queue?.length === 0) host.waiting.delete(open.of);
  }

  /** Back to those that wait in the plan: it could not be queued. */
  unmarkFed(open: OpenChild): void {
    if (!open.fed || !this.#children.has(open.id)) return;
    open.fed = false;
    const host = this.#host(open.child.remote);
    host.fed--;
    host.waiting.set(open.of, [open, ...(host.waiting.get(open.of) ?? [])]);
  }

  /** Writes down what became of a child; what has ended stays as it is. */
  settle(open: OpenChild, outcome: Outcome): void {
    const { child, of, chunk } = open;
    if (!isOpen(child) || (outcome.state === child.state && isOpen(outcome))) return;
    const { remote, project, instance } = child;
    const settled: RunChild = { remote, project, instance, ...outcome };
    const host = this.#host(remote);
    host.running += Number(settled.state === 'running') - Number(child.state === 'running');
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
   * Children that may be put on the queue now, marked as fed: of each host no more than 2 for each that is at work and `spareChildren`; by class,
   * and of one class from each run in turn. None that is not due by `nowMs`.
   */
  next(nowMs = Date.now()): OpenChild[] {
    const chosen: OpenChild[] = [];
    for (const host of this.#hosts.values()) {
      for (let room = 2 * host.running + spareChildren - host.fed; room > 0; room--) {
        const child = this.#nextOf(host, nowMs);
        if (!child) break;
        this.markFed(child);
        chosen.push(child);
      }
    }
    return chosen;
  }

  #nextOf(host: Host, nowMs: number): OpenChild | undefined {
    const isDue = (of: OpenRun) => (host.waiting.get(of)?.[0]?.dueMs ?? 0) <= nowMs;
    const runs = [...host.waiting.keys()].filter((of) => of.run.status === 'Running' && !hasEnded(of.run) && isDue(of));
    const first = Math.min(...runs.map(({ run }) => ranks[run.class]));
    const alike = runs.filter(({ run }) => ranks[run.class] === first);
    const of = alike[host.turn++ % Math.max(1, alike.length)];
    return of && host.waiting.get(of)?.[0];
  }

  #hold(open: OpenChild): void {
    const instance = addressKey(open.child);
    const holder = this.#holders.get(instance);
    if (!holder || !isOpen(holder.child)) return void this.#holders.set(instance, open);
    // It is at work already: it began before the other run was planned.
    if (holder.of === open.of || open.child.state === 'running') return;
    const by = holder.of.run;
    const reason = `run ${by.id} has it to back up since ${by.created_at}`;
    this.settle(open, { state: 'skipped', reason, by: by.id, since: by.created_at });
  }

  #end(open: OpenChild): void {
    this.#children.delete(open.id);
    const host = this.#host(open.child.remote);
    if (open.fed) host.fed--;
    const queue = host.waiting.get(open.of);
    const at = queue?.indexOf(open) ?? -1;
    if (at >= 0) queue?.splice(at, 1);
    if (queue?.length === 0) host.waiting.delete(open.of);
    const instance = addressKey(open.child);
    if (this.#holders.get(instance) === open) this.#holders.delete(instance);
  }

  #host(remote: string): Host {
    const known = this.#hosts.get(remote);
    if (known) return known;
    const host = { fed: 0, running: 0, turn: 0, waiting: new Map() };
    this.#hosts.set(remote, host);
    return host;
  }
}
