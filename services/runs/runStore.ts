/** Runs in their bucket. The plan is written first; the run exists once its head is written. */
import { randomBytes } from 'node:crypto';
import type { KvEntry } from '@nats-io/kv';
import type { Run, RunChild, RunPlan } from '../contract/schemas.ts';
import { Bucket, parseRecord } from '../nats/bucket/bucket.ts';
import { Feed, type Followed } from '../nats/bucket/feed.ts';
import { watchBucket } from '../nats/bucket/watchBucket.ts';
import { runHeadKey, runPlanKey } from '../nats/bucketKeys.ts';
import type { Nats } from '../nats/connection.ts';
import { runsBucket } from '../nats/streams.ts';
import type { Log } from '../telemetry/logger.ts';
import { hasEnded } from './fold.ts';
import { chunksOf } from './plan.ts';

export interface StoredRun {
  run: Run;
  revision: number;
}

interface Chunk {
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

  /** Writes the plan, and then the head, which makes it a run; undefined when another run has this id. */
  async create(run: Omit<Run, 'plan' | 'chunks'>, children: RunChild[]): Promise<Run | undefined> {
    // Two gateways may write a plan under one id at once; the head names the one that counts.
    const plan = randomBytes(16).toString('hex');
    const chunks = chunksOf(children);
    await Promise.all(chunks.map((chunk, index) => this.writeChunk({ id: run.id, plan }, index, chunk, 0)));
    const planned: Run = { ...run, plan, chunks: chunks.length };
    if (await this.#bucket.create(runHeadKey(run.id), JSON.stringify(planned))) return planned;
    await this.#removePlan(run.id, plan);
    return undefined;
  }

  /** `written`: when NATS stored this revision, by NATS's clock. */
  async find(id: string): Promise<(StoredRun & { written: Date }) | undefined> {
    const { entry } = await this.#bucket.get(runHeadKey(id));
    return entry && { run: parseRecord<Run>(entry.value), revision: entry.revision, written: entry.written };
  }

  /** NATS's clock, by which runs are `written`. */
  clock(): Promise<() => number> {
    return this.#bucket.clock();
  }

  /** Replaces this revision of the head; undefined when it is no longer the last. */
  update(run: Run, revision: number): Promise<number | undefined> {
    return this.#bucket.put(runHeadKey(run.id), JSON.stringify(run), revision, this.#ttl(hasEnded(run)));
  }

  /** All runs in the bucket, newest first. */
  async list(): Promise<StoredRun[]> {
    const found = await this.#bucket.entries(runHeadKey('*'));
    const runs = found.map(({ value, revision }) => ({ run: parseRecord<Run>(value), revision }));
    return runs.sort((a, b) => (runCursor(a.run) < runCursor(b.run) ? 1 : -1));
  }

  /** Throws when the chunk is gone. */
  async chunk(run: Pick<Run, 'id' | 'plan'>, index: number): Promise<Chunk> {
    const { children, revision } = await this.findChunk(run, index);
    if (!children) throw new Error(`chunk ${index} of run ${run.id} is gone`);
    return { children, revision };
  }

  /** Without `children` when the chunk is gone; `writeChunk` can then write it again, over `revision`. */
  async findChunk(
    { id, plan }: Pick<Run, 'id' | 'plan'>,
    index: number,
  ): Promise<Partial<Chunk> & { revision: number }> {
    const { entry, revision } = await this.#bucket.get(runPlanKey(id, plan, index));
    return { ...(entry && { children: parseRecord<RunPlan>(entry.value) }), revision };
  }

  /** Replaces this revision of a chunk, 0 for a new one; undefined when it is no longer the last. `last`: the run ends with this write. */
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

  /** Writes a chunk that the head does not count yet. It may replace one that a gateway wrote before it died. */
  async addChunk(run: Pick<Run, 'id' | 'plan'>, index: number, children: RunChild[]): Promise<Chunk | undefined> {
    const { revision: over } = await this.#bucket.get(runPlanKey(run.id, run.plan, index));
    const revision = await this.writeChunk(run, index, children, over);
    return revision === undefined ? undefined : { children, revision };
  }

  /** A feed of all runs, until the signal aborts. */
  feed(log: Log, signal: AbortSignal): Promise<Feed<StoredRun>> {
    const followed: Followed<StoredRun> = {
      what: 'runs',
      find: (id) => this.find(id),
      watch: (see, ...options) => {
        const each = (entry: KvEntry) => see({ run: entry.json<Run>(), revision: entry.revision });
        return watchBucket(this.#nats, runsBucket, runHeadKey('*'), each, ...options);
      },
      idOf: ({ run }) => run.id,
      hasEnded: ({ run }) => hasEnded(run),
    };
    return Feed.open(followed, log, signal);
  }

  async #removePlan(id: string, plan: string): Promise<void> {
    for (const { key, revision } of await this.#bucket.entries(runPlanKey(id, plan, '*')))
      await this.#bucket.remove(key, revision);
  }

  /** Removes plans without a head, left by a gateway that died in between. A plan younger than `olderThanMs` may still get its head. */
  async removeUnplanned(olderThanMs: number): Promise<number> {
    let removed = 0;
    const now = await this.#bucket.clock();
    const plans = Map.groupBy(await this.#bucket.names(runPlanKey('*', '*', '*')), (key) => key.replace(/\.\d+$/, ''));
    for (const [prefix, keys] of plans) {
      const [id = '', , plan] = prefix.split('.');
      if ((await this.find(id))?.run.plan === plan) continue;
      for (const key of keys) {
        const { entry } = await this.#bucket.get(key);
        if (!entry || now() - entry.written.getTime() < olderThanMs) continue;
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
