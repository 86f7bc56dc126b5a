/** Checks the folder that is the store: its marker, its room, and whether it would be lost together with LXD's pool. */
import { existsSync } from 'node:fs';
import { realpath, stat, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { sizeText } from '../contract/bytes.ts';
import { LxdClient } from '../lxd/client.ts';
import { folderFault } from '../storage/folderMarker.ts';
import { briefly, type Patient, type Report } from './finding.ts';

const lowShare = 0.1;

/** Returns whether the folder can be used. */
export async function examineFolder(folder: string, patient: Patient, report: Report): Promise<boolean> {
  const fault = await folderFault(folder);
  if (fault) {
    report('problem', fault, 'Mount it; jobs wait until then, and nothing is written.');
    return false;
  }
  const { bavail, blocks, bsize } = await statfs(folder);
  const room = `${sizeText(bavail * bsize)} of ${sizeText(blocks * bsize)} are free in ${folder}`;
  if (bavail < blocks * lowShare)
    report('warning', room, 'Delete backups, or take a larger disk: a full one lets jobs wait.');
  else report('ok', room);
  for (const pool of patient.roles.includes('worker') ? await poolsBeside(folder, patient) : [])
    report(
      'warning',
      `${folder} is on the same disk as storage pool ${pool}: who loses the one loses the other`,
      'Take another disk, or another machine.',
    );
  return true;
}

interface Pool {
  name: string;
  config?: { source?: string };
}

/** The storage pools whose disk the folder is on, as far as can be seen from here. */
async function poolsBeside(folder: string, { config, env, signal }: Patient): Promise<string[]> {
  const { remote } = config.worker;
  const settings = config.remotes[remote] ?? {};
  if (settings.url !== undefined) return [];
  using lxd = new LxdClient(remote, settings, env);
  // What is wrong with LXD is its own area's.
  const pools = await lxd.get<Pool[]>('/1.0/storage-pools', { recursion: '1' }, briefly(signal)).catch(() => []);
  const disk = await diskOf(folder);
  const found: string[] = [];
  for (const { name, config: { source = '' } = {} } of pools)
    if (source.startsWith('/') && (await diskOf(source)) === disk) found.push(name);
  return found;
}

/** The disk that a path is on, or that a device is a partition of. Of what this user may not see: that of the folder above. */
async function diskOf(path: string): Promise<string> {
  const found = await stat(path).catch(() => undefined);
  if (!found) return path === '/' ? '' : diskOf(dirname(path));
  const device = found.isBlockDevice() ? found.rdev : found.dev;
  // As the kernel's new_encode_dev() packs them.
  const [major, minor] = [(device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00)];
  const node = await realpath(`/sys/dev/block/${major}:${minor}`).catch(() => `device ${device}`);
  return existsSync(join(node, 'partition')) ? dirname(node) : node;
}
