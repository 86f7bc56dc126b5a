/** What is known of one instance, and how each that knows something adds to it. Pure. */
import type { GoodBackup, InstanceRecord, LastBackupJob, SeenInstance } from '../contract/schemas.ts';

/** Of a reason, as an operation's `err` has it, so much is kept. */
const longestReason = 500;

/** With a backup that was made; an older one than is known changes nothing. Not for one that `mayBeDeleted`. */
export function withGood(record: InstanceRecord, good: GoodBackup): InstanceRecord {
  return { ...record, good: record.good ? newer(record.good, good) : good };
}

/** Whether a backup was deleted since this one was made: the store must be asked which are left. */
export function mayBeDeleted({ removed }: InstanceRecord, good: GoodBackup): boolean {
  return removed !== undefined && Date.parse(removed) >= time(good);
}

/** With the time at which a backup was deleted. */
export function withRemoved(record: InstanceRecord, removed: string): InstanceRecord {
  return { ...record, removed: record.removed && record.removed > removed ? record.removed : removed };
}

/** With the youngest backup of the store, or none, looked up after the record was read. */
export function withYoungest({ good: _, ...record }: InstanceRecord, youngest: GoodBackup | undefined): InstanceRecord {
  return { ...record, ...(youngest && { good: youngest }) };
}

/** With how a backup job ended; one that ended before the last changes nothing. */
export function withLast(record: InstanceRecord, { reason, ...last }: LastBackupJob): InstanceRecord {
  const ended = { ...last, ...(reason && { reason: reason.slice(0, longestReason) }) };
  return { ...record, last: record.last ? newer(record.last, ended) : ended };
}

/** With what an inventory found; an older inventory changes nothing. */
export function withSeen(record: InstanceRecord, seen: SeenInstance): InstanceRecord {
  return { ...record, seen: record.seen ? newer(record.seen, seen) : seen };
}

/** The one of the later time. Of two of the same time everybody takes the same one. */
function newer<T extends { at: string }>(one: T, other: T): T {
  const later = time(one) - time(other) || compare(JSON.stringify(one), JSON.stringify(other));
  return later >= 0 ? one : other;
}

function time({ at }: { at: string }): number {
  return Date.parse(at);
}

function compare(one: string, other: string): number {
  return one < other ? -1 : one > other ? 1 : 0;
}
