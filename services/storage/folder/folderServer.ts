/** VersityGW over a folder: where it keeps what, how it is started, and what it leaves behind when it is killed. */
import { glob, mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';

interface FolderServerOptions {
  folder: string;
  port: number;
  region: string;
  accessKey: string;
  secretKey: string;
}

interface FolderServer {
  args: string[];
  cwd: string;
  env: Record<string, string>;
}

/**
 * Arguments and environment of `versitygw`. Its paths are relative, so a server whose disk is unmounted lazily stays on that disk, and does not write to
 * the folder below the mount point. ETags and tags are in files of their own, because not every file system has extended attributes, and not every copy keeps them.
 */
export function folderServer({ folder, port, region, accessKey, secretKey }: FolderServerOptions): FolderServer {
  const general = ['--port', `127.0.0.1:${port}`, '--region', region, '--keep-alive', '--quiet'];
  return {
    args: [
      ...general,
      'posix',
      '--dir-perms',
      `${0o700}`,
      '--file-perms',
      `${0o600}`,
      '--sidecar',
      '../metadata',
      '../objects',
    ],
    cwd: join(folder, 'objects'),
    env: { ROOT_ACCESS_KEY: accessKey, ROOT_SECRET_KEY: secretKey },
  };
}

/** Creates the folders of server and bucket, and removes what a killed server has left. Call it only while no server uses them. */
export async function prepareFolder(folder: string, bucket: string): Promise<void> {
  for (const name of ['objects', 'metadata']) await mkdir(join(folder, name, bucket), { recursive: true, mode: 0o700 });
  for (const name of ['objects', 'metadata']) await reopenUploads(join(folder, name, bucket));
  await removeUnfinished(join(folder, 'objects', bucket));
}

/** Turns interrupted completions into open uploads again. Otherwise, the server would answer the next completion with success although there is no object. */
async function reopenUploads(bucket: string): Promise<void> {
  for await (const found of glob('.sgwtmp/multipart/*/*.inprogress', { cwd: bucket })) {
    const [, id] = /^(.*\/[^./]+)\.[^/]*\.inprogress$/.exec(found) ?? [];
    if (id !== undefined) await rename(join(bucket, found), join(bucket, id));
  }
}

/** Removes bodies that were being written. They have names only on file systems without unnamed files (O_TMPFILE). */
async function removeUnfinished(bucket: string): Promise<void> {
  const hash = '[0-9a-f]'.repeat(64);
  for await (const found of glob([`.sgwtmp/${hash}.*`, `.sgwtmp/multipart/*/${hash}.*`], { cwd: bucket }))
    await rm(join(bucket, found), { force: true });
}
