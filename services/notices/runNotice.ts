/** Builds the notice of a run that has ended. Pure. */
import type { Run, RunNotice } from '../contract/schemas.ts';
import { everything, runOperation, shownRun } from '../runs/fold.ts';

const states = { Success: 'success', Failure: 'failed', Cancelled: 'cancelled' } as const;
type Ended = keyof typeof states;

/** The notice of a run; undefined while it has not ended. */
export function runNoticeOf(run: Run): RunNotice | undefined {
  const { id, status, created_at, updated_at } = run;
  const shown = shownRun(run, everything, new Date(updated_at));
  if (!(status in states) || !shown) return undefined;
  const state = states[status as Ended];
  const ended_at = run.ended_at ?? updated_at;
  const { err } = runOperation(shown);
  return {
    opType: 'run',
    state,
    startedAt: created_at,
    ...(state === 'success' && { completedAt: ended_at }),
    ...(state === 'failed' && { failedAt: ended_at }),
    rawURL: `/1.0/runs/${id}`,
    ...(err !== '' && { error: err }),
    operation: id,
    kind: 'run',
    status: status as Ended,
    status_code: shown.status_code as RunNotice['status_code'],
    ended_at,
    duration_seconds: Math.max(0, Date.parse(ended_at) - Date.parse(created_at)) / 1000,
    run: shown,
  };
}
