/** Reserved names for the instances of a running restore. No other operation creates, lists, backs up or restores an instance with such a name. */
import type { Address } from '../contract/schemas.ts';

const uuid = '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}';
const ownName = new RegExp(`^lxstow-(?:(old-)(${uuid})|(${uuid})(?:-[2-9])?)$`);

/** The name under which an operation imports an instance; `count` is 2 to 9 if the names before it are blocked. */
export function importedName(operation: string, count = 1): string {
  return count === 1 ? `lxstow-${operation}` : `lxstow-${operation}-${count}`;
}

/** The name of the replaced instance, once it is renamed. */
export function replacedName(operation: string): string {
  return `lxstow-old-${operation}`;
}

/**
 * Parses a reserved name; undefined for any other. `restored`: the instance that a restore imports. `replaced`: the one that it replaces, from its rename
 * to its deletion.
 */
export function parseOwnName(name: string): { kind: 'restored' | 'replaced'; operation: string } | undefined {
  const [, old, replaced, restored] = ownName.exec(name) ?? [];
  const operation = replaced ?? restored;
  return operation === undefined ? undefined : { kind: old ? 'replaced' : 'restored', operation };
}

/** The same address with another instance's name. */
export function renamed(address: Address, instance: string): Address {
  return { ...address, instance };
}
