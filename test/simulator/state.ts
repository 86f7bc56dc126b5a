/** What a simulated LXD has: projects, profiles, pools, instances. Their files are where LXD has them. */
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdir, rename, rm, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { Refusal } from './server.ts';

export type Config = Record<string, string>;
type Devices = Record<string, Record<string, string>>;

export interface Profile {
  config: Config;
  description: string;
  devices: Devices;
  name: string;
}

export interface Backup {
  name: string;
  created_at: string;
  expires_at: string;
  instance_only: boolean;
  container_only: boolean;
  optimized_storage: boolean;
}

export interface Instance {
  /** The same through all renames, and no other's. */
  serial: string;
  name: string;
  project: string;
  pool: string;
  architecture: string;
  description: string;
  config: Config;
  devices: Devices;
  profiles: string[];
  createdAt: string;
  lastUsedAt: string;
  ephemeral: boolean;
  isRunning: boolean;
  isFrozen: boolean;
  snapshots: string[];
  backups: Map<string, Backup>;
  /** LXD was killed when it had the instance's record, and none of its volume. */
  isHalfMade?: true;
}

const architectures: Partial<Record<NodeJS.Architecture, string>> = { x64: 'x86_64', arm64: 'aarch64' };

export class State {
  /** LXD_DIR. */
  readonly dir: string;
  /** Without files instances are names and configuration only, for models. */
  readonly hasFiles: boolean;
  /** LXD shows each as another process id. */
  restarts = 0;
  /** The driver of each storage pool. */
  readonly pools = new Map([
    ['bt', 'btrfs'],
    ['dirpool', 'dir'],
  ]);
  readonly #projects = new Map<string, { config: Config; description: string }>();
  readonly #profiles = new Map<string, Map<string, Profile>>();
  readonly #instances = new Map<string, Instance>();

  constructor(dir: string, hasFiles = true) {
    this.dir = dir;
    this.hasFiles = hasFiles;
    this.addProject('default', {}, 'Default LXD project');
    this.addProfile({
      name: 'default',
      description: 'Default LXD profile',
      config: {},
      devices: { root: { path: '/', pool: 'bt', type: 'disk' } },
    });
  }

  /** The folders that a new LXD has. */
  async makeFolders(): Promise<void> {
    const below = ['containers', 'containers-snapshots'];
    const folders = [...this.pools.keys()].flatMap((pool) => below.map((kind) => join('storage-pools', pool, kind)));
    for (const folder of ['backups/instances', 'containers', ...folders])
      await mkdir(join(this.dir, folder), { recursive: true });
  }

  addProject(name: string, config: Config = {}, description = ''): void {
    const features = { 'features.images': 'true', 'features.profiles': 'true', 'features.storage.volumes': 'true' };
    this.#projects.set(name, { config: { ...features, ...config }, description });
    if (config['features.profiles'] === 'false') return;
    const own = { name: 'default', description: `Default LXD profile for project ${name}`, config: {}, devices: {} };
    this.#profiles.set(name, new Map([[own.name, own]]));
  }

  project(name: string): { config: Config; description: string } {
    const project = this.#projects.get(name);
    if (!project) throw new Refusal(404, 'Project not found');
    return project;
  }

