import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';

/** Time to stop after SIGTERM, before SIGKILL. */
export const stopMs = 10_000;

/** Resolves when the process has ended; at once if it has ended before, or never started. */
export async function endChild(child: ChildProcess, signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  child.kill(signal);
  using _timer = setTimeout(() => child.kill('SIGKILL'), stopMs);
  await exit;
}
