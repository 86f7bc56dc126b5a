import { randomBytes } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Client } from 'minio';
import { folderServer, prepareFolder } from '../../services/storage/folder/folderServer.ts';
import { cutPower, mountSmallDisk } from './disk.ts';
import { type LabFolder, openFolder } from './folder.ts';
import { findGarage, findMinio, findVersityGw, findWeed, hasGarage } from './parts.ts';
import { answers, type Daemon, type DaemonOptions, freePort, startDaemon } from './processes.ts';
import { errorText, type Log } from './run.ts';

const bucket = 'lxstow';

const finders = { minio: findMinio, seaweedfs: findWeed, versitygw: findVersityGw, garage: findGarage };
export type S3Kind = keyof typeof finders;

/** Path of the server's program, which is installed first if need be. */
export const findS3 = (kind: S3Kind, log: Log, signal?: AbortSignal) => finders[kind](log, signal);

export const s3Titles: Record<S3Kind, string> = {
  minio: 'MinIO',
  seaweedfs: 'SeaweedFS',
  versitygw: 'VersityGW',
  garage: 'Garage',
};

/** Those that tests of every server run on. */
export const serversHere = (Object.keys(finders) as S3Kind[]).filter((kind) => kind !== 'garage' || hasGarage());

interface S3Options {
  log: Log;
  name: string;
  /** Default: `$LXSTOW_LAB_S3`; else the first of MinIO, VersityGW and SeaweedFS that can be had. */
  kind?: S3Kind;
  /** Its data are on a disk of their own of this size, which can be full. Needs root. */
  diskMiB?: number;
  signal?: AbortSignal;
}

/** What tests set of a store's configuration, besides where it is and how patient they are with it. */
export const s3Settings = {
  region: 'us-east-1',
  prefix: '',
  pathStyle: true,
  uploadMaxAgeMs: 86_400_000,
  checksumHeaders: true,
};

export interface LabS3 extends Daemon, AsyncDisposable {
  readonly kind: S3Kind;
  readonly endpoint: string;
  readonly accessKey: string;
  readonly secretKey: string;
  /** Of MinIO: from its next start on, its user has another secret; `secretKey` is what it has at first. */
  useSecret(secretKey: string): void;
  /** Of SeaweedFS: from its next start on, its user may do so much: all unless told. */
  useActions(actions?: readonly string[]): Promise<void>;
  /** Of one with a disk of its own: kills it, and starts it again with what had reached the disk. */
  cutPower(): Promise<void>;
  /** Exists and is empty at first. */
  readonly bucket: string;
  readonly dir: string;
}

/** A private S3 server on loopback, with credentials of its own. It keeps port and data over kill() and start(). */
export async function startS3({ log, name, kind, diskMiB, signal }: S3Options): Promise<LabS3> {
  const found = await findServer(kind, log, signal);
  await using opening = new AsyncDisposableStack();
  const folder = opening.use(await openFolder(`${name}-s3`, log));
  if (diskMiB !== undefined) await mountSmallDisk(join(folder.path, 'data'), diskMiB);
  const keeper = newAccess();
  const access = found.kind === 'garage' ? garageAccess() : newAccess();
  const port = await freePort();
  const current = { ...access };
  // SeaweedFS has another user, who always may.
  const known = () => (found.kind === 'seaweedfs' ? keeper : current);
  const client = () =>
    new Client({ endPoint: '127.0.0.1', port, useSSL: false, ...known(), retryOptions: { disableRetry: true } });
  // Health pages say yes, and buckets can be had, some seconds before SeaweedFS has a place for the first object.
  const ready = answers(async () => {
    if (!(await client().bucketExists(bucket))) await client().makeBucket(bucket);
    await client().putObject(bucket, 'lab-is-ready', 'yes');
    await client().removeObject(bucket, 'lab-is-ready');
  });
  const server = await servers[found.kind](folder, port, { user: access, keeper });
  const daemon = await startDaemon({ command: found.command, folder, ready, signal, ...server });
  log(`${s3Titles[found.kind]} is ready on port ${port}`);
  const owned = opening.move();
  const start = daemon.start.bind(daemon);
  return Object.assign(daemon, {
    async cutPower() {
      await cutPower(join(folder.path, 'data'), () => daemon.kill('SIGKILL'));
      await this.start();
    },
    async start() {
      if (found.kind === 'versitygw') await prepareFolder(join(folder.path, 'data'), bucket);
      await start();
    },
    kind: found.kind,
    endpoint: `http://127.0.0.1:${port}`,
    ...access,
    useSecret(secretKey: string) {
      current.secretKey = secretKey;
      if (server.env) server.env[found.kind === 'minio' ? 'MINIO_ROOT_PASSWORD' : 'ROOT_SECRET_KEY'] = secretKey;
    },
    useActions: (actions?: readonly string[]) => writeIdentities(folder, { user: access, keeper }, actions),
    bucket,
    dir: folder.path,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  });
}

