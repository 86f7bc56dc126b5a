/** The record of an instance, and the changes to it. Pure. */
import type { GoodBackup, InstanceRecord, LastBackupJob, SeenInstance } from '../contract/schemas.ts';

/** Most characters of a reason that a record keeps. */
const longestReason = 500;

/** Adds a new backup; one that is older than the known one changes nothing. Not for a backup that `mayBeDeleted`. */
export function withGood(record: InstanceRecord, good: GoodBackup): InstanceRecord {
  return { ...record, good: record.good ? newer(record.good, good) : good };
}

/** True if a backup was deleted after this one was made: the store must then be asked which are left. */
export function mayBeDeleted({ removed }: InstanceRecord, good: GoodBackup): boolean {
  return removed !== undefined && Date.parse(removed) >= time(good);
}

/** Adds the time at which a backup was deleted. */
export function withRemoved(record: InstanceRecord, removed: string): InstanceRecord {
  return { ...record, removed: record.removed && record.removed > removed ? record.removed : removed };
}

/** Sets the youngest backup of the store, or none; look it up after the record was read. */
export function withYoungest({ good: _, ...record }: InstanceRecord, youngest: GoodBackup | undefined): InstanceRecord {
  return { ...record, ...(youngest && { good: youngest }) };
}

/** Sets how the last backup job ended; a job that ended earlier changes nothing. */
export function withLast(record: InstanceRecord, { reason, ...last }: LastBackupJob): InstanceRecord {
  const ended = { ...last, ...(reason && { reason: reason.slice(0, longestReason) }) };
  return { ...record, last: record.last ? newer(record.last, ended) : ended };
}

/** Adds what an inventory found; an older inventory changes nothing. */
export function withSeen(record: InstanceRecord, seen: SeenInstance): InstanceRecord {
  return { ...record, seen: record.seen ? newer(record.seen, seen) : seen };
}

/** The later one. If the times are equal, the choice does not depend on the order. */
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
