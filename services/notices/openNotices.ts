/** Sends notices to webhooks when operations end. Every gateway runs this in addition to its API; several gateways share the work. */
import { setTimeout as delay } from 'node:timers/promises';
import type { Config } from '../contract/schemas.ts';
import type { Feed } from '../nats/bucket/feed.ts';
import type { Nats } from '../nats/connection.ts';
import { changesConsumer, noticesConsumer, noticesStream, operationsBucket, runsBucket } from '../nats/streams.ts';
import type { RunStore, StoredRun } from '../runs/runStore.ts';
import type { Log } from '../telemetry/logger.ts';
import type { GatewayMetrics } from '../telemetry/metrics.ts';
import { announceEnds } from './announce.ts';
import { Deliverer } from './deliver.ts';
import { OutdatedPings } from './outdatedPings.ts';

const goingBackMs = 1000;

interface NoticesOptions {
  nats: Nats;
  runs: RunStore;
  runFeed: Feed<StoredRun>;
  config: Config['notify'];
  metrics: GatewayMetrics;
  log: Log;
  /** Aborts when no further work may begin. */
  stop: AbortSignal;
}

interface Notices {
  /** Resolves when nothing is under way; what still is after `withinMs` goes back to the queue. */
  drain(withinMs: number): Promise<void>;
}

/** Starts. Throws nats-unfit when `lxstow setup` has not made the consumers, and bad-config when `notify.ca` cannot be read. */
export async function openNotices({
  nats,
  runs,
  runFeed,
  config,
  metrics,
  log,
  stop,
}: NoticesOptions): Promise<Notices> {
  const handingBack = new AbortController();
  const [changes, runChanges, queued] = await nats.ask('looking for the queue of notices', () =>
    Promise.all([
      nats.js.consumers.get(`KV_${operationsBucket}`, changesConsumer),
      nats.js.consumers.get(`KV_${runsBucket}`, changesConsumer),
      nats.js.consumers.get(noticesStream, noticesConsumer),
    ]),
  );
  if (config.endpoints.length > 0 && config.secret === undefined)
    log.warn('notices are not signed: there is no notify.secret');
  const deliverer = new Deliverer({
    ...{ nats, consumer: queued, config, metrics, log, stop },
    handingBack: handingBack.signal,
    outdated: new OutdatedPings(runs, runFeed),
  });
  const running = Promise.all([
    announceEnds({ nats, consumer: changes, of: 'operations', config, log, stop }),
    announceEnds({ nats, consumer: runChanges, of: 'runs', config, log, stop }),
    deliverer.run(),
  ]).catch(
    // Only a bug of ours makes them fail, and backups do not need them.
    (error) => log.error('notices have stopped because of a bug; restart the gateway', { error }),
  );
  return {
    async drain(withinMs) {
      using _timer = setTimeout(() => handingBack.abort(), withinMs);
      // While NATS is away, nothing can be handed back: stop waiting, NATS redelivers it.
      await Promise.race([running, delay(withinMs + goingBackMs, undefined, { ref: false })]);
    },
  };
}
