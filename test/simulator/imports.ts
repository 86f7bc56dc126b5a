/** `POST /1.0/instances` with an archive: taken in whole, then unpacked by an operation, which keeps all or nothing. */
import { randomUUID } from 'node:crypto';
import { createWriteStream, existsSync } from 'node:fs';
import { chmod, open, readFile, rm, writeFile } from 'node:fs/promises';
import type { IncomingHttpHeaders } from 'node:http';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { parse, stringify } from 'yaml';
import { errorText } from '../lab/run.ts';
import { readIndex, unpack } from './archive.ts';
import { interrupted } from './backups.ts';
import { about, fullView, instanceView, withProject } from './catalog.ts';
import type { Fault, Faults, JobFaults } from './faults.ts';
import { accepted, type Dialect, type Operations } from './operations.ts';
import { type Call, Refusal, type Routes, refusal, sync } from './server.ts';
import { type Instance, rootDisk, type State } from './state.ts';

/** The first bytes of gzip, bzip2, xz and zstd. */
const compressed = ['1f8b', '425a68', 'fd377a58', '28b52ffd'].map((hex) => Buffer.from(hex, 'hex'));

type View = ReturnType<typeof instanceView>;

/** What the simulator reads of `backup/index.yaml`. */
interface Index {
  name: string;
  backend: string;
  pool: string;
  snapshots?: string[];
  optimized: boolean;
  config: { version?: number; container?: View; instance?: View };
}

export function importRoutes(
  state: State,
  operations: Operations,
  faults: Faults,
  dialect: Dialect,
  stopped: AbortSignal,
): Routes {
  return {
    '/1.0/instances': {
      GET({ project, query }) {
        const instances = state.instances(project);
        if (query.get('recursion') === '1') return sync(instances.map((instance) => instanceView(state, instance)));
        if (query.get('recursion') === '2') return sync(instances.map((instance) => fullView(state, instance)));
        return sync(instances.map(({ name }) => withProject(`/1.0/instances/${name}`, project)));
      },
      async POST(call) {
        if (!state.projects().includes(call.project))
          throw new Refusal(500, 'Fetch project database object: Project not found');
        if (call.request.headers['content-type'] !== 'application/octet-stream')
          throw new Refusal(400, "invalid character 'b' looking for beginning of value");
        const fault = faults.takeJob('import');
        const archive = join(state.dir, `backups/lxd_backup_${randomUUID()}`);
        let handedOver = false;
        try {
          await receive(call, archive, fault);
          if (fault?.script.hold === 'answer') await fault.hold(call.signal);
          const index = state.hasFiles ? await readArchive(archive, call.signal) : await readFirst(archive);
          if ((index.config.version ?? 1) > dialect.metadataVersion)
            throw new Refusal(500, 'Failed checking override name: Backup has no instance');
          const { name, pool } = targetOf(
            fault?.script.ignoreHeaders ? {} : call.request.headers,
            call.project,
            index,
            state,
          );
          const operation = operations.start(
            about('Restoring backup', { name, project: call.project }, 'containers', 'instances'),
            async () => {
              try {
                await restore(state, archive, index, { name, pool, project: call.project }, fault, stopped);
              } finally {
                await rm(archive);
              }
            },
          );
          handedOver = true;
          return accepted(operation);
        } finally {
          if (!handedOver) await rm(archive, { force: true });
        }
      },
    },
  };
}

/** All of the body, or nothing. */
async function receive({ request, signal }: Call, file: string, fault: Fault<JobFaults['import']> | undefined) {
  const { dropAt, holdAt, refuseAt, error = '' } = fault?.script ?? {};
  await pipeline(
    request,
    (chunks) =>
      interrupted(chunks, dropAt ?? holdAt ?? refuseAt, async () => {
        fault?.reach();
        if (refuseAt !== undefined) await refuseEarly(request.socket, error);
        if (holdAt === undefined) request.destroy();
        else await fault?.hold(signal);
      }),
    createWriteStream(file),
  );
}

