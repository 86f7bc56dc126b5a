/** Undoes a replacement that failed: gives the old instance its name again, and starts it if it ran. */
import { asLxstowError, isCode, LxstowError } from '../../contract/errors.ts';
import { isLxdAway } from '../../lxd/connection/lxdOperation.ts';
import { renameInstance, setState, shutDown } from '../../lxd/instanceChanges.ts';
import { findInstance, type LxdInstance, nameOf } from '../../lxd/instances.ts';
import { everyInstance, type InventoryInstance } from '../../lxd/inventory.ts';
import { beforeStart, handedBackConfig, isMarked } from '../../lxd/marks.ts';
import { changeWhatMay } from './prepare.ts';
import { findInstances, type Restoring, waitingOf } from './restoring.ts';

const walkBackMs = 300_000;

/** Starts the instance. LXD also reports a failure if only a hook failed, and the instance runs. */
export function startInstance(restoring: Restoring): Promise<void> {
  const { tools, target } = restoring;
  const waiting = waitingOf(restoring);
  return unlessDone(
    () => setState(tools.lxd, target, 'start', waiting),
    async () => (await findInstance(tools.lxd, target, waiting.signal))?.status === 'Running',
  );
}

/** Undoes a replacement at whatever point it stopped: the old instance gets its name again, and runs if it ran before. */
export async function walkBack(restoring: Restoring): Promise<void> {
  const { attempt, tools, target, imported, replaced } = restoring;
  const { lxd } = tools;
  const waiting = waitingOf(restoring, AbortSignal.any([AbortSignal.timeout(walkBackMs), attempt.leaseLost]));
  const here = await findInstances(restoring, waiting.signal);
  attempt.assertHeld();
  if (here.replaced && here.target) {
    if (!here.targetIsOurs || here.target.status === 'Running') {
      const whose = here.targetIsOurs ? 'is already running' : 'is another instance';
      const text = `${nameOf(target)} ${whose}; the instance that was to be replaced is now named ${nameOf(replaced)}`;
      throw new LxstowError('conflict', text);
    }
    if (here.target.status !== 'Stopped') await setState(lxd, target, 'stop', waiting, true);
    await renameInstance(lxd, target, imported.instance, waiting);
  }
  const { status } = attempt.operation.checkpoint?.replaced ?? {};
  if (status === undefined) return;
  let runs = status !== 'Stopped';
  if (here.replaced) {
    if (here.replaced.status !== 'Stopped') {
      runs = true;
      await shutDown(lxd, replaced, () => true, waiting);
    }
    attempt.assertHeld();
    await renameInstance(lxd, replaced, target.instance, waiting);
  }
  const old = await findInstance(lxd, target, waiting.signal);
  if (!old || !isMarked('replaced', attempt.operation.id)(old)) await handBackElsewhere(restoring, waiting.signal);
  else await putBack(restoring, old, runs);
}

/** Restores the configuration of the instance that was to be replaced, which has its name again, and starts it if it ran. */
async function putBack(restoring: Restoring, { status }: LxdInstance, runs: boolean): Promise<void> {
  const { attempt, tools, target } = restoring;
  const { replaced } = attempt.operation.checkpoint ?? {};
  const kept = replaced?.kept ?? {};
  await changeWhatMay(restoring, target, beforeStart(kept), 'replaced');
  try {
    if (runs && status === 'Stopped') await startInstance(restoring);
    if (replaced?.status === 'Frozen' && status !== 'Frozen')
      await setState(tools.lxd, target, 'freeze', waitingOf(restoring));
  } catch (error) {
    if (isLxdAway(error) || attempt.leaseLost.aborted) throw error;
    attempt.warn(
      `instance ${nameOf(target)} has its name back, but could not be started as before: ${asLxstowError(error).message}`,
    );
  }
  await changeWhatMay(restoring, target, handedBackConfig('replaced', kept, runs), 'replaced');
}

/** Gives instances with our marks, which another client has renamed, their configuration back; they keep their new names. True if there were any. */
export async function handBackElsewhere(restoring: Restoring, signal: AbortSignal): Promise<boolean> {
  const { attempt, tools, imported, replaced } = restoring;
  const { id, checkpoint } = attempt.operation;
  const own = [imported.instance, replaced.instance];
  const marked = ({ address, instance }: InventoryInstance) => {
    const kinds = (['replaced', 'restored'] as const).filter((kind) => isMarked(kind, id)(instance));
    return own.includes(address.instance) || kinds.length === 0
      ? undefined
      : { address, kinds, status: instance.status };
  };
  let found = false;
  for await (const { address, kinds, status } of everyInstance(tools.lxd, marked, signal)) {
    for (const kind of kinds) {
      found = true;
      const kept = kind === 'replaced' ? checkpoint?.replaced?.kept : checkpoint?.kept;
      await changeWhatMay(restoring, address, handedBackConfig(kind, kept ?? {}, true), kind);
      attempt.warn(`${nameOf(address)} was ${kind}, and another client has renamed it; it is ${status}`);
    }
  }
  return found;
}

/** Runs a step, and ignores its failure if it took effect all the same. LXD can report a failure then, or lose the operation when it restarts. */
export async function unlessDone(step: () => Promise<void>, isDone: () => Promise<boolean>): Promise<void> {
  try {
    await step();
  } catch (error) {
    if (isCode(error, 'lxd-unavailable') || isCode(error, 'lease-lost') || !(await isDone())) throw error;
  }
}
