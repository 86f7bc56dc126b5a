/** Checks the folder that is the store: its marker, its free space, and whether it is on the same disk as LXD's pool. */
import { existsSync } from 'node:fs';
import { realpath, stat, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { sizeText } from '../contract/amounts.ts';
import { LxdClient } from '../lxd/connection/client.ts';
import { folderFault } from '../storage/folder/folderMarker.ts';
import { briefly, type Patient, type Report } from './finding.ts';

const lowShare = 0.1;

/** Returns whether the folder can be used. */
export async function examineFolder(folder: string, patient: Patient, report: Report): Promise<boolean> {
  const fault = await folderFault(folder);
  if (fault) {
    report(
      'problem',
      fault,
      'Mount it, or let the user who runs standalone write to it; jobs wait until then, and nothing is written.',
    );
    return false;
  }
  await examineRoom(folder, report);
  const pools = patient.roles.includes('worker') ? await localPools(patient) : [];
  for (const pool of await poolsBeside(folder, pools))
    report(
      'warning',
      `${folder} is on the same disk as storage pool ${pool}: if that disk dies, the backups die with the instances`,
      'Use another disk, or another machine.',
    );
  return true;
}

/** Warns if little space is free. */
export async function examineRoom(folder: string, report: Report): Promise<void> {
  const { bavail, blocks, bsize } = await statfs(folder);
  const room = `${sizeText(bavail * bsize)} of ${sizeText(blocks * bsize)} are free in ${folder}`;
  if (bavail < blocks * lowShare)
    report('warning', room, 'Delete backups, or use a larger disk: while the disk is full, jobs wait.');
  else report('ok', room);
}

interface PoolSource {
  name: string;
  /** The pool's folder, device or dataset. */
  source: string;
}

/** The names of the pools that are on the folder's disk, as far as this machine can tell. */
export async function poolsBeside(folder: string, pools: PoolSource[]): Promise<string[]> {
  const disk = await diskOf(folder);
  const found: string[] = [];
  for (const { name, source } of pools) if (source.startsWith('/') && (await diskOf(source)) === disk) found.push(name);
  return found;
}

/** The pools of the LXD on this machine; none if LXD is on another machine. */
async function localPools({ config, env, signal }: Patient): Promise<PoolSource[]> {
  const { remote } = config.worker;
  const settings = config.remotes[remote] ?? {};
  if (settings.url !== undefined) return [];
  using lxd = new LxdClient(remote, settings, env);
  const listed = lxd.get<{ name: string; config?: { source?: string } }[]>(
    '/1.0/storage-pools',
    { recursion: '1' },
    briefly(signal),
  );
  // When LXD does not answer, the check of LXD says why.
  const pools = await listed.catch(() => []);
  return pools.map(({ name, config: { source = '' } = {} }) => ({ name, source }));
}

/** The disk that a path is on, or that a device is a partition of. For a path that this user may not see: the disk of the folder above it. */
async function diskOf(path: string): Promise<string> {
  const found = await stat(path).catch(() => undefined);
  if (!found) return path === '/' ? '' : diskOf(dirname(path));
  const device = found.isBlockDevice() ? found.rdev : found.dev;
  // The numbers are packed as by the kernel's new_encode_dev().
  const [major, minor] = [(device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00)];
  const node = await realpath(`/sys/dev/block/${major}:${minor}`).catch(() => `device ${device}`);
  return existsSync(join(node, 'partition')) ? dirname(node) : node;
}
