/** Reads instances from LXD, and makes the few changes to them that lxstow needs. */
import { setTimeout } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { isCode, LxstowError } from '../contract/errors.ts';
import type { Address, ManifestInstance, ManifestLxd, Profile } from '../contract/schemas.ts';
import { type LxdClient, type LxdRequest, unlessMissing } from './client.ts';

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

interface LxdServer {
  api_extensions: string[];
  /** Not for clients that it does not trust. */
  environment?: { server_version: string };
}

const segment = encodeURIComponent;

function instancePath({ instance }: Pick<Address, 'instance'>): string {
  return `/1.0/instances/${segment(instance)}`;
}

/** True when LXD answers the GET, false for its 404. */
async function exists(
  lxd: LxdClient,
  path: string,
  query: Record<string, string>,
  signal: AbortSignal,
): Promise<boolean> {
  try {
    await lxd.get(path, query, signal);
    return true;
  } catch (error) {
    if (isCode(error, 'not-found')) return false;
    throw error;
  }
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

/** Whether LXD itself holds what comes into a project against the project's limits. */
export async function isRestricted(lxd: LxdClient, project: string, signal: AbortSignal): Promise<boolean> {
  const path = `/1.0/projects/${segment(project)}`;
  const found = await unlessMissing(() => lxd.get<{ config?: Config }>(path, {}, signal));
  return found?.config?.restricted === 'true';
}

/** Those of the profiles that a project has. */
export async function knownProfiles(
  lxd: LxdClient,
  project: string,
  names: string[],
  signal: AbortSignal,
): Promise<string[]> {
  const found = await Promise.all(
    names.map((name) => exists(lxd, `/1.0/profiles/${segment(name)}`, { project }, signal)),
  );
  return names.filter((_, index) => found[index]);
}

/** The driver of a storage pool; undefined when there is no such pool. */
export async function poolDriver(lxd: LxdClient, pool: string, signal: AbortSignal): Promise<string | undefined> {
  const path = `/1.0/storage-pools/${segment(pool)}`;
  return (await unlessMissing(() => lxd.get<{ driver: string }>(path, {}, signal)))?.driver;
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
    pool ? poolDriver(lxd, pool, signal) : '',
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

export async function describeServer(lxd: LxdClient, signal: AbortSignal): Promise<ManifestLxd> {
  const server = await lxd.get<LxdServer>('/1.0', {}, signal);
  if (!server.environment)
    throw new LxstowError('lxd-refused', `${lxd.title} does not trust us: \`lxstow doctor worker\` says what to do`);
  const telling = [
    'backup_metadata_version',
    'backup_override_name',
    'container_backup_override_pool',
    'direct_backup',
  ];
  return {
    version: server.environment.server_version,
    extensions: server.api_extensions.filter((name) => telling.includes(name)),
  };
}

interface Waiting {
  signal: AbortSignal;
  idleTimeoutMs: number;
}

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
    await lxd.wait(operation, waiting);
  });
}

/** Seconds that a guest has to shut down before it is stopped by force. */
const shutdownSeconds = 30;

export type StateAction = 'start' | 'stop' | 'freeze';

