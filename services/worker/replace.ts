/**
 * How what is restored gets its name. With `replace` the instance that has it is stopped and renamed aside first, and deleted last. Until
 * the restored one has run, or has its name where nobody wants it to run, a failure walks back; after that nothing does.
 */
import { asLxstowError, isCode, LxstowError } from '../errors.ts';
import {
  changeInstance,
  deleteStoppedInstance,
  findInstance,
  isProtected,
  type LxdInstance,
  nameOf,
  renameInstance,
  setState,
  shutDown,
} from '../lxd/instances.ts';
import { everyInstance } from '../lxd/inventory.ts';
import { asItsOwners, asOurs, beforeStart, isMarked, keptConfig } from './identity.ts';
import { changeWhatMay } from './prepare.ts';
import { type Here, look, type Restoring } from './restore.ts';

const walkBackMs = 300_000;

/** Throws conflict where it cannot give way: what LXD would delete at its stop, or not at all, and what cannot be stopped. */
export function assertReplaceable(instance: LxdInstance, name: string): void {
  const why = whyNotReplaceable(instance);
  if (why) throw new LxstowError('conflict', `instance ${name} cannot be replaced: ${why}. It was not touched`);
}

export function whyNotReplaceable(instance: LxdInstance): string | undefined {
  if (instance.ephemeral)
    return 'it is ephemeral, so LXD would delete it as soon as it is stopped; restore under another name';
  if (isProtected(instance)) return 'it is protected; set security.protection.delete to false first';
  if (!['Running', 'Stopped', 'Frozen'].includes(instance.status))
    return `it is in state ${instance.status}; stop or repair it first`;
  return undefined;
}

/** Gives what is restored its name, which nobody has. From here on a cancel comes too late. */
export async function takeName(restoring: Restoring, here: Here): Promise<void> {
  const { job, attempt } = restoring;
  await attempt.commit();
  if (!here.isIn) await rename(restoring);
  await begin(restoring, job.body.start ?? false);
}

/** Puts what is restored in the place of the instance that has its name, or goes on with that where a worker died amid it. */
export async function swap(restoring: Restoring, here: Here): Promise<void> {
  const { job, attempt } = restoring;
  attempt.assertOwned();
  attempt.report({ stage: 'swapping' });
  try {
    if (!here.replaced && here.target) await setAside(restoring, here.target);
    await attempt.commit();
    if (!here.isIn) await rename(restoring);
    const { status = 'Stopped' } = attempt.operation.checkpoint?.replaced ?? {};
    await begin(restoring, (job.body.start ?? false) || status !== 'Stopped');
  } catch (error) {
    // LXD away, or the worker stopped: the next attempt goes on from here. A cancel is undone by undoRestore().
    if (!isFinalRefusal(error, restoring)) throw error;
    const why = isCode(error, 'not-started') ? (error as Error).cause : error;
    await giveUp(restoring, asLxstowError(why).message);
  }
}

/** Walks back, and ends the operation with why. An attempt that takes over goes on with the way back. */
export async function giveUp(restoring: Restoring, why: string): Promise<never> {
  const { attempt, target } = restoring;
  await attempt.checkpoint({ failed: why });
  await walkBack(restoring).catch((error) => {
    const { code, message } = asLxstowError(error);
    const text = `instance ${nameOf(target)} could not be replaced (${why}), and is not put back: ${message}`;
    throw new LxstowError(code, text, { cause: error });
  });
  throw new LxstowError('not-replaced', `instance ${nameOf(target)} could not be replaced, and is as it was: ${why}`);
}

/** Another attempt would find it the same. */
function isFinalRefusal(error: unknown, { attempt }: Restoring): boolean {
  return (
    !attempt.held.aborted &&
    !isCode(error, 'cancelled') &&
    !isCode(error, 'lxd-unavailable') &&
    !isCode(error, 'nats-unavailable')
  );
}

/** Stops the instance that has the name, and gives it one of ours. */
async function setAside(restoring: Restoring, found: LxdInstance): Promise<void> {
  const { attempt, tools, target, replaced } = restoring;
  const { lxd } = tools;
  const { id } = attempt.operation;
  const waiting = waitingOf(restoring);
  const isOld = isMarked('replaced', id);
  assertReplaceable(found, nameOf(target));
  if (!isOld(found)) {
    await attempt.checkpoint({ replaced: { status: found.status, kept: keptConfig(found) } });
    const isNobodys = (instance: LxdInstance) => !isMarked('restored', id)(instance);
    await changeInstance(lxd, target, isNobodys, { config: asOurs('replaced', id) }, waiting.signal);
  }
  if (found.status !== 'Stopped') await shutDown(lxd, target, waiting);
  await unlessDone(
    () => renameInstance(lxd, target, replaced.instance, waiting),
    async () => (await findInstance(lxd, replaced, waiting.signal)) !== undefined,
  );
  const aside = await findInstance(lxd, replaced, waiting.signal);
  if (aside && isOld(aside)) return;
  // Somebody has exchanged it between our look and our rename: what we have is not what was stopped.
  if (aside) await renameInstance(lxd, replaced, target.instance, waiting);
  throw new LxstowError('conflict', `instance ${nameOf(target)} was exchanged by somebody while it was being replaced`);
}

/** Gives what was imported the name that was asked for. Throws conflict where somebody has taken it. */
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
    const here = await look(restoring, waiting.signal);
    if (here.isIn) return;
    if (here.target)
      throw new LxstowError(
        'conflict',
        `instance ${nameOf(target)} has been made by somebody else meanwhile; it was not touched`,
        {
          cause: error,
        },
      );
    throw error;
  }
}

