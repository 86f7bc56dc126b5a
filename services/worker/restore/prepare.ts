/** Prepares an imported instance for its final name: marks it as ours, and gives it an identity of its own if another instance has the same. */
import { asLxstowError, isCode } from '../../contract/errors.ts';
import type { Address } from '../../contract/schemas.ts';
import { isLxdAway } from '../../lxd/connection/lxdOperation.ts';
import { changeInstance, moveInstance } from '../../lxd/instanceChanges.ts';
import { type Config, type LxdInstance, nameOf } from '../../lxd/instances.ts';
import { everyInstance, type InventoryInstance } from '../../lxd/inventory.ts';
import { isMarked, keptConfig, markedConfig } from '../../lxd/marks.ts';
import { areTwins, type Identity, identityOf, ownIdentity, withoutNetwork } from './identity.ts';
import { type Restoring, waitingOf } from './restoring.ts';

/**
 * Marks the instance, keeps LXD from starting it by itself, and gives it an identity of its own if another instance has the archive's. `named`: the
 * instance that has the wanted name.
 */
export async function prepare(restoring: Restoring, found: LxdInstance, named: LxdInstance | undefined): Promise<void> {
  const { job, attempt, tools, imported } = restoring;
  const { signal } = attempt;
  const { id } = attempt.operation;
  const { network = true, keep_identity: keepIdentity = false } = job.body;
  const devices = network ? {} : { devices: withoutNetwork(found) };
  // No other client uses this name.
  await changeInstance(tools.lxd, imported, () => true, { config: markedConfig('restored', id), ...devices }, signal);
  const twins = await twinsOf(restoring, identityOf(found));
  if (twins.length > 0) {
    const { kept = keptConfig(found) } = attempt.operation.checkpoint ?? {};
    const names = twins.map(({ address }) => nameOf(address)).join(', ');
    if (isCopy(restoring) && !keepIdentity) {
      // The rename gives the copy a new instance-id. The archive's belongs to its twin, so it is not put back.
      const { 'volatile.cloud-init.instance-id': _, ...rest } = kept;
      await attempt.checkpoint({ kept: rest });
      await changeWhatMay(restoring, imported, ownIdentity(found));
    } else
      attempt.warn(`${names} has the same identity (UUID, MAC or static address): do not let both run on one network`);
    if (network) warnOfAddresses(restoring, found, twins);
  }
  if (job.body.replace && named) await moveTo(restoring, found, named.location);
  await attempt.checkpoint({ prepared: true });
}

/** Moves the instance to the cluster member of the instance that it replaces, because LXD imports on the member that receives the request. */
async function moveTo(restoring: Restoring, found: LxdInstance, location: string): Promise<void> {
  const { attempt, tools, target, imported } = restoring;
  const { signal } = attempt;
  if (location === found.location) return;
  try {
    attempt.assertOwned();
    await moveInstance(tools.lxd, imported, location, waitingOf(restoring, signal));
  } catch (error) {
    if (isLxdAway(error) || signal.aborted) throw error;
    attempt.warn(
      `${nameOf(target)} was on ${location}, and is on ${found.location} now: ${asLxstowError(error).message}`,
    );
  }
}

/** Whether the instance is restored under another name than the backup's, or into another project. */
function isCopy({ source, target }: Restoring): boolean {
  return source.instance !== target.instance || source.project !== target.project;
}

interface Twin {
  address: Address;
  identity: Identity;
}

/** Finds the instances of this server that share a UUID, a MAC or a static address with it, except the one that it replaces. */
async function twinsOf({ job, tools, attempt, target, imported, replaced }: Restoring, own: Identity): Promise<Twin[]> {
  const others = new Set([imported.instance, replaced.instance, ...(job.body.replace ? [target.instance] : [])]);
  const twin = ({ address, instance }: InventoryInstance): Twin | undefined => {
    if (address.project === target.project && others.has(address.instance)) return undefined;
    const identity = identityOf(instance);
    return areTwins(own, identity) ? { address, identity } : undefined;
  };
  return await Array.fromAsync(everyInstance(tools.lxd, twin, attempt.signal));
}

/** Warns of shared static addresses, which only the instance's owner may change. */
function warnOfAddresses({ attempt }: Restoring, found: LxdInstance, twins: Twin[]): void {
  for (const { device, address, isStatic } of identityOf(found).addresses) {
    const twin =
      isStatic && twins.find(({ identity }) => identity.addresses.some((other) => other.address === address));
    if (twin)
      attempt.warn(
        `device ${device} has the address ${address}, which ${nameOf(twin.address)} has, too: change it before both run`,
      );
  }
}

/**
 * Changes keys of an instance of ours, and warns of those that LXD refuses: a restricted project does not accept all (seen on LXD 5.0.2). Throws any
 * other failure.
 */
export async function changeWhatMay(
  { attempt, tools, target }: Restoring,
  address: Address,
  config: Config,
  kind: 'restored' | 'replaced' = 'restored',
): Promise<void> {
  const change = (some: Config) =>
    changeInstance(tools.lxd, address, isMarked(kind, attempt.operation.id), { config: some }, attempt.leaseLost);
  try {
    return await change(config);
  } catch (error) {
    if (!isCode(error, 'lxd-refused')) throw error;
  }
  for (const [key, value] of Object.entries(config)) {
    try {
      await change({ [key]: value });
    } catch (error) {
      if (!isCode(error, 'lxd-refused')) throw error;
      attempt.warn(
        `${key} of ${nameOf(target)} could not be ${value ? `set to ${value}` : 'removed'}: ${asLxstowError(error).message}`,
      );
    }
  }
}