async function findServer(
  kind: S3Kind | undefined = process.env.LXSTOW_LAB_S3 as S3Kind | undefined,
  log: Log,
  signal?: AbortSignal,
): Promise<{ kind: S3Kind; command: string }> {
  if (kind) return { kind, command: await findS3(kind, log, signal) };
  for (const first of ['minio', 'versitygw'] as const) {
    try {
      return { kind: first, command: await findS3(first, log, signal) };
    } catch (error) {
      signal?.throwIfAborted();
      log(`${errorText(error)}: taking another S3 server instead`);
    }
  }
  return { kind: 'seaweedfs', command: await findWeed(log, signal) };
}

function newAccess(): Access {
  return { accessKey: randomBytes(8).toString('hex'), secretKey: randomBytes(16).toString('hex') };
}

interface Identities {
  user: Access;
  keeper: Access;
}

const allActions = ['Admin', 'Read', 'Write', 'List', 'Tagging'] as const;

function identitiesFile(folder: LabFolder): string {
  return join(folder.path, 's3.json');
}

async function writeIdentities(
  folder: LabFolder,
  { user, keeper }: Identities,
  actions: readonly string[] = allActions,
): Promise<void> {
  const identities = [
    { name: 'lab', credentials: [user], actions },
    { name: 'keeper', credentials: [keeper], actions: allActions },
  ];
  await writeFile(identitiesFile(folder), JSON.stringify({ identities }));
}

interface Access {
  accessKey: string;
  secretKey: string;
}
type Server = Pick<DaemonOptions, 'args' | 'env' | 'cwd'>;
type Starter = (folder: LabFolder, port: number, identities: Identities) => Promise<Server>;

const servers: Record<S3Kind, Starter> = { minio, seaweedfs, versitygw, garage };

async function minio(folder: LabFolder, port: number, { user }: Identities): Promise<Server> {
  const { accessKey, secretKey } = user;
  return {
    args: [
      'server',
      join(folder.path, 'data'),
      '--address',
      `127.0.0.1:${port}`,
      '--certs-dir',
      join(folder.path, 'certs'),
    ],
    env: { MINIO_ROOT_USER: accessKey, MINIO_ROOT_PASSWORD: secretKey, MINIO_BROWSER: 'off', MINIO_UPDATE: 'off' },
  };
}

/** As standalone starts it over a folder. */
async function versitygw(folder: LabFolder, port: number, { user }: Identities): Promise<Server> {
  const data = join(folder.path, 'data');
  await prepareFolder(data, bucket);
  return folderServer({ ...user, folder: data, region: 'us-east-1', port });
}

/** Garage wants keys of its own kind. */
function garageAccess(): Access {
  return { accessKey: `GK${randomBytes(12).toString('hex')}`, secretKey: randomBytes(32).toString('hex') };
}

async function garage(folder: LabFolder, port: number, { user }: Identities): Promise<Server> {
  const config = join(folder.path, 'garage.toml');
  await writeFile(
    config,
    `metadata_dir = "${folder.path}/data/meta"
data_dir = "${folder.path}/data/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:${await freePort()}"
rpc_secret = "${randomBytes(32).toString('hex')}"
[s3_api]
s3_region = "us-east-1"
api_bind_addr = "127.0.0.1:${port}"
`,
  );
  const env = {
    GARAGE_DEFAULT_ACCESS_KEY: user.accessKey,
    GARAGE_DEFAULT_SECRET_KEY: user.secretKey,
    GARAGE_DEFAULT_BUCKET: bucket,
  };
  return { args: ['-c', config, 'server', '--single-node', '--default-bucket'], env };
}

/** Four servers in one process (master, volume, filer, S3), each with a port for HTTP and one for gRPC. */
async function seaweedfs(folder: LabFolder, port: number, identities: Identities): Promise<Server> {
  const config = identitiesFile(folder);
  const data = join(folder.path, 'data');
  await mkdir(data, { recursive: true });
  await writeIdentities(folder, identities);
  const ports = await Promise.all(
    [
      'master.port',
      'master.port.grpc',
      'volume.port',
      'volume.port.grpc',
      'filer.port',
      'filer.port.grpc',
      's3.port.grpc',
    ].map(async (flag) => `-${flag}=${await freePort()}`),
  );
  // Sockets that it puts there whatever it is told, and leaves behind when killed.
  await folder.setUndo(`rm -f ${ports.map((port) => `/tmp/seaweedfs-*-grpc-${port.split('=')[1]}.sock`).join(' ')}\n`);
  return {
    args: [
      `-logdir=${folder.path}`,
      'server',
      `-dir=${data}`,
      '-ip=127.0.0.1',
      '-ip.bind=127.0.0.1',
      '-master.telemetry=false',
      '-master.volumeSizeLimitMB=1024',
      '-master.electionTimeout=1s',
      '-volume.max=0',
      '-volume.preStopSeconds=0',
      `-filer.localSocket=${folder.path}/filer.sock`,
      '-s3',
      `-s3.config=${config}`,
      `-s3.port=${port}`,
      `-s3.localSocket=${folder.path}/s3.sock`,
      '-s3.port.iceberg=0',
      '-s3.port.lance=0',
      ...ports,
    ],
  };
}
