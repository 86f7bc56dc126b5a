/** The names of the instances that only one restore can have, for as long as it runs. Nobody else makes, lists, backs up or restores them. */
import type { Address } from '../contract.ts';

const uuid = '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}';
const ownName = new RegExp(`^lxstow-(old-)?(${uuid})$`);

/** `restored`: what a restore imports. `replaced`: what gives way to it, from its renaming to its deletion. */
export type OwnKind = 'restored' | 'replaced';

/** The name under which an operation imports. */
export function importedName(operation: string): string {
  return `lxstow-${operation}`;
}

/** The name of the instance that gives way, once it has. */
export function replacedName(operation: string): string {
  return `lxstow-old-${operation}`;
}

/** What a name of ours says; undefined for any other. */
export function parseOwnName(name: string): { kind: OwnKind; operation: string } | undefined {
  const [, old, operation] = ownName.exec(name) ?? [];
  return operation === undefined ? undefined : { kind: old ? 'replaced' : 'restored', operation };
}

/** The same instance's place under another name. */
export function renamed(address: Address, instance: string): Address {
  return { ...address, instance };
}
