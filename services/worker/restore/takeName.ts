/** Gives a restored instance the requested name, and puts it into service. */
import { asLxstowError, isCode, LxstowError } from '../../contract/errors.ts';
import { LostOperation } from '../../lxd/connection/lxdOperation.ts';
import { renameInstance, setState } from '../../lxd/instanceChanges.ts';
import { findInstance, nameOf } from '../../lxd/instances.ts';
import { beforeStart, isMarked } from '../../lxd/marks.ts';
import { blameOf } from '../../outages/blame.ts';
import { changeWhatMay } from './prepare.ts';
import { findInstances, type InstancesFound, type Restoring, waitingOf } from './restoring.ts';
import { startInstance } from './walkBack.ts';

/** Gives the restored instance its name, which must be free, and puts it into service. From here on a cancel comes too late. */
export async function takeName(restoring: Restoring, here: InstancesFound): Promise<void> {
  await restoring.attempt.commit();
  if (!here.targetIsOurs) await rename(restoring);
  await putIntoService(restoring);
}

/** Gives the imported instance the requested name. Throws conflict if another client has taken it. */
async function rename(restoring: Restoring): Promise<void> {
  const { attempt, tools, target, imported } = restoring;
  const waiting = waitingOf(restoring);
  attempt.assertHeld();
  try {
    const found = await findInstance(tools.lxd, imported, waiting.signal);
    if (found && found.status !== 'Stopped') await setState(tools.lxd, imported, 'stop', waiting, true);
    await renameInstance(tools.lxd, imported, target.instance, waiting);
  } catch (error) {
    if (isCode(error, 'lxd-unavailable') || waiting.signal.aborted) throw error;
    const here = await findInstances(restoring, waiting.signal);
    if (here.targetIsOurs) return;
    if (here.target) {
      const text = `another client has made an instance ${nameOf(target)} in the meantime; it was not touched`;
      throw new LxstowError('conflict', text, { cause: error });
    }
    throw error;
  }
}

/** Reverses what the rename has changed, and starts the instance if requested. After this, the replacement is not undone any more. Throws not-started. */
async function putIntoService(restoring: Restoring): Promise<void> {
  const { job, attempt, tools, target } = restoring;
  const { id, checkpoint } = attempt.operation;
  const found = await findInstance(tools.lxd, target, attempt.leaseLost);
  if (!found || !isMarked('restored', id)(found)) throw takenAwayError(restoring);
  if (found.status !== 'Running') {
    await changeWhatMay(restoring, target, beforeStart(checkpoint?.kept ?? {}));
    const { status = 'Stopped' } = checkpoint?.replaced ?? {};
    if (job.body.start || status !== 'Stopped') await start(restoring);
  }
  await attempt.checkpoint({ swapped: true });
}

async function start(restoring: Restoring): Promise<void> {
  const { attempt, target } = restoring;
  attempt.report({ stage: 'starting' });
  attempt.assertHeld();
  try {
    await startInstance(restoring);
  } catch (error) {
    if (!isRetryHopeless(error) || attempt.leaseLost.aborted) throw error;
    const why = asLxstowError(error).message;
    const text = `instance ${nameOf(target)} is restored, but does not start: ${why}`;
    throw new LxstowError('not-started', text, { cause: error });
  }
}

/** The error for a restored instance that had its final name and is gone. `isAside`: the instance that it replaced still exists, under its temporary name. */
export function takenAwayError({ target, replaced }: Restoring, isAside = false): LxstowError {
  const before = isAside ? `; the replaced instance still exists, as ${nameOf(replaced)}` : '';
  const text = `instance ${nameOf(target)} was restored, and another client renamed or deleted it right after${before}`;
  return new LxstowError('conflict', text);
}

/** Whether it is useless to start or rename the restored instance again: after LXD's own failure or refusal, or a conflict. */
export function isRetryHopeless(error: unknown): boolean {
  if (error instanceof LostOperation || isCode(error, 'cancelled')) return false;
  const { code } = asLxstowError(error);
  return ['lxd-failed', 'lxd-refused', 'internal'].includes(code) || blameOf(code).on === 'job';
}
