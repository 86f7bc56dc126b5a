/** The failures of a run whose selector names something that no instance is. Known once all hosts have listed their instances. Pure. */
import type { RunFailure, RunSelector } from '../contract/schemas.ts';

/** Names (not patterns) that no instance has: a typo in a script must not go unnoticed. */
export function missingNames({ instances = [] }: RunSelector, known: ReadonlySet<string>): string[] {
  return instances.filter((name) => !/[*?]/.test(name) && !known.has(name));
}

export function missingFailure(name: string, remote = ''): RunFailure {
  return { remote, project: '', instance: '', reason: `there is no instance ${name}`, error_code: 'not-found' };
}

/** Why a run has no children. */
export function whyEmpty(excluded: number): string {
  return excluded > 0 ? 'each instance that fits the selector is excluded' : 'no instance fits the selector';
}

export function missedFailure(reason: string): RunFailure {
  return { remote: '', project: '', instance: '', reason, error_code: 'missed' };
}
