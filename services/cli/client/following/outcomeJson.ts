/**
 * The outcome of a backup or restore in JSON and YAML: the same fields whether it was waited for or not. The exit status is `exitOfAll` in follow.ts.
 */

import type { NamedInstance } from '../names.ts';
import { type Followed, failureOf } from './follow.ts';

export interface Outcome {
  /** This client's name for the gateway. */
  gateway: string;
  /** The host; null while it is not known. */
  location: string | null;
  project: string;
  instance: string;
  /** The backup's name. */
  name: string | null;
  /** The operation's status; `Failure` if there is no operation. */
  status: string;
  /** Bytes in the store; null before it is known. */
  size: number | null;
  /** The operation's id; null if nothing was started. */
  operation: string | null;
  /** Why the backup or restore failed. */
  error: string | null;
  /** One of the codes in docs/troubleshooting.md, if the operation failed. */
  code: string | null;
}

/** The outcome of a backup, or, with `to`, of a restore to this name, project or host. */
export function outcomeOf(
  job: Followed & { where: NamedInstance; backup?: string | undefined },
  to: { instance?: string | undefined; project?: string | undefined; target?: string | undefined } = {},
): Outcome {
  const { where, backup, operation, error } = job;
  const { project, target } = where.scope;
  return {
    gateway: where.gateway.remote.name,
    location: operation?.location ?? to.target ?? target ?? null,
    project: to.project ?? project ?? 'default',
    instance: to.instance ?? where.instance,
    name: backup ?? null,
    status: error ? 'Failure' : (operation?.status ?? 'Failure'),
    size: operation?.status === 'Success' ? (operation.metadata.bytes_stored ?? null) : null,
    operation: operation?.id ?? null,
    error: failureOf(job) ?? null,
    code: operation?.metadata.code ?? null,
  };
}
