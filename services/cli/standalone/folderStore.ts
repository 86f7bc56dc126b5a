/** Standalone's own store: keeps VersityGW running over the folder while the folder has its marker. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, statSync } from 'node:fs';
import { appendFile, readFile, rm, writeFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { sleep } from '../../concurrency/sleep.ts';
import { LxstowError, systemCode } from '../../contract/errors.ts';
import type { Config } from '../../contract/schemas.ts';
import { folderFault, folderIdentity, markFolder } from '../../storage/folder/folderMarker.ts';
import { folderServer, prepareFolder } from '../../storage/folder/folderServer.ts';
import { createS3Store } from '../../storage/s3/s3.ts';
import type { Log } from '../../telemetry/logger.ts';
import { endChild, stopMs } from './endChild.ts';
import { type OwnStoreFiles, ownStoreFiles, withOwnStore } from './ownStore.ts';
import { StandIn } from './standIn.ts';
import { ownSecret } from './stateFiles.ts';

const program = 'versitygw';
const lookEveryMs = 1000;
const startMs = 30_000;
/** Pause before a server that has ended is started again. It doubles each time that the server ran for less than a minute. */
const restartMs = 500;
const longestRestartMs = 30_000;
const steadyMs = 60_000;
const askEveryMs = 20;
/** How long the start of standalone waits for the store. */
const patienceMs = 10_000;
const mostLogBytes = 10_000_000;

interface FolderStoreOptions {
  /** A configuration with `s3.folder`. */
  config: Config;
  env: NodeJS.ProcessEnv;
  log: Log;
  /** Is aborted if the server cannot be started at all. */
  failed: AbortController;
}

/** Resolves when the store can be used, or is known to be away; then it starts as soon as the folder is there. `config` contains the store's keys. */
export async function openFolderStore(options: FolderStoreOptions): Promise<AsyncDisposable & { config: Config }> {
  const files = ownStoreFiles(options.config, options.env);
  const config = withOwnStore(options.config, await ownSecret(files.secret));
  await endLeftover(files);
  await markAtFirst(config.s3.folder ?? '', files);
  const store = new FolderStore({ ...options, config }, files);
  try {
    await store.open();
  } catch (error) {
    // Another part of standalone may have failed while this one is running already.
    await store[Symbol.asyncDispose]();
    throw error;
  }
  return Object.assign(store, { config });
}

/**
 * Marks a folder the first time that standalone uses it, and never again: later, a folder without its marker is the empty mount point of a disk that is not mounted. A
 * folder that does not exist stays unmarked; it may be mounted later.
 */
async function markAtFirst(folder: string, { marked }: OwnStoreFiles): Promise<void> {
  const known = await readFile(marked, 'utf8').catch(() => '');
  if (known.split('\n').includes(folder)) return;
  try {
    await markFolder(folder);
  } catch (error) {
    if (systemCode((error as Error).cause) === 'ENOENT') return;
    throw error;
  }
  await appendFile(marked, `\n${folder}`);
}

/** Ends a server whose standalone was killed. Throws bad-config if that standalone is still running. */
async function endLeftover({ pids, dir }: OwnStoreFiles): Promise<void> {
  const [pid = 0, parent] = (await readFile(pids, 'utf8').catch(() => '')).split(' ').map(Number);
  const command = pid > 0 ? await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '') : '';
  if (!command.includes(program)) return;
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  if (Number(/^PPid:\s*(\d+)$/m.exec(status)?.[1]) === parent)
    throw new LxstowError('bad-config', `another standalone (process ${parent}) runs with the state directory ${dir}`);
  const until = performance.now() + stopMs;
  while (isSent(pid, performance.now() < until ? 'SIGTERM' : 'SIGKILL')) await delay(askEveryMs);
}

/** Sends a signal; false if the process has ended. */
function isSent(pid: number, signal: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, signal);
  } catch (error) {
    if (systemCode(error) === 'ESRCH') return false;
    throw error;
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
    const { signal } = this.#options.failed;
    const patience = delay(patienceMs, undefined, { ref: false, signal }).catch(() => undefined);
    await Promise.race([first.promise, patience]);
    signal.throwIfAborted();
  }

  /** Looks at the folder each second, and starts and ends the server accordingly. `looked` is called after each look, and at the end. */
  async #keep(looked: () => void): Promise<void> {
    const { signal } = this.#ended;
    const over = AbortSignal.any([signal, this.#options.failed.signal]);
    try {
      for (; !over.aborted; await sleep(lookEveryMs, over)) {
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
    if (fault) return this.#withdraw(fault);
    const identity = await folderIdentity(this.#folder).catch(() => undefined);
    // The folder was unmounted in the meantime; the next look will report it.
    if (identity === undefined) return;
    if (this.#server && this.#server.identity !== identity) await this.#withdraw('another disk is mounted there now');
    if (!this.#server && performance.now() >= this.#notBefore) await this.#start(identity);
  }

  /** Kills the server, so that it writes nothing more; the stand-in answers with the reason. */
  async #withdraw(reason: string): Promise<void> {
    const child = this.#server?.child;
    this.#server = undefined;
    if (child) await endChild(child, 'SIGKILL');
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
    if (this.#ended.signal.aborted) return;
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
    child.on('error', (error) => {
      this.#server = undefined;
      // If the folder does not exist, no program can be started in it: it was unmounted in the meantime, and the next look will report it.
      if (existsSync(cwd)) this.#options.failed.abort(notStarted(error));
    });
    child.on('exit', (code, signal) => void this.#ends(child, signal ?? `status ${code}`));
    if (child.pid === undefined) return;
    await writeFile(this.#files.pids, `${child.pid} ${process.pid}`);
    if (!(await this.#answers(child))) return;
    log.info('versitygw started', { port: this.#port, folder: this.#folder });
    this.#said = '';
  }

  /** Waits until the server answers; false if it has ended. A server that does not answer within half a minute is killed. */
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
    if (child) await endChild(child, 'SIGTERM');
    await this.#standIn[Symbol.asyncDispose]();
    await rm(this.#files.pids, { force: true });
  }
}

function isLong(file: string): boolean {
  return (statSync(file, { throwIfNoEntry: false })?.size ?? 0) > mostLogBytes;
}

function notStarted(error: Error): LxstowError {
  const what = `s3.folder is configured, and ${program} cannot be started: ${error.message}. Install VersityGW 1.8 or newer on the PATH, or configure an S3 server`;
  return new LxstowError('s3-unavailable', what, { cause: error });
}
