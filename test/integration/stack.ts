/** Everything together, for a test file: LXD (or the simulator where none can run), NATS, an S3 server, and lxstow in front. */
import assert from 'node:assert/strict';
import { inspect } from 'node:util';
import { Client } from 'minio';
import type { Operation } from '../../services/contract/schemas.ts';
import { LxdClient } from '../../services/lxd/connection/client.ts';
import { type Lab, openLab } from '../lab/lab.ts';
import { type Answer, type Lxstow, type LxstowOptions, startLxstow } from '../lab/lxstow.ts';
import type { LabNats, LabNatsWithRoles } from '../lab/nats.ts';
import type { LabS3 } from '../lab/s3.ts';
import { type LxdSimulator, startSimulator } from '../simulator/simulator.ts';

interface LaunchOptions {
  project?: string;
  pool?: string;
  dataMiB?: number;
}

export interface Stack extends AsyncDisposable {
  readonly lab: Lab;
  readonly nats: LabNats;
  readonly s3: LabS3;
  readonly stow: Lxstow;
  /** LXD itself, past lxstow. */
  readonly lxd: LxdClient;
  /** Set where there is no real LXD. */
  readonly simulator: LxdSimulator | undefined;
  readonly pools: { btrfs: string; dir: string };
  /** A project besides `default`. */
  readonly project: string;
  launch(name: string, options?: LaunchOptions): Promise<void>;
  remove(name: string, project?: string): Promise<void>;
  fingerprint(name: string, project?: string): Promise<Map<string, string>>;
  /** Creates a backup and waits for it; returns its name. */
  backup(instance: string, query?: string, headers?: Record<string, string>): Promise<string>;
  /** Keys in the bucket. */
  keys(): Promise<string[]>;
  bucket(): Client;
  /** Fails unless nothing of lxstow is left in LXD and no upload is open. */
  assertNothingLeft(): Promise<void>;
}

export interface StackOptions extends Omit<Partial<LxstowOptions>, 's3'> {
  /** In the place of a MinIO. */
  s3?: LabS3;
  /** In the place of a nats-server where everybody may do everything. */
  nats?: LabNats & Partial<Pick<LabNatsWithRoles, 'environment'>>;
}

const quiet = () => undefined;
const otherProject = 'lxstow-lab';

export async function openStack(name: string, options: StackOptions = {}): Promise<Stack> {
  await using opening = new AsyncDisposableStack();
  const { nats: given, s3: givenS3, ...more } = options;
  const lab = opening.use(await openLab({ name, log: quiet, nats: !given, s3: !givenS3 }));
  const { nats = given, s3 = givenS3 } = lab;
  assert.ok(nats && s3);
  const simulator = lab.lxd ? undefined : opening.use(await startSimulator());
  const real = lab.lxd;
  const host = real ?? simulator;
  assert.ok(host);
  simulator?.addProject(otherProject);
  const lxd = opening.use(new LxdClient('local', { socket: host.socket }, {}));
  const stow = opening.use(
    await startLxstow({
      name,
      log: quiet,
      natsUrl: nats.url,
      ...(given?.environment && { environment: given.environment }),
      s3,
      socket: host.socket,
      ...more,
    }),
  );
  const client = () => clientOf(s3);
  const owned = opening.move();

  const stack: Stack = {
    lab,
    nats,
    s3,
    stow,
    lxd,
    simulator,
    pools: { btrfs: host.pool, dir: host.dirPool },
    project: otherProject,
    async launch(instance, launching = {}) {
      if (real) await real.launch(instance, { kind: 'mixed', ...launching });
      else await simulator?.createInstance(instance, launching);
    },
    async remove(instance, project = 'default') {
      if (real) await real.lxc(['delete', '-f', instance], { project });
      else await simulator?.deleteInstance(instance, project);
    },
    fingerprint: (instance, project = 'default') => host.fingerprint(instance, project),
    async backup(instance, query = '', headers = {}) {
      const answer = await stow.request('POST', `/1.0/instances/${instance}/backups${query}`, { headers });
      await succeeded(stow, answer);
      return answer.body.metadata.name;
    },
    async keys() {
      const keys: string[] = [];
      for await (const item of client().listObjectsV2(s3.bucket, '', true)) keys.push(item.name);
      return keys;
    },
    bucket: client,
    assertNothingLeft: () => assertNothingLeft(lxd, client(), s3.bucket),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
  return stack;
}

function clientOf({ endpoint, accessKey, secretKey }: LabS3): Client {
  const { hostname: endPoint, port } = new URL(endpoint);
  return new Client({ endPoint, port: Number(port), useSSL: false, accessKey, secretKey, region: 'us-east-1' });
}

async function assertNothingLeft(lxd: LxdClient, client: Client, bucket: string): Promise<void> {
  const signal = AbortSignal.timeout(60_000);
  const all = { recursion: '1', 'all-projects': 'true' };
  const instances = await lxd.get<{ name: string; project: string }[]>('/1.0/instances', all, signal);
  for (const { name, project } of instances) {
    const backups = await lxd.get(`/1.0/instances/${name}/backups`, { project }, signal);
    assert.deepEqual(backups, [], `LXD keeps backups of ${name}`);
  }
  const uploads: string[] = [];
  for await (const upload of client.listIncompleteUploads(bucket, '', true)) uploads.push(upload.key);
  assert.deepEqual(uploads, [], 'uploads are open');
}

/** Of the operation that a 202 promised. */
export function idOf(answer: Answer): string {
  return answer.body.operation.split('/').at(-1) ?? '';
}

/** Waits for the operation, which must end in Success. */
export async function succeeded(stow: Lxstow, answer: Answer): Promise<Operation> {
  assert.equal(answer.status, 202, answer.text);
  const operation = await stow.finished(answer);
  assert.equal(operation.status, 'Success', `${operation.err}\n${answer.text}`);
  return operation;
}

/** Waits for the operation, which must end in Failure; returns why. */
export async function failed(stow: Lxstow, answer: Answer): Promise<{ err: string; code: string }> {
  assert.equal(answer.status, 202, answer.text);
  const { status, err, metadata } = await stow.finished(answer);
  assert.equal(status, 'Failure');
  return { err, code: metadata.code };
}

/** LXD's error envelope, whole, with this status and text. */
export function assertError(answer: Answer, status: number, text: RegExp): void {
  assert.equal(answer.status, status, answer.text);
  assert.match(String(answer.headers['content-type']), /^application\/json/);
  const { error, ...rest } = answer.body;
  assert.match(error, text);
  assert.deepEqual(rest, {
    type: 'error',
    status: '',
    status_code: 0,
    operation: '',
    error_code: status,
    metadata: null,
  });
}

/** The same files, owners, modes and times. */
export function assertSame(after: Map<string, string>, before: Map<string, string>): void {
  const differs = [...before]
    .filter(([path, line]) => after.get(path) !== line)
    .map(([path, line]) => `${path}: ${line} → ${after.get(path)}`);
  assert.deepEqual(differs, []);
  assert.equal(after.size, before.size);
}

/** Longer than anything here takes, and not for ever: a test that nobody waits for any more keeps its process alive. */
const longestWaitMs = 120_000;

/** Asks until `is` holds. */
export async function until<T>(
  ask: () => Promise<T>,
  is: (value: T) => boolean,
  longestMs = longestWaitMs,
): Promise<T> {
  const end = performance.now() + longestMs;
  for (;;) {
    const value = await ask();
    if (is(value)) return value;
    if (performance.now() > end) throw new Error(`not so within ${longestMs / 1000} s: ${inspect(value)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
