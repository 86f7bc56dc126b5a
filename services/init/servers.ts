/** The LXD and Incus servers on this machine, asked over their sockets. Changes nothing. */
import { stat } from 'node:fs/promises';
import { messageOf } from '../doctor/finding.ts';
import { LxdClient } from '../lxd/connection/client.ts';
import { knownSockets } from '../lxd/connection/sockets.ts';

export interface LocalServer {
  product: 'LXD' | 'Incus';
  version: string;
  socket: string;
  /** The group that may use the socket. */
  gid: number;
  /** Names of those in the default project, and of others as `project/name`. */
  instances: string[];
  pools: LocalPool[];
}

export interface LocalPool {
  name: string;
  driver: string;
  /** Unknown for some drivers. */
  freeBytes: number | undefined;
  /** Its folder, device or dataset. */
  source: string;
}

export interface FoundServers {
  found: LocalServer[];
  /** Why others that are there cannot be used. */
  unusable: string[];
}

const answerMs = 10_000;

export async function findServers(env: NodeJS.ProcessEnv, stop: AbortSignal): Promise<FoundServers> {
  const all: FoundServers = { found: [], unusable: [] };
  for (const socket of knownSockets(env)) {
    try {
      all.found.push(await look(socket, AbortSignal.any([stop, AbortSignal.timeout(answerMs)])));
    } catch (error) {
      stop.throwIfAborted();
      all.unusable.push(messageOf(error));
    }
  }
  return all;
}

async function look(socket: string, signal: AbortSignal): Promise<LocalServer> {
  using lxd = new LxdClient('local', { socket }, {});
  const { environment } = await lxd.get<{ environment?: { server: string; server_version: string } }>(
    '/1.0',
    {},
    signal,
  );
  const instances = await lxd.get<string[]>('/1.0/instances', { 'all-projects': 'true' }, signal);
  const pools = await lxd.get<{ name: string; driver: string; config?: { source?: string } }[]>(
    '/1.0/storage-pools',
    { recursion: '1' },
    signal,
  );
  return {
    product: environment?.server === 'incus' ? 'Incus' : 'LXD',
    version: environment?.server_version ?? '',
    socket,
    gid: (await stat(socket)).gid,
    instances: instances.map(nameOf),
    pools: await Promise.all(
      pools.map(async ({ name, driver, config }) => ({
        name,
        driver,
        freeBytes: await freeIn(lxd, name, signal),
        source: config?.source ?? '',
      })),
    ),
  };
}

/** `/1.0/instances/c1?project=shop` → `shop/c1` */
function nameOf(path: string): string {
  const url = new URL(path, 'http://lxd');
  const project = url.searchParams.get('project') ?? 'default';
  const name = decodeURIComponent(url.pathname.split('/').at(-1) ?? '');
  return project === 'default' ? name : `${project}/${name}`;
}

async function freeIn(lxd: LxdClient, pool: string, signal: AbortSignal): Promise<number | undefined> {
  try {
    const path = `/1.0/storage-pools/${encodeURIComponent(pool)}/resources`;
    const { space } = await lxd.get<{ space?: { total: number; used: number } }>(path, {}, signal);
    return space && space.total > 0 ? space.total - (space.used ?? 0) : undefined;
  } catch {
    // A pool that is unavailable: `doctor` says so.
    return undefined;
  }
}
