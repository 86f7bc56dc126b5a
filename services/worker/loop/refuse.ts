/** Handles messages that no worker can process. */

import { hourMs } from '../../contract/durations.ts';
import type { LxstowError } from '../../contract/errors.ts';
import type { Operation } from '../../contract/schemas.ts';
import { bury } from '../../jobs/deadLetters.ts';
import type { Delivery } from '../../jobs/deliveries.ts';
import { isJobKind } from '../../jobs/jobs.ts';
import { parseJobSubject, respelled } from '../../nats/subjects.ts';
import { fail, isFinal, newOperation } from '../../operations/operation.ts';
import type { Log } from '../../telemetry/logger.ts';
import type { OpenedWorker } from '../openTools.ts';
import type { Tools } from '../tools.ts';

/** How soon a message that this worker cannot read is offered again. */
const forNewerMs = 30_000;

type RefuseTools = Pick<OpenedWorker, 'nats' | 'operations'> & { tools: Pick<Tools, 'metrics' | 'config'> };

/** Fails the operation that the message names, keeps the message as a dead letter, and takes it off the queue. */
export async function refuse(
  message: Delivery,
  id: string,
  error: LxstowError,
  log: Log,
  tools: RefuseTools,
): Promise<void> {
  const { operations } = tools;
  const now = new Date();
  const named = parseJobSubject(message.subject);
  const failed = named && failedOperation(id, named, error, now);
  if (failed && !(await operations.create(failed))) {
    const found = await operations.find(id, failed.remote);
    // A publisher could name the id of another job's operation, so only an operation of this message's job is failed, and only if no attempt has begun.
    const isNamed = respelled(message.subject) === message.subject;
    if (found && isNamed && isOf(found.operation, failed) && !isFinal(found.operation)) {
      const { operation, revision } = found;
      if (message.redelivered && mayBeForNewer(operation, tools)) {
        log.warn('message left to a newer worker', { error });
        return message.nak(forNewerMs);
      }
      if (isUntouched(operation) || (message.redelivered && operation.status !== 'Running'))
        await operations.update(fail(operation, error, now), revision);
    }
  }
  await discard(message, error, log, tools);
}

/** Whether a newer worker, which understands the message, may have begun the job and handed it back. Not for ever: the upgrade may have been taken back. */
function mayBeForNewer(operation: Operation, { tools: { config } }: RefuseTools): boolean {
  const { status, updated_at } = operation;
  const { patienceHours } = config.worker;
  return (
    !isUntouched(operation) && status !== 'Cancelling' && Date.now() - Date.parse(updated_at) < patienceHours * hourMs
  );
}

/** Whether no attempt of it has begun. */
function isUntouched({ status, attempt, checkpoint, owner }: Operation): boolean {
  return status === 'Pending' && attempt === 0 && checkpoint === undefined && owner === undefined;
}

/** Whether the operation is of this job. */
export function isOf(
  { kind, project, instance }: Operation,
  named: Pick<Operation, 'kind' | 'project' | 'instance'>,
): boolean {
  return kind === named.kind && project === named.project && instance === named.instance;
}

/** Keeps the message as a dead letter, and takes it off the queue. */
export async function discard(
  message: Delivery,
  error: LxstowError,
  log: Log,
  { nats, tools }: Omit<RefuseTools, 'operations'>,
): Promise<void> {
  log.error('message refused', { subject: message.subject, error });
  tools.metrics.jobs.inc({ kind: 'unknown', result: 'refused' });
  await bury(nats, message, error);
  message.term(error.code);
}

function failedOperation(
  id: string,
  { kind, ...address }: { kind: string; remote: string; project: string; instance: string },
  error: LxstowError,
  now: Date,
): Operation | undefined {
  if (!isJobKind(kind)) return undefined;
  return fail(newOperation({ id, kind, address }, now), error, now);
}
