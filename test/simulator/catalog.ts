/** What LXD tells about itself, its projects, profiles, pools and instances, and how instances start, stop and go. */
import { createHash } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { errorText, type Log } from '../lab/run.ts';
import { accepted, type Dialect, type Operations } from './operations.ts';
import { type Call, created, Refusal, type Routes, sync, tagged } from './server.ts';
import type { Instance, Profile, State } from './state.ts';

export const simulatedVersion = '5.0.2';

/** Those of LXD 5.0.2 that tell something about backups. */
const extensions = [
  'container_backup',
  'backup_compression',
  'container_backup_override_pool',
  'backup_compression_algorithm',
  'backup_override_name',
];

/** What the keys of a profile's configuration may begin with. */
const knownKey = /^(boot|cloud-init|cluster|environment|limits|linux|migration|nvidia|raw|security|snapshots|user)\./;

export function catalogRoutes(state: State, operations: Operations, dialect: Dialect): Routes {
  return {
    ...serverRoutes(state, dialect),
    ...profileRoutes(state),
    ...instanceRoutes(state, operations),
    ...stateRoutes(state, operations),
  };
}

/** The server, its projects and pools. */
function serverRoutes(state: State, dialect: Dialect): Routes {
  return {
    '/1.0': {
      GET: () =>
        sync({
          api_extensions: dialect.metadataVersion > 1 ? [...extensions, 'backup_metadata_version'] : extensions,
          api_status: 'stable',
          api_version: '1.0',
          auth: 'trusted',
          public: false,
          auth_methods: ['tls'],
          environment: { server: 'lxd', server_version: simulatedVersion, server_pid: process.pid + state.restarts },
        }),
    },
    '/1.0/projects': {
      GET: ({ query }) =>
        sync(
          query.get('recursion') === '1'
            ? state.projects().map((name) => projectView(state, name))
            : state.projects().map((name) => `/1.0/projects/${name}`),
        ),
    },
    '/1.0/projects/{name}': { GET: ({ param }) => sync(projectView(state, param('name'))) },
    '/1.0/storage-pools': {
      GET: ({ query }) =>
        sync(
          query.get('recursion') === '1'
            ? [...state.pools.keys()].map((name) => poolView(state, name))
            : [...state.pools.keys()].map((name) => `/1.0/storage-pools/${name}`),
        ),
    },
    '/1.0/storage-pools/{name}': { GET: ({ param }) => sync(poolView(state, param('name'))) },
  };
}

function profileRoutes(state: State): Routes {
  return {
    '/1.0/profiles': {
      GET({ project }) {
        const names = [...state.profiles(project).keys()];
        return sync(names.map((name) => withProject(`/1.0/profiles/${name}`, project)));
      },
      async POST({ project, body }) {
        const { name, ...profile } = await body(400);
        if (typeof name !== 'string' || name === '') throw new Refusal(400, 'No name provided');
        const unknown = Object.keys(profile.config ?? {}).find((key) => !knownKey.test(key));
        if (unknown) throw new Refusal(400, `Unknown configuration key: ${unknown}`);
        if (state.profiles(project).has(name))
          throw new Refusal(500, `Error inserting "${name}" into database: The profile already exists`);
        state.addProfile({ name, ...(profile as Partial<Profile>) }, project);
        return created(`/1.0/profiles/${name}`);
      },
    },
    '/1.0/profiles/{name}': {
      GET({ param, project }) {
        const profile = state.profiles(project).get(param('name'));
        if (!profile) throw new Refusal(404, 'Fetch profile: Profile not found');
        return sync({ ...profile, used_by: [] });
      },
      DELETE: async ({ project, param }) => {
        const name = param('name');
        if (state.allInstances().some((each) => each.project === project && each.profiles.includes(name)))
          throw new Refusal(400, 'Profile is currently in use');
        if (!state.profiles(project).delete(name)) throw new Refusal(404, 'Profile not found');
        return sync({});
      },
    },
  };
}

function instanceOf(state: State, { param, project }: Call): Instance {
  return state.instance(param('name'), project);
}

function instanceRoutes(state: State, operations: Operations): Routes {
  return {
    '/1.0/instances/{name}': {
      GET(call) {
        const instance = instanceOf(state, call);
        const view = call.query.get('recursion') === '1' ? fullView : instanceView;
        return tagged(view(state, instance), etagOf(instance));
      },
      async PATCH(call) {
        const { config = {}, devices = {} } = (await call.body(400)) as Partial<Instance>;
        const instance = instanceOf(state, call);
        if (instance.isHalfMade) throw new Refusal(404, 'Failed to write backup file: Instance storage pool not found');
        const wanted = call.request.headers['if-match'];
        const etag = etagOf(instance);
        if (wanted !== undefined && wanted !== etag) throw new Refusal(412, `ETag doesn't match: ${etag} vs ${wanted}`);
        const changed = Object.entries({ ...instance.config, ...config }).filter(([, value]) => value !== '');
        instance.config = Object.fromEntries(changed);
        instance.devices = { ...instance.devices, ...devices };
        return sync({});
      },
      async POST(call) {
        const { name } = await call.body(400);
        const instance = instanceOf(state, call);
        const renamed = String(name);
        if (state.findInstance(renamed, call.project)) throw new Refusal(409, `Name "${renamed}" already in use`);
        return accepted(
          operations.start(about('Renaming instance', instance, 'containers', 'instances'), async () => {
            if (instance.isRunning) throw new Error('Renaming of running container not allowed');
            // Somebody may have taken it since.
            if (state.findInstance(renamed, call.project)) throw new Error(`Name "${renamed}" already in use`);
            await state.renameInstance(instance, renamed);
          }),
        );
      },
      DELETE(call) {
        const instance = instanceOf(state, call);
        if (instance.isRunning) throw new Refusal(400, 'Instance is running');
        return accepted(
          operations.start(about('Deleting instance', instance, 'containers', 'instances'), async () => {
            const { 'security.protection.delete': isProtected } = state.expandedConfig(instance);
            if (isProtected === 'true') throw new Error('Container is protected');
            await state.removeInstance(instance);
          }),
        );
      },
    },
  };
}

