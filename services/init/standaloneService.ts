/** Starts and stops `lxstow standalone`: as a service if there is systemd, otherwise in the background. */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, existsSync, openSync, readFileSync } from 'node:fs';
import { mkdir, rm, rmdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { sleep } from '../concurrency/sleep.ts';
import { LxstowError } from '../contract/errors.ts';
import type { Places } from './places.ts';
import { usualNatsPort } from './ports.ts';
import { runProgram } from './programs.ts';
import { type Service, type UnitFile, unitFiles, unitName } from './units.ts';

const startMs = 90_000;
const stopMs = 60_000;
const mostStarts = 3;
const lookEveryMs = 200;

export function hasSystemd({ system }: Places): boolean {
  return system && existsSync('/run/systemd/system');
}

/** The command that starts it by hand. */
export function command({ places, program, natsPort }: Service): string[] {
  const port = natsPort === usualNatsPort ? [] : ['--nats-port', String(natsPort)];
  return [...program, '-c', places.config, 'standalone', ...port];
}

/** Whether systemd runs the service. */
export async function isActive(): Promise<boolean> {
  return (await runProgram('systemctl', ['is-active', '--quiet', unitName])).status === 0;
}

/** The service's files for systemd; none if there is no systemd. */
export function unitsOf(service: Service): UnitFile[] {
  return hasSystemd(service.places) ? unitFiles(service, command(service)) : [];
}

/** Digest of everything that the service is started with. */
export function digestOf(service: Service): string {
  const all = [readFileSync(service.places.config, 'utf8'), command(service), unitsOf(service)];
  return createHash('sha256').update(JSON.stringify(all)).digest('hex');
}

/** Starts it with the present configuration; stops it first if it runs. */
export async function start(service: Service, stop: AbortSignal): Promise<void> {
  const { places } = service;
  if (!hasSystemd(places)) {
    await stopInBackground(places);
    return keepStarting(service, stop);
  }
  for (const { path, content } of unitsOf(service)) {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, content);
  }
  await systemctl('daemon-reload');
  await systemctl('enable', unitName);
  await systemctl('restart', unitName);
  await untilReady(service, stop, () => undefined);
}

/** Starts it again when it ends at once, as systemd does: on a busy machine the connection to NATS may time out. */
async function keepStarting(service: Service, stop: AbortSignal): Promise<void> {
  const { places } = service;
  const why = () => (isRunning(places) ? undefined : `${logFile(places)} ends with:\n${lastLines(logFile(places))}`);
  for (let tries = 1; ; tries += 1) {
    await startInBackground(service);
    try {
      return await untilReady(service, stop, why);
    } catch (error) {
      if (stop.aborted || isRunning(places) || tries === mostStarts) throw error;
    }
  }
}

export async function stopService(places: Places, kind: 'systemd' | 'background', units: string[]): Promise<void> {
  if (kind === 'background') return stopInBackground(places);
  if (hasSystemd(places)) await systemctl('disable', '--now', unitName);
  for (const path of units) {
    await rm(path, { force: true });
    // A folder of drop-ins, unless somebody else has one in it.
    if (dirname(path).endsWith('.service.d')) await rmdir(dirname(path)).catch(() => undefined);
  }
  if (hasSystemd(places)) await systemctl('daemon-reload');
}

/** Whether gateway and worker answer. */
export async function isReady(healthPorts: number[]): Promise<boolean> {
  const asked = healthPorts.map((port) =>
    fetch(`http://127.0.0.1:${port}/readyz`, { signal: AbortSignal.timeout(2000) }),
  );
  const answers = await Promise.allSettled(asked);
  return answers.every((answer) => answer.status === 'fulfilled' && answer.value.ok);
}

