/** Which instances match selectors with `match`, by the hosts' last answers, because the records of instances do not contain the values to match. */
import { until } from '../../concurrency/until.ts';
import { asLxstowError } from '../../contract/errors.ts';
import type { Address, RunSelector } from '../../contract/schemas.ts';
import { askInventory } from '../../hosts/hostInventory.ts';
import type { LxdInstance } from '../../lxd/inventory.ts';
import type { Nats } from '../../nats/connection.ts';
import { addressKey } from '../../runs/plan.ts';
import { meaningOf } from '../../runs/selector.ts';
import type { Log } from '../../telemetry/logger.ts';

interface MatchedOptions {
  nats: Nats;
  remotes: string[];
  timeoutMs: number;
  log: Log;
}

const askAgainMs = 60_000;
/** How long the first call waits for the hosts, so that a host that is away does not delay it for long. */
const firstWaitMs = 3000;
const nothing: ReadonlySet<string> = new Set();

export class MatchedInstances {
  readonly #options: MatchedOptions;
  /** Matching instances by host and selector. While a host is away, its last answer stays. */
  readonly #found = new Map<string, ReadonlySet<string>>();
  #asked = new Set<string>();
  #askedAt = Number.NEGATIVE_INFINITY;
  #asking: Promise<void> | undefined;

  constructor(options: MatchedOptions) {
    this.#options = options;
  }

  /** Returns a function that tells whether one of these selectors matches an instance. Asks the hosts once a minute at most, and for each new selector. */
  async current(selectors: RunSelector[]): Promise<(selector: RunSelector, address: Address) => boolean> {
    const wanted = selectors.filter(({ match = [] }) => match.length > 0);
    const isNew = wanted.some((selector) => !this.#asked.has(keyOf(selector)));
    if (isNew || (wanted.length > 0 && performance.now() - this.#askedAt > askAgainMs)) {
      // The current question does not include a selector that is new.
      if (isNew && this.#asking) await this.#shortly(this.#asking);
      this.#asking ??= this.#ask(wanted).finally(() => {
        this.#asking = undefined;
      });
      if (isNew) await this.#shortly(this.#asking);
    }
    return (selector, address) =>
      (this.#found.get(`${address.remote} ${keyOf(selector)}`) ?? nothing).has(addressKey(address));
  }

  async #shortly(asking: Promise<void>): Promise<void> {
    await until(AbortSignal.timeout(firstWaitMs), asking).catch(() => undefined);
  }

  async #ask(selectors: RunSelector[]): Promise<void> {
    const { nats, remotes, timeoutMs, log } = this.#options;
    const known = new Set<string>();
    const ask = async (remote: string) => {
      try {
        const question = { kind: 'instances', full: false } as const;
        const instances = (await askInventory(nats, remote, question, timeoutMs)) as LxdInstance[];
        for (const selector of selectors) {
          const means = meaningOf(selector);
          const addresses = instances.filter(means).map(({ project, name }) => ({ remote, project, instance: name }));
          known.add(`${remote} ${keyOf(selector)}`);
          this.#found.set(`${remote} ${keyOf(selector)}`, new Set(addresses.map(addressKey)));
        }
      } catch (error) {
        for (const selector of selectors) known.add(`${remote} ${keyOf(selector)}`);
        log.debug('which instances schedules cover is as it was known', { remote, error: asLxstowError(error) });
      }
    };
    await Promise.all(remotes.map(ask));
    for (const key of this.#found.keys()) if (!known.has(key)) this.#found.delete(key);
    this.#asked = new Set(selectors.map(keyOf));
    this.#askedAt = performance.now();
  }
}

function keyOf(selector: RunSelector): string {
  return JSON.stringify(selector);
}