/** Of an instance: its snapshots, and whether it runs. */
function stateRoutes(state: State, operations: Operations): Routes {
  return {
    '/1.0/instances/{name}/snapshots': {
      GET(call) {
        const instance = instanceOf(state, call);
        const { name, project, snapshots } = instance;
        if (call.query.get('recursion') === '1') return sync(fullView(state, instance).snapshots);
        return sync(snapshots.map((snapshot) => withProject(`/1.0/instances/${name}/snapshots/${snapshot}`, project)));
      },
    },
    '/1.0/instances/{name}/state': {
      GET: (call) => sync(stateView(instanceOf(state, call))),
      async PUT(call) {
        const { action } = await call.body(400);
        const instance = instanceOf(state, call);
        const change = changes[action as keyof typeof changes];
        if (!change) throw new Refusal(400, `Unknown action: '${action}'`);
        const operation = about(change.description, instance, 'instances');
        return accepted(operations.start(operation, () => change.run(state, instance)));
      },
    },
  };
}

/** What an operation says about itself and its instance. */
export function about(description: string, { name, project }: Pick<Instance, 'name' | 'project'>, ...kinds: string[]) {
  return { description, project, resources: Object.fromEntries(kinds.map((kind) => [kind, [`/1.0/${kind}/${name}`]])) };
}

export function withProject(path: string, project: string): string {
  return project === 'default' ? path : `${path}?project=${project}`;
}

export function instanceView(state: State, instance: Instance) {
  const { name, project, architecture, description, config, devices, profiles } = instance;
  return {
    architecture,
    config,
    devices,
    ephemeral: instance.ephemeral,
    profiles,
    stateful: false,
    description,
    created_at: instance.createdAt,
    expanded_config: state.expandedConfig(instance),
    expanded_devices: state.expandedDevices(instance),
    name,
    ...statusOf(instance),
    last_used_at: instance.lastUsedAt,
    location: 'none',
    type: 'container',
    project,
  };
}

/** With its state and snapshots. */
export function fullView(state: State, instance: Instance) {
  const snapshots = instance.snapshots.map((name) => ({ name, created_at: instance.createdAt }));
  return { ...instanceView(state, instance), backups: [], snapshots, state: stateView(instance) };
}

function statusOf({ isRunning, isFrozen }: Instance) {
  if (isFrozen) return { status: 'Frozen', status_code: 110 };
  return isRunning ? { status: 'Running', status_code: 103 } : { status: 'Stopped', status_code: 102 };
}

/** Of what can be changed. */
function etagOf({ architecture, config, devices, ephemeral, profiles }: Instance): string {
  const text = JSON.stringify([architecture, Object.entries(config).sort(), devices, ephemeral, profiles]);
  return `"${createHash('sha256').update(text).digest('hex')}"`;
}

function stateView(instance: Instance) {
  const { isRunning } = instance;
  return {
    ...statusOf(instance),
    disk: {},
    memory: {},
    network: {},
    pid: isRunning ? 1 : 0,
    processes: 0,
    cpu: { usage: 0 },
  };
}

function projectView(state: State, name: string) {
  return { ...state.project(name), name, used_by: [] };
}

export function poolView(state: State, name: string) {
  const driver = state.driver(name);
  return { config: {}, description: '', name, driver, used_by: [], status: 'Created', locations: ['none'] };
}

const changes = {
  start: {
    description: 'Starting instance',
    async run(state: State, instance: Instance): Promise<void> {
      if (instance.isRunning) throw new Error('The instance is already running');
      if (state.hasFiles) await checkLink(state, instance);
      instance.isRunning = true;
      delete instance.config['volatile.apply_template'];
      instance.lastUsedAt = new Date().toISOString();
      instance.config['volatile.last_state.power'] = 'RUNNING';
    },
  },
  stop: {
    description: 'Stopping instance',
    async run(state: State, instance: Instance): Promise<void> {
      if (!instance.isRunning) throw new Error('The instance is already stopped');
      [instance.isRunning, instance.isFrozen] = [false, false];
      instance.config['volatile.last_state.power'] = 'STOPPED';
      if (instance.ephemeral) await state.removeInstance(instance);
    },
  },
  freeze: {
    description: 'Freezing instance',
    async run(_: State, instance: Instance): Promise<void> {
      if (!instance.isRunning) throw new Error('The instance is not running');
      instance.isFrozen = true;
    },
  },
};

/** When LXD starts, it starts what ran before, and by its configuration that is also what was imported and ran where it came from. */
export async function startThoseThatRan(state: State, log: Log): Promise<void> {
  for (const instance of state.allInstances()) {
    const { 'boot.autostart': autostart, 'volatile.last_state.power': power } = state.expandedConfig(instance);
    if (instance.isRunning || autostart === 'false' || (autostart !== 'true' && power !== 'RUNNING')) continue;
    try {
      await changes.start.run(state, instance);
    } catch (error) {
      log(`simulator: ${instance.name} does not start: ${errorText(error)}`);
    }
  }
}

/** An import over this instance, on another pool, has it point to nowhere. */
async function checkLink(state: State, instance: Instance): Promise<void> {
  try {
    await stat(state.link(instance));
  } catch (error) {
    throw new Error(`Unable to resolve container rootfs: ${errorText(error)}`);
  }
}
