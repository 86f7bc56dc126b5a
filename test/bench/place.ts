/** The parts that are measured: one LXD, one S3 server, one NATS, lxstow with one worker of one slot, and the tools to compare with. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Client } from 'minio';
import { loadConfig } from '../../services/contract/config.ts';
import type { Address } from '../../services/contract/schemas.ts';
import { deleteLxdBackup } from '../../services/lxd/archives/backups.ts';
import { LxdClient } from '../../services/lxd/connection/client.ts';
import type { ObjectStore } from '../../services/storage/objectStore.ts';
import { createS3Store } from '../../services/storage/s3/s3.ts';
import type { Engine } from '../lab/engines.ts';
import { openFolder } from '../lab/folder.ts';
import { openLab } from '../lab/lab.ts';
import type { LabLxd } from '../lab/lxd.ts';
import { createLxdBackup } from '../lab/lxdBackup.ts';
import { type Answer, type Lxstow, startLxstow } from '../lab/lxstow.ts';
import { startNats } from '../lab/nats.ts';
import { findIsal, findMc, findRclone } from '../lab/parts.ts';
import { errorText, type Log } from '../lab/run.ts';
import type { LabS3 } from '../lab/s3.ts';
import { unitSettings } from '../lab/unitSettings.ts';

/** A gateway and its worker. */
export interface Contender {
  /** What is different about it, as `--beside` says it; empty for the place's own. */
  difference: string;
  stow: Lxstow;
  /** Of the one worker. */
  workerPid(): number;
  /** Waits for what a 202 promised; throws unless it succeeds. Returns the backup's or instance's name. */
  done(answer: Answer): Promise<string>;
}

export interface Place extends Contender, AsyncDisposable {
  lxd: LabLxd;
  api: LxdClient;
  s3: LabS3;
  natsUrl: string;
  store: ObjectStore;
  bucket: Client;
  /** What lxstow makes gzip with; `LXSTOW_GZIP_LIBRARY= npm run bench` has it make it with zlib. */
  gzip: 'ISA-L' | 'zlib';
  /** More of lxstow, for the same LXD and bucket, which take turns with the place's own. */
  beside: Contender[];
  /** MinIO's own client; undefined where it cannot be had. */
  mc: string | undefined;
  /** Likewise. */
  rclone: string | undefined;
  /** For files of peers that need some. */
  folder: string;
  /** LXD's own backup of an instance. */
  lxdBackup(instance: string, name: string): Promise<void>;
  dropLxdBackup(instance: string, name: string): Promise<void>;
}

const never = new AbortController().signal;
const waiting = { signal: never, idleTimeoutMs: 300_000 };

/** What users install. */
export const built = fileURLToPath(new URL('../../dist/services/cli/main.js', import.meta.url));

/**
 * `profile`: a folder where gateway and worker leave their CPU profiles when they end. `beside`: each is a contender, words separated by blanks: the
 * file of another build's CLI, `NAME=value` for variables of its environment.
 */
export async function openPlace(
  log: Log,
  { profile, engine, beside = [] }: { profile?: string | undefined; engine?: Engine; beside?: string[] } = {},
): Promise<Place> {
  await using opening = new AsyncDisposableStack();
  const { lxd, nats, s3, lxdUnavailable } = opening.use(
    await openLab({ name: 'bench', log, poolSizeGiB: 40, ...(engine ? { engine } : {}) }),
  );
  if (!lxd || !nats || !s3) throw new Error(`nothing can be measured without a real LXD: ${lxdUnavailable}`);
  const api = opening.use(new LxdClient('local', { socket: lxd.socket }, {}));
  const library =
    process.env.LXSTOW_GZIP_LIBRARY ??
    (await findIsal(log).catch((error) => log(`without ISA-L: ${errorText(error)}`))) ??
    '';
  const config = { worker: { slots: 1, janitorEveryMinutes: 0 }, gzip: { library } };
  const start = async (difference: string, natsUrl: string): Promise<Contender> => {
    const words = difference.split(' ').filter(Boolean);
    const variables = Object.fromEntries(words.filter((word) => word.includes('=')).map(variable));
    const [cli = built] = words.filter((word) => !word.includes('='));
    const environment = (part: 'admin' | 'gateway' | 'worker') => {
      if (!profile || part === 'admin') return variables;
      return { NODE_OPTIONS: `${unitSettings(part).NODE_OPTIONS} --cpu-prof --cpu-prof-dir=${profile}`, ...variables };
    };
    const stow = opening.use(
      await startLxstow({ name: 'bench', log, natsUrl, s3, socket: lxd.socket, cli, environment, config }),
    );
    return { difference, stow, workerPid: () => stow.workers[0]?.pid ?? 0, done: (answer) => done(stow, answer) };
  };
  const own = await start('', nats.url);
  const { stow } = own;
  const others: Contender[] = [];
  for (const each of beside) {
    const otherNats = opening.use(await startNats({ log, name: 'bench-beside' }));
    others.push(await start(each, otherNats.url));
  }
  const store = opening.use(createS3Store(loadConfig({ file: stow.configFile, env: {} }).s3));
  const folder = opening.use(await openFolder('bench-peers', log));
  await mkdir(join(folder.path, 'staging'));
  const mc = await findMc(log).catch((error) => log(`without mc: ${errorText(error)}`));
  const rclone = await findRclone(log).catch((error) => log(`without rclone: ${errorText(error)}`));
  const { hostname, port } = new URL(s3.endpoint);
  const { accessKey, secretKey } = s3;
  const at = (instance: string): Address => ({ remote: 'local', project: lxd.project, instance });
  const owned = opening.move();
  return {
    ...own,
    beside: others,
    lxd,
    api,
    s3,
    natsUrl: nats.url,
    store,
    gzip: library ? 'ISA-L' : 'zlib',
    bucket: new Client({
      endPoint: hostname,
      port: Number(port),
      useSSL: false,
      accessKey,
      secretKey,
      region: 'us-east-1',
    }),
    mc: mc ?? undefined,
    rclone: rclone ?? undefined,
    folder: folder.path,
    async lxdBackup(instance, name) {
      await createLxdBackup(api, at(instance), name, waiting);
    },
    dropLxdBackup: (instance, name) => deleteLxdBackup(api, at(instance), name, waiting),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function done(stow: Lxstow, answer: Answer): Promise<string> {
  if (answer.status !== 202) throw new Error(answer.text);
  const { status, err } = await stow.finished(answer);
  if (status !== 'Success') throw new Error(`${status}: ${err}`);
  return answer.body.metadata.name;
}

function variable(word: string): [string, string] {
  const at = word.indexOf('=');
  return [word.slice(0, at), word.slice(at + 1)];
}
