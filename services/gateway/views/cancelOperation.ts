/** Cancels an operation, for both APIs. */

import { LxstowError } from '../../contract/errors.ts';
import type { Operation } from '../../contract/schemas.ts';
import { nudge } from '../../coordination/nudges.ts';
import { onlyDeletes } from '../../nats/streams.ts';
import { cancel, isFinal } from '../../operations/operation.ts';
import type { GatewayParts } from '../gatewayParts.ts';

export function missingOperation(id: string): LxstowError {
  return new LxstowError('not-found', `operation ${id} does not exist`);
}

/** Asks an operation to end, by default on any remote; returns it as it is after that. Throws not-found; or bad-request if it has ended or cannot be cancelled. */
export async function cancelOperation(
  { nats, operations, reservations }: Pick<GatewayParts, 'nats' | 'operations' | 'reservations'>,
  id: string,
  remote?: string,
): Promise<Operation> {
  for (;;) {
    const found = await operations.find(id, remote);
    if (!found) throw missingOperation(id);
    const { operation, revision } = found;
    if (isFinal(operation)) throw new LxstowError('bad-request', 'Only running operations can be cancelled');
    if (onlyDeletes(operation.kind)) throw new LxstowError('bad-request', "This operation can't be cancelled");
    if (!operation.may_cancel && operation.status !== 'Cancelling')
      throw new LxstowError(
        'bad-request',
        `it is too late to cancel: the restored instance is already replacing ${operation.instance}`,
      );
    // If a worker has changed it in between, read it again.
    const asked =
      operation.status === 'Cancelling' ? found : await operations.update(cancel(operation, new Date()), revision);
    if (!asked) continue;
    nudge(nats, operation.remote, id);
    if (isFinal(asked.operation) && operation.backup !== undefined && ['backup', 'upload'].includes(operation.kind))
      await reservations.release(operation, operation.backup, id);
    return asked.operation;
  }
}
