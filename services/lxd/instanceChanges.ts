/** The few changes to instances that lxstow needs: state, name, keys, deletion. */
import { setTimeout } from 'node:timers/promises';
import { isCode, LxstowError, unlessMissing } from '../contract/errors.ts';
import type { Address } from '../contract/schemas.ts';
import type { LxdClient, LxdRequest } from './connection/client.ts';
import { type Waiting, waitForOperation } from './connection/lxdOperation.ts';
import { type Config, type Devices, findInstance, instancePath, isOn, type LxdInstance, nameOf } from './instances.ts';

/** After a failed start, LXD 5.0.2 cleans up for some seconds and refuses all else: `Instance is busy running a "stop" operation`. */
const busyMs = 60_000;
const askAgainMs = 500;

/** Retries a step while LXD is busy with the instance. */
async function whenFree<T>(signal: AbortSignal, step: () => Promise<T>): Promise<T> {
  const until = performance.now() + busyMs;
  for (;;) {
    try {
      return await step();
    } catch (error) {
      if (!(error instanceof LxstowError) || !/ is busy running /.test(error.message) || performance.now() > until)
        throw error;
      await setTimeout(askAgainMs, undefined, { signal });
    }
  }
}

/** Requests a change of an instance, and waits for LXD's operation. */
function change(
  lxd: LxdClient,
  address: Address,
  request: Pick<LxdRequest, 'method' | 'body' | 'query'> & { below?: string },
  waiting: Waiting,
): Promise<void> {
  const { below = '', query, ...rest } = request;
  const { signal } = waiting;
  return whenFree(signal, async () => {
    const path = instancePath(address) + below;
    const { operation = '' } = await lxd.call({ ...rest, path, query: { ...query, project: address.project }, signal });
    await waitForOperation(lxd, operation, waiting);
  });
}

/** Seconds that a guest has to shut down before it is stopped by force. */
const shutdownSeconds = 30;

/** Changes the state of an instance. `force` stops it without asking its guest to shut down. Throws LXD's reason if it cannot. */
export function setState(
  lxd: LxdClient,
  address: Address,
  action: 'start' | 'stop' | 'freeze',
  waiting: Waiting,
  force = false,
): Promise<void> {
  const body = { action, timeout: shutdownSeconds, force };
  return change(lxd, address, { method: 'PUT', below: '/state', body }, waiting);
}

/** Stops an instance in any state: asks its guest to shut down, and forces it after 30 s. Throws conflict if `isRight` is false by then. */
export async function shutDown(
  lxd: LxdClient,
  address: Address,
  isRight: (instance: LxdInstance) => boolean,
  waiting: Waiting,
): Promise<void> {
  try {
    await setState(lxd, address, 'stop', waiting);
  } catch (error) {
    if (isCode(error, 'lxd-unavailable') || waiting.signal.aborted) throw error;
    const found = await findInstance(lxd, address, waiting.signal);
    if (found && !isRight(found))
      throw new LxstowError(
        'conflict',
        `instance ${nameOf(address)} was replaced by another instance in the meantime; lxstow did not stop it`,
      );
    if (found?.status === 'Stopped') return;
    await setState(lxd, address, 'stop', waiting, true);
  }
}

/** Renames a stopped instance. */
export function renameInstance(lxd: LxdClient, address: Address, name: string, waiting: Waiting): Promise<void> {
  return change(lxd, address, { method: 'POST', body: { name } }, waiting);
}

/** Moves a stopped instance to another member of its cluster. */
export function moveInstance(lxd: LxdClient, address: Address, member: string, waiting: Waiting): Promise<void> {
  const body = { name: address.instance, migration: true };
  return change(lxd, address, { method: 'POST', query: { target: member }, body }, waiting);
}

/**
 * Changes keys of an instance if `isRight` is true for it. LXD checks by ETag that the instance is still the same; if it has changed, it is read
 * again. An empty value removes its key; a device replaces the one of its name. Throws not-found, and conflict if `isRight` is false.
 */
export async function changeInstance(
  lxd: LxdClient,
  address: Address,
  isRight: (instance: LxdInstance) => boolean,
  body: { config?: Config; devices?: Devices },
  signal: AbortSignal,
): Promise<void> {
  const [path, query] = [instancePath(address), { project: address.project }];
  const isChanged = (error: unknown) => error instanceof LxstowError && error.message.includes('ETag');
  for (;;) {
    const { metadata, etag } = await lxd.call<LxdInstance>({ path, query, signal });
    if (!isRight(metadata))
      throw new LxstowError(
        'conflict',
        `instance ${nameOf(address)} was replaced by another instance in the meantime; lxstow did not change it`,
      );
    const headers: Record<string, string> = etag === undefined ? {} : { 'if-match': etag };
    try {
      await whenFree(signal, () => lxd.call({ method: 'PATCH', path, query, headers, body, signal }));
      return;
    } catch (error) {
      if (!isChanged(error)) throw error;
    }
  }
}

export const protection = 'security.protection.delete';

export function isProtected({ expanded_config }: Pick<LxdInstance, 'expanded_config'>): boolean {
  return isOn(expanded_config[protection]);
}

/** Deletes an instance that lxstow has created, running or not, protected or not; does nothing if it is gone. */
export async function deleteInstance(lxd: LxdClient, address: Address, waiting: Waiting): Promise<void> {
  const { signal } = waiting;
  const found = await findInstance(lxd, address, signal);
  if (!found) return;
  if (isProtected(found)) await changeInstance(lxd, address, () => true, { config: { [protection]: 'false' } }, signal);
  if (found.status !== 'Stopped') await setState(lxd, address, 'stop', waiting, true);
  await deleteStoppedInstance(lxd, address, waiting);
}

/** Does nothing if the instance is gone. */
export async function deleteStoppedInstance(lxd: LxdClient, address: Address, waiting: Waiting): Promise<void> {
  await unlessMissing(() => change(lxd, address, { method: 'DELETE' }, waiting));
}
