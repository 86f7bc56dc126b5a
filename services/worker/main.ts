/** The worker: slots that take a host's jobs from NATS and run them on its LXD. */
import { SlotMemory } from '../archive/slotMemory.ts';
import { removeStaleRegularly } from '../coordination/leases.ts';
import { recordedKeys } from '../fleet/rounds.ts';
import { takeInventoryRegularly } from '../fleet/takeInventory.ts';
import { Janitor, tidyRegularly } from '../janitor/janitor.ts';
import { Deliveries } from '../jobs/deliveries.ts';
import { recordedInstances } from '../lxd/inventory.ts';
import { consumerName, type Lane } from '../nats/streams.ts';
import { serveHealth } from '../telemetry/health.ts';
import { answerQuestions } from './answers.ts';
import { runBackup } from './backup/backup.ts';
import { undoBackup } from './backup/traces.ts';
import type { Runners } from './loop/jobAttempt.ts';
import { runLoop } from './loop/runLoop.ts';
import { type OpenedWorker, openTools, type WorkerOptions } from './openTools.ts';
import { runPrune } from './prune.ts';
import { runRemove } from './remove.ts';
import { runRestore, undoRestore } from './restore/restore.ts';

export type { WorkerOptions } from './openTools.ts';

/** How many deletions run at a time, in addition to the slots. */
const quickSlots = 2;
const runners: Runners = {
  backup: { run: runBackup, undo: undoBackup },
  restore: { run: runRestore, undo: undoRestore },
  delete: { run: runRemove },
  prune: { run: runPrune },
};

/** Runs until `stop`. Throws at the start if the configuration, NATS or the object store is unfit. */
export async function runWorker(options: WorkerOptions): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const opened = await openTools(options, stack);
  const { nats, log, stop, outages, waitingRoom, tools } = opened;
  const { slots, graceMs, healthAddress, healthPort } = options.config.worker;
  const health = stack.use(
    await serveHealth(
      { address: healthAddress, port: healthPort, key: 'worker.healthPort' },
      {
        nats: async () => nats.assertConnected(),
        s3: (signal) => outages.check('s3', signal),
        lxd: (signal) => outages.check('lxd', signal),
      },
      tools.metrics,
    ),
  );
  const ended = new AbortController();
  answerQuestions(nats, tools.lxd, log, ended.signal);

  const handingBack = new AbortController();
  let graceTimer: NodeJS.Timeout | undefined;
  const stopping = () => {
    log.info('stopping', { graceMs });
    graceTimer = setTimeout(() => handingBack.abort(), graceMs);
    waitingRoom[Symbol.dispose]();
  };
  if (stop.aborted) stopping();
  stop.addEventListener('abort', stopping, { once: true });

  const lanes: Lane[] = [...Array<Lane>(slots).fill('transfer'), ...Array<Lane>(quickSlots).fill('quick')];
  const loops = lanes.map((lane) => takeJobs(lane, opened, handingBack.signal));
  log.info('worker ready', { slots, health: health.port });
  try {
    await Promise.all([...loops, ...upkeep(opened)]);
  } finally {
    clearTimeout(graceTimer);
    ended.abort();
  }
  log.info('worker stopped');
  // systemd restarts a worker that has failed (packaging/systemd).
  nats.closed.throwIfAborted();
}

/** One slot: takes jobs of a lane, one at a time, until the worker stops. */
async function takeJobs(lane: Lane, opened: OpenedWorker, handingBack: AbortSignal): Promise<void> {
  const { nats, outages, stop } = opened;
  const { remote } = opened.tools.config.worker;
  const deliveries = await Deliveries.open(nats, consumerName(remote, lane), stop);
  const tools = { ...opened.tools, memory: new SlotMemory() };
  const ready = lane === 'transfer' && { ready: () => outages.ready() };
  await runLoop({ ...opened, deliveries, tools, runners, handingBack, ...ready });
}

/** What the worker does for its host in addition to jobs: runs the janitor, takes the inventory, and removes leases that outlived their holders. */
function upkeep({ worker, nats, tools, log, stop }: OpenedWorker): Promise<void>[] {
  const { config, lxd, leases, fleet, keeper, store } = tools;
  const { remote, janitorEveryMinutes, inventoryEverySeconds } = config.worker;
  const { prefix } = config.s3;
  const list = (signal: AbortSignal) => recordedInstances(lxd, recordedKeys, signal);
  return [
    tidyRegularly(new Janitor({ ...tools, nats, worker, log }), { everyMinutes: janitorEveryMinutes, log, stop }),
    takeInventoryRegularly(
      { remote, fleet, keeper, store, prefix, leases, list, log },
      { everySeconds: inventoryEverySeconds, stop },
    ),
    removeStaleRegularly(leases, { remote, log, stop }),
  ];
}
