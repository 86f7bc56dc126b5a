/** One restore after another in a world of names: the real runRestore() and undoRestore() before the simulator, with other people at work in it. */
import { createHash, randomUUID } from 'node:crypto';
import { Threads } from '../../services/archive/compression/threads.ts';
import { SlotMemory } from '../../services/archive/slotMemory.ts';
import { manifestKey } from '../../services/backups/keys.ts';
import { Bandwidth } from '../../services/concurrency/rateLimit.ts';
import { asLxstowError, LxstowError } from '../../services/contract/errors.ts';
import type { Config, Operation, RestoreJob } from '../../services/contract/schemas.ts';
import { parseBandwidth } from '../../services/contract/timetable.ts';
import type { Lease, Leases } from '../../services/coordination/leases.ts';
import type { JobOf } from '../../services/jobs/jobs.ts';
import { LxdClient } from '../../services/lxd/connection/client.ts';
import { parseOwnName } from '../../services/lxd/ownNames.ts';
import { Attempt } from '../../services/operations/attempt.ts';
import {
  cancel,
  cancelled,
  fail,
  isFinal,
  newOperation,
  requeue,
  succeed,
} from '../../services/operations/operation.ts';
import type { OperationStore, Stored } from '../../services/operations/operationStore.ts';
import type { ObjectStore } from '../../services/storage/objectStore.ts';
import { createWorkerMetrics } from '../../services/telemetry/metrics.ts';
import { attemptsOf, decideAfterFailure } from '../../services/worker/loop/retryDecision.ts';
import { runRestore, undoRestore } from '../../services/worker/restore/restore.ts';
import type { Tools } from '../../services/worker/tools.ts';
import { tarOf } from '../lab/tar.ts';
import { type LxdSimulator, startSimulator } from '../simulator/simulator.ts';
import type { Instance, State } from '../simulator/state.ts';

export const target = 'c1';
/** The name that the original has while a restore without `replace` runs. */
export const elsewhere = 'c1-aside';
const attempts = 5;
const silent = { child: () => silent, debug() {}, info() {}, warn() {}, error() {} };

/** What is restored, and what is there when it begins. */
export interface Scenario {
  name: string;
  body: Partial<RestoreJob>;
  /** Whether the instance that the backup is of has its name still, and runs; else it is stopped, elsewhere. */
  original: 'running' | 'stopped' | 'frozen' | 'elsewhere';
  /** Before the first call that begins so, all is as in the scenario before. */
  from?: string;
}

/** What other people do, in one step. False where it cannot be done now. */
export type Act = (world: World) => boolean;
export type Event = 'none' | 'cancel' | 'death' | 'takeover' | 'restart';

/** Where it happens: the n-th time that LXD is called, before or after LXD has done what it was asked. */
export interface Moment {
  call: number;
  when: 'before' | 'after';
}

/** What is the same for all worlds: threads and a socket cost more than a restore. */
export interface Shared extends AsyncDisposable {
  simulator: LxdSimulator;
  threads: Threads;
  metrics: ReturnType<typeof createWorkerMetrics>;
}

