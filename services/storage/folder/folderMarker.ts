/** A folder as the store: the file that marks it. Without the marker, the folder may be the empty mount point of a disk that is away. */
import { constants } from 'node:fs';
import { access, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LxstowError, systemCode } from '../../contract/errors.ts';

export const markerName = '.lxstow-store';

const content = 'lxstow keeps backups in this folder, and writes nothing where this file is missing: see docs/s3.md.\n';

/** Marks an existing folder, unless it is marked already. Throws bad-config when the folder does not exist, or cannot be written to. */
export async function markFolder(folder: string): Promise<void> {
  try {
    await writeFile(join(folder, markerName), content, { flag: 'wx' });
  } catch (error) {
    const code = systemCode(error);
    if (code === 'EEXIST') return;
    const what =
      code === 'ENOENT' ? 'does not exist: make it, or mount it' : `cannot be written to: ${messageOf(error)}`;
    throw new LxstowError('bad-config', `s3.folder: ${folder} ${what}`, { cause: error });
  }
}

/** What keeps the folder from being used; undefined if nothing does. */
export async function folderFault(folder: string): Promise<string | undefined> {
  try {
    await access(join(folder, markerName));
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') return `the folder ${folder} cannot be read: ${messageOf(error)}`;
    if (!(await exists(folder))) return `the folder ${folder} does not exist: is it mounted?`;
    return `the folder ${folder} has no marker: is it mounted? (A new folder gets one by \`touch ${join(folder, markerName)}\`)`;
  }
  try {
    await access(folder, constants.W_OK);
  } catch (error) {
    return `the folder ${folder} cannot be written to: ${messageOf(error)}`;
  }
  return undefined;
}

/** Changes when another file system is mounted there. */
export async function folderIdentity(folder: string): Promise<string> {
  const { dev, ino } = await stat(folder);
  return `${dev}:${ino}`;
}

function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

function messageOf(error: unknown): string {
  return (error as Error).message;
}
