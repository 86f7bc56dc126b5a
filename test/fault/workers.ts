/** What the fault tests have besides the stack: workers that reach S3, NATS and LXD by wires of their own, and a look at what is stored. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { BackupAddress, Manifest, Operation } from '../../services/contract/schemas.ts';
import { assertSame, type Stack, succeeded, until } from '../integration/stack.ts';
import { openFolder } from '../lab/folder.ts';
import type { Answer } from '../lab/lxstow.ts';
import { answers, type Daemon, freePort, startDaemon } from '../lab/processes.ts';
import { startProxy, type Wire } from './proxy.ts';

const cli = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));

interface Wires {
  s3: Wire;
  nats: Wire;
  lxd: Wire;
}

export interface WiredWorker extends Daemon, AsyncDisposable {
  readonly wires: Wires;
  log(): Promise<string>;
}

type Sections = Record<string, object>;

/**
 * A worker of the stack's, with the stack's configuration and `config` over it, that reaches everything through proxies. `prepare` is called
 * before it starts: it may take a job before this function returns.
 */
export async function startWiredWorker(
  stack: Stack,
  config: Sections = {},
  prepare: (wires: Wires) => void = () => undefined,
): Promise<WiredWorker> {
  await using opening = new AsyncDisposableStack();
  const folder = opening.use(await openFolder('wired-worker', () => undefined));
  const base = JSON.parse(await readFile(stack.stow.configFile, 'utf8')) as Sections;
  const { socket } = (base.remotes as { local: { socket: string } }).local;
  const lxdSocket = join(folder.path, 'lxd.socket');
  const wires: Wires = {
    s3: opening.use(await startProxy({ target: { port: Number(new URL(stack.s3.endpoint).port) } })),
    nats: opening.use(await startProxy({ target: { port: stack.nats.port } })),
    lxd: opening.use(await startProxy({ target: { path: socket }, socket: lxdSocket })),
  };
  const healthPort = await freePort();
  const wired: Sections = {
    s3: { endpoint: `http://127.0.0.1:${wires.s3.port}` },
    nats: { servers: [`nats://127.0.0.1:${wires.nats.port}`] },
    remotes: { local: { socket: lxdSocket } },
    worker: { healthPort },
  };
  const configFile = join(folder.path, 'lxstow.json');
  await writeFile(configFile, JSON.stringify([wired, config].reduce(merged, base), null, 2));
  prepare(wires);
  const daemon = await startDaemon({
    command: process.execPath,
    args: [cli, '--config', configFile, 'worker'],
    folder,
    ready: answers(async (signal) => {
      const health = await fetch(`http://127.0.0.1:${healthPort}/healthz`, { signal });
      if (!health.ok) throw new Error(await health.text());
    }),
  });
  opening.defer(() => daemon.stop());
  const owned = opening.move();
  return Object.assign(daemon, {
    wires,
    log: () => readFile(join(folder.path, 'daemon.log'), 'utf8'),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  });
}

function merged(base: Sections, over: Sections): Sections {
  const result = { ...base };
  for (const [key, value] of Object.entries(over)) result[key] = { ...result[key], ...value };
  return result;
}

/** The operation of a 202, as it is now. */
export async function operationOf(stack: Stack, answer: Answer): Promise<Operation> {
  return (await stack.stow.request('GET', answer.body.operation)).body.metadata as Operation;
}

/** Waits until the operation is at `stage`, with at least so many bytes done. */
export async function reaches(stack: Stack, answer: Answer, stage: string, bytes = 0): Promise<Operation> {
  const operation = await until(
    () => operationOf(stack, answer),
    ({ status_code, metadata }) =>
      status_code >= 200 || (metadata.stage === stage && (metadata.bytes_done ?? 0) >= bytes),
  );
  assert.equal(operation.metadata.stage, stage, `it ended before: ${operation.status} ${operation.err}`);
  return operation;
}

