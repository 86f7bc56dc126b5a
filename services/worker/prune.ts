/** Deletes what a rule does not keep of one instance's backups. */

import { isDeepStrictEqual } from 'node:util';
import { parseArchiveKey } from '../backups/keys.ts';
import { summarise } from '../backups/summaries.ts';
import { isCode, LxstowError } from '../contract/errors.ts';
import type { Address, BackupAddress, InstanceKeep } from '../contract/schemas.ts';
import type { JobOf } from '../jobs/jobs.ts';
import { readInstance } from '../lxd/inventory.ts';
import type { Attempt } from '../operations/attempt.ts';
import { instanceKeepOf, judgeFor, readKeys } from '../retention/instanceKeys.ts';
import { checkRule } from '../retention/keep.ts';
import { auditRemoval, type FoundBackup, finishRemoval, type Removed, removeBackup } from './remove.ts';
import type { Tools } from './tools.ts';

/**
 * Decides by the manifests, not by the index. Deletes nothing if the listing fails or a manifest cannot be read. A backup that is being read, was changed since it was listed, or is being deleted by
 * another operation stays, with a warning.
 */
export async function runPrune(job: JobOf<'prune'>, attempt: Attempt, tools: Tools): Promise<void> {
  const { keep } = job.body;
  checkRule(keep);
  const keys = await keysOf(job.address, attempt, tools);
  for (const fault of keys ? readKeys(keys).faults : []) attempt.warn(`${job.address.instance}: ${fault}`);
  const { checkpoint, metadata } = attempt.operation;
  let { backups_deleted = 0, bytes_freed = 0, bytes_in_old_versions = 0 } = metadata;
  attempt.report({ stage: 'deleting', backups_deleted, bytes_freed });

  const by = { keep, instance_keep: keys, run: job.body.run };
  const noteDeleted = (address: BackupAddress, { bytes, isKept }: Removed, created?: string) => {
    auditRemoval(address, attempt, tools, { ...(created !== undefined && { created }), ...by });
    if (isKept) bytes_in_old_versions += bytes;
    else bytes_freed += bytes;
    attempt.report({ backups_deleted: ++backups_deleted, bytes_freed, ...(isKept && { bytes_in_old_versions }) });
  };
  const { key, removing } = checkpoint ?? {};
  const left = key === undefined ? undefined : parseArchiveKey(tools.config.s3.prefix, key);
  // A deletion that is counted was finished, and is in the audit log.
  if (left && removing && (removing.deletedBefore ?? backups_deleted) === backups_deleted) {
    const removed = await finishRemoval(left, removing, attempt, tools);
    if (removed) noteDeleted(left, removed);
  }
  const backups = await tools.catalog.listRead(job.address, attempt.signal, ({ instance, backup }) => {
    const which = `the manifest of ${instance}/${backup} cannot be read`;
    throw new LxstowError(
      'bad-manifest',
      `${which}: no backup of ${instance} was deleted; delete that backup, or repair it`,
    );
  });
  const verdicts = judgeFor(
    backups.map(({ backup }) => backup),
    keep,
    keys,
    new Date(),
  );
  let kept = verdicts.length;
  for (const { backup, action } of verdicts) {
    if (action === 'keep') continue;
    const name = `${job.address.instance}/${backup.name}`;
    try {
      const address = { ...job.address, backup: backup.name };
      const mayGo = ({ manifest }: FoundBackup) => {
        if (!manifest || !isDeepStrictEqual(summarise(manifest), backup))
          throw new LxstowError('conflict', `backup ${name} was changed while the rule was being applied`);
      };
      const removed = await removeBackup(address, attempt, tools, mayGo, { deletedBefore: backups_deleted });
      attempt.log.info('backup pruned', { backup: backup.name, created: backup.created });
      noteDeleted(address, removed, backup.created);
      kept--;
    } catch (error) {
      if (isCode(error, 'not-found')) kept--;
      else if (isCode(error, 'conflict') || isCode(error, 'instance-busy'))
        attempt.warn(`${(error as Error).message}; it stays until the next prune`);
      else throw error;
    }
  }
  attempt.report({ backups_kept: kept });
}

/** The instance's own keys, from its record, which has them even when the instance is gone. Without a record, LXD is asked, because what the keys keep must not be deleted. */
async function keysOf(address: Address, { signal }: Attempt, { fleet, lxd }: Tools): Promise<InstanceKeep | undefined> {
  const { seen } = (await fleet.read(address)).record;
  if (seen) return seen.keep;
  const { project, instance } = address;
  const found = await readInstance(lxd, { project, instance, full: false }, signal);
  return found && instanceKeepOf({ ...(found.config as object), ...(found.expanded_config as object) });
}
