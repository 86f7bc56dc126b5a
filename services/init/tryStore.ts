/** Tries a store before anything is written: an S3 server by doctor's checks, a folder by writing to it. */
import { access, constants, mkdir, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { sizeText } from '../contract/bytes.ts';
import { check } from '../contract/schemas.ts';
import { examine, type Finding, reportTo } from '../doctor/finding.ts';
import { poolsBeside } from '../doctor/folder.ts';
import { examineS3 } from '../doctor/s3.ts';
import { createS3Store } from '../storage/s3.ts';
import { createLogger } from '../telemetry/logger.ts';
import type { FolderPlace, S3Place } from './initAnswers.ts';
import { findProgram } from './programs.ts';
import type { LocalServer } from './servers.ts';

const bucketMs = 10_000;

/** Creates the bucket if it is not there. */
export async function tryS3(place: S3Place, stop: AbortSignal): Promise<Finding[]> {
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

/** Creates the folder if the one that it is in exists. */
export async function tryFolder(
  { folder }: FolderPlace,
  server: LocalServer,
  env: NodeJS.ProcessEnv,
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
  try {
    await mkdir(folder, { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    });
    if (!(await stat(folder)).isDirectory()) throw new Error('it is not a folder');
    await access(folder, constants.R_OK | constants.W_OK | constants.X_OK);
    const probe = join(folder, `.lxstow-init-${process.pid}`);
    await writeFile(probe, '');
    await rm(probe);
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === 'ENOENT';
    report(
      'problem',
      missing ? `${dirname(folder)} does not exist` : `${folder} cannot be used: ${(error as Error).message}`,
      missing ? 'Mount the disk or share first, or create the folder.' : 'Give a folder that this user may write to.',
    );
    return findings;
  }
  report('ok', `${folder} can be written to`);
  const pools = await poolsBeside(folder, server.pools);
  if (pools.length > 0)
    report(
      'warning',
      `${folder} is on the same disk as the storage of ${server.product} (${pools.join(', ')}): if that disk dies, the backups die with the instances`,
      'Use another disk, a NAS or an S3 server instead.',
    );
  return findings;
}

/** `default (btrfs, 40 GiB free)` */
export function poolText({ name, driver, freeBytes }: LocalServer['pools'][number]): string {
  return `${name} (${driver}${freeBytes === undefined ? '' : `, ${sizeText(freeBytes)} free`})`;
}
