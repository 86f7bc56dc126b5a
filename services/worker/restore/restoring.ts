/** A running restore: the names that it works on, and the instances that have them. */
import type { Address, BackupAddress } from '../../contract/schemas.ts';
import type { JobOf } from '../../jobs/jobs.ts';
import type { Waiting } from '../../lxd/connection/lxdOperation.ts';
import { findInstance, type LxdInstance } from '../../lxd/instances.ts';
import { isMarked } from '../../lxd/marks.ts';
import { importedName, renamed, replacedName } from '../../lxd/ownNames.ts';
import type { Attempt } from '../../operations/attempt.ts';
import type { Tools } from '../tools.ts';

export interface Restoring {
  job: JobOf<'restore'>;
  attempt: Attempt;
  tools: Tools;
  /** The backup. */
  source: BackupAddress;
  /** The name that was asked for. */
  target: Address;
  /** Our own name that the restored instance has until it gets that of `target`. */
  imported: Address;
  /** Our own name that the replaced instance gets, with `replace`. */
  replaced: Address;
}

/** The instances that have these names now. */
export interface InstancesFound {
  target: LxdInstance | undefined;
  imported: LxdInstance | undefined;
  replaced: LxdInstance | undefined;
  /** The restored instance has the target's name. */
  targetIsOurs: boolean;
}

export function restoringOf(job: JobOf<'restore'>, attempt: Attempt, tools: Tools): Restoring {
  const { address, body } = job;
  const { id, checkpoint } = attempt.operation;
  return {
    job,
    attempt,
    tools,
    source: { ...address, ...body.source, backup: body.backup },
    target: address,
    imported: renamed(address, importedName(id, checkpoint?.importName)),
    replaced: renamed(address, replacedName(id)),
  };
}

/** Asks LXD which instances have these names. */
export async function findInstances(
  { attempt, tools, ...at }: Restoring,
  signal: AbortSignal,
): Promise<InstancesFound> {
  const find = (address: Address) => findInstance(tools.lxd, address, signal);
  const [target, imported, replaced] = await Promise.all([find(at.target), find(at.imported), find(at.replaced)]);
  const targetIsOurs = target !== undefined && isMarked('restored', attempt.operation.id)(target);
  return { target, imported, replaced, targetIsOurs };
}

/** Options of steps in LXD. By default, only the loss of the lease interrupts them: a cancel or the worker's stop must not leave them half done. */
export function waitingOf({ attempt, tools }: Restoring, signal = attempt.leaseLost): Waiting {
  return { signal, idleTimeoutMs: tools.config.worker.lxdIdleTimeoutMs };
}
