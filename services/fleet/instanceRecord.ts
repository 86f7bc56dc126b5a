/** The record of one instance, and how each writer changes its field. Pure. */
import type { GoodBackup, InstanceRecord, LastBackupJob, SeenInstance } from '../contract/schemas.ts';

/** Characters of an operation's `err` that a record keeps. */
const longestReason = 500;

/** Adds a backup; one older than the known one changes nothing. Not for a backup that `mayBeDeleted`. */
export function withGood(record: InstanceRecord, good: GoodBackup): InstanceRecord {
  return { ...record, good: record.good ? newer(record.good, good) : good };
}

/** Whether a backup was deleted since this one was made: then the store must be listed. */
export function mayBeDeleted({ removed }: InstanceRecord, good: GoodBackup): boolean {
  return removed !== undefined && Date.parse(removed) >= time(good);
}

/** Sets the time at which a backup was deleted. */
export function withRemoved(record: InstanceRecord, removed: string): InstanceRecord {
  return { ...record, removed: record.removed && record.removed > removed ? record.removed : removed };
}

/** Sets the youngest backup, or none, from a listing that began after the record was read. */
export function withYoungest({ good: _, ...record }: InstanceRecord, youngest: GoodBackup | undefined): InstanceRecord {
  return { ...record, ...(youngest && { good: youngest }) };
}

/** Sets how the last backup job ended; one that ended earlier changes nothing. */
export function withLast(record: InstanceRecord, { reason, ...last }: LastBackupJob): InstanceRecord {
  const ended = { ...last, ...(reason && { reason: reason.slice(0, longestReason) }) };
  return { ...record, last: record.last ? newer(record.last, ended) : ended };
}

/** Sets what an inventory found; an older inventory changes nothing. */
export function withSeen(record: InstanceRecord, seen: SeenInstance): InstanceRecord {
  return { ...record, seen: record.seen ? newer(record.seen, seen) : seen };
}

/** The one of the later time. For equal times every process chooses the same one. */
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
