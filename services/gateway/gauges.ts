/** Gauges that have the same values on every gateway, because they are read from NATS at each scrape: the queue, outages, and the state of each instance. */

import { mapInTurns } from '../concurrency/mapInTurns.ts';
import { until } from '../concurrency/until.ts';
import { hourMs } from '../contract/durations.ts';
import { instanceStates as allStates, expectedFrom, isMisdated, statusOf } from '../fleet/judge.ts';
import { countDeadLetters, countNotices, queueDepth, wordsFor } from '../jobs/queueDepth.ts';
import type { Bucket } from '../nats/bucket/bucket.ts';
import { deadLetterStream, noticesStream } from '../nats/streams.ts';
import { listOutages } from '../outages/recordedOutages.ts';
import { dueNext } from '../schedules/slots.ts';
import type { GatewayParts } from './gatewayParts.ts';
import { isCovered } from './views/statusView.ts';

type GaugesOptions = Pick<GatewayParts, 'nats' | 'config' | 'fleet' | 'expected' | 'metrics' | 'log'> & {
  leasesBucket: Bucket;
};

export class Gauges {
  readonly #options: GaugesOptions;
  readonly #remotes: string[];
  /** Dead letters at the last scrape; an increase is logged. */
  #dead = 0;

  constructor(options: GaugesOptions) {
    this.#options = options;
    this.#remotes = Object.keys(options.config.remotes);
    options.metrics.backupMaxAge.set(options.config.gateway.backupMaxAgeHours * 3600);
  }

  /** Updates all gauges, as far as possible before `signal` aborts. Never throws. */
  async refresh(signal: AbortSignal): Promise<void> {
    await Promise.all([this.#queue(signal), this.#instances(signal)]);
  }

  async #queue(signal: AbortSignal): Promise<void> {
    const { nats, leasesBucket, metrics, log } = this.#options;
    const { natsUp, queued, oldest, deadLetters, noticesQueued, outage } = metrics;
    try {
      const asked = [
        queueDepth(nats, this.#remotes),
        countDeadLetters(nats),
        countNotices(nats),
        listOutages(leasesBucket),
      ] as const;
      const [depths, dead, notices, outages] = await until(signal, Promise.all(asked));
      natsUp.set(1);
      deadLetters.set({ stream: deadLetterStream }, dead);
      if (dead > this.#dead) log.warn(wordsFor(dead), { deadLetters: dead });
      this.#dead = dead;
      noticesQueued.set({ stream: noticesStream }, notices);
      outage.reset();
      // If the LXDs of several workers are away, report the one that has been away longest.
      for (const { remote, dependency, since, allowed } of outages.toSorted((a, b) => b.since.localeCompare(a.since)))
        if (allowed === 0) outage.set({ remote, dependency }, Math.max(0, (Date.now() - Date.parse(since)) / 1000));
      for (const { remote, lane, waiting, taken, oldest: since } of depths) {
        queued.set({ remote, lane, state: 'waiting' }, waiting);
        queued.set({ remote, lane, state: 'taken' }, taken);
        oldest.set({ remote, lane }, since ? Math.max(0, (Date.now() - since.getTime()) / 1000) : 0);
      }
    } catch (error) {
      natsUp.set(0);
      for (const gauge of [queued, oldest, deadLetters, noticesQueued, outage]) gauge.reset();
      log.warn('the state of the queue is not known', { error });
    }
  }

  async #instances(signal: AbortSignal): Promise<void> {
    const { fleet, config, expected, metrics, log } = this.#options;
    const { lastSuccess, backupExpected, scheduleDue, instances, inventory } = metrics;
    try {
      const now = new Date();
      const both = Promise.all([fleet.current(), expected.current(now)]);
      const [{ instances: known, inventories }, { expectations, schedules }] = await until(signal, both);
      const dues = await mapInTurns(schedules, ({ schedule }) => ({ schedule: schedule.name, due: dueNext(schedule) }));
      const maxAgeMs = config.gateway.backupMaxAgeHours * hourMs;
      const yardstick = { now, maxAgeMs, mayName: () => true, expectations };
      const counts = new Map(this.#remotes.map((remote) => [remote, new Map(allStates.map((state) => [state, 0]))]));
      for (const gauge of [lastSuccess, backupExpected, scheduleDue]) gauge.reset();
      for (const { address, record } of known) {
        const count = counts.get(address.remote);
        if (!count) continue;
        const { state } = statusOf(address, record, yardstick);
        count.set(state, (count.get(state) ?? 0) + 1);
        if (!isCovered(record)) continue;
        const { remote, project, instance } = address;
        const good = record.good && !isMisdated(record.good, yardstick) ? record.good : undefined;
        lastSuccess.set({ remote, project, instance }, good ? Date.parse(good.at) / 1000 : 0);
        const fromMs = expectedFrom(address, record, expectations);
        if (fromMs !== undefined) backupExpected.set({ remote, project, instance }, fromMs / 1000);
      }
      for (const { schedule, due } of dues) if (due) scheduleDue.set({ schedule }, Date.parse(due.at) / 1000);
      for (const [remote, count] of counts) for (const [state, of] of count) instances.set({ remote, state }, of);
      for (const remote of this.#remotes)
        inventory.set({ remote }, Date.parse(inventories.get(remote)?.at ?? '1970-01-01T00:00:00Z') / 1000);
    } catch (error) {
      log.warn('the state of instances is not known; what was known is still said', { error });
    }
  }
}
