/** What lxstow asks LXD about instances, and the little it changes about them. */
import type { Address, ManifestInstance, ManifestLxd, Profile } from '../contract.ts';
import { isCode, LxstowError } from '../errors.ts';
import { type LxdClient, unlessMissing } from './client.ts';

interface LxdInstance {
  architecture: string;
  config: Record<string, string>;
  devices: Record<string, Record<string, string>>;
  expanded_devices: Record<string, Record<string, string>>;
  profiles: string[];
  status: string;
  type: string;
}

type Devices = LxdInstance['devices'];

interface LxdServer {
  api_extensions: string[];
  environment: { server_version: string };
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

export function projectExists(lxd: LxdClient, project: string, signal: AbortSignal): Promise<boolean> {
  return exists(lxd, `/1.0/projects/${segment(project)}`, {}, signal);
}

/** The driver of a storage pool; undefined when there is no such pool. */
export async function poolDriver(lxd: LxdClient, pool: string, signal: AbortSignal): Promise<string | undefined> {
  const path = `/1.0/storage-pools/${segment(pool)}`;
  return (await unlessMissing(() => lxd.get<{ driver: string }>(path, {}, signal)))?.driver;
}

/** The pool of an instance's root disk; undefined when there is no such instance, or LXD does not say. */
export async function instancePool(lxd: LxdClient, address: Address, signal: AbortSignal): Promise<string | undefined> {
  const { project } = address;
  const found = await unlessMissing(() => lxd.get<LxdInstance>(instancePath(address), { project }, signal));
  return found && rootPool(found.expanded_devices);
}

/** Where instances of a project go for which nobody says: the pool of its default profile. */
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

/** The instance as the manifest keeps it. Throws not-found. */
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
    lxd.get<string[]>(`${instancePath(address)}/snapshots`, query, signal),
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
    snapshots: snapshots.map((path) => decodeURIComponent(path.split('?')[0]?.split('/').at(-1) ?? '')),
  };
}

/** The uuid that LXD gives each instance and keeps through export and import; undefined when there is no such instance. */
export async function instanceUuid(lxd: LxdClient, address: Address, signal: AbortSignal): Promise<string | undefined> {
  const { project } = address;
  const found = await unlessMissing(() => lxd.get<LxdInstance>(instancePath(address), { project }, signal));
  return found && (found.config['volatile.uuid'] ?? '');
}

export async function describeServer(lxd: LxdClient, signal: AbortSignal): Promise<ManifestLxd> {
  const server = await lxd.get<LxdServer>('/1.0', {}, signal);
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

/** Starts or stops an instance; `stop` does not ask it politely. */
export async function setState(
  lxd: LxdClient,
  address: Address,
  action: 'start' | 'stop',
  waiting: Waiting,
): Promise<void> {
  const { operation = '' } = await lxd.call({
    method: 'PUT',
    path: `${instancePath(address)}/state`,
    query: { project: address.project },
    body: { action, timeout: 30, force: action === 'stop' },
    signal: waiting.signal,
  });
  await lxd.wait(operation, waiting);
}

/** Renames a stopped instance. */
export async function renameInstance(lxd: LxdClient, address: Address, name: string, waiting: Waiting): Promise<void> {
  const { operation = '' } = await lxd.call({
    method: 'POST',
    path: instancePath(address),
    query: { project: address.project },
    body: { name },
    signal: waiting.signal,
  });
  await lxd.wait(operation, waiting);
}

/** Deletes an instance, running or not. One that is gone is fine. */
export async function deleteInstance(lxd: LxdClient, address: Address, waiting: Waiting): Promise<void> {
  try {
    if (await isRunning(lxd, address, waiting.signal)) await setState(lxd, address, 'stop', waiting);
    const { operation = '' } = await lxd.call({
      method: 'DELETE',
      path: instancePath(address),
      query: { project: address.project },
      signal: waiting.signal,
    });
    await lxd.wait(operation, waiting);
  } catch (error) {
    if (!isCode(error, 'not-found')) throw error;
  }
}

export async function isRunning(lxd: LxdClient, address: Address, signal: AbortSignal): Promise<boolean> {
  const { status } = await lxd.get<LxdInstance>(instancePath(address), { project: address.project }, signal);
  return status === 'Running';
}

/** Makes those of the profiles that the project lacks; returns their names. One of the same name is left as it is. */
export async function ensureProfiles(
  lxd: LxdClient,
  project: string,
  profiles: Profile[],
  signal: AbortSignal,
): Promise<string[]> {
  const made: string[] = [];
  for (const profile of profiles) {
    if (await exists(lxd, `/1.0/profiles/${segment(profile.name)}`, { project }, signal)) continue;
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
  return made;
}

/** `c1`, or `c1 (project p)`. */
export function nameOf({ instance, project }: Pick<Address, 'instance' | 'project'>): string {
  return project === 'default' ? instance : `${instance} (project ${project})`;
}

/**
 * The path of an import that LXD is still at, begun by anyone, and that is or may be of this instance; undefined when there is none. LXD 6
 * does not say in `resources` what an import works on. One that cannot be told from another's is returned too: to wait for it harms nobody.
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

/** The instances that an operation says that it works on: in `resources`, or in LXD 6 in `metadata.entity_url`. */
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
