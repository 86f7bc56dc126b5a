/** Standalone's own store: keeps VersityGW running over the folder, as long as the folder has its marker. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, statSync } from 'node:fs';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { LxstowError, systemCode } from '../contract/errors.ts';
import type { Config } from '../contract/schemas.ts';
import { folderFault, folderIdentity, markFolder } from '../storage/folderMarker.ts';
import { folderServer, prepareFolder } from '../storage/folderServer.ts';
import { createS3Store } from '../storage/s3.ts';
import type { Log } from '../telemetry/logger.ts';
import { ownSecret } from './ownSecret.ts';
import { type OwnStoreFiles, ownStoreFiles, withSecret } from './ownStore.ts';
import { StandIn } from './standIn.ts';

const program = 'versitygw';
const lookEveryMs = 1000;
const startMs = 30_000;
const stopMs = 10_000;
/** A server that has ended is started again after so long; twice as long each time that it ends within a minute. */
const restartMs = 500;
const longestRestartMs = 30_000;
const steadyMs = 60_000;
const askEveryMs = 20;
/** `standalone` goes on without the folder after so long. */
const patienceMs = 10_000;
const mostLogBytes = 10_000_000;

interface FolderStoreOptions {
  /** Has `s3.folder`. */
  config: Config;
  env: NodeJS.ProcessEnv;
  log: Log;
  /** Aborted when the server cannot be started at all. */
  failed: AbortController;
}

/** Resolves when the store can be used, or is known to be away: then it comes by itself. `config` has its keys. */
export async function openFolderStore(options: FolderStoreOptions): Promise<AsyncDisposable & { config: Config }> {
  const files = ownStoreFiles(options.config, options.env);
  const config = withSecret(options.config, await ownSecret(files.secret));
  await endOrphan(files);
  await markAtFirst(config.s3.folder ?? '', files);
  const store = new FolderStore({ ...options, config }, files);
  await store.open();
  return Object.assign(store, { config });
}

/** Marks the folder the first time that standalone runs with it. A folder that does not exist may be mounted later: it has its marker, or gets none. */
async function markAtFirst(folder: string, { marked }: OwnStoreFiles): Promise<void> {
  const known = await readFile(marked, 'utf8').catch(() => undefined);
  if (known === folder) return;
  try {
    await markFolder(folder);
  } catch (error) {
    if (systemCode((error as Error).cause) === 'ENOENT') return;
    throw error;
  }
  await writeFile(marked, folder);
}

/** Ends a server whose standalone was killed. Throws bad-config when its standalone still runs. */
async function endOrphan({ pids, dir }: OwnStoreFiles): Promise<void> {
  const [pid = 0, parent] = (await readFile(pids, 'utf8').catch(() => '')).split(' ').map(Number);
  const command = pid > 0 ? await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '') : '';
  if (!command.includes(program)) return;
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  if (Number(/^PPid:\s*(\d+)$/m.exec(status)?.[1]) === parent)
    throw new LxstowError('bad-config', `another standalone (process ${parent}) runs with the state directory ${dir}`);
  for (const until = performance.now() + stopMs; isRunning(pid); await delay(askEveryMs))
    process.kill(pid, performance.now() < until ? 'SIGTERM' : 'SIGKILL');
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

class FolderStore implements AsyncDisposable {
  readonly #options: FolderStoreOptions;
  readonly #files: OwnStoreFiles;
  readonly #folder: string;
  readonly #port: number;
  readonly #standIn: StandIn;
  readonly #ended = new AbortController();
  #server: { child: ChildProcess; identity: string; begun: number } | undefined;
  #said = '';
  #restartMs = restartMs;
  #notBefore = 0;

  constructor(options: FolderStoreOptions, files: OwnStoreFiles) {
    this.#options = options;
    this.#files = files;
    const { folder = '', endpoint } = options.config.s3;
    this.#folder = folder;
    this.#port = Number(new URL(endpoint).port);
    this.#standIn = new StandIn(this.#port);
  }

  async open(): Promise<void> {
    await this.#standIn.say('the server of s3.folder starts');
    const first = Promise.withResolvers<void>();
    void this.#keep(first.resolve).catch((error) => this.#options.failed.abort(error));
    await Promise.race([first.promise, delay(patienceMs, undefined, { ref: false })]);
    this.#options.failed.signal.throwIfAborted();
  }

