/** Finds the pings that must not be sent any more. A service believes the last ping that it got. */
import { hourMs } from '../contract/durations.ts';
import type { Run } from '../contract/schemas.ts';
import type { Feed } from '../nats/bucket/feed.ts';
import { hasEnded } from '../runs/fold.ts';
import type { RunStore, StoredRun } from '../runs/runStore.ts';
import type { Ping } from './ping.ts';

/** How long a ping is tried: if it arrives much later, what it says is no longer true. */
export const pingTriedMs = { start: 60_000, up: hourMs, down: hourMs };
/** More than the clocks of two gateways differ. */
const skewMs = 60_000;

export class OutdatedPings {
  readonly #runs: Pick<RunStore, 'find' | 'list'>;
  /** By the URL of the ping: when its last run ended, by Date.parse. The longest ago is first. */
  readonly #ends = new Map<string, number>();
  /** The feed has every run that ended later. */
  readonly #sinceMs = Date.now() + skewMs;
  #earlier: Promise<void> | undefined;

  constructor(runs: Pick<RunStore, 'find' | 'list'>, feed: Pick<Feed<StoredRun>, 'onChange'>) {
    this.#runs = runs;
    feed.onChange(({ run }) => this.#note(run));
  }

  /** Why this ping of a run must not be sent; undefined if it may be. Throws nats-unavailable. */
  async reason(id: string, what: Ping['what']): Promise<string | undefined> {
    const run = (await this.#runs.find(id))?.run;
    if (!run) return 'its run is no longer kept';
    // Behind the ping of the end, the service would take it for the start of another run, which never ends.
    if (what === 'start') return hasEnded(run) ? 'the run has ended' : undefined;
    const endedMs = endOf(run);
    if (Date.now() - endedMs > pingTriedMs[what]) return 'the run ended too long ago';
    if (endedMs < this.#sinceMs) await this.#readEarlier();
    const isLast = (this.#ends.get(run.request.ping ?? '') ?? 0) <= endedMs;
    return isLast ? undefined : 'a later run with the same ping has ended';
  }

  async #readEarlier(): Promise<void> {
    this.#earlier ??= this.#runs.list().then((all) => {
      for (const { run } of all.reverse()) this.#note(run);
    });
    try {
      await this.#earlier;
    } catch (error) {
      this.#earlier = undefined;
      throw error;
    }
  }

  #note(run: Run): void {
    const { ping } = run.request;
    const oldestMs = Date.now() - hourMs;
    if (ping === undefined || !hasEnded(run) || endOf(run) < oldestMs) return;
    const lastMs = Math.max(endOf(run), this.#ends.get(ping) ?? 0);
    this.#ends.delete(ping);
    this.#ends.set(ping, lastMs);
    for (const [url, ms] of this.#ends) {
      if (ms >= oldestMs) break;
      this.#ends.delete(url);
    }
  }
}

function endOf({ ended_at, updated_at }: Run): number {
  return Date.parse(ended_at ?? updated_at);
}
