/** Marks on instances that a restore changes temporarily, and the configuration that they had before. Pure. */
import type { KeptConfig } from '../contract/schemas.ts';
import type { Config, LxdInstance } from './instances.ts';

/** Keys set on an instance that lxstow may change until its restore has ended; the value is the operation's id. */
export const marks = { restored: 'user.lxstow.restored', replaced: 'user.lxstow.replaced' } as const;

const autostart = 'boot.autostart';
const power = 'volatile.last_state.power';

/** Keys that LXD changes when it renames an instance (seen on LXD 5.0.2): cloud-init then takes the next boot for the first, and templates overwrite files. */
const changedByRename = ['volatile.cloud-init.instance-id', 'volatile.apply_template'] as const;
const kept = [...changedByRename, autostart] as const;

/** The current values of the keys that a restore must change temporarily. An absent key is an empty text, which also removes the key in LXD. */
export function keptConfig({ config }: Pick<LxdInstance, 'config'>): KeptConfig {
  return Object.fromEntries(kept.map((key) => [key, config[key] ?? '']));
}

/** Keeps LXD from starting the instance by itself, and marks it, so that it is recognised under any name. */
export function markedConfig(kind: keyof typeof marks, operation: string): Config {
  return { [marks[kind]]: operation, [autostart]: 'false' };
}

export function isMarked(
  kind: keyof typeof marks,
  operation: string,
): (instance: Pick<LxdInstance, 'config'>) => boolean {
  return ({ config }) => config[marks[kind]] === operation;
}

/** The keys that a rename has changed, with their old values. */
export function beforeStart(was: KeptConfig): Config {
  return Object.fromEntries(changedByRename.flatMap((key) => (was[key] === undefined ? [] : [[key, was[key]]])));
}

/**
 * The last change, which hands the instance back to its owner: it removes the mark. An instance that does not run does not start with LXD either, although
 * its archive says that it ran when the backup was made, unless its own boot.autostart says so.
 */
export function handedBackConfig(kind: keyof typeof marks, was: KeptConfig, runs: boolean): Config {
  return { [autostart]: was[autostart] ?? '', ...(runs ? {} : { [power]: 'STOPPED' }), [marks[kind]]: '' };
}

/** Distinguishes an instance from others that get its name later. Stays the same through changes and renames. */
export function identifierOf({ config, created_at }: Pick<LxdInstance, 'config' | 'created_at'>): string {
  return `${config['volatile.uuid'] ?? ''} ${created_at}`;
}