  /** Until the end: looks at the folder, and starts and ends the server. `looked` is called after the first time. */
  async #keep(looked: () => void): Promise<void> {
    const { signal } = this.#ended;
    const over = AbortSignal.any([signal, this.#options.failed.signal]);
    try {
      for (; !over.aborted; await delay(lookEveryMs, undefined, { signal: over }).catch(() => undefined)) {
        await this.#look();
        looked();
      }
    } finally {
      looked();
    }
  }

  async #look(): Promise<void> {
    const fault = await folderFault(this.#folder);
    if (this.#ended.signal.aborted) return;
    if (fault) return this.#leave(fault);
    const identity = await folderIdentity(this.#folder);
    if (this.#server && this.#server.identity !== identity) await this.#leave('another disk is mounted there now');
    if (!this.#server && performance.now() >= this.#notBefore) await this.#start(identity);
  }

  /** Ends the server at once: nothing is to be written. The stand-in says why. */
  async #leave(reason: string): Promise<void> {
    const child = this.#server?.child;
    this.#server = undefined;
    if (child) await end(child, 'SIGKILL');
    await this.#say(reason);
  }

  async #say(reason: string): Promise<void> {
    if (this.#ended.signal.aborted) return;
    if (reason !== this.#said) this.#options.log.error('the store is away', { folder: this.#folder, reason });
    this.#said = reason;
    await this.#standIn.say(reason);
  }

  async #start(identity: string): Promise<void> {
    const { config, log } = this.#options;
    const { bucket, region, accessKey, secretKey } = config.s3;
    try {
      await prepareFolder(this.#folder, bucket);
    } catch (error) {
      return this.#say(`the folder ${this.#folder} cannot be used: ${(error as Error).message}`);
    }
    await this.#standIn[Symbol.asyncDispose]();
    const { args, cwd, env } = folderServer({ folder: this.#folder, port: this.#port, region, accessKey, secretKey });
    const output = openSync(this.#files.log, isLong(this.#files.log) ? 'w' : 'a', 0o600);
    const { PATH, HOME } = process.env;
    // In a process group of its own, so that Ctrl-C does not reach it: it must run until the jobs are handed back.
    const child = spawn(program, args, {
      cwd,
      env: { PATH, HOME, ...env },
      stdio: ['ignore', output, output],
      detached: true,
    });
    closeSync(output);
    this.#server = { child, identity, begun: performance.now() };
    child.on('error', (error) => this.#options.failed.abort(notThere(error)));
    child.on('exit', (code, signal) => void this.#ends(child, signal ?? `status ${code}`));
    if (child.pid === undefined) return;
    await writeFile(this.#files.pids, `${child.pid} ${process.pid}`);
    if (!(await this.#answers(child))) return;
    log.info('versitygw started', { port: this.#port, folder: this.#folder });
    this.#said = '';
  }

  /** Whether it has come to answer. One that does not in half a minute is ended. */
  async #answers(child: ChildProcess): Promise<boolean> {
    using store = createS3Store(this.#options.config.s3);
    for (const until = performance.now() + startMs; this.#server?.child === child; await delay(askEveryMs)) {
      try {
        await store.probe(AbortSignal.timeout(startMs));
        return true;
      } catch {
        if (performance.now() > until) child.kill('SIGKILL');
      }
    }
    return false;
  }

  async #ends(child: ChildProcess, how: string): Promise<void> {
    if (this.#server?.child !== child) return;
    const { begun } = this.#server;
    this.#server = undefined;
    this.#restartMs =
      performance.now() - begun > steadyMs ? restartMs : Math.min(this.#restartMs * 2, longestRestartMs);
    this.#notBefore = performance.now() + this.#restartMs;
    await this.#say(`${program} ended with ${how}, and is started again: see ${this.#files.log}`).catch((error) =>
      this.#options.failed.abort(error),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort();
    const child = this.#server?.child;
    this.#server = undefined;
    if (child) await end(child, 'SIGTERM');
    await this.#standIn[Symbol.asyncDispose]();
    await rm(this.#files.pids, { force: true });
  }
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  child.kill(signal);
  const timer = setTimeout(() => child.kill('SIGKILL'), stopMs);
  await exit;
  clearTimeout(timer);
}

function isLong(file: string): boolean {
  return (statSync(file, { throwIfNoEntry: false })?.size ?? 0) > mostLogBytes;
}

function notThere(error: Error): LxstowError {
  const what = `s3.folder is configured, and ${program} cannot be started: ${error.message}. Install VersityGW 1.8 or newer on the PATH, or configure an S3 server`;
  return new LxstowError('s3-unavailable', what, { cause: error });
}
