/** Operations of uploads whose gateway has died. No queue delivers them to another gateway, so the janitor ends them, as Success or Failure depending on the store. */
import { manifestKey } from '../backups/keys.ts';
import { parseManifest } from '../backups/manifest.ts';
import { isCode, LxstowError } from '../contract/errors.ts';
import type { Operation } from '../contract/schemas.ts';
import { claimKey } from '../nats/bucketKeys.ts';
import { operationsBucket } from '../nats/streams.ts';
import { cancelled, fail, isFinal, succeed } from '../operations/operation.ts';
import type { Leftover, SearchTools } from './leftoverTypes.ts';
import type { Owner } from './owners.ts';

export async function* abandonedUploads(tools: SearchTools): AsyncGenerator<Leftover> {
  const { owners, operations, leasesBucket, settledMs } = tools;
  /** Returns the operation if its gateway no longer works on it. */
  const abandoned = async ({ id, remote }: Operation) => {
    const found = await operations.find(id, remote);
    if (!found || isFinal(found.operation)) return undefined;
    const { backup = '', updated_at } = found.operation;
    const { entry } = await leasesBucket.get(claimKey(found.operation, backup, id));
    return entry || Date.now() - Date.parse(updated_at) < settledMs ? undefined : found;
  };
  for (const known of owners.known) {
    const { kind, id, updated_at } = known;
    if (kind !== 'upload' || !(await abandoned(known))) continue;
    const ownerNow = async (): Promise<Owner> => ({
      state: (await abandoned(known)) ? 'ended' : 'living',
      operation: id,
    });
    yield {
      kind: 'operation',
      what: id,
      where: operationsBucket,
      since: new Date(updated_at),
      owner: { state: 'ended', operation: id },
      ownerNow,
      async remove() {
        const found = await abandoned(known);
        if (!found) return false;
        return (await operations.update(await ended(found.operation, tools), found.revision)) !== undefined;
      },
    };
  }
}

async function ended(operation: Operation, { store, prefix, signal }: SearchTools): Promise<Operation> {
  const { backup = '', id, status } = operation;
  const address = { ...operation, backup };
  const now = new Date();
  try {
    const { body } = await store.read(manifestKey(prefix, address), signal);
    if (parseManifest(body, address).operation === id) {
      // The gateway that wrote it may have died before it was on the disk.
      await store.flush(signal);
      return succeed(operation, now);
    }
  } catch (error) {
    if (!isCode(error, 'not-found') && !isCode(error, 'bad-manifest')) throw error;
  }
  if (status === 'Cancelling') return cancelled(operation, now);
  return fail(operation, new LxstowError('lease-lost', 'the gateway that took the upload has died'), now);
}