/** Changes the state of an instance. `force` stops it without asking its guest to shut down. Throws LXD's reason if it cannot. */
export function setState(
  lxd: LxdClient,
  address: Address,
  action: StateAction,
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
    if (found && !isRight(found)) throw new LxstowError('conflict', `instance ${nameOf(address)} is another one now`);
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

/** An empty value removes its key. A device replaces the one of its name. */
export interface InstanceChange {
  config?: Config;
  devices?: Devices;
}

/**
 * Changes keys of an instance if `isRight` is true for it. LXD checks by ETag that the instance is still the same; if it has changed, it is read
 * again. Throws not-found, and conflict if `isRight` is false.
 */
export async function changeInstance(
  lxd: LxdClient,
  address: Address,
  isRight: (instance: LxdInstance) => boolean,
  body: InstanceChange,
  signal: AbortSignal,
): Promise<void> {
  const [path, query] = [instancePath(address), { project: address.project }];
  const isChanged = (error: unknown) => error instanceof LxstowError && error.message.includes('ETag');
  for (;;) {
    const { metadata, etag } = await lxd.call<LxdInstance>({ path, query, signal });
    if (!isRight(metadata))
      throw new LxstowError('conflict', `instance ${nameOf(address)} is another one than it was; it was not touched`);
    const headers: Record<string, string> = etag === undefined ? {} : { 'if-match': etag };
    try {
      await whenFree(signal, () => lxd.call({ method: 'PATCH', path, query, headers, body, signal }));
      return;
    } catch (error) {
      if (!isChanged(error)) throw error;
    }
  }
}

const protection = 'security.protection.delete';

export function isProtected({ expanded_config }: Pick<LxdInstance, 'expanded_config'>): boolean {
  return ['true', '1', 'yes', 'on'].includes(expanded_config[protection]?.toLowerCase() ?? '');
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
  try {
    await change(lxd, address, { method: 'DELETE' }, waiting);
  } catch (error) {
    if (!isCode(error, 'not-found')) throw error;
  }
}

export interface EnsuredProfiles {
  made: string[];
  /** Present, but with other contents than the backup's. They are left unchanged. */
  different: string[];
}

/** Creates the profiles that the project lacks. Existing ones are left unchanged. */
export async function ensureProfiles(
  lxd: LxdClient,
  project: string,
  profiles: Profile[],
  signal: AbortSignal,
): Promise<EnsuredProfiles> {
  const made: string[] = [];
  const different: string[] = [];
  for (const profile of profiles) {
    const path = `/1.0/profiles/${segment(profile.name)}`;
    const found = await unlessMissing(() => lxd.get<Profile>(path, { project }, signal));
    if (found) {
      const same = (['config', 'devices'] as const).every((key) => isDeepStrictEqual(found[key], profile[key]));
      if (!same) different.push(profile.name);
      continue;
    }
    try {
      await lxd.call({ method: 'POST', path: '/1.0/profiles', query: { project }, body: profile, signal });
    } catch (error) {
      if (!(error instanceof LxstowError)) throw error;
      throw new LxstowError(
        'lxd-refused',
        `profile ${profile.name}, which the backup needs, cannot be made: ${error.message}`,
        { cause: error },
      );
    }
    made.push(profile.name);
  }
  return { made, different };
}

/** `c1`, or `c1 (project p)`. */
export function nameOf({ instance, project }: Pick<Address, 'instance' | 'project'>): string {
  return project === 'default' ? instance : `${instance} (project ${project})`;
}

/**
 * Path of a running import, begun by any client, that is or may be of this instance; undefined if there is none. LXD 6 does not say in `resources`
 * what an import works on. An import of an unknown instance is returned too: waiting for it does no harm.
 */
export async function runningImport(
  lxd: LxdClient,
  address: Address,
  signal: AbortSignal,
): Promise<string | undefined> {
  const operations = await lxd.get<Record<string, RunningOperation[]>>(
    '/1.0/operations',
    { recursion: '1', project: address.project },
    signal,
  );
  const imports = (operations.running ?? []).filter(({ description }) => description === 'Restoring backup');
  const found =
    imports.find((operation) => namesOf(operation).includes(address.instance)) ??
    imports.find((operation) => namesOf(operation).length === 0);
  return found && `/1.0/operations/${found.id}`;
}

/** Names of the instances that an operation works on, from `resources`, or in LXD 6 from `metadata.entity_url`. */
function namesOf({ resources, metadata }: RunningOperation): string[] {
  const paths = [...Object.values(resources ?? {}).flat(), metadata?.entity_url];
  const segments = paths.map((path) => (typeof path === 'string' ? path : '').split('?')[0]?.split('/') ?? []);
  return segments.flatMap(([, , kind, name]) => (kind === 'instances' || kind === 'containers' ? (name ?? []) : []));
}

interface RunningOperation {
  id: string;
  description: string;
  resources: Record<string, string[]> | null;
  metadata: Record<string, unknown> | null;
}
