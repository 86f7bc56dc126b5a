/**
 * How what is restored gets its name. With `replace` the instance that has it is stopped and renamed aside first, and deleted last. Until
 * the restored one has run, or has its name where nobody wants it to run, a failure walks back; after that nothing does.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { asLxstowError, isCode, LxstowError } from '../../contract/errors.ts';
import {
  changeInstance,
  deleteStoppedInstance,
  isProtected,
  renameInstance,
  setState,
  shutDown,
} from '../../lxd/instanceChanges.ts';
import { findInstance, type LxdInstance, nameOf } from '../../lxd/instances.ts';
import { isLxdAway, LostOperation } from '../../lxd/lxdOperation.ts';
import { beforeStart, identifierOf, isMarked, keptConfig, markedConfig } from '../../lxd/marks.ts';
import { blameOf } from '../../outages/blame.ts';
import { changeWhatMay } from './prepare.ts';
import { type Here, look, type Restoring } from './restoring.ts';
import { startInstance, unlessDone, waitingOf, walkBack } from './walkBack.ts';

/** How long an attempt goes on with a swap whose LXD is away: between two attempts, other jobs of the instance would begin. */
const swapPatienceMs = 60_000;

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
  await restoring.attempt.commit();
  if (!here.isIn) await rename(restoring);
  await putIntoService(restoring);
}

/** Puts what is restored in the place of the instance that has its name, or goes on with that where a worker died amid it. */
export async function swap(restoring: Restoring, first: Here): Promise<void> {
  const { attempt, tools } = restoring;
  attempt.assertOwned();
  attempt.report({ stage: 'swapping' });
  const until = performance.now() + swapPatienceMs;
  for (let here: Here | undefined = first; ; here = undefined) {
    try {
      here ??= await look(restoring, attempt.held);
      if (!here.replaced && here.target && !here.isIn) await setAside(restoring);
      return await takeName(restoring, here);
    } catch (error) {
      if (isFinal(error) && !attempt.held.aborted) {
        const why = isCode(error, 'not-started') ? (error as Error).cause : error;
        await giveUp(restoring, asLxstowError(why).message);
      }
      // Also of the next attempt, which goes on from what it finds. A cancel is undone by undoRestore().
      if (!isLxdAway(error) || attempt.signal.aborted || performance.now() > until) throw error;
      await delay(tools.lxd.pollMs, undefined, { signal: attempt.held });
    }
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

/** Retrying cannot help: LXD's own failure or refusal, or a conflict. */
function isFinal(error: unknown): boolean {
  if (error instanceof LostOperation || isCode(error, 'cancelled')) return false;
  const { code } = asLxstowError(error);
  return ['lxd-failed', 'lxd-refused', 'internal'].includes(code) || blameOf(code).on === 'job';
}

/** Stops the instance that has the name, and gives it one of ours. */
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
    if (identifierOf(found) !== checkpoint?.givingWay)
      throw new LxstowError('conflict', `instance ${nameOf(target)} is another one than when its replacement began`);
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
    // LXD stops by name alone: what others have put in its place meanwhile ran.
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
  // Somebody has exchanged it between our change and the stop or the rename, which LXD does by name alone.
  if (aside) {
    await renameInstance(lxd, replaced, target.instance, waiting);
    if (found.status !== 'Stopped') await startInstance(restoring);
  }
  throw exchangedError(restoring);
}

function exchangedError({ target }: Restoring): LxstowError {
  return new LxstowError(
    'conflict',
    `instance ${nameOf(target)} was exchanged by somebody while it was being replaced`,
  );
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
    if (here.target) {
      const text = `instance ${nameOf(target)} has been made by somebody else meanwhile; it was not touched`;
      throw new LxstowError('conflict', text, { cause: error });
    }
    throw error;
  }
}

/** Undoes what the rename has changed, and starts it where that is wanted. After it nothing walks back. Throws not-started. */
async function putIntoService(restoring: Restoring): Promise<void> {
  const { job, attempt, tools, target } = restoring;
  const { id, checkpoint } = attempt.operation;
  const found = await findInstance(tools.lxd, target, attempt.held);
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
    if (!isFinal(error) || attempt.held.aborted) throw error;
    const why = asLxstowError(error).message;
    const text = `instance ${nameOf(target)} is restored, but does not start: ${why}`;
    throw new LxstowError('not-started', text, { cause: error });
  }
}

/** What was restored had its name, and is not there any more. `isAside`: what it replaced still is. */
export function takenAwayError({ target, replaced }: Restoring, isAside = false): LxstowError {
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
    if (isLxdAway(error)) throw error;
    attempt.warn(
      `the instance that was replaced could not be deleted yet; it is ${nameOf(replaced)}: ${asLxstowError(error).message}`,
    );
  }
}
