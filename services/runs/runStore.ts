/** Runs in their bucket. A run is there once its head is: the plan is written before. */
import { randomBytes } from 'node:crypto';
import type { Run, RunChild, RunPlan } from '../contract/schemas.ts';
import { Bucket } from '../nats/bucket.ts';
import type { Nats } from '../nats/connection.ts';
import { runHeadKey, runPlanKey, runsBucket } from '../nats/topology.ts';
import { watchBucket } from '../nats/watchBucket.ts';
import { hasEnded } from './fold.ts';
import { chunksOf } from './plan.ts';

export interface StoredRun {
  run: Run;
  revision: number;
}

export interface Chunk {
  children: RunChild[];
  revision: number;
}

const hourMs = 3_600_000;

export class RunStore {
  readonly #nats: Nats;
  readonly #bucket: Bucket;
  readonly #keptMs: number;

  /** `keptHours`: how long an ended run stays. */
  constructor(nats: Nats, keptHours: number) {
    this.#nats = nats;
    this.#bucket = new Bucket(nats, runsBucket);
    this.#keptMs = keptHours * hourMs;
  }

  /** Writes the plan, and then the head, which makes it a run; undefined when there is a run of this id already. */
  async create(run: Omit<Run, 'plan' | 'chunks'>, children: RunChild[]): Promise<Run | undefined> {
    // A plan of its own: of two that are written under one id at once, the head says which counts.
    const plan = randomBytes(16).toString('hex');
    const chunks = chunksOf(children);
    await Promise.all(chunks.map((chunk, index) => this.writeChunk({ id: run.id, plan }, index, chunk, 0)));
    const planned: Run = { ...run, plan, chunks: chunks.length };
    if (await this.#bucket.create(runHeadKey(run.id), JSON.stringify(planned))) return planned;
    await this.#removePlan(run.id, plan);
    return undefined;
  }

  async find(id: string): Promise<StoredRun | undefined> {
    const { entry } = await this.#bucket.get(runHeadKey(id));
    return entry && { run: JSON.parse(entry.value.toString()) as Run, revision: entry.revision };
  }

  /** Writes the head over the revision that it was made from; undefined when that has changed meanwhile. */
  update(run: Run, revision: number): Promise<number | undefined> {
    return this.#bucket.put(runHeadKey(run.id), JSON.stringify(run), revision, this.#ttl(hasEnded(run)));
  }

  /** All that are kept, the newest first. */
  async list(): Promise<StoredRun[]> {
    const found = await this.#bucket.entries(runHeadKey('*'));
    const runs = found.map(({ value, revision }) => ({ run: JSON.parse(value.toString()) as Run, revision }));
    return runs.sort((a, b) => (runCursor(a.run) < runCursor(b.run) ? 1 : -1));
  }

  /** Throws where it is gone. */
  async chunk({ id, plan }: Pick<Run, 'id' | 'plan'>, index: number): Promise<Chunk> {
    const { entry } = await this.#bucket.get(runPlanKey(id, plan, index));
    if (!entry) throw new Error(`chunk ${index} of run ${id} is gone`);
    return { children: JSON.parse(entry.value.toString()) as RunPlan, revision: entry.revision };
  }

  /** Writes a chunk over this revision, 0 for a new one; undefined when that has changed. `last`: the run ends with it. */
  writeChunk(
    { id, plan }: Pick<Run, 'id' | 'plan'>,
    index: number,
    children: RunChild[],
    revision: number,
    last = false,
  ): Promise<number | undefined> {
    const plans: RunPlan = children;
    return this.#bucket.put(runPlanKey(id, plan, index), JSON.stringify(plans), revision, this.#ttl(last));
  }

  /** Writes a chunk that the head does not count yet: over one that a head was never written for. */
  async addChunk(run: Pick<Run, 'id' | 'plan'>, index: number, children: RunChild[]): Promise<Chunk | undefined> {
    const { revision: over } = await this.#bucket.get(runPlanKey(run.id, run.plan, index));
    const revision = await this.writeChunk(run, index, children, over);
    return revision === undefined ? undefined : { children, revision };
  }

  /** Calls `see` with each head that is written from now on: see watchBucket. */
  watch(see: (stored: StoredRun) => void, signal: AbortSignal, onTrouble: (error: unknown) => void): Promise<void> {
    return watchBucket(
      this.#nats,
      runsBucket,
      runHeadKey('*'),
      (entry) => see({ run: entry.json<Run>(), revision: entry.revision }),
      signal,
      onTrouble,
    );
  }

  async #removePlan(id: string, plan: string): Promise<void> {
    for (const { key, revision } of await this.#bucket.entries(runPlanKey(id, plan, '*')))
      await this.#bucket.remove(key, revision);
  }

  /** Removes plans that no head speaks of: a gateway has died between the two. `olderThanMs`: what is younger may be about to get one. */
  async removeOrphans(olderThanMs: number): Promise<number> {
    let removed = 0;
    const plans = Map.groupBy(await this.#bucket.names(runPlanKey('*', '*', '*')), (key) => key.replace(/\.\d+$/, ''));
    for (const [prefix, keys] of plans) {
      const [id = '', , plan] = prefix.split('.');
      if ((await this.find(id))?.run.plan === plan) continue;
      for (const key of keys) {
        const { entry } = await this.#bucket.get(key);
        if (!entry || Date.now() - entry.written.getTime() < olderThanMs) continue;
        if (await this.#bucket.remove(key, entry.revision)) removed++;
      }
    }
    return removed;
  }

  #ttl(ended: boolean): { ttlMs?: number } {
    return ended ? { ttlMs: this.#keptMs } : {};
  }
}

/** Where a run is in the list. */
export function runCursor({ created_at, id }: Pick<Run, 'created_at' | 'id'>): string {
  return `${created_at}/${id}`;
}
