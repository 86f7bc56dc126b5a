/**
 * Checks the room for backups on LXD's disk: LXD writes each there before it can be fetched. On a full disk its operation runs for ever
 * (docs/lxd.md).
 */
import { existsSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { sizeText } from '../contract/amounts.ts';
import type { LxdClient } from '../lxd/connection/client.ts';
import { defaultSocket } from '../lxd/connection/sockets.ts';
import { nameOf, rootPool } from '../lxd/instances.ts';
import { briefly, type Patient, type Report } from './finding.ts';

export interface Pool {
  name: string;
  driver: string;
  status?: string;
}

interface ListedInstance {
  name: string;
  expanded_devices: Record<string, Record<string, string>>;
  state?: { disk?: Record<string, { usage: number }> | null } | null;
  snapshots?: unknown[] | null;
}

interface Instance {
  /** `c1`, or `c1 (project p)`. */
  name: string;
  /** The pool of its root disk. */
  pool: string | undefined;
  /**
   * Size of a backup, which contains each snapshot in full unless it is optimized or `instance_only`. Btrfs without quotas, and directories, report no usage,
   * or almost none.
   */
  bytes: number;
}

interface Room {
  where: string;
  /** Bytes; undefined if unknown. */
  free: number | undefined;
  /** How to get more space. */
  more: string;
}

interface Staging {
  lxd: LxdClient;
  pools: Pool[];
  /** LXD's storage.backups_volume. */
  volume: unknown;
}

export async function examineStaging({ lxd, pools, volume }: Staging, patient: Patient, report: Report): Promise<void> {
  const { signal } = patient;
  const { slots } = patient.config.worker;
  const { where, free, more } =
    typeof volume === 'string' && volume.includes('/')
      ? await roomInVolume(lxd, volume, signal)
      : await roomOnDisk(lxd, patient);
  if (free === undefined)
    return report('ok', `this host cannot see how much space ${lxd.product} has for writing backups (${where})`);
  const instances = await listInstances(lxd, signal);
  const room = `${sizeText(free)} are free in ${where}, where ${lxd.product} writes backups`;
  const never = `on a full disk ${lxd.product}'s backup never ends`;
  const usual = (await usualSize(lxd, pools, instances, signal)) ?? 0;
  const [largest] = instances.filter(({ bytes }) => bytes > 0).sort((a, b) => b.bytes - a.bytes);
  if (!largest || largest.bytes < usual) {
    if (usual < free) report('ok', `${room}; it does not say how large its instances are`);
    else report('warning', `${room}; its instances have ${sizeText(usual)} on average: ${never}`, more);
    return;
  }
  const needs = `the largest instance, ${largest.name}, needs up to ${sizeText(largest.bytes)}`;
  if (largest.bytes > free) report('problem', `${room}; ${needs}: ${never}`, more);
  else if (largest.bytes * slots > free)
    report(
      'warning',
      `${room}; ${needs}, and ${slots} are backed up at a time: ${never}`,
      `${more} Or set worker.slots to ${Math.floor(free / largest.bytes)}.`,
    );
  else report('ok', `${room}; ${needs}`);
}

async function roomInVolume(lxd: LxdClient, name: string, signal: AbortSignal): Promise<Room> {
  const [pool = '', volume = ''] = name.split('/');
  const path = `/1.0/storage-pools/${encodeURIComponent(pool)}`;
  const { space } = await lxd.get<{ space: { used: number; total: number } }>(`${path}/resources`, {}, briefly(signal));
  const custom = `${path}/volumes/custom/${encodeURIComponent(volume)}`;
  const { config } = await lxd.get<{ config: Record<string, string> }>(custom, {}, briefly(signal));
  const state = await lxd
    .get<{ usage?: { used?: number } | null }>(`${custom}/state`, {}, briefly(signal))
    .catch(() => undefined);
  const quota = bytesOf(config.size ?? '');
  const inPool = space.total - space.used;
  return {
    where: `volume ${name} (storage.backups_volume)`,
    free: quota === undefined ? inPool : Math.min(inPool, quota - (state?.usage?.used ?? 0)),
    more:
      quota === undefined
        ? `Make room in pool ${pool}: \`${lxd.command} storage info ${pool}\`.`
        : `\`${lxd.command} storage volume set ${pool} ${volume} size=SIZE\`, of what \`${lxd.command} storage info ${pool}\` says is free.`,
  };
}

async function roomOnDisk(lxd: LxdClient, { config, env }: Patient): Promise<Room> {
  const { socket, url } = config.remotes[lxd.remote] ?? {};
  const { command } = lxd;
  const more = `Make room, or \`${command} storage volume create POOL backups\` and \`${command} config set storage.backups_volume POOL/backups\`.`;
  if (url !== undefined) return { where: `on the host of ${url}`, free: undefined, more };
  const dir = join(dirname(socket ?? defaultSocket(lxd.remote, env)), 'backups');
  // Only root may read some of these folders; their parents are on the same disk.
  const disk = await statfs(existsSync(dir) ? dir : dirname(dir)).catch(() => undefined);
  return { where: dir, free: disk && disk.bavail * disk.bsize, more };
}

async function listInstances(lxd: LxdClient, signal: AbortSignal): Promise<Instance[]> {
  const found: Instance[] = [];
  for (const path of await lxd.get<string[]>('/1.0/projects', {}, briefly(signal))) {
    const project = decodeURIComponent(path.split('/').at(-1) ?? '');
    const instances = lxd.items<ListedInstance>('/1.0/instances', { recursion: '2', project }, signal);
    for await (const { name, expanded_devices, state, snapshots } of instances)
      found.push({
        name: nameOf({ instance: name, project }),
        pool: rootPool(expanded_devices),
        bytes: (state?.disk?.root?.usage ?? 0) * (1 + (snapshots?.length ?? 0)),
      });
  }
  return found;
}

/**
 * The largest average size of a pool's instances: the pool's largest instance is no smaller, shared data aside. Skips directories, whose disk holds
 * other data too.
 */
async function usualSize(
  lxd: LxdClient,
  pools: Pool[],
  instances: Instance[],
  signal: AbortSignal,
): Promise<number | undefined> {
  const averages: number[] = [];
  for (const { name } of pools.filter(({ driver }) => driver !== 'dir')) {
    const count = instances.filter(({ pool }) => pool === name).length;
    if (count === 0) continue;
    const path = `/1.0/storage-pools/${encodeURIComponent(name)}/resources`;
    const { space } = await lxd.get<{ space: { used: number } }>(path, {}, briefly(signal));
    averages.push(space.used / count);
  }
  return averages.length > 0 ? Math.max(...averages) : undefined;
}

/** Parses LXD's `10GiB`, `500MB` to bytes. */
function bytesOf(text: string): number | undefined {
  const [, number, unit = ''] = /^(\d+) ?([kKMGTPE]i?)?B?$/.exec(text) ?? [];
  if (number === undefined) return undefined;
  return (
    Number(number) * (unit.endsWith('i') ? 1024 : 1000) ** ('kMGTPE'.indexOf(unit.charAt(0).replace('K', 'k')) + 1 || 0)
  );
}
