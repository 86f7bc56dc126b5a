/** Derives an instance's state and its reason from its record, the time, and the greatest age of a backup. Pure. */
import type { Address, InstanceRecord, InstanceStatus, NamedInstance } from '../contract/schemas.ts';

export type InstanceState = InstanceStatus['state'];

/** States that need action, the worst first. */
export const redStates = ['never', 'failing', 'overdue'] as const satisfies InstanceState[];
export const instanceStates = [...redStates, 'ok', 'excluded', 'gone'] as const satisfies InstanceState[];

export interface Yardstick {
  now: Date;
  maxAgeMs: number;
  /** Whether the client may learn that this project exists. */
  mayName: (project: string) => boolean;
}

export function isRed(state: InstanceState): boolean {
  return (redStates as readonly InstanceState[]).includes(state);
}

/** The instance as `lxstow status` shows it. */
export function statusOf(
  { remote, project, instance }: Address,
  record: InstanceRecord,
  yardstick: Yardstick,
): InstanceStatus {
  const { state, reason } = judge(record, yardstick, project);
  return { host: remote, project, instance, state, last_success: record.good?.at ?? null, reason };
}

function judge(
  { seen, good, last }: InstanceRecord,
  { now, maxAgeMs, mayName }: Yardstick,
  project: string,
): Pick<InstanceStatus, 'state' | 'reason'> {
  const named = (other: NamedInstance) => {
    if (other.project === project) return other.instance;
    return mayName(other.project) ? `${other.instance} of project ${other.project}` : 'in another project';
  };
  if (seen?.gone) {
    const where = seen.renamed ? `it is ${named(seen.renamed)} now` : 'LXD does not have it';
    return { state: 'gone', reason: `${where}, since ${minute(seen.gone)} or a little before` };
  }
  if (seen?.excluded) return { state: 'excluded', reason: 'user.lxstow.exclude is true' };
  const before = seen?.was ? ` under this name; it was ${named(seen.was)}` : '';
  if (last?.outcome === 'failure' && !(good && good.at > last.at)) {
    const otherwise = good ? '' : '; it has no backup';
    return { state: 'failing', reason: `the last backup failed, ${minute(last.at)}: ${last.reason ?? ''}${otherwise}` };
  }
  if (!good) return { state: 'never', reason: `it has no backup${before}` };
  const ageMs = now.getTime() - Date.parse(good.at);
  if (ageMs > maxAgeMs) return { state: 'overdue', reason: `its last backup is ${age(ageMs)} old` };
  return { state: 'ok', reason: '' };
}

function minute(time: string): string {
  return `${time.slice(0, 16).replace('T', ' ')} UTC`;
}

function age(ms: number): string {
  const hours = Math.floor(ms / 3_600_000);
  if (hours >= 72) return `${Math.floor(hours / 24)} days`;
  return hours >= 2 ? `${hours} h` : `${Math.floor(ms / 60_000)} min`;
}
