/**
 * Permanent refusals of LXD and Incus, by their text: they come with code 500, or in an operation's `err`, just as transient failures do. Each was
 * seen in Debian 12's and 13's LXD 5.0.2 and in Incus 6.0.4 (docs/lxd.md); `test/contract/lxd.ts` provokes them again. Any other text is retried: a
 * retry in vain costs time, a missing one would cost a backup.
 */
const refusals: readonly RegExp[] = [
  // Something that the archive or the request needs is missing.
  /\b(Storage volume|Storage pool|Network|Profile|Project) not found\b/,
  /\bMissing source path\b/,
  /\bParent device ".*" doesn't exist\b/,
  /\bDevice validation failed\b/,
  /\bFailed add validation for device\b/,
  // A plain archive of Debian 13's LXD has no backup.yaml, and no other engine of the lab takes it.
  /\bError updating backup file: open .*backup\.yaml: no such file or directory/,
  // Something already exists.
  /\bCannot restore volume, already exists on target\b/,
  /\bBackup ".*" already exists\b/,
  /\bseems to exist on multiple storage pools\b/,
  // Something is forbidden or limited.
  /\bdoesn't allow for backup creation\b/,
  /\b(is|are) forbidden\b/,
  /\bReached maximum number of instances\b/,
  /\b(Instance|Container) is protected\b/,
  // This server cannot read or do it.
  /\bUnknown configuration key\b/,
  /\bInvalid instance name\b/,
  /\binput data too large\b/,
  /\bUnsupported compression\b/,
  /\bOptimized backup storage driver ".*" differs from the target storage pool driver\b/,
];

/** Whether the text is a permanent refusal: a retry cannot help. */
export function isRefusal(text: string): boolean {
  return refusals.some((words) => words.test(text));
}
