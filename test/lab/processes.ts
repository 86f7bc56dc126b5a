import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { createServer, type ListenOptions } from 'node:net';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { LabFolder } from './folder.ts';
import { errorText } from './run.ts';

/** LXD with an empty database needs 1 s, MinIO 1 s; the rest is for a machine that others use too. */
const readyTimeoutMs = 180_000;
/** Most stop in under 1 s. What is killed instead leaves its children, and has not handed its jobs back. */
const stopGraceMs = 30_000;
/** Signals after which a process is expected to be gone. */
const ending: readonly NodeJS.Signals[] = ['SIGTERM', 'SIGKILL', 'SIGINT', 'SIGQUIT'];

export interface DaemonOptions {
  command: string;
  args: string[];
  /** Its processes are the folder's: they end when the folder is removed. Its log is `daemon.log` in there. */
  folder: LabFolder;
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  /** Resolves when the daemon can be used; is aborted when it exits or takes too long. */
  ready(signal: AbortSignal): Promise<void>;
  signal?: AbortSignal | undefined;
}

/** A server that a test may kill and start again. */
export interface Daemon {
  /** Of the running daemon, or of the last one. */
  readonly pid: number;
  readonly isRunning: boolean;
  /** Sends a signal; resolves when the process is gone (SIGKILL, SIGTERM), when all of it stands still (SIGSTOP), or at once (SIGHUP…). */
  kill(signal?: NodeJS.Signals): Promise<void>;
  /** SIGTERM, and SIGKILL after a grace. Resolves when the process is gone. */
  stop(): Promise<void>;
  /** Starts it again as it was started first; resolves when it is ready. Throws with the end of its log if it is not. */
  start(): Promise<void>;
}

/** Starts a server in a process group of its own (Ctrl-C is for the lab, not for its parts). */
export async function startDaemon(options: DaemonOptions): Promise<Daemon> {
  const daemon = new ChildDaemon(options);
  await daemon.start();
  return daemon;
}

class ChildDaemon implements Daemon {
  readonly #options: DaemonOptions;
  #child: ChildProcess | undefined;

  constructor(options: DaemonOptions) {
    this.#options = options;
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  get isRunning(): boolean {
    const child = this.#child;
    return child?.pid !== undefined && child.exitCode === null && child.signalCode === null;
  }

  async start(): Promise<void> {
    if (this.isRunning) throw new Error(`${this.#options.command} already runs`);
    const { command, args, folder, env, cwd, ready, signal } = this.#options;
    const logFile = openSync(join(folder.path, 'daemon.log'), 'a');
    const child = spawn(command, args, {
      detached: true,
      stdio: ['ignore', logFile, logFile],
      env: { ...folder.env, ...env },
      cwd,
    });
    closeSync(logFile);
    this.#child = child;
    const over = new AbortController();
    child.on('error', (error) => over.abort(error));
    child.once('exit', (code, killer) => over.abort(new Error(`it ended with ${killer ?? `status ${code}`}`)));
    const limits = [over.signal, AbortSignal.timeout(readyTimeoutMs), ...(signal ? [signal] : [])];
    try {
      await ready(AbortSignal.any(limits));
    } catch (error) {
      const reason = over.signal.aborted ? over.signal.reason : error;
      const log = (await readFile(join(folder.path, 'daemon.log'), 'utf8')).trimEnd().split('\n').slice(-20).join('\n');
      throw new Error(`${command} did not become ready: ${errorText(reason)}\n${log}`, { cause: error });
    }
    child.unref(); // a test that forgets the lab must still end; the folder goes with it
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#child;
    if (!child || !this.isRunning) return;
    child.ref();
    const exit = once(child, 'exit');
    child.kill(signal);
    if (ending.includes(signal)) return void (await exit);
    child.unref();
    if (signal === 'SIGSTOP') while (this.isRunning && !(await standsStill(child.pid ?? 0))) await delay(1);
  }

  async stop(): Promise<void> {
    const force = setTimeout(() => this.#child?.kill('SIGKILL'), stopGraceMs);
    try {
      await this.kill('SIGTERM');
    } finally {
      clearTimeout(force);
    }
  }
}

/** Whether each thread of a process is stopped: a server with several may answer for a moment after its SIGSTOP. Only Linux says. */
async function standsStill(pid: number): Promise<boolean> {
  if (process.platform !== 'linux') return true;
  const threads = await readdir(`/proc/${pid}/task`).catch(() => []);
  const stats = threads.map((thread) => readFile(`/proc/${pid}/task/${thread}/stat`, 'utf8').catch(() => ') T'));
  return (await Promise.all(stats)).every((stat) => stat.slice(stat.lastIndexOf(')')).startsWith(') T'));
}

/** A `ready` for servers that one has to ask: it asks until it gets an answer, whatever that is, instead of an error. */
export function answers(ask: (signal: AbortSignal) => Promise<unknown>): (signal: AbortSignal) => Promise<void> {
  return async (signal) => {
    let lastError: unknown;
    while (!signal.aborted) {
      try {
        await ask(signal);
        return;
      } catch (error) {
        lastError = error;
      }
      await delay(25);
    }
    throw new Error(errorText(signal.reason), { cause: lastError });
  };
}

/**
 * A free port on the loopback address, below the range that Linux gives to outgoing connections: nobody takes it by chance while the
 * server on it is being restarted. No other process of a lab gets it while this one lives.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    if ((await isFree({ port, host: '127.0.0.1' })) && (await claim(port))) return port;
  }
}

/** A socket with a name and no file, which the kernel takes back from a process that dies; only Linux has those. */
async function claim(port: number): Promise<boolean> {
  if (process.platform !== 'linux') return true;
  return isFree({ path: `\0lxstow-lab:port-${port}` }, 'and stays ours');
}

function isFree(place: ListenOptions, kept?: 'and stays ours'): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer((socket) => socket.destroy());
    server.once('error', () => resolve(false));
    server.listen(place, () => {
      if (!kept) return server.close(() => resolve(true));
      server.unref();
      resolve(true);
    });
  });
}

/** What a process has resident now, in MiB. */
export function residentMiB(pid: number): Promise<number> {
  return memoryMiB(pid, 'VmRSS');
}

/** Has VmHWM begin anew: the most that is resident from now on. */
export async function forgetPeak(pid: number): Promise<void> {
  await writeFile(`/proc/${pid}/clear_refs`, '5');
}

/** A field of /proc's status, in MiB. */
export async function memoryMiB(pid: number, field: 'VmRSS' | 'VmHWM'): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(status)?.[1]) / 1024;
}
