/** Starts and stops `lxstow standalone`: as a service where there is systemd, else in the background. */
import { spawn } from 'node:child_process';
import { existsSync, openSync, readFileSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { LxstowError } from '../contract/errors.ts';
import type { Places } from './places.ts';
import { runProgram } from './programs.ts';
import { type Service, unitFiles } from './units.ts';

export const unit = 'lxstow-standalone.service';
const startMs = 90_000;
const stopMs = 60_000;
const lookEveryMs = 200;
const usualNatsPort = 4222;

export function hasSystemd({ system }: Places): boolean {
  return system && existsSync('/run/systemd/system');
}

/** The command that starts it by hand. */
export function command({ places, program, natsPort }: Service): string[] {
  const port = natsPort === usualNatsPort ? [] : ['--nats-port', String(natsPort)];
  return [...program, '-c', places.config, 'standalone', ...port];
}

/** Starts it, or starts it anew with what is configured now. Returns what it wrote for systemd. */
export async function start(service: Service, stop: AbortSignal): Promise<string[]> {
  const { places } = service;
  if (!hasSystemd(places)) {
    await stopInBackground(places);
    await startInBackground(service);
    await untilReady(service, stop, () => (isRunning(places) ? undefined : lastLines(logFile(places))));
    return [];
  }
  const files = unitFiles(service, command(service));
  for (const { path, content } of files) {
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, content);
  }
  await systemctl('daemon-reload');
  await systemctl('enable', unit);
  await systemctl('restart', unit);
  await untilReady(service, stop, () => undefined);
  return files.map(({ path }) => path);
}

export async function stopService(places: Places, kind: 'systemd' | 'background', units: string[]): Promise<void> {
  if (kind === 'background') return stopInBackground(places);
  if (hasSystemd(places)) await systemctl('disable', '--now', unit);
  for (const path of units) await rm(path, { force: true });
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
  for (
    const end = performance.now() + startMs;
    !(await isReady(healthPorts));
    await delay(lookEveryMs, undefined, { signal: stop })
  ) {
    const why = died();
    if (why !== undefined) throw new LxstowError('nats-unavailable', `lxstow ended:\n${why}`);
    if (performance.now() < end) continue;
    const where = hasSystemd(places) ? `journalctl -u ${unit} -n 20` : `tail ${logFile(places)}`;
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
  const [program = '', ...args] = command(service);
  // The configuration has the keys by now.
  const kept = Object.entries(env).filter(([name]) => !name.startsWith('LXSTOW_S3_'));
  const child = spawn(program, args, {
    detached: true,
    stdio: ['ignore', log, log],
    env: Object.fromEntries(kept),
    cwd: '/',
  });
  await writeFile(pidFile(places), String(child.pid));
  child.unref();
}

/** Its process, if that still runs; not another one that has its number by now. */
function pidOf(places: Places): number | undefined {
  try {
    const pid = Number(readFileSync(pidFile(places), 'utf8'));
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('standalone') ? pid : undefined;
  } catch {
    return undefined;
  }
}

function isRunning(places: Places): boolean {
  return pidOf(places) !== undefined;
}

async function stopInBackground(places: Places): Promise<void> {
  const pid = pidOf(places);
  if (pid === undefined) return;
  process.kill(pid, 'SIGTERM');
  for (const end = performance.now() + stopMs; isRunning(places); await delay(lookEveryMs))
    if (performance.now() > end)
      throw new LxstowError('internal', `lxstow (process ${pid}) did not stop within ${stopMs / 1000} s`);
  await rm(pidFile(places), { force: true });
}

function lastLines(file: string): string {
  return readFileSync(file, 'utf8').trimEnd().split('\n').slice(-5).join('\n');
}

async function systemctl(...args: string[]): Promise<void> {
  const { status, output } = await runProgram('systemctl', args);
  if (status !== 0) throw new LxstowError('bad-config', `systemctl ${args.join(' ')} failed: ${output.trim()}`);
}
