/** Leftovers in LXD: its backups, instances under our names, and our marks on others. */
import { mapInOrder } from '../concurrency/orderedMap.ts';
import type { Address } from '../contract/schemas.ts';
import { deleteLxdBackup } from '../lxd/archives/backups.ts';
import {
  changeInstance,
  deleteInstance,
  deleteStoppedInstance,
  isProtected,
  protection,
} from '../lxd/instanceChanges.ts';
import { findInstance, instanceExists, type LxdInstance, nameOf } from '../lxd/instances.ts';
import { everyInstance, type InventoryInstance, lxdBackupsOf, only, operationOfLxdBackup } from '../lxd/inventory.ts';
import { handedBackConfig, isMarked, marks as markKeys } from '../lxd/marks.ts';
import { parseOwnName, renamed } from '../lxd/ownNames.ts';
import type { Leftover, SearchTools } from './leftoverTypes.ts';

export const looksInFlight = 8;

/** The facts about an instance that the janitor needs. */
interface JudgedInstance {
  address: Address;
  instance: Pick<LxdInstance, 'status' | 'config' | 'expanded_config'>;
}

function judged({ address, instance: { status, config, expanded_config } }: InventoryInstance): JudgedInstance {
  return {
    address,
    instance: {
      status,
      config: only(Object.values(markKeys), config),
      expanded_config: only([protection], expanded_config),
    },
  };
}

export async function* inLxd(tools: SearchTools): AsyncGenerator<Leftover> {
  const { lxd, owners, lxdIdleTimeoutMs, signal } = tools;
  const lookInto = async (instance: JudgedInstance) => ({
    instance,
    backups: await lxdBackupsOf(lxd, instance.address, signal),
  });
  for await (const { instance, backups } of mapInOrder(everyInstance(lxd, judged, signal), looksInFlight, lookInto)) {
    const { address } = instance;
    for (const { name, created } of backups) {
      const operation = operationOfLxdBackup(name);
      if (!operation) continue;
      const ownerNow = () => owners.ofOperation(operation);
      const owner = await ownerNow();
      if (owner.state === 'living') continue;
      yield {
        kind: 'lxd-backup',
        what: name,
        where: nameOf(address),
        since: created,
        owner,
        address,
        ownerNow,
        async remove(removing) {
          await deleteLxdBackup(lxd, address, name, { signal: removing, idleTimeoutMs: lxdIdleTimeoutMs });
          return true;
        },
      };
    }
    const found = await leftByRestore(instance, tools);
    if (found) yield found;
    yield* marks(instance, tools);
  }
}

/** Marks that a restore has left on an instance with its own name. */
async function* marks(
  { address, instance }: JudgedInstance,
  { lxd, owners, signal }: SearchTools,
): AsyncGenerator<Leftover> {
  if (parseOwnName(address.instance)) return;
  for (const kind of ['restored', 'replaced'] as const) {
    const id = instance.config[markKeys[kind]];
    if (id === undefined) continue;
    const restore = owners.known.find((operation) => operation.id === id && operation.kind === 'restore');
    if (!restore) continue;
    const ownerNow = () => owners.ofOperation(id);
    const owner = await ownerNow();
    if (owner.state === 'living') continue;
    const { checkpoint } = restore;
    const kept = (kind === 'restored' ? checkpoint?.kept : checkpoint?.replaced?.kept) ?? {};
    yield {
      kind: 'mark',
      what: address.instance,
      where: address.project === 'default' ? lxd.remote : `${lxd.remote} (project ${address.project})`,
      since: new Date(restore.updated_at),
      owner,
      address,
      ownerNow,
      async remove() {
        const config = handedBackConfig(kind, kept, instance.status !== 'Stopped');
        await changeInstance(lxd, address, isMarked(kind, id), { config }, signal);
        return true;
      },
    };
  }
}

/** An instance that a restore has left under one of our names. */
async function leftByRestore(
  { address, instance }: JudgedInstance,
  { lxd, owners, lxdIdleTimeoutMs, signal }: SearchTools,
): Promise<Leftover | undefined> {
  const own = parseOwnName(address.instance);
  if (!own) return undefined;
  const ownerNow = () => owners.ofOperation(own.operation);
  const owner = await ownerNow();
  if (owner.state === 'living') return undefined;

  const restore = owners.known.find(({ id, kind }) => id === own.operation && kind === 'restore');
  const target = renamed(address, restore?.instance ?? address.instance);
  const finding = {
    kind: 'instance',
    what: address.instance,
    where: address.project === 'default' ? lxd.remote : `${lxd.remote} (project ${address.project})`,
    since: restore && new Date(restore.updated_at),
    owner,
    address: target,
    ownerNow,
  } as const;
  const kept = (why: string): Leftover => ({ ...finding, kept: why, remove: async () => false });
  if (!restore) return kept('its operation is not known any more: check what it is');
  const succeeded = restore.status === 'Success';
  if (own.kind === 'replaced' && !succeeded)
    return kept(`it is ${target.instance} as it was before the restore: rename it back, or delete it`);
  if (own.kind === 'restored' && succeeded)
    return kept('its restore succeeded and should have renamed it; check it, then delete or rename it by hand');
  if (own.kind === 'replaced' && isProtected(instance))
    return kept('it is protected: delete it when you need it no more');
  if (instance.status !== 'Stopped') return kept(`it is ${instance.status.toLowerCase()}`);
  // An instance that a replace has restored may be the only one left.
  const isNeeded = own.kind === 'replaced' || (restore.request as { replace?: boolean } | undefined)?.replace === true;
  if (isNeeded && !(await instanceExists(lxd, target, signal)))
    return kept(`there is no ${target.instance}: rename it, or delete it`);
  return {
    ...finding,
    async remove(removing) {
      const now = await findInstance(lxd, address, removing);
      if (now?.status !== 'Stopped' || (isNeeded && !(await instanceExists(lxd, target, removing)))) return false;
      const waiting = { signal: removing, idleTimeoutMs: lxdIdleTimeoutMs };
      if (own.kind === 'restored') await deleteInstance(lxd, address, waiting);
      else await deleteStoppedInstance(lxd, address, waiting);
      return true;
    },
  };
}
