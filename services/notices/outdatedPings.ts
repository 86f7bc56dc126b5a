/** Finds the pings that must not be sent any more. A service believes the last ping that it got. */
import { hourMs } from '../contract/durations.ts';
import type { Feed } from '../nats/bucket/feed.ts';
import { hasEnded } from '../runs/fold.ts';
import type { RunStore, StoredRun } from '../runs/runStore.ts';
import type { Ping } from './ping.ts';

/** How long a ping is tried: if it arrives much later, what it says is no longer true. */
export const pingTriedMs = { start: 60_000, up: hourMs, down: hourMs };

/** Compares revisions and NATS's times, because clocks of gateways may differ. */
export class OutdatedPings {
  readonly #runs: Pick<RunStore, 'find' | 'list' | 'clock'>;
  /** By the URL of the ping: the revision with which its last run ended, and when this was noted, by performance.now(). The longest ago is first. */
  readonly #ends = new Map<string, { revision: number; notedMs: number }>();
  #earlier: Promise<void> | undefined;

  constructor(runs: Pick<RunStore, 'find' | 'list' | 'clock'>, feed: Pick<Feed<StoredRun>, 'onChange'>) {
    this.#runs = runs;
    feed.onChange((stored) => this.#note(stored));
  }

  /** Why this ping of a run must not be sent; undefined if it may be. Throws nats-unavailable. */
  async reason(id: string, what: Ping['what']): Promise<string | undefined> {
    const found = await this.#runs.find(id);
    if (!found) return 'its run is no longer kept';
    const { run, revision, written } = found;
    // Behind the ping of the end, the service would take it for the start of another run, which never ends.
    if (what === 'start') return hasEnded(run) ? 'the run has ended' : undefined;
    const now = await this.#runs.clock();
    if (now() - written.getTime() > pingTriedMs[what]) return 'the run ended too long ago';
    await this.#readEarlier();
    const isLast = (this.#ends.get(run.request.ping ?? '')?.revision ?? 0) <= revision;
    return isLast ? undefined : 'a later run with the same ping has ended';
  }

  /** Reads once the runs that ended before the feed began. */
  async #readEarlier(): Promise<void> {
    this.#earlier ??= this.#runs.list().then((all) => {
      for (const stored of all) this.#note(stored);
    });
    try {
      await this.#earlier;
    } catch (error) {
      this.#earlier = undefined;
      throw error;
    }
  }

  /** Remembers an end for an hour: older ends' pings are not sent any more. */
  #note({ run, revision }: StoredRun): void {
    const { ping } = run.request;
    if (ping === undefined || !hasEnded(run)) return;
    const notedMs = performance.now();
    const last = Math.max(revision, this.#ends.get(ping)?.revision ?? 0);
    this.#ends.delete(ping);
    this.#ends.set(ping, { revision: last, notedMs });
    for (const [url, each] of this.#ends) {
      if (each.notedMs >= notedMs - hourMs) break;
      this.#ends.delete(url);
    }
  }
}