/** As Go's server does it: answers, says that nothing more comes, and leaves the client half a second to read that. */
async function refuseEarly(socket: Socket, error: string): Promise<void> {
  const body = JSON.stringify(refusal(500, error).body);
  socket.end(
    `HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  );
  await delay(500);
}

async function readArchive(archive: string, signal: AbortSignal): Promise<Index> {
  await using file = await open(archive);
  const { buffer, bytesRead } = await file.read(Buffer.alloc(263), 0, 263, 0);
  if (bytesRead === 0) throw new Refusal(500, 'EOF');
  const isTar = buffer.toString('latin1', 257, 262) === 'ustar';
  if (!isTar && !compressed.some((magic) => buffer.subarray(0, magic.length).equals(magic)))
    throw new Refusal(500, 'Unsupported compression');
  try {
    const text = await readIndex(archive, signal);
    if (text !== undefined) return parse(text) as Index;
  } catch (error) {
    throw new Refusal(400, `yaml: input error: ${errorText(error)}`);
  }
  throw new Refusal(400, 'Backup is missing index.yaml');
}

/** The index of an archive that begins with it and is not compressed, without the help of tar. */
async function readFirst(archive: string): Promise<Index> {
  const bytes = await readFile(archive);
  const size = Number.parseInt(bytes.toString('latin1', 124, 135), 8);
  return parse(bytes.toString('utf8', 512, 512 + size)) as Index;
}

/** The name and the pool that the import is to have: what the request says, or else the index. */
function targetOf(
  headers: IncomingHttpHeaders,
  project: string,
  index: Index,
  state: State,
): { name: string; pool: string } {
  const { 'x-lxd-name': name = index.name, 'x-lxd-pool': wanted } = headers;
  let pool = String(wanted ?? index.pool);
  if (!state.pools.has(pool) && wanted === undefined && !index.optimized)
    pool = rootDisk(state.profiles(project).get('default')?.devices ?? {})?.[1].pool ?? pool;
  if (!state.pools.has(pool)) throw new Refusal(500, 'Storage pool not found: Storage pool not found');
  return { name: String(name), pool };
}

/** In LXD's order, so that each thing fails where LXD has it fail. */
async function restore(
  state: State,
  archive: string,
  index: Index,
  target: { name: string; project: string; pool: string },
  fault: Fault<JobFaults['import']> | undefined,
  signal: AbortSignal,
): Promise<void> {
  const driver = state.driver(target.pool);
  if (index.optimized && index.backend !== driver)
    throw new Error(
      `Optimized backup storage driver "${index.backend}" differs from the target storage pool driver "${driver}"`,
    );
  if (state.hasFiles && existsSync(state.volume(target)))
    throw new Error('Create instance from backup: Cannot restore volume, already exists on target');
  const instance = instanceFrom(index, target);
  try {
    if (state.hasFiles) await unpackAll(state, archive, index, instance, signal);
    if (fault?.script.hold === 'operation') await fault.hold(signal);
    if (fault?.script.hold === 'record') {
      state.addInstance({ ...instance, isHalfMade: true, snapshots: [] });
      await fault.hold(signal);
    }
    if (fault?.script.error) fail(fault, fault.script.error);
    await state.makeLink(instance); // an instance of that name on another pool now points here
    try {
      admit(state, instance);
    } catch (error) {
      throw new Error('Failed importing backup', { cause: error });
    }
  } catch (error) {
    if (!signal.aborted) await state.removeFiles(instance); // a daemon that is killed leaves them for ever
    throw error;
  }
}

function fail(fault: Fault<unknown>, error: string): never {
  fault.reach();
  throw new Error(error);
}

async function unpackAll(state: State, archive: string, index: Index, instance: Instance, signal: AbortSignal) {
  try {
    for (const name of instance.snapshots)
      await unpack(archive, `snapshots/${name}`, state.snapshotVolume(instance, name), index.optimized, signal);
    const volume = state.volume(instance);
    await unpack(archive, 'container', volume, index.optimized, signal);
    if (!existsSync(join(volume, 'backup.yaml')))
      throw new Error(`Error updating backup file: open ${join(volume, 'backup.yaml')}: no such file or directory`);
    await writeBackupYaml(state, instance);
  } catch (error) {
    throw new Error('Create instance from backup', { cause: error });
  }
}

/** The copy of its configuration that LXD keeps in an instance's volume. */
export async function writeBackupYaml(state: State, instance: Instance): Promise<void> {
  const file = join(state.volume(instance), 'backup.yaml');
  await rm(file, { force: true });
  await writeFile(file, stringify({ container: instanceView(state, instance) }));
  await chmod(file, 0o400);
}

function instanceFrom(index: Index, target: { name: string; project: string; pool: string }): Instance {
  const { architecture, description, config, devices, profiles, created_at, last_used_at, ephemeral } =
    index.config.instance ?? (index.config.container as View);
  return {
    ...target,
    serial: randomUUID(),
    architecture,
    description,
    config,
    devices,
    profiles,
    createdAt: created_at,
    lastUsedAt: last_used_at,
    ephemeral,
    isRunning: false,
    isFrozen: false,
    snapshots: index.snapshots ?? [],
    backups: new Map(),
  };
}

/** Makes it known, or throws what LXD finds only after unpacking. */
function admit(state: State, instance: Instance): void {
  const { name, project, pool, devices } = instance;
  if (state.findInstance(name, project))
    throw new Error(`The instance "${name}" seems to exist on multiple storage pools`);
  if (!/^[a-zA-Z][a-zA-Z0-9-]*$/.test(name))
    throw new Error(
      'Failed creating instance record: Invalid instance name: Name can only contain alphanumeric and hyphen characters',
    );
  const known = state.profiles(project);
  if (!instance.profiles.every((profile) => known.has(profile)))
    throw new Error('Failed loading profiles for instance: Profile not found');
  const [root = 'root', disk] = rootDisk(state.expandedDevices(instance)) ?? [];
  if (disk?.pool !== pool) instance.devices = { ...devices, [root]: { path: '/', ...disk, type: 'disk', pool } };
  state.addInstance(instance);
}
