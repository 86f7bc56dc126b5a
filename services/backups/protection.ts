/** What protects a backup from deletion: a pin, or a lock in the store. */
import { minuteText } from '../contract/durations.ts';
import { LxstowError } from '../contract/errors.ts';
import type { BackupLock, Config, Manifest, ObjectLock } from '../contract/schemas.ts';

const dayMs = 86_400_000;
const minuteMs = 60_000;

/** The lock of a backup that begins now, up to a whole minute. */
export function lockFrom({ mode, days }: ObjectLock, nowMs = Date.now()): BackupLock {
  return { mode, until: new Date(Math.ceil((nowMs + days * dayMs) / minuteMs) * minuteMs).toISOString() };
}

/** Throws forbidden for a lock that is longer than the configuration allows. */
export function checkLock(lock: ObjectLock | undefined, { longestLockDays }: Config['s3']): void {
  if (lock && longestLockDays !== undefined && lock.days > longestLockDays)
    throw new LxstowError(
      'forbidden',
      `object_lock: ${lock.days} days are more than the ${longestLockDays} that s3.longestLockDays allows`,
    );
}

/** Until when a backup is locked; undefined once that has passed. */
export function lockedUntil({ backup: { lock } }: Manifest): string | undefined {
  return lock && Date.parse(lock.until) > Date.now() ? lock.until : undefined;
}

/** Throws conflict for a backup that is pinned or locked. */
export function assertDeletable(manifest: Manifest): void {
  const { instance, name, pinned, lock } = manifest.backup;
  const until = lockedUntil(manifest);
  const which = `backup ${instance}/${name} is`;
  if (until !== undefined)
    throw new LxstowError('conflict', `${which} locked until ${minuteText(until)} (${lock?.mode}); it was not deleted`);
  if (pinned)
    throw new LxstowError(
      'conflict',
      `${which} pinned; it was not deleted. To delete it, unpin it first: lxstow unpin ${instance} ${name}`,
    );
}
