/** Repeats requests while a gateway, or what it needs, is away. */
import { setTimeout as delay } from 'node:timers/promises';
import { sleep } from '../../../concurrency/sleep.ts';
import { CliError } from '../../exit.ts';
import { Unreachable } from '../gatewayClient.ts';

const firstPauseMs = 1000;
const longestPauseMs = 15_000;
const lookEveryMs = 1000;
/** How long to keep asking about something that was started. */
const outageMs = 120_000;

interface Patience {
  /** When to give up, by performance.now(). */
  until: number;
  /** Called when something is away for the first time. */
  note: (text: string) => void;
  /** Aborts when nothing may be started any more. */
  signal: AbortSignal;
}

/** Starts something, and tries again while the gateway is away. Does not repeat a request whose answer was lost, because it may have been accepted. */
export async function patiently<T>(run: () => Promise<T>, { until, note, signal }: Patience): Promise<T> {
  for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(pauseMs * 2, longestPauseMs)) {
    try {
      return await run();
    } catch (error) {
      const left = until - performance.now();
      if (!(error instanceof Unreachable) || error.inDoubt || signal.aborted || left <= 0) throw error;
      if (pauseMs === firstPauseMs) note(`${error.message}; trying again`);
      await sleep(Math.min(pauseMs, left), signal);
    }
  }
}

/** Asks about something that was started, and keeps asking every second while the gateway is away, for two minutes. `hint` says what the user can do after that. */
export async function throughOutage<T>(ask: () => Promise<T>, note: (text: string) => void, hint: string): Promise<T> {
  for (let since: number | undefined; ; await delay(lookEveryMs)) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
      if (since === undefined) note(`${error.message}; still trying`);
      since ??= performance.now();
      if (performance.now() - since > outageMs) throw new CliError(error.exit, error.message, { hint, cause: error });
    }
  }
}
