/** The findings of `lxstow doctor`: what was checked, the result, and what to do. */
import { setTimeout as delay } from 'node:timers/promises';
import { until } from '../concurrency/until.ts';
import { asLxstowError, LxstowError } from '../contract/errors.ts';
import type { Config } from '../contract/schemas.ts';
import type { Log } from '../telemetry/logger.ts';

export const areas = ['configuration', 'gateway', 'nats', 's3', 'lxd'] as const;
export type Area = (typeof areas)[number];
type Level = 'ok' | 'warning' | 'problem';
export const roles = ['gateway', 'worker'] as const;
export type Role = (typeof roles)[number];

export interface Finding {
  level: Level;
  area: Area;
  /** The result, in words. */
  finding: string;
  /** The command or setting that fixes it; null if there is nothing to do. */
  advice: string | null;
}

/** Records a finding. Advice is for what is not ok. */
export type Report = (level: Level, finding: string, advice?: string) => void;

export interface Patient {
  config: Config;
  env: NodeJS.ProcessEnv;
  /** The roles that run on this host. */
  roles: Role[];
  /** Silent: `doctor` prints only findings. */
  log: Log;
  /** Aborts on a timeout, or when the user stops the check. Whatever was created is still removed. */
  signal: AbortSignal;
}

/** What `report` gets after an abort is dropped: requests then fail because of the abort. `reportLeft` gets what could not be removed. */
export type Check = (patient: Patient, report: Report, reportLeft: Report) => Promise<void>;

/** Timeout of a single request. */
export const answerMs = 5000;
/** Timeout of a whole area. */
const areaMs = 20_000;
/** After that, or after an abort, how long a check may take to remove what it has created: some calls of `answerMs` at most. */
const cleanUpMs = 20_000;

export function briefly(signal: AbortSignal): AbortSignal {
  return AbortSignal.any([signal, AbortSignal.timeout(answerMs)]);
}

export function reportTo(findings: Finding[], area: Area): Report {
  return (level, finding, advice) => void findings.push({ level, area, finding, advice: advice ?? null });
}

/** Runs one area's check within a time limit; what it throws becomes a finding. */
export async function examine(area: Area, check: Check, patient: Omit<Patient, 'signal'>, stop: AbortSignal) {
  const findings: Finding[] = [];
  const late = AbortSignal.timeout(areaMs);
  const report = reportTo(findings, area);
  const signal = AbortSignal.any([stop, late]);
  const inTime: Report = (...finding) => void (signal.aborted || report(...finding));
  const checked = check({ ...patient, signal }, inTime, report);
  try {
    await until(signal, checked);
  } catch (thrown) {
    await Promise.race([checked.catch(() => undefined), delay(cleanUpMs, undefined, { ref: false })]);
    stop.throwIfAborted();
    if (late.aborted)
      report(
        'problem',
        `the remaining checks did not finish within ${areaMs / 1000} s`,
        'Try again, or check whether the server hangs.',
      );
    else report('problem', messageOf(thrown), 'Look into the logs of gateway and worker.');
  }
  return findings;
}

export function messageOf(thrown: unknown): string {
  if (thrown instanceof LxstowError) return thrown.message;
  if ((thrown as Error).name === 'TimeoutError') return `no answer in ${answerMs / 1000} s`;
  return asLxstowError(thrown).message;
}
