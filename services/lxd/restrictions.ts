/**
 * What LXD refuses in a project with `restricted=true` and nothing else set (its doc/reference/projects.md), because it could make root in an instance root on
 * the host. LXD's own list lacked keys that it meant to include (GHSA-fm2x-c5qw-4h6f: `raw.qemu.conf`); this list includes them.
 */
import type { ManifestInstance } from '../contract/schemas.ts';
import type { Config, Devices } from './instances.ts';

const lowLevelKeys = new Set([
  'boot.host_shutdown_timeout',
  'limits.memory.hugepages',
  'linux.kernel_modules',
  'linux.kernel_modules.load',
  'security.devlxd.images',
  'security.guestapi.images',
  'security.idmap.base',
  'security.idmap.size',
]);
const lowLevelPrefixes = ['raw.', 'security.delegate_bpf', 'security.syscalls.'];
/** Keys that are harmless while they are off. */
const switches = ['security.privileged', 'security.nesting'];
const interception = 'security.syscalls.intercept.';
const harmlessTypes = new Set(['none', 'tpm']);
/** Sources of disks that LXD itself makes from the instance's configuration. */
const ownSources = new Set(['agent:config', 'cloud-init:config']);

/** Names each key and device that a restricted project would refuse. */
export function forbiddenIn({ config, devices }: { config: Config; devices: Devices }): string[] {
  const keys = Object.entries(config)
    .filter(([key, value]) => isForbiddenKey(key, value))
    .map(([key]) => key);
  const named = Object.entries(devices).flatMap(([name, device]) => {
    const why = whyForbidden(device);
    return why === undefined ? [] : [`device ${name} (${why})`];
  });
  return [...keys, ...named];
}

/** What is known of the target project. */
export interface Limits {
  /** Whether the project is restricted, so that LXD itself enforces its limits. */
  restricted: boolean;
  /** Whether it uses the profiles of `default` instead of its own. A profile that is created there is visible to every such project. */
  sharedProfiles?: boolean;
  /** Names of its profiles; a restore would create others. */
  profiles: string[];
}

/** The same for an instance and the profiles that would be created for it. LXD itself enforces a restricted project's limits, but not in which project a profile is created. */
export function forbiddenFor(
  instance: Pick<ManifestInstance, 'config' | 'devices' | 'profiles'>,
  limits: Limits,
): string[] {
  const made = instance.profiles.filter(({ name }) => !limits.profiles.includes(name));
  if (limits.sharedProfiles && made.length > 0)
    return made.map(({ name }) => `profile ${name}, which does not exist, and would be created in project default`);
  if (limits.restricted) return [];
  const ofProfiles = made.flatMap((profile) =>
    forbiddenIn(profile).map((each) => `${each} in profile ${profile.name}, which does not exist`),
  );
  return [...forbiddenIn(instance), ...ofProfiles];
}

/** The message for a client that is restricted to projects. */
export function refusalOf(what: string, forbidden: string[]): string {
  const some = forbidden.slice(0, 5).join(', ') + (forbidden.length > 5 ? ', …' : '');
  return `${what} has ${some}: not allowed for clients that are restricted to projects (gateway.restrictedRestores)`;
}

function isForbiddenKey(key: string, value: string): boolean {
  if (value === '') return false;
  if (switches.includes(key) || key.startsWith(interception)) return !isFalse(value);
  return lowLevelKeys.has(key) || lowLevelPrefixes.some((prefix) => key.startsWith(prefix));
}

function whyForbidden(device: Record<string, string>): string | undefined {
  const { type = '', pool, source = '', network, nictype } = device;
  if (harmlessTypes.has(type)) return undefined;
  if (type === 'nic')
    return network ? undefined : `nic of type ${nictype || 'unknown'}, which is not in a network of LXD`;
  if (type !== 'disk') return type || 'of no type';
  if (device['raw.mount.options']) return 'disk with raw.mount.options';
  return pool || ownSources.has(source) ? undefined : `disk of the host's ${source || 'own'}`;
}

function isFalse(value: string): boolean {
  return ['false', '0', 'no', 'off'].includes(value.toLowerCase());
}
