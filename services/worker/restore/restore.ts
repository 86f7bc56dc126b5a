/**
 * Restores a backup. LXD imports it under a name that only this operation can have; taking the wanted name is the last step. With `replace`, the
 * instance of that name gives way. No other instance is stopped, renamed, changed or deleted (docs/adr/0030-own-names.md).
 */
import { isCode } from '../../contract/errors.ts';
import type { JobOf } from '../../jobs/jobs.ts';
import { deleteInstance } from '../../lxd/instanceChanges.ts';
import type { LxdInstance } from '../../lxd/instances.ts';
import { handedBackConfig } from '../../lxd/marks.ts';
import { deleteUnusedProfiles } from '../../lxd/profiles.ts';
import type { Attempt } from '../../operations/attempt.ts';
import type { Tools } from '../tools.ts';
import { bringIn } from './bringIn.ts';
import { settleImport } from './importArchive.ts';
import { changeWhatMay } from './prepare.ts';
import { finishReplace, giveUp, swap } from './replace.ts';
import { findInstances, type Restoring, restoringOf, waitingOf } from './restoring.ts';
import { takeName, takenAwayError } from './takeName.ts';
import { handBackElsewhere, walkBack } from './walkBack.ts';

/** How long an undo waits for an import, which LXD cannot cancel. */
const undoMs = 3_600_000;

export async function runRestore(job: JobOf<'restore'>, attempt: Attempt, tools: Tools): Promise<void> {
  const restoring = restoringOf(job, attempt, tools);
  const { checkpoint } = attempt.operation;
  attempt.assertOwned();
  attempt.report({ stage: 'restoring' });
  if (checkpoint?.failed !== undefined) await giveUp(restoring, checkpoint.failed);
  if (!checkpoint?.swapped) {
    const here = await bringIn(restoring);
    // A replace has begun, or there is an instance to replace that is not ours yet.
    const isReplacing = here.replaced || (job.body.replace && here.target && !here.targetIsOurs);
    if (isReplacing) await swap(restoring, here);
    else await takeName(restoring, here);
  }
  await finish(restoring);
}

/** Hands the restored instance over to its owner, and deletes the one that it has replaced. */
async function finish(restoring: Restoring): Promise<void> {
  const { attempt } = restoring;
  const here = await findInstances(restoring, attempt.signal);
  const { checkpoint } = attempt.operation;
  const isElsewhere = !here.targetIsOurs && (await handBackElsewhere(restoring, attempt.leaseLost));
  if (!here.target || isElsewhere || (!here.targetIsOurs && !checkpoint?.handedOver))
    throw takenAwayError(restoring, here.replaced !== undefined);
  if (here.targetIsOurs) {
    await handOver(restoring, here.target).catch((error) => {
      const isTaken = isCode(error, 'not-found') || isCode(error, 'conflict');
      throw isTaken ? takenAwayError(restoring, here.replaced !== undefined) : error;
    });
  }
  if (here.replaced) await finishReplace(restoring);
  else if (checkpoint?.replaced && here.targetIsOurs) await handBackElsewhere(restoring, attempt.leaseLost);
}

/** Gives the restored instance its own configuration back, as the last change to it. */
async function handOver(restoring: Restoring, { status }: LxdInstance): Promise<void> {
  const { kept = {} } = restoring.attempt.operation.checkpoint ?? {};
  await restoring.attempt.checkpoint({ handedOver: true });
  await changeWhatMay(restoring, restoring.target, handedBackConfig('restored', kept, status !== 'Stopped'));
}

/**
 * Removes what this operation's attempts have imported, and the profiles that they have made and nothing uses, and puts back the instance that was to be
 * replaced. No other instance is touched.
 */
export async function undoRestore(job: JobOf<'restore'>, attempt: Attempt, tools: Tools): Promise<void> {
  const { operation } = attempt;
  const { checkpoint } = operation;
  // Once the restored instance is in service, nothing is undone.
  if (!checkpoint || checkpoint.swapped || isCode(attempt.signal.reason, 'lease-lost')) return;
  const restoring = restoringOf(job, attempt, tools);
  const signal = AbortSignal.any([AbortSignal.timeout(undoMs), attempt.leaseLost]);
  try {
    if (checkpoint.replaced) await walkBack(restoring);
  } finally {
    if (checkpoint.importing) await removeImported(restoring, signal);
  }
  await deleteUnusedProfiles(tools.lxd, job.address.project, checkpoint.profiles ?? [], signal);
}

/** Removes the imported instance, unless it already has its final name. If that one does not start, for example, its owner must repair it. */
async function removeImported(restoring: Restoring, signal: AbortSignal): Promise<void> {
  const { attempt, tools, imported } = restoring;
  const { log } = attempt;
  await settleImport(imported, attempt, tools, signal);
  const here = await findInstances(restoring, signal);
  if (here.targetIsOurs && here.target) return handOver(restoring, here.target);
  if (!here.imported) return;
  // If there was none when the restore began, this one is removed as after any restore.
  if (attempt.operation.checkpoint?.givingWay && !here.target && !here.replaced)
    return void log.warn('the restored instance is kept: the one that it was to replace is gone', {
      instance: imported.instance,
    });
  await deleteInstance(tools.lxd, imported, waitingOf(restoring, signal));
  log.info('the restored instance is removed', { instance: imported.instance });
}
