/**
 * Restoring over an instance that exists, without ever being without one: the new one is made under a temporary name, the old one is
 * stopped and renamed aside, the new one is renamed in, and only then the old one is deleted. Whatever fails, the old one comes back.
 */
import type { Address } from '../contract.ts';
import { isCode, LxstowError } from '../errors.ts';
import { deleteInstance, instanceExists, isRunning, nameOf, renameInstance, setState } from '../lxd/instances.ts';
import type { Attempt } from '../operations/attempt.ts';
import type { Tools } from './tools.ts';

/** The name under which an operation restores before the swap. */
export function temporaryOf(target: Address, operation: string): Address {
  return { ...target, instance: `lxstow-${operation.slice(0, 8)}` };
}

/** The name under which the old instance waits during the swap. */
export function asideOf(target: Address, operation: string): Address {
  return { ...target, instance: `lxstow-old-${operation.slice(0, 8)}` };
}

/**
 * Looks how far an earlier attempt got, and brings things to where this one can begin. `done`: the swap was over, and is finished now.
 * `true`: there is an instance to replace. `false`: there is none, and nothing to swap.
 */
export async function settleReplace(target: Address, attempt: Attempt, tools: Tools): Promise<boolean | 'done'> {
  const { lxd } = tools;
  const { signal, operation, log } = attempt;
  const aside = asideOf(target, operation.id);
  const there = await instanceExists(lxd, target, signal);
  if (!(await instanceExists(lxd, aside, signal))) {
    return there || (await instanceExists(lxd, temporaryOf(target, operation.id), signal));
  }
  if (there) {
    // Both names are taken: the new one is in.
    await finish(target, aside, operation.checkpoint?.wasRunning ?? false, attempt, tools);
    return 'done';
  }
  log.warn('an earlier attempt ended amid the swap: the old instance is put back first');
  await bringBack(target, aside, attempt, tools);
  return true;
}

/** Puts the restored instance in the place of the old one. On a failure the old one is back, running if it was. */
export async function swapIn(target: Address, start: boolean, attempt: Attempt, tools: Tools): Promise<void> {
  const { lxd, config } = tools;
  const { signal, operation } = attempt;
  const waiting = { signal, idleTimeoutMs: config.worker.lxdIdleTimeoutMs };
  const temporary = temporaryOf(target, operation.id);
  const aside = asideOf(target, operation.id);
  if (!(await instanceExists(lxd, target, signal))) {
    // It was deleted meanwhile: nothing gives way.
    await renameInstance(lxd, temporary, target.instance, waiting);
    if (start) await setState(lxd, target, 'start', waiting);
    return;
  }
  const wasRunning = operation.checkpoint?.wasRunning ?? (await isRunning(lxd, target, signal));
  await attempt.checkpoint({ wasRunning });
  attempt.report({ stage: 'swapping' });
  attempt.assertOwned();
  try {
    if (await isRunning(lxd, target, signal)) await setState(lxd, target, 'stop', waiting);
    await renameInstance(lxd, target, aside.instance, waiting);
    await renameInstance(lxd, temporary, target.instance, waiting);
    if (start || wasRunning) await setState(lxd, target, 'start', waiting);
  } catch (error) {
    // Whoever has the lease now settles it.
    if (isCode(attempt.signal.reason, 'lease-lost')) throw error;
    await undoSwap(target, attempt, tools);
    const why = error instanceof LxstowError ? error : new LxstowError('internal', String(error), { cause: error });
    throw new LxstowError(why.code, `${nameOf(target)} could not be replaced and is as it was: ${why.message}`, {
      cause: error,
    });
  }
  await finish(target, aside, start || wasRunning, attempt, tools);
}

/** From wherever the swap stopped back to the beginning: the new one under its temporary name, the old one in its place. */
export async function undoSwap(target: Address, attempt: Attempt, tools: Tools): Promise<void> {
  const { lxd, config } = tools;
  const { operation } = attempt;
  const waiting = { signal: AbortSignal.timeout(undoMs), idleTimeoutMs: config.worker.lxdIdleTimeoutMs };
  const aside = asideOf(target, operation.id);
  if (await instanceExists(lxd, aside, waiting.signal)) {
    if (await instanceExists(lxd, target, waiting.signal)) {
      if (await isRunning(lxd, target, waiting.signal)) await setState(lxd, target, 'stop', waiting);
      await renameInstance(lxd, target, temporaryOf(target, operation.id).instance, waiting);
    }
    await bringBack(target, aside, attempt, tools);
  } else if (operation.checkpoint?.wasRunning && (await instanceExists(lxd, target, waiting.signal))) {
    if (!(await isRunning(lxd, target, waiting.signal))) await setState(lxd, target, 'start', waiting);
  }
}

const undoMs = 300_000;

async function bringBack(target: Address, aside: Address, attempt: Attempt, { lxd, config }: Tools): Promise<void> {
  const waiting = { signal: AbortSignal.timeout(undoMs), idleTimeoutMs: config.worker.lxdIdleTimeoutMs };
  await renameInstance(lxd, aside, target.instance, waiting);
  if (attempt.operation.checkpoint?.wasRunning) await setState(lxd, target, 'start', waiting);
}

async function finish(
  target: Address,
  aside: Address,
  start: boolean,
  attempt: Attempt,
  { lxd, config }: Tools,
): Promise<void> {
  const waiting = { signal: attempt.signal, idleTimeoutMs: config.worker.lxdIdleTimeoutMs };
  if (start && !(await isRunning(lxd, target, attempt.signal))) await setState(lxd, target, 'start', waiting);
  attempt.assertOwned();
  await deleteInstance(lxd, aside, waiting);
}