export async function openShared(): Promise<Shared> {
  await using opening = new AsyncDisposableStack();
  const simulator = opening.use(await startSimulator({ files: false }));
  const threads = opening.use(new Threads({}));
  const owned = opening.move();
  return { simulator, threads, metrics: createWorkerMetrics(), [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

class Died extends Error {}

export class World {
  readonly state: State;
  readonly id = randomUUID();
  readonly scenario: Scenario;
  /** Calls of LXD so far, each as `PUT /1.0/instances/c1/state`. */
  readonly calls: string[] = [];
  /** Serials of the instances that were there before, or that others have made. */
  readonly others = new Map<string, string>();
  readonly original: Instance;
  acted = false;
  /** The call of LXD at which it did. */
  happenedAt = '';
  readonly #shared: Shared;
  #stored: Stored;
  #attempt: Attempt | undefined;
  #lease: AbortController | undefined;
  #dying = Promise.withResolvers<never>();
  #restarting: Promise<void> | undefined;
  #moment: Moment | undefined;
  #act: Act | undefined;
  #event: Event = 'none';

  constructor(shared: Shared, scenario: Scenario) {
    this.#shared = shared;
    this.scenario = scenario;
    const { state } = shared.simulator;
    this.state = state;
    for (const instance of state.allInstances()) void state.removeInstance(instance);
    const isElsewhere = scenario.original === 'elsewhere';
    this.original = this.make(isElsewhere ? elsewhere : target);
    this.original.isRunning = !isElsewhere && scenario.original !== 'stopped';
    this.original.isFrozen = scenario.original === 'frozen';
    this.original.config['volatile.last_state.power'] = this.original.isRunning ? 'RUNNING' : 'STOPPED';
    this.remember();
    const now = new Date();
    this.#stored = {
      operation: newOperation({ id: this.id, kind: 'restore', address, body: this.#body() }, now),
      revision: 1,
    };
  }

  #body(): RestoreJob {
    return { backup, ...this.scenario.body };
  }

  /** An instance of others, as an import of the same archive makes one. */
  make(name: string): Instance {
    const { state } = this;
    const made = state.newInstance(name, {
      project: 'default',
      config: { ...archived },
      devices: {},
      profiles: ['default'],
    });
    Object.assign(made.config, archived);
    // Of another archive of the same instance.
    made.createdAt = new Date(made.createdAt.length + this.others.size * 1000).toISOString();
    state.addInstance(made);
    return made;
  }

  get operation(): Operation {
    return this.#stored.operation;
  }

  find(name: string): Instance | undefined {
    return this.state.findInstance(name, 'default');
  }

  get imported(): string {
    return `lxstow-${this.id}`;
  }

  get replaced(): string {
    return `lxstow-old-${this.id}`;
  }

  /** The serials of what LXD has imported for this operation: all that nobody else has made. */
  isOurs({ serial }: Instance): boolean {
    return !this.others.has(serial);
  }

  /** How the instances of others are now is how they are to stay; an act may change them. */
  remember(changed?: Instance): void {
    if (changed) this.others.set(changed.serial, picture(changed));
    else for (const instance of this.state.allInstances()) this.others.set(instance.serial, picture(instance));
  }

  async run(moment?: Moment, act?: Act, event: Event = 'none'): Promise<Operation> {
    [this.#moment, this.#act, this.#event] = [moment, act, event];
    const { faults } = this.#shared.simulator;
    faults.onCall = (call, when) => this.#onCall(call, when);
    try {
      for (;;) {
        if (this.#stored.operation.status_code >= 200) return this.#stored.operation;
        await this.#attemptIt();
        await this.#restarting;
      }
    } finally {
      faults.onCall = undefined;
    }
  }

  async #onCall(call: string, when: 'before' | 'after'): Promise<void> {
    if (when === 'before') this.calls.push(call);
    if (this.#moment?.when !== when || this.calls.length - 1 !== this.#moment.call) return;
    this.#moment = undefined;
    this.acted = this.#act?.(this) ?? true;
    this.happenedAt = call;
    if (!this.acted) return;
    const lost = new LxstowError('lease-lost', 'another worker has it');
    if (this.#event === 'cancel') await this.#cancel();
    if (this.#event === 'takeover') this.#lease?.abort(lost);
    if (this.#event === 'death') {
      this.#lease?.abort(lost);
      this.#dying.reject(new Died());
      throw new Error('the worker is dead');
    }
    if (this.#event === 'restart') {
      const { simulator } = this.#shared;
      this.#restarting = simulator.stop().then(() => simulator.start());
      throw new Error('LXD is stopped');
    }
  }

  /** As a gateway does it. */
  async #cancel(): Promise<void> {
    const { operation, revision } = this.#stored;
    if (isFinal(operation) || !operation.may_cancel) return;
    this.#stored = { operation: cancel(operation, new Date()), revision: revision + 1 };
    await this.#attempt?.lookForCancel();
  }

  /** As the worker's loop does it. */
  async #attemptIt(): Promise<void> {
    const lease = new AbortController();
    const isAlive = () => !lease.signal.aborted;
    const store = {
      update: async (operation: Operation, revision: number) => {
        if (!isAlive() || revision !== this.#stored.revision) return undefined;
        this.#stored = { operation, revision: revision + 1 };
        return this.#stored;
      },
      find: async () => this.#stored,
    } as unknown as OperationStore;
    const held = {
      lost: lease.signal,
      assertHeld: () => lease.signal.throwIfAborted(),
      renew: async () => undefined,
      release: async () => undefined,
    } as unknown as Lease;
    const leases = { acquire: async () => held, holder: async () => undefined } as unknown as Leases;
    const log = silent as unknown as Tools['metrics'] as never;
    this.#lease = lease;
    this.#dying = Promise.withResolvers<never>();
    this.#dying.promise.catch(() => undefined);
    const attempt = await Attempt.begin(this.#stored, { store, leases, lease: held, worker: randomUUID(), log });
    if (!attempt) return;
    this.#attempt = attempt;
    using lxd = new LxdClient('local', { socket: this.#shared.simulator.socket }, {}, undefined, 10);
    const tools = { ...this.#tools(), lxd, leases };
    const job: JobOf<'restore'> = { kind: 'restore', address, body: this.#body() };
    try {
      await Promise.race([this.#settle(job, attempt, tools), this.#dying.promise]);
    } catch (error) {
      if (!(error instanceof Died)) throw error;
    }
  }

  async #settle(job: JobOf<'restore'>, attempt: Attempt, tools: Tools): Promise<void> {
    let error: LxstowError | undefined;
    try {
      await runRestore(job, attempt, tools);
    } catch (thrown) {
      error = asLxstowError(attempt.signal.aborted ? attempt.signal.reason : thrown);
    }
    if (error?.code === 'internal') throw error;
    if (error?.code === 'lease-lost') return;
    await this.#restarting;
    const now = new Date();
    if (!error) return attempt.finish((operation) => succeed(operation, now)).catch(ignoreLoss);
    const limits = { attempts: attemptsOf(attempt.operation, attempts) };
    const facts = { ...limits, isDependencyAway: false, cutsByLxd: 0, waitedMs: 0, patienceMs: 1 };
    const { kind } = decideAfterFailure(error, { ...facts, attempt: attempt.operation.attempt });
    const isOver = kind === 'cancel' || kind === 'fail';
    const { code, message } = error;
    if (isOver)
      await undoRestore(job, attempt, tools).catch((reason) => {
        this.undone = asLxstowError(reason);
      });
    await attempt
      .finish((operation) => {
        if (!isOver) return requeue(operation, message, now, true);
        return code === 'cancelled' ? cancelled(operation, now) : fail(operation, new LxstowError(code, message), now);
      })
      .catch(ignoreLoss);
  }

  /** Why what was to be undone could not be. */
  undone: LxstowError | undefined;

  #tools(): Omit<Tools, 'lxd' | 'leases'> {
    const { threads, metrics } = this.#shared;
    return {
      config,
      metrics,
      threads,
      store: objects as unknown as ObjectStore,
      bandwidth: new Bandwidth(parseBandwidth('off')),
      memory: new SlotMemory(),
    } as unknown as Omit<Tools, 'lxd' | 'leases'>;
  }
}

function ignoreLoss(error: unknown): void {
  if (asLxstowError(error).code !== 'lease-lost') throw error;
}

/** All of an instance that somebody could miss; what a start and a stop change by themselves is left out. */
export function picture({ name, config, devices, isRunning, isFrozen, ephemeral }: Instance): string {
  const { 'volatile.last_state.power': _, ...rest } = config;
  return JSON.stringify({ name, config: Object.entries(rest).sort(), devices, isRunning, isFrozen, ephemeral });
}

export function ownInstances(state: State): Instance[] {
  return state.allInstances().filter(({ name }) => parseOwnName(name));
}

const address = { remote: 'local', project: 'default', instance: target };
const backup = 'backup_2026-11-23-13-4544.tar';
const config = {
  s3: { prefix: '' },
  worker: { remote: 'local', lxdIdleTimeoutMs: 5000 },
} as unknown as Config;

export const identity = '4e2c027b-439a-4d91-9ba0-5cb4df115341';
/** An archive that was made while the instance ran. */
const archived = {
  'volatile.uuid': 'bbd2787c-3da1-4fd5-aabf-6badef80addb',
  'volatile.cloud-init.instance-id': identity,
  'volatile.last_state.power': 'RUNNING',
};
const index = JSON.stringify({
  name: target,
  backend: 'btrfs',
  pool: 'bt',
  optimized: false,
  config: {
    container: {
      architecture: 'x86_64',
      description: '',
      config: archived,
      devices: {},
      ephemeral: false,
      profiles: ['default'],
      created_at: '2026-11-23T13:45:44Z',
      last_used_at: '2026-11-23T13:45:44Z',
    },
  },
});
const archive = tarOf('backup/index.yaml', index);
const sha256 = createHash('sha256').update(archive).digest('hex');
const manifest = JSON.stringify({
  version: 1,
  writer: 'lxstow test',
  operation: '4414c3d3-52ea-43a6-aa47-23439a72fc3f',
  backup: { name: backup, ...address, created: '2026-11-23T13:45:47.278Z', tags: {} },
  archive: {
    key: `local/default/${target}/${backup}`,
    etag: 'e-1',
    compression: 'none',
    optimized: false,
    instanceOnly: false,
    blockSize: 1024 * 1024,
    size: archive.length,
    rawSize: archive.length,
    parts: [
      { number: 1, size: archive.length, rawStart: 0, rawEnd: archive.length, sha256, crc32: 'AAAAAA==', etag: 'e' },
    ],
  },
  instance: {
    architecture: 'x86_64',
    config: archived,
    devices: {},
    type: 'container',
    pool: 'bt',
    driver: 'btrfs',
    profiles: [],
    snapshots: [],
  },
  lxd: { version: '5.0.2' },
});

const objects: Partial<ObjectStore> = {
  async read(key) {
    if (key !== manifestKey('', { ...address, backup })) throw new LxstowError('not-found', key);
    return { body: Buffer.from(manifest), etag: 'm' };
  },
  stat: async () => ({ size: archive.length, etag: 'e-1' }),
  async readRange(_key, _etag, start, into) {
    archive.copy(into, 0, start, start + into.length);
  },
};
