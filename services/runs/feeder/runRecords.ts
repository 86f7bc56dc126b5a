/** Writes open runs to their bucket: first the chunks that have changed, then the head. */
import { forEach } from '../../concurrency/orderedMap.ts';
import { LxstowError } from '../../contract/errors.ts';
import type { RunChild } from '../../contract/schemas.ts';
import type { Log } from '../../telemetry/logger.ts';
import { countsOf, endOf } from '../fold.ts';
import type { RunStore } from '../runStore.ts';
import type { OpenRun } from './openRuns.ts';

const writesAtOnce = 32;

export class Records {
  readonly #runs: RunStore;
  readonly #log: Log;
  readonly #revisions = new WeakMap<OpenRun, { head: number; chunks: number[] }>();

  constructor(runs: RunStore, log: Log) {
    this.#runs = runs;
    this.#log = log;
  }

  /** Stores the revisions at which a run was read. */
  read(of: OpenRun, head: number, chunks: number[]): void {
    this.#revisions.set(of, { head, chunks });
  }

  /** Writes the chunks that have changed, then the head. `over`: the run ends with this write. Throws lease-lost when another gateway has written. */
  async write(of: OpenRun, over: boolean): Promise<void> {
    await this.#writeChunks(of, over);
    await this.#writeHead(of, over);
  }

  /** Writes a new chunk; its children count once the head is written. */
  async addChunk(of: OpenRun, children: RunChild[]): Promise<void> {
    const chunk = await this.#runs.addChunk(of.run, of.run.chunks, children);
    if (!chunk) throw lost(of);
    of.run.chunks++;
    this.#revisionsOf(of).chunks.push(chunk.revision);
  }

  /** At the end of a run it writes all chunks, so that they expire with the head. */
  async #writeChunks(of: OpenRun, over: boolean): Promise<void> {
    const { chunks } = this.#revisionsOf(of);
    const indexes = over ? of.chunks.map((_, index) => index) : [...of.dirty];
    of.dirty.clear();
    await forEach(indexes, writesAtOnce, async (index) => {
      const children = (of.chunks[index] ?? []).map(({ child }) => child);
      const revision = await this.#runs.writeChunk(of.run, index, children, chunks[index] ?? 0, over);
      if (revision === undefined) throw lost(of);
      chunks[index] = revision;
    });
  }

  async #writeHead(of: OpenRun, over: boolean): Promise<void> {
    const { run } = of;
    const revisions = this.#revisionsOf(of);
    of.changed = false;
    for (;;) {
      const now = new Date().toISOString();
      const end = over && { status: endOf(run), ended_at: now, away: [], missing: undefined };
      const head = { ...run, updated_at: now, ...end };
      const revision = await this.#runs.update(head, revisions.head);
      if (revision !== undefined) {
        revisions.head = revision;
        if (over)
          this.#log.info('run ended', { run: run.id, status: head.status, ...countsOf(Object.values(run.places)) });
        return;
      }
      // Other processes make only one kind of change: a request to cancel the run.
      const stored = await this.#runs.find(run.id);
      if (stored?.run.status !== 'Cancelling') throw lost(of);
      run.status = 'Cancelling';
      revisions.head = stored.revision;
    }
  }

  #revisionsOf(of: OpenRun): { head: number; chunks: number[] } {
    const known = this.#revisions.get(of);
    if (!known) throw new Error(`run ${of.run.id} was never read`);
    return known;
  }
}

function lost({ run }: OpenRun): LxstowError {
  return new LxstowError('lease-lost', `run ${run.id} is another gateway's`);
}