  projects(): string[] {
    return [...this.#projects.keys()];
  }

  driver(pool: string): string {
    const driver = this.pools.get(pool);
    if (!driver) throw new Refusal(404, 'Storage pool not found');
    return driver;
  }

  /** The profiles that a project's instances use: its own, or the default project's. */
  profiles(project: string): Map<string, Profile> {
    if (!this.#projects.has(project)) throw new Refusal(404, `Failed loading project "${project}": Project not found`);
    const shared = this.project(project).config['features.profiles'] === 'false';
    return this.#profiles.get(shared ? 'default' : project) ?? new Map();
  }

  addProfile(profile: Partial<Profile> & { name: string }, project = 'default'): void {
    this.profiles(project).set(profile.name, { description: '', config: {}, devices: {}, ...profile });
  }

  findInstance(name: string, project: string): Instance | undefined {
    return this.#instances.get(`${project}/${name}`);
  }

  instance(name: string, project: string): Instance {
    const instance = this.findInstance(name, project);
    if (!instance) throw new Refusal(404, 'Instance not found');
    return instance;
  }

  allInstances(): Instance[] {
    return [...this.#instances.values()];
  }

  instances(project: string): Instance[] {
    return this.allInstances().filter((instance) => instance.project === project);
  }

  /** A new instance's record, without files. */
  newInstance(
    name: string,
    options: { project: string; config: Config; devices: Devices; profiles: string[] },
  ): Instance {
    const instance = {
      serial: randomUUID(),
      name,
      pool: '',
      architecture: architectures[process.arch] ?? process.arch,
      description: '',
      createdAt: new Date().toISOString(),
      lastUsedAt: '1970-01-01T00:00:00Z',
      ephemeral: false,
      isRunning: false,
      isFrozen: false,
      snapshots: [],
      backups: new Map(),
      ...options,
      config: {
        'image.description': 'simulated',
        ...options.config,
        'volatile.base_image': randomBytes(32).toString('hex'),
        'volatile.cloud-init.instance-id': randomUUID(),
        'volatile.last_state.power': 'STOPPED',
        'volatile.uuid': randomUUID(),
      },
    };
    const pool = rootDisk(this.expandedDevices(instance))?.[1].pool;
    if (!pool) throw new Error(`${name}: no root device could be found`);
    this.driver(pool);
    return { ...instance, pool };
  }

  /** From now on LXD shows it. */
  addInstance(instance: Instance): void {
    this.#instances.set(`${instance.project}/${instance.name}`, instance);
  }

  async renameInstance(instance: Instance, name: string): Promise<void> {
    const renamed = { ...instance, name };
    if (this.hasFiles) {
      await rename(this.volume(instance), this.volume(renamed));
      if (instance.snapshots.length > 0)
        await rename(this.snapshotVolume(instance, ''), this.snapshotVolume(renamed, ''));
      await rm(this.link(instance), { force: true });
      await this.makeLink(renamed);
    }
    // Seen on LXD 5.0.2: cloud-init takes the next boot for the first, and templates are written.
    renamed.config = {
      ...instance.config,
      'volatile.cloud-init.instance-id': randomUUID(),
      'volatile.apply_template': 'rename',
    };
    this.#instances.delete(`${instance.project}/${instance.name}`);
    this.addInstance(renamed);
  }

  async removeInstance(instance: Instance): Promise<void> {
    this.#instances.delete(`${instance.project}/${instance.name}`);
    if (!this.hasFiles) return;
    for (const backup of instance.backups.keys()) await rm(this.backupFile(instance, backup), { force: true });
    await this.removeFiles(instance);
    await rm(this.link(instance), { force: true });
  }

  /** Its volume and those of its snapshots, on the pool that it says. */
  async removeFiles(instance: Instance): Promise<void> {
    if (!this.hasFiles) return;
    for (const folder of [this.volume(instance), this.snapshotVolume(instance, '')])
      await rm(folder, { recursive: true, force: true });
  }

  /** The instance's volume: `backup.yaml`, `metadata.yaml` and `rootfs` are in there. */
  volume(instance: Pick<Instance, 'name' | 'project' | 'pool'>): string {
    return join(this.dir, 'storage-pools', instance.pool, 'containers', folderName(instance));
  }

  snapshotVolume(instance: Pick<Instance, 'name' | 'project' | 'pool'>, snapshot: string): string {
    return join(this.dir, 'storage-pools', instance.pool, 'containers-snapshots', folderName(instance), snapshot);
  }

  /** By which LXD finds the volume when it starts the instance. */
  link(instance: Pick<Instance, 'name' | 'project'>): string {
    return join(this.dir, 'containers', folderName(instance));
  }

  async makeLink(instance: Pick<Instance, 'name' | 'project' | 'pool'>): Promise<void> {
    if (!this.hasFiles) return;
    await rm(this.link(instance), { force: true });
    await symlink(this.volume(instance), this.link(instance));
  }

  backupFile(instance: Pick<Instance, 'name' | 'project'>, backup: string): string {
    return join(this.dir, 'backups/instances', folderName(instance), backup);
  }

  expandedDevices({ project, profiles, devices }: Pick<Instance, 'project' | 'profiles' | 'devices'>): Devices {
    return Object.assign({}, ...this.#profilesOf(project, profiles).map((profile) => profile.devices), devices);
  }

  expandedConfig({ project, profiles, config }: Pick<Instance, 'project' | 'profiles' | 'config'>): Config {
    return Object.assign({}, ...this.#profilesOf(project, profiles).map((profile) => profile.config), config);
  }

  #profilesOf(project: string, names: string[]): Profile[] {
    const profiles = this.profiles(project);
    return names.flatMap((name) => profiles.get(name) ?? []);
  }
}

/** The name and the properties of the device that is the root disk. */
export function rootDisk(devices: Devices): [string, Record<string, string>] | undefined {
  return Object.entries(devices).find(([, { type, path }]) => type === 'disk' && path === '/');
}

function folderName({ name, project }: Pick<Instance, 'name' | 'project'>): string {
  return project === 'default' ? name : `${project}_${name}`;
}
