/** The identity of an instance: UUID, MAC and static addresses. Pure. */
import { randomBytes, randomUUID } from 'node:crypto';
import type { Config, Devices, LxdInstance } from '../../lxd/instances.ts';

/** What two instances on one host must not share. */
export interface Identity {
  uuid: string | undefined;
  /** MAC addresses and static IP addresses of network devices. */
  addresses: { device: string; address: string; isStatic: boolean }[];
}

const staticKeys = ['hwaddr', 'ipv4.address', 'ipv6.address'];

export function identityOf({ config, expanded_devices }: Pick<LxdInstance, 'config' | 'expanded_devices'>): Identity {
  const addresses = networkDevices(expanded_devices).flatMap(([device, settings]) => {
    const found = staticKeys.flatMap((key) => settings[key] ?? []).filter((address) => /\d/.test(address));
    const own = config[`volatile.${device}.hwaddr`];
    return [
      ...found.map((address) => ({ device, address, isStatic: true })),
      ...(own === undefined ? [] : [{ device, address: own, isStatic: false }]),
    ];
  });
  return { uuid: config['volatile.uuid'], addresses };
}

function networkDevices(devices: Devices): [string, Record<string, string>][] {
  return Object.entries(devices).filter(([, { type }]) => type === 'nic');
}

/** Whether the two share a UUID, a MAC or a static address. */
export function areTwins(one: Identity, other: Identity): boolean {
  const addresses = new Set(other.addresses.map(({ address }) => address.toLowerCase()));
  return (
    (one.uuid !== undefined && one.uuid === other.uuid) ||
    one.addresses.some(({ address }) => addresses.has(address.toLowerCase()))
  );
}

/** Makes a new UUID and new MACs, as `lxc copy` does. The cloud-init identity is renewed by LXD's rename. Only the owner may change static addresses. */
export function ownIdentity({ config }: Pick<LxdInstance, 'config'>): Config {
  const uuid = randomUUID();
  const fresh: Config = {};
  for (const key of ['volatile.uuid', 'volatile.uuid.generation']) if (config[key] !== undefined) fresh[key] = uuid;
  for (const key of Object.keys(config)) if (isMacKey(key)) fresh[key] = randomMac();
  return fresh;
}

/** Whether the key is the MAC of one of the instance's devices, whose names may have dots. The keys `….last_state.…` describe a device of the host. */
function isMacKey(key: string): boolean {
  return /^volatile\..+\.hwaddr$/.test(key) && !/\.last_state\.(vf\.)?hwaddr$/.test(key);
}

/** A MAC in LXD's own range. */
function randomMac(): string {
  const bytes = [...randomBytes(3)].map((byte) => byte.toString(16).padStart(2, '0'));
  return ['00', '16', '3e', ...bytes].join(':');
}

/** Devices that hide an instance's network devices. */
export function withoutNetwork({ expanded_devices }: Pick<LxdInstance, 'expanded_devices'>): Devices {
  return Object.fromEntries(networkDevices(expanded_devices).map(([device]) => [device, { type: 'none' }]));
}