/** Waits until the operation waits for another attempt; returns why. */
export async function isRetried(stack: Stack, answer: Answer): Promise<string> {
  const operation = await until(
    () => operationOf(stack, answer),
    ({ status_code, metadata }) => status_code >= 200 || metadata.retry_reason !== undefined,
  );
  assert.ok(operation.metadata.retry_reason, `it ended, and was not tried again: ${operation.status} ${operation.err}`);
  return operation.metadata.retry_reason;
}

export function addressOf(instance: string, backup: string): BackupAddress {
  return { remote: 'local', project: 'default', instance, backup };
}

export const archiveOf = (instance: string, backup: string) => `local/default/${instance}/${backup}`;
export const manifestOf = (instance: string, backup: string) => `${archiveOf(instance, backup)}.manifest.json`;

/** A stored object's bytes. */
export async function readObject(stack: Stack, key: string): Promise<Buffer> {
  return Buffer.concat(await (await stack.bucket().getObject(stack.s3.bucket, key)).toArray());
}

/** Writes an object over what is there; returns its ETag. */
export async function writeObject(stack: Stack, key: string, body: Buffer | string): Promise<string> {
  return (await stack.bucket().putObject(stack.s3.bucket, key, body)).etag;
}

/** The manifest as it is stored, unchecked. */
export async function readManifest(stack: Stack, instance: string, backup: string): Promise<Manifest> {
  return JSON.parse((await readObject(stack, manifestOf(instance, backup))).toString()) as Manifest;
}

/** One archive and one manifest under this name, which are this operation's and agree with each other. */
export async function assertOneBackup(stack: Stack, instance: string, backup: string, operation: string) {
  const keys = (await stack.keys()).filter((key) => key.startsWith(archiveOf(instance, backup)));
  assert.deepEqual(keys.sort(), [archiveOf(instance, backup), manifestOf(instance, backup)]);
  const manifest = await readManifest(stack, instance, backup);
  const { etag, size } = await stack.bucket().statObject(stack.s3.bucket, archiveOf(instance, backup));
  assert.deepEqual(
    { operation: manifest.operation, etag: manifest.archive.etag, size: manifest.archive.size },
    { operation, etag, size },
  );
}

/** Fails unless every archive has its manifest, no upload is open, and LXD keeps no backup. */
export async function assertClean(stack: Stack): Promise<void> {
  await stack.assertNothingLeft();
  const keys = await stack.keys();
  const [manifests, archives] = [true, false].map((is) => keys.filter((key) => key.endsWith('.manifest.json') === is));
  assert.deepEqual(archives?.map((key) => `${key}.manifest.json`).sort(), manifests?.sort());
}

/** Restores under a name of its own, compares every file, and removes what was restored. */
export async function assertRestores(stack: Stack, instance: string, backup: string, files: Map<string, string>) {
  const name = `again-${randomBytes(4).toString('hex')}`;
  const answer = await stack.stow.request('POST', `/1.0/instances/${instance}/backups/${backup}`, { body: { name } });
  await succeeded(stack.stow, answer);
  assertSame(await stack.fingerprint(name), files);
  await stack.remove(name);
}

/** Fails when there is an instance of this name in LXD. */
export async function assertNoInstance(stack: Stack, instance: string): Promise<void> {
  const paths = await stack.lxd.get<string[]>('/1.0/instances', {}, AbortSignal.timeout(60_000));
  assert.ok(!paths.includes(`/1.0/instances/${instance}`), `LXD keeps ${instance}`);
}

/** Of a log, the lines about this operation. */
export function linesOf(log: string, answer: Answer): string {
  const id = answer.body.operation.split('/').at(-1) ?? '';
  return log
    .split('\n')
    .filter((line) => line.includes(id))
    .join('\n');
}

/** Waits until the worker's log says this of the operation. */
export async function says(worker: WiredWorker, answer: Answer, words: string): Promise<void> {
  await until(
    () => worker.log(),
    (log) => linesOf(log, answer).includes(words),
  );
}