/** Undoes what the rename has changed, and starts it where that is wanted. After it nothing walks back. Throws not-started. */
async function begin(restoring: Restoring, start: boolean): Promise<void> {
  const { attempt, tools, target } = restoring;
  const { signal } = waitingOf(restoring);
  const found = await findInstance(tools.lxd, target, signal);
  if (!found) throw takenAway(restoring);
  if (found.status !== 'Running') {
    await changeWhatMay(restoring, target, beforeStart(attempt.operation.checkpoint?.kept ?? {}));
    if (start) await startIt(restoring);
  }
  await attempt.checkpoint({ swapped: true });
}

async function startIt(restoring: Restoring): Promise<void> {
  const { attempt, tools, target } = restoring;
  const { lxd } = tools;
  const waiting = waitingOf(restoring);
  attempt.report({ stage: 'starting' });
  attempt.assertHeld();
  try {
    await unlessDone(
      () => setState(lxd, target, 'start', waiting),
      async () => (await findInstance(lxd, target, waiting.signal))?.status === 'Running',
    );
  } catch (error) {
    if (!isFinalRefusal(error, restoring)) throw error;
    const why = asLxstowError(error).message;
    throw new LxstowError('not-started', `instance ${nameOf(target)} is restored, but does not start: ${why}`, {
      cause: error,
    });
  }
}

/** What was restored had its name, and is not there any more. `isAside`: what it replaced still is. */
export function takenAway({ target, replaced }: Restoring, isAside = false): LxstowError {
  const before = isAside ? `; the one before it is ${nameOf(replaced)}` : '';
  const text = `instance ${nameOf(target)} was restored, and renamed or deleted by somebody right after${before}`;
  return new LxstowError('conflict', text);
}

/** Deletes what gave way. Where that fails it stays, the janitor tries on, and the operation says so. */
export async function finishReplace({ attempt, tools, replaced }: Restoring): Promise<void> {
  const waiting = { signal: attempt.signal, idleTimeoutMs: tools.config.worker.lxdIdleTimeoutMs };
  try {
    attempt.assertOwned();
    await deleteStoppedInstance(tools.lxd, replaced, waiting);
  } catch (error) {
    attempt.signal.throwIfAborted();
    if (isCode(error, 'lxd-unavailable')) throw error;
    attempt.warn(
      `the instance that was replaced could not be deleted yet; it is ${nameOf(replaced)}: ${asLxstowError(error).message}`,
    );
  }
}

/** From wherever a replace stopped back to its beginning: what was to give way has its name again, and runs if it ran. */
export async function walkBack(restoring: Restoring): Promise<void> {
  const { attempt, tools, target, imported, replaced } = restoring;
  const { lxd } = tools;
  const waiting = {
    signal: AbortSignal.any([AbortSignal.timeout(walkBackMs), attempt.held]),
    idleTimeoutMs: tools.config.worker.lxdIdleTimeoutMs,
  };
  const here = await look(restoring, waiting.signal);
  if (here.replaced && here.target) {
    if (!here.isIn || here.target.status === 'Running') {
      const whose = here.isIn ? 'runs already' : 'is somebody else’s';
      throw new LxstowError(
        'conflict',
        `${nameOf(target)} ${whose}; the instance that was to be replaced is ${nameOf(replaced)}`,
      );
    }
    if (here.target.status !== 'Stopped') await setState(lxd, target, 'stop', waiting, true);
    await renameInstance(lxd, target, imported.instance, waiting);
  }
  const was = attempt.operation.checkpoint?.replaced;
  if (!was) return;
  let runs = was.status !== 'Stopped';
  if (here.replaced) {
    if (here.replaced.status !== 'Stopped') {
      runs = true;
      await shutDown(lxd, replaced, waiting);
    }
    await renameInstance(lxd, replaced, target.instance, waiting);
  }
  const isOld = isMarked('replaced', attempt.operation.id);
  const old = await findInstance(lxd, target, waiting.signal);
  if (!old || !isOld(old)) return handBackElsewhere(restoring, waiting.signal);
  await changeWhatMay(restoring, target, beforeStart(was.kept), 'replaced');
  if (runs && old.status === 'Stopped') await setState(lxd, target, 'start', waiting);
  if (was.status === 'Frozen' && old.status !== 'Frozen') await setState(lxd, target, 'freeze', waiting);
  await changeWhatMay(restoring, target, asItsOwners('replaced', was.kept, runs), 'replaced');
}

/** Somebody has renamed what was to give way: it keeps that name, and gets its configuration back. */
export async function handBackElsewhere(restoring: Restoring, signal: AbortSignal): Promise<void> {
  const { attempt, tools } = restoring;
  const { id, checkpoint } = attempt.operation;
  for await (const { address, instance } of everyInstance(tools.lxd, signal)) {
    if (!isMarked('replaced', id)(instance)) continue;
    const config = asItsOwners('replaced', checkpoint?.replaced?.kept ?? {}, true);
    await changeWhatMay(restoring, address, config, 'replaced');
    attempt.warn(`${nameOf(address)} was to be replaced, and has been renamed by somebody; it is ${instance.status}`);
  }
}

/** Only the loss of the lease ends these steps: neither a cancel nor the end of the worker may leave them half done. */
function waitingOf({ attempt, tools }: Restoring) {
  return { signal: attempt.held, idleTimeoutMs: tools.config.worker.lxdIdleTimeoutMs };
}

/** LXD may have done what it says it could not, or what it forgot when it was restarted. */
async function unlessDone(step: () => Promise<void>, isDone: () => Promise<boolean>): Promise<void> {
  try {
    await step();
  } catch (error) {
    if (isCode(error, 'lxd-unavailable') || isCode(error, 'lease-lost') || !(await isDone())) throw error;
  }
}
