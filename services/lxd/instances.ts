/** Reads instances, and what they depend on, from LXD. */
import { isCode, LxstowError, unlessMissing } from '../contract/errors.ts';
import type { Address, ManifestInstance, ManifestLxd, Profile } from '../contract/schemas.ts';
import type { LxdClient } from './connection/client.ts';

export type Config = Record<string, string>;
export type Devices = Record<string, Record<string, string>>;

export interface LxdInstance {
  name: string;
  architecture: string;
  /** ISO 8601. */
  created_at: string;
  config: Config;
  devices: Devices;
  /** With its profiles' values. */
  expanded_config: Config;
  expanded_devices: Devices;
  ephemeral: boolean;
  /** The cluster member that it is on; `none` without a cluster. */
  location: string;
  profiles: string[];
  /** `Running`, `Stopped`, `Frozen`, `Error`, … */
  status: string;
  type: string;
}

/** What a server reports in `GET /1.0`. */
export interface LxdServer {
  api_extensions: string[];
  environment: { server_version: string; server_pid?: number };
  /** Absent for clients that may not see it. */
  config?: Record<string, unknown>;
}

const segment = encodeURIComponent;

/** Path of an instance in LXD's API. */
export function instancePath({ instance }: Pick<Address, 'instance'>): string {
  return `/1.0/instances/${segment(instance)}`;
}

/** True when LXD answers the GET, false for its 404. */
export async function exists(
  lxd: LxdClient,
  path: string,
  query: Record<string, string>,
  signal: AbortSignal,
): Promise<boolean> {
  return (await unlessMissing(() => lxd.call({ path, query, signal }))) !== undefined;
}

export function instanceExists(lxd: LxdClient, address: Address, signal: AbortSignal): Promise<boolean> {
  return exists(lxd, instancePath(address), { project: address.project }, signal);
}

/** Returns the instance as LXD has it now; undefined if there is none of that name. */
export function findInstance(lxd: LxdClient, address: Address, signal: AbortSignal): Promise<LxdInstance | undefined> {
  return unlessMissing(() => lxd.get<LxdInstance>(instancePath(address), { project: address.project }, signal));
}

export function projectExists(lxd: LxdClient, project: string, signal: AbortSignal): Promise<boolean> {
  return exists(lxd, `/1.0/projects/${segment(project)}`, {}, signal);
}

/** Whether a project is restricted, so that LXD itself enforces its limits; and whether it uses the profiles of `default` instead of its own. */
export async function projectLimits(
  lxd: LxdClient,
  project: string,
  signal: AbortSignal,
): Promise<{ restricted: boolean; sharedProfiles: boolean }> {
  const path = `/1.0/projects/${segment(project)}`;
  const found = await unlessMissing(() => lxd.get<{ config?: Config }>(path, {}, signal));
  const { restricted, 'features.profiles': own = '' } = found?.config ?? {};
  const sharedProfiles = project !== 'default' && !isOn(own);
  return { restricted: restricted === 'true', sharedProfiles };
}

/** The driver of a storage pool; undefined when there is no such pool. */
export async function poolDriver(
  lxd: LxdClient,
  pool: string,
  signal: AbortSignal,
  ask = (path: string): Promise<{ driver: string }> => lxd.get(path, {}, signal),
): Promise<string | undefined> {
  return (await unlessMissing(() => ask(`/1.0/storage-pools/${segment(pool)}`)))?.driver;
}

/** The pool of an instance's root disk; undefined when there is no such instance, or LXD does not say. */
export async function instancePool(lxd: LxdClient, address: Address, signal: AbortSignal): Promise<string | undefined> {
  const found = await findInstance(lxd, address, signal);
  return found && rootPool(found.expanded_devices);
}

/** The pool for a project's instances if the request names none: that of its default profile. */
export async function defaultPool(lxd: LxdClient, project: string, signal: AbortSignal): Promise<string | undefined> {
  const profile = await unlessMissing(() =>
    lxd.get<{ devices: Devices }>('/1.0/profiles/default', { project }, signal),
  );
  return profile && rootPool(profile.devices);
}

/** The pool of the root disk among these devices. */
export function rootPool(devices: Devices): string | undefined {
  return Object.values(devices).find(({ type, path }) => type === 'disk' && path === '/')?.pool;
}

/** Describes the instance for the manifest. Throws not-found. */
export async function describeInstance(
  lxd: LxdClient,
  address: Address,
  signal: AbortSignal,
): Promise<ManifestInstance> {
  const query = { project: address.project };
  const instance = await lxd.get<LxdInstance>(instancePath(address), query, signal).catch((error) => {
    if (isCode(error, 'not-found'))
      throw new LxstowError('not-found', `instance ${nameOf(address)} does not exist`, { cause: error });
    throw error;
  });
  const pool = rootPool(instance.expanded_devices) ?? '';
  const [snapshots, driver = '', ...profiles] = await Promise.all([
    lxd.get<{ name: string }[]>(`${instancePath(address)}/snapshots`, { ...query, recursion: '1' }, signal),
    pool ? poolDriver(lxd, pool, signal, (path) => lxd.getRecent(path, signal)) : '',
    ...instance.profiles.map((name) => lxd.get<Profile>(`/1.0/profiles/${segment(name)}`, query, signal)),
  ]);
  const { architecture, config, devices, type } = instance;
  return {
    architecture,
    config,
    devices,
    type,
    pool,
    driver,
    profiles: profiles.map(({ name, description = '', config, devices }) => ({ name, description, config, devices })),
    // Some versions of LXD say `c1/snapshot`.
    snapshots: snapshots.map(({ name }) => name.split('/').at(-1) ?? ''),
  };
}

/** The error of a server that does not trust the worker's certificate. */
export function mistrust({ title }: LxdClient): LxstowError {
  return new LxstowError('lxd-refused', `${title} does not trust lxstow: \`lxstow doctor worker\` says what to do`);
}

/** Asks the server what it is and can do. Throws lxd-refused if it does not trust us, because it then says little. */
export async function readServer(lxd: LxdClient, signal: AbortSignal): Promise<LxdServer> {
  const server = await lxd.get<Partial<LxdServer>>('/1.0', {}, signal);
  const { api_extensions = [], environment } = server;
  if (!environment) throw mistrust(lxd);
  return { ...server, api_extensions, environment };
}

/** Describes the server for the manifest. */
export function describeServer({ api_extensions, environment }: LxdServer): ManifestLxd {
  const telling = [
    'backup_metadata_version',
    'backup_override_name',
    'container_backup_override_pool',
    'direct_backup',
  ];
  return {
    version: environment.server_version,
    extensions: api_extensions.filter((name) => telling.includes(name)),
  };
}

/** Whether LXD understands a key's value as true. */
export function isOn(value = ''): boolean {
  return ['true', '1', 'yes', 'on'].includes(value.toLowerCase());
}

/** `c1`, or `c1 (project p)`. */
export function nameOf({ instance, project }: Pick<Address, 'instance' | 'project'>): string {
  return project === 'default' ? instance : `${instance} (project ${project})`;
}
