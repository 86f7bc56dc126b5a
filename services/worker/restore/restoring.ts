/** A restore under way: the names that it works on, and what is there by them. */
import type { Address, BackupAddress } from '../../contract/schemas.ts';
import type { JobOf } from '../../jobs/jobs.ts';
import { findInstance, type LxdInstance } from '../../lxd/instances.ts';
import { isMarked } from '../../lxd/marks.ts';
import { importedName, renamed, replacedName } from '../../lxd/ownNames.ts';
import type { Attempt } from '../../operations/attempt.ts';
import type { Tools } from '../tools.ts';

/** A restore under way. */
export interface Restoring {
  job: JobOf<'restore'>;
  attempt: Attempt;
  tools: Tools;
  /** Whose backup it is. */
  source: BackupAddress;
  /** The instance that is to be, by the name that was asked for. */
  target: Address;
  /** What is restored, under the name of ours that it has until it takes `target`'s. */
  imported: Address;
  /** What gives way with `replace`, under the name of ours that it has from then on. */
  replaced: Address;
}

/** What is there now, by those names. */
export interface Here {
  target: LxdInstance | undefined;
  imported: LxdInstance | undefined;
  replaced: LxdInstance | undefined;
  /** What is restored has the target's name. */
  isIn: boolean;
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

/** Looks what is there. */
export async function look({ attempt, tools, ...at }: Restoring, signal: AbortSignal): Promise<Here> {
  const find = (address: Address) => findInstance(tools.lxd, address, signal);
  const [target, imported, replaced] = await Promise.all([find(at.target), find(at.imported), find(at.replaced)]);
  const isIn = target !== undefined && isMarked('restored', attempt.operation.id)(target);
  return { target, imported, replaced, isIn };
}
