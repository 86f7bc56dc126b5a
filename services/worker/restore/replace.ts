/**
 * Replaces an instance: stops it, renames it, gives its name to the restored one, and deletes it last. A failure undoes the replacement (walks back), until the restored
 * instance has run, or has its name if it is not to run. After that nothing walks back.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { asLxstowError, isCode, LxstowError } from '../../contract/errors.ts';
import { isLxdAway } from '../../lxd/connection/lxdOperation.ts';
import {
  changeInstance,
  deleteStoppedInstance,
  isProtected,
  renameInstance,
  shutDown,
} from '../../lxd/instanceChanges.ts';
import { findInstance, type LxdInstance, nameOf } from '../../lxd/instances.ts';
import { identifierOf, isMarked, keptConfig, markedConfig } from '../../lxd/marks.ts';
import { findInstances, type InstancesFound, type Restoring, waitingOf } from './restoring.ts';
import { isRetryHopeless, takeName } from './takeName.ts';
import { startInstance, unlessDone, walkBack } from './walkBack.ts';

/** How long an attempt retries a swap while LXD is away, because between two attempts other jobs of the instance could begin. */
const swapPatienceMs = 60_000;

/** Throws conflict if LXD would delete the instance when it stops, cannot delete it, or cannot stop it. */
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

/** Puts the restored instance in the place of the one that has its name, or resumes that after the death of a worker. */
export async function swap(restoring: Restoring, first: InstancesFound): Promise<void> {
  const { attempt, tools } = restoring;
  attempt.assertOwned();
  attempt.report({ stage: 'swapping' });
  const until = performance.now() + swapPatienceMs;
  for (let here: InstancesFound | undefined = first; ; here = undefined) {
    try {
      here ??= await findInstances(restoring, attempt.leaseLost);
      if (!here.replaced && here.target && !here.targetIsOurs) await setAside(restoring);
      return await takeName(restoring, here);
    } catch (error) {
      if (isRetryHopeless(error) && !attempt.leaseLost.aborted) {
        const why = isCode(error, 'not-started') ? (error as Error).cause : error;
        await giveUp(restoring, asLxstowError(why).message);
      }
      // The next attempt resumes from what it finds. A cancel is undone by undoRestore().
      if (!isLxdAway(error) || attempt.signal.aborted || performance.now() > until) throw error;
      await delay(tools.lxd.pollMs, undefined, { signal: attempt.leaseLost });
    }
  }
}

/** Undoes the replacement, and ends the operation. An attempt that takes over continues the undoing. */
export async function giveUp(restoring: Restoring, why: string): Promise<never> {
  const { attempt, target } = restoring;
  await attempt.checkpoint({ failed: why });
  await walkBack(restoring).catch((error) => {
    const { code, message } = asLxstowError(error);
    const text = `instance ${nameOf(target)} could not be replaced (${why}), nor put back: ${message}`;
    throw new LxstowError(code, text, { cause: error });
  });
  throw new LxstowError('not-replaced', `instance ${nameOf(target)} could not be replaced, and is as it was: ${why}`);
}

/** Throws conflict if the instance is not the one that had the name when the restore began; `identifier` is empty if there was none. */
export function assertSame(found: LxdInstance, identifier: string | undefined, target: Restoring['target']): void {
  if (identifierOf(found) === identifier) return;
  throw new LxstowError(
    'conflict',
    `instance ${nameOf(target)} is no longer the instance that was to be replaced: another client has put one in its place`,
  );
}

/** Stops the instance that has the name, and renames it to one of our own names. */
async function setAside(restoring: Restoring): Promise<void> {
  const { attempt, tools, target, replaced } = restoring;
  const { lxd } = tools;
  const { id, checkpoint } = attempt.operation;
  const waiting = waitingOf(restoring);
  const isOld = isMarked('replaced', id);
  const found = await findInstance(lxd, target, waiting.signal);
  if (!found) return;
  assertReplaceable(found, nameOf(target));
  if (!isOld(found)) {
    assertSame(found, checkpoint?.givingWay, target);
    const kept = keptConfig(found);
    await attempt.checkpoint({ replaced: { status: found.status, kept } });
    const isTheSame = (instance: LxdInstance) =>
      identifierOf(instance) === identifierOf(found) &&
      instance.status === found.status &&
      isDeepStrictEqual(keptConfig(instance), kept) &&
      whyNotReplaceable(instance) === undefined;
    await changeInstance(lxd, target, isTheSame, { config: markedConfig('replaced', id) }, waiting.signal);
  }
  attempt.assertHeld();
  if (found.status !== 'Stopped') await shutDown(lxd, target, isOld, waiting);
  const stopped = await findInstance(lxd, target, waiting.signal);
  if (stopped && !isOld(stopped)) {
    // LXD stops by name alone: it has stopped another instance, which was put in this one's place, and which ran.
    if (found.status !== 'Stopped' && stopped.status === 'Stopped') await startInstance(restoring);
    throw exchangedError(restoring);
  }
  attempt.assertHeld();
  await unlessDone(
    () => renameInstance(lxd, target, replaced.instance, waiting),
    async () => (await findInstance(lxd, replaced, waiting.signal)) !== undefined,
  );
  const aside = await findInstance(lxd, replaced, waiting.signal);
  if (aside && isOld(aside)) return;
  // Another client exchanged the instance between our change and the stop or rename, which LXD does by name alone.
  if (aside) {
    await renameInstance(lxd, replaced, target.instance, waiting);
    if (found.status !== 'Stopped') await startInstance(restoring);
  }
  throw exchangedError(restoring);
}

function exchangedError({ target }: Restoring): LxstowError {
  return new LxstowError(
    'conflict',
    `instance ${nameOf(target)} was to be replaced, but another client has put a different instance in its place`,
  );
}

/** Deletes the replaced instance. If that fails, the operation gets a warning, and the janitor tries again. */
export async function finishReplace(restoring: Restoring): Promise<void> {
  const { attempt, tools, replaced } = restoring;
  try {
    attempt.assertOwned();
    await deleteStoppedInstance(tools.lxd, replaced, waitingOf(restoring, attempt.signal));
  } catch (error) {
    attempt.signal.throwIfAborted();
    if (isLxdAway(error)) throw error;
    attempt.warn(
      `the replaced instance could not be deleted yet; it is ${nameOf(replaced)}: ${asLxstowError(error).message}`,
    );
  }
}
