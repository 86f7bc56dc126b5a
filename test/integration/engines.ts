/** LXD and Incus side by side behind one gateway: an engine a remote, with one NATS and one S3. */
import assert from 'node:assert/strict';
import { LxdClient } from '../../services/lxd/connection/client.ts';
import { type Engine, engines } from '../lab/engines.ts';
import { findLxd } from '../lab/findLxd.ts';
import { type Lab, openLab } from '../lab/lab.ts';
import { type LabLxd, startLxd } from '../lab/lxd.ts';
import { type Answer, type Lxstow, startLxstow } from '../lab/lxstow.ts';
import type { Daemon } from '../lab/processes.ts';
import { idOf, succeeded } from './stack.ts';

const quiet = () => undefined;

/** An engine, its worker, and what a test asks of them. */
export interface Remote {
  /** Its name for lxstow. */
  readonly name: Engine;
  readonly lxd: LabLxd;
  /** The engine itself, past lxstow. */
  readonly client: LxdClient;
  readonly worker: Daemon;
  workerLog(): Promise<string>;
  /** Fails unless the operation was done, or given up, at the first attempt. */
  assertOneAttempt(answer: Answer): Promise<void>;
  /** Begins a backup, of `instance` in the project of `query`. */
  begin(instance: string, query?: Record<string, string>): Promise<Answer>;
  /** Makes one; returns its name. */
  backup(instance: string, query?: Record<string, string>): Promise<string>;
  restore(instance: string, backup: string, body?: object): Promise<Answer>;
  /** What an instance is like, for assertSame(): its files. */
  fingerprint(instance: string, project?: string): Promise<Map<string, string>>;
  remove(instance: string, project?: string): Promise<void>;
  /** `instance status`, of all in the default project whose names do not begin with `of-`. */
  instances(): Promise<string[]>;
}

export interface Engines extends AsyncDisposable {
  readonly lab: Lab;
  readonly stow: Lxstow;
  readonly remotes: Map<Engine, Remote>;
}

/** Why engines cannot be had here, after the installation of those that can: minutes, the first time. */
export async function missingEngines(): Promise<Map<Engine, string>> {
  const found = await Promise.all(engines.map((engine) => findLxd(console.log, undefined, engine)));
  return new Map(
    engines.flatMap((engine, at) => {
      const answer = found[at];
      return answer && !answer.available ? [[engine, answer.reason]] : [];
    }),
  );
}

/** Starts every engine that is not missing. `workerEnv`: what each worker has in its environment. */
export async function openEngines(
  name: string,
  missing: Map<Engine, string>,
  workerEnv: NodeJS.ProcessEnv = {},
): Promise<Engines> {
  await using opening = new AsyncDisposableStack();
  const starting = engines
    .filter((engine) => !missing.has(engine))
    .map(async (engine) => opening.use(await startLxd({ engine, log: quiet, name: engine })));
  const openingLab = openLab({ name, log: quiet, lxd: false }).then((lab) => opening.use(lab));
  await Promise.allSettled([openingLab, ...starting]); // so that whatever started is stopped when another fails
  const lab = await openingLab;
  const started = await Promise.all(starting);
  const { nats, s3 } = lab;
  assert.ok(nats && s3);
  const stow = opening.use(
    await startLxstow({
      name,
      log: quiet,
      natsUrl: nats.url,
      s3,
      socket: '/none',
      workers: 0,
      config: { remotes: Object.fromEntries(started.map(({ engine, socket }) => [engine, { socket }])) },
    }),
  );
  const remotes = new Map<Engine, Remote>();
  for (const [index, lxd] of started.entries()) {
    const worker = await stow.addWorker({ LXSTOW_WORKER_REMOTE: lxd.engine, ...workerEnv });
    const client = opening.use(new LxdClient(lxd.engine, { socket: lxd.socket }, {}));
    remotes.set(
      lxd.engine,
      remoteOf(lxd, client, worker, stow, () => stow.logOf(index)),
    );
  }
  const owned = opening.move();
  return { lab, stow, remotes, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

function remoteOf(
  lxd: LabLxd,
  client: LxdClient,
  worker: Daemon,
  stow: Lxstow,
  workerLog: () => Promise<string>,
): Remote {
  const name = lxd.engine;
  const begin = (instance: string, query: Record<string, string> = {}) =>
    stow.request('POST', `/1.0/instances/${instance}/backups?${new URLSearchParams({ target: name, ...query })}`);
  return {
    name,
    lxd,
    client,
    worker,
    workerLog,
    async assertOneAttempt(answer) {
      const lines = (await workerLog()).split('\n').filter((line) => line.includes(idOf(answer)));
      const begun = lines.filter((line) => line.includes('"job begun"'));
      assert.equal(begun.length, 1, lines.join('\n'));
    },
    begin,
    async backup(instance, query) {
      const answer = await begin(instance, query);
      await succeeded(stow, answer);
      return answer.body.metadata.name;
    },
    restore: (instance, backup, body = {}) =>
      stow.request('POST', `/1.0/instances/${instance}/backups/${backup}?target=${name}`, { body }),
    fingerprint: (instance, project) => lxd.fingerprint(instance, project),
    async remove(instance, project = 'default') {
      await lxd.lxc(['delete', '--force', '--project', project, instance]);
    },
    async instances() {
      const all: { name: string; status: string }[] = JSON.parse(await lxd.lxc(['list', '--format', 'json']));
      return all.filter(({ name }) => !name.startsWith('of-')).map((each) => `${each.name} ${each.status}`);
    },
  };
}
