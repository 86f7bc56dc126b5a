/**
 * The record of an instance, and the changes to it. Pure. Of two values, the one of the later time stays; a time that is ahead of now comes from a wrong clock, and
 * stays only until there is one that is not.
 */
import { isAhead } from '../contract/durations.ts';
import type { GoodBackup, InstanceRecord, LastBackupJob, SeenInstance } from '../contract/schemas.ts';

/** Most characters of a reason that a record keeps. */
const longestReason = 500;

/** Adds a new backup; one that is older than the known one changes nothing. Not for a backup that `mayBeDeleted`. */
export function withGood(record: InstanceRecord, good: GoodBackup, now: Date): InstanceRecord {
  return { ...record, good: record.good ? newer(record.good, good, now) : good };
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
export function withLast(record: InstanceRecord, { reason, ...last }: LastBackupJob, now: Date): InstanceRecord {
  const ended = { ...last, ...(reason && { reason: reason.slice(0, longestReason) }) };
  return { ...record, last: record.last ? newer(record.last, ended, now) : ended };
}

/** Adds what an inventory found; an older inventory changes nothing. */
export function withSeen(record: InstanceRecord, seen: SeenInstance, now: Date): InstanceRecord {
  return { ...record, seen: record.seen ? newer(record.seen, seen, now) : seen };
}

/** The later one. If the times are equal, the choice does not depend on the order. */
function newer<T extends { at: string }>(one: T, other: T, now: Date): T {
  if (time(one) === time(other)) return compare(JSON.stringify(one), JSON.stringify(other)) >= 0 ? one : other;
  return isLater(one, other, now) ? one : other;
}

/** Whether one is of a later time than the other; one that is ahead of now is earlier than all that are not. */
export function isLater(one: { at: string }, other: { at: string }, now: Date): boolean {
  const otherIsAhead = isAhead(time(other), now);
  return isAhead(time(one), now) === otherIsAhead ? time(one) > time(other) : otherIsAhead;
}

function time({ at }: { at: string }): number {
  return Date.parse(at);
}

function compare(one: string, other: string): number {
  return one < other ? -1 : one > other ? 1 : 0;
}
