/** Tries a store before anything is written: an S3 server by doctor's checks, a folder by writing to it. */
import { existsSync, statSync } from 'node:fs';
import { mkdir, rm, rmdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { sizeText } from '../contract/amounts.ts';
import { systemCode } from '../contract/errors.ts';
import { check } from '../contract/schemas.ts';
import { examine, type Finding, reportTo } from '../doctor/finding.ts';
import { examineRoom, poolsBeside } from '../doctor/folder.ts';
import { examineS3 } from '../doctor/s3.ts';
import { markerName } from '../storage/folder/folderMarker.ts';
import { createS3Store } from '../storage/s3/s3.ts';
import { createLogger } from '../telemetry/logger.ts';
import type { Access, FolderPlace, S3Place } from './initAnswers.ts';
import { withoutLinks } from './places.ts';
import { findProgram, runProgram } from './programs.ts';
import type { LocalServer } from './servers.ts';

const bucketMs = 10_000;
const probeBytes = 1024 * 1024;

/** Creates the bucket if it is not there. */
export async function tryS3(place: S3Place & Access, stop: AbortSignal): Promise<Finding[]> {
  const config = check('config.json', { s3: { ...place } }, 'the store', 'bad-request');
  const log = createLogger(config.log, {});
  log.silent = true;
  {
    using store = createS3Store({ ...config.s3, attempts: 1, idleTimeoutMs: bucketMs });
    // If it fails, examineS3 says why.
    await store.ensureBucket(AbortSignal.any([stop, AbortSignal.timeout(bucketMs)])).catch(() => undefined);
  }
  stop.throwIfAborted();
  return examine('s3', examineS3, { config, env: {}, roles: ['gateway', 'worker'], log }, stop);
}

/** Tests the folder, and leaves nothing behind, not even the folder, because the user may stop before the last question. `confined`: the service will be root without capabilities. */
export async function tryFolder(
  { folder }: FolderPlace,
  server: LocalServer,
  { env, state, confined }: { env: NodeJS.ProcessEnv; state: string; confined: boolean },
): Promise<Finding[]> {
  const findings: Finding[] = [];
  const report = reportTo(findings, 's3');
  if (!findProgram('versitygw', env)) {
    report(
      'problem',
      'there is no versitygw on the PATH, which serves a folder as S3',
      'Install it (docs/install.md), or give the URL of an S3 server.',
    );
    return findings;
  }
  if (isIn(folder, state)) {
    // Earlier versions allowed it: such a store goes on.
    const isStore = existsSync(join(folder, markerName));
    report(
      isStore ? 'warning' : 'problem',
      `${folder} is in lxstow's own folder, ${state}`,
      'Use another folder: who removes lxstow may remove this one, too.',
    );
    if (!isStore) return findings;
  }
  let made = false;
  try {
    made = await makeFolder(folder);
    await writeInto(folder);
    if (confined && !(await canConfinedWrite(folder))) {
      report(
        'problem',
        `lxstow's service may not write to ${folder}: it is root without capabilities, and may write only where the owner, mode or mount lets it`,
        await adviceForConfined(folder),
      );
      return findings;
    }
    report('ok', `${folder} can be written to`);
    await examineRoom(folder, report);
  } catch (error) {
    report('problem', ...faultOf(folder, error as NodeJS.ErrnoException));
    return findings;
  } finally {
    if (made) await rmdir(folder);
  }
  const pools = await poolsBeside(folder, server.pools);
  if (pools.length > 0)
    report(
      'warning',
      `${folder} is on the same disk as the storage of ${server.product} (${pools.join(', ')}): if that disk dies, the backups die with the instances`,
      'Use another disk, a NAS or an S3 server instead.',
    );
  return findings;
}

function isIn(path: string, folder: string): boolean {
  return `${withoutLinks(path)}/`.startsWith(`${withoutLinks(folder)}/`);
}

/** Returns whether it did not exist. */
export async function makeFolder(folder: string): Promise<boolean> {
  try {
    await mkdir(folder, { mode: 0o700 });
    return true;
  } catch (error) {
    if (systemCode(error) === 'EEXIST') return false;
    throw error;
  }
}

/** Tries it as the package's service will. */
async function canConfinedWrite(folder: string): Promise<boolean> {
  const probe = join(folder, `.lxstow-init-${process.pid}`);
  try {
    return await isDoneConfined('touch', probe);
  } finally {
    await rm(probe, { force: true }).catch(() => undefined);
  }
}

/** Runs a program as root without capabilities, as the package's service is (units.ts); returns whether it succeeds. */
async function isDoneConfined(...command: string[]): Promise<boolean> {
  return (await runProgram('setpriv', ['--bounding-set=-all', '--inh-caps=-all', ...command])).status === 0;
}

async function adviceForConfined(folder: string): Promise<string> {
  for (const above of foldersAbove(withoutLinks(folder)))
    if (!(await isDoneConfined('test', '-x', above)))
      return `Use a folder outside of ${above}, which other users may not enter, or: chmod o+x '${above}'.`;
  // Whatever else is in the folder is the user's.
  const all = existsSync(join(folder, markerName)) ? '-R ' : '';
  return `chown ${all}root: '${folder}', or mount the disk or share with uid=0.`;
}

/** The highest first. */
function foldersAbove(path: string): string[] {
  const above = dirname(path);
  return above === path ? [] : [...foldersAbove(above), above];
}

/** A few bytes that do not fit on a full disk. */
async function writeInto(folder: string): Promise<void> {
  const probe = join(folder, `.lxstow-init-${process.pid}`);
  try {
    await writeFile(probe, Buffer.alloc(probeBytes), { flag: 'wx' });
  } finally {
    await rm(probe, { force: true }).catch(() => undefined);
  }
}

/** What is wrong, and what to do. */
function faultOf(folder: string, error: NodeJS.ErrnoException): [finding: string, advice: string] {
  const another = 'Give a folder that this user may write to.';
  const faults: Record<string, [string, string]> = {
    ENOENT: existsSync(dirname(folder))
      ? [`nothing can be created in ${dirname(folder)}`, another]
      : [`${dirname(folder)} does not exist`, 'Mount the disk or share first, or create the folder.'],
    ENOTDIR: [`${noFolderIn(folder)} is not a folder`, another],
    EACCES: [`this user may not write to ${folder}`, another],
    EPERM: [`this user may not write to ${folder}`, another],
    EROFS: [`${folder} is on a disk that is mounted read-only`, 'Mount it for writing, or give another folder.'],
    ENOSPC: [`there is no room in ${folder}`, 'Make room, or give a folder on another disk.'],
    EDQUOT: [`there is no room for this user in ${folder}`, 'Make room, or give a folder on another disk.'],
  };
  return faults[error.code ?? ''] ?? [`${folder} cannot be used: ${error.message}`, another];
}

/** The part of the path that is not a folder, for example a file. */
function noFolderIn(path: string): string {
  return path === '/' || statSync(path, { throwIfNoEntry: false }) ? path : noFolderIn(dirname(path));
}

/** `default (btrfs, 40 GiB free)` */
export function poolText({ name, driver, freeBytes }: LocalServer['pools'][number]): string {
  return `${name} (${driver}${freeBytes === undefined ? '' : `, ${sizeText(freeBytes)} free`})`;
}
