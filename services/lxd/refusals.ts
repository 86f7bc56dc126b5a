/**
 * What LXD and Incus refuse for good, by their words: they say it with code 500, or in an operation's `err`, as they say what may go better the
 * next time. Each was said by Debian 12's and 13's LXD 5.0.2 and by Incus 6.0.4 (docs/lxd.md), `test/contract/lxd.ts` has them say it again.
 * A text that is none of these is tried again: that costs time, the other mistake would cost a backup.
 */
const refusals: readonly RegExp[] = [
  // What the archive or the request needs is not there.
  /\b(Storage volume|Storage pool|Network|Profile|Project) not found\b/,
  /\bMissing source path\b/,
  /\bParent device ".*" doesn't exist\b/,
  /\bDevice validation failed\b/,
  /\bFailed add validation for device\b/,
  // A plain archive of Debian 13's LXD has none, and no other engine of the lab takes it.
  /\bError updating backup file: open .*backup\.yaml: no such file or directory/,
  // What is there already.
  /\bCannot restore volume, already exists on target\b/,
  /\bBackup ".*" already exists\b/,
  /\bseems to exist on multiple storage pools\b/,
  // What somebody has forbidden or limited.
  /\bdoesn't allow for backup creation\b/,
  /\b(is|are) forbidden\b/,
  /\bReached maximum number of instances\b/,
  /\b(Instance|Container) is protected\b/,
  // What this server cannot read or do.
  /\bUnknown configuration key\b/,
  /\bInvalid instance name\b/,
  /\binput data too large\b/,
  /\bUnsupported compression\b/,
  /\bOptimized backup storage driver ".*" differs from the target storage pool driver\b/,
];

/** Whether LXD would say the same however often it is asked. */
export function isRefusal(text: string): boolean {
  return refusals.some((words) => words.test(text));
}
