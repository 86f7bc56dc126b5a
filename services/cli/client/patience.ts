/** Asking again while a gateway, or what it needs, is away. */
import { setTimeout as delay } from 'node:timers/promises';
import { Unreachable } from './gatewayClient.ts';

const firstPauseMs = 1000;
const longestPauseMs = 15_000;
export interface Patience {
  /** Until when it is asked again, by performance.now(). */
  until: number;
  /** Told the first time that something is away. */
  note: (text: string) => void;
  /** Aborts when nothing is to be begun any more. */
  signal: AbortSignal;
}

/** Runs it again while something is away. What may have been begun, because only the answer was lost, is not run again. */
export async function patiently<T>(run: () => Promise<T>, { until, note, signal }: Patience): Promise<T> {
  for (let pauseMs = firstPauseMs; ; pauseMs = Math.min(pauseMs * 2, longestPauseMs)) {
    try {
      return await run();
    } catch (error) {
      const left = until - performance.now();
      if (!(error instanceof Unreachable) || error.inDoubt || signal.aborted || left <= 0) throw error;
      if (pauseMs === firstPauseMs) note(`${error.message}; trying again`);
      await delay(Math.min(pauseMs, left), undefined, { signal }).catch(() => undefined);
    }
  }
}