async function untilReady({ healthPorts, places }: Service, stop: AbortSignal, died: () => string | undefined) {
  for (const end = performance.now() + startMs; !(await isReady(healthPorts)); await sleep(lookEveryMs, stop)) {
    stop.throwIfAborted();
    const why = died();
    if (why !== undefined) throw new LxstowError('nats-unavailable', `lxstow ended; ${why}`);
    if (performance.now() < end) continue;
    const where = hasSystemd(places) ? `journalctl -u ${unitName} -n 20` : `tail ${logFile(places)}`;
    throw new LxstowError(
      'nats-unavailable',
      `lxstow is not ready after ${startMs / 1000} s; this shows why: ${where}`,
    );
  }
}

export const logFile = ({ state }: Places) => join(state, 'lxstow.log');
const pidFile = ({ state }: Places) => join(state, 'standalone.pid');

async function startInBackground(service: Service): Promise<void> {
  const { places, env } = service;
  await mkdir(places.state, { recursive: true, mode: 0o700 });
  const log = openSync(logFile(places), 'a', 0o600);
  const stdio = ['ignore' as const, log, log];
  // The shell, which then becomes lxstow, writes the file, so it is written even if this process is killed now. No reader finds half of it.
  const script = 'echo $$ >"$0.part" && mv "$0.part" "$0" && exec "$@"';
  const args = ['-c', script, pidFile(places), ...command(service)];
  const child = spawn('sh', args, { detached: true, stdio, env: withoutStore(env), cwd: '/' });
  closeSync(log);
  await once(child, 'spawn');
  while (pidOf(places) !== child.pid && child.exitCode === null && child.signalCode === null) await delay(lookEveryMs);
  child.unref();
}

/** The environment without the settings of the store, which are now in the configuration. */
export function withoutStore(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !name.startsWith('LXSTOW_S3_')));
}

/** Its process, if that still runs. */
const pidOf = (places: Places) => pidIn(pidFile(places), 'standalone');

/** The first process id in the file, if its command line has the word: another process may have that number by now. */
function pidIn(file: string, word: string): number | undefined {
  try {
    const pid = Number.parseInt(readFileSync(file, 'utf8'), 10);
    return isRunningAs(pid, word) ? pid : undefined;
  } catch {
    return undefined;
  }
}

function isRunningAs(pid: number, word: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes(word);
  } catch {
    return false;
  }
}

function isRunning(places: Places): boolean {
  return pidOf(places) !== undefined;
}

/** Also stops a standalone that was started by hand, and the servers that a killed standalone has left running. packaging/deb/prerm does the same. */
async function stopInBackground(places: Places): Promise<void> {
  const { state } = places;
  await stopProcess(pidOf(places), 'standalone');
  for (const [file, word] of [
    [join(state, 'store', 'pids'), 'versitygw'],
    [join(state, 'nats', 'pid'), join(state, 'nats', 'nats.conf')],
  ] as const) {
    const server = pidIn(file, word);
    // If its standalone is alive, stop that first: it stops its own servers.
    if (server !== undefined) await stopProcess(parentOf(server), 'standalone');
    await stopProcess(pidIn(file, word), word);
  }
  await rm(pidFile(places), { force: true });
}

/** Does nothing if the process does not run as this. */
async function stopProcess(pid: number | undefined, word: string): Promise<void> {
  if (pid === undefined || !isRunningAs(pid, word)) return;
  process.kill(pid, 'SIGTERM');
  for (const end = performance.now() + stopMs; isRunningAs(pid, word); await delay(lookEveryMs))
    if (performance.now() > end)
      throw new LxstowError('internal', `lxstow (process ${pid}) did not stop within ${stopMs / 1000} s`);
}

function parentOf(pid: number): number | undefined {
  try {
    return Number(/^PPid:\s*(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
  } catch {
    return undefined;
  }
}

function lastLines(file: string): string {
  return readFileSync(file, 'utf8').trimEnd().split('\n').slice(-5).join('\n');
}

async function systemctl(...args: string[]): Promise<void> {
  const { status, output } = await runProgram('systemctl', args);
  if (status !== 0) throw new LxstowError('bad-config', `systemctl ${args.join(' ')} failed: ${output.trim()}`);
}
