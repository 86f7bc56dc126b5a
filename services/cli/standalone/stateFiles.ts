/** Files in the state directory, in which standalone and other commands on the machine share the secrets and addresses of its servers. */
import { randomBytes, randomUUID } from 'node:crypto';
import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { readText } from '../../contract/config.ts';
import { LxstowError, systemCode } from '../../contract/errors.ts';

/** Reads the secret in this file; makes it the first time. The file is never written partly, even on a full disk. */
export async function ownSecret(file: string): Promise<string> {
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  const known = await readFile(file, 'utf8').catch((error) => {
    if (systemCode(error) !== 'ENOENT') throw error;
    return undefined;
  });
  if (known) return known;
  // Earlier versions left the file empty if the disk was full.
  if (known === '') await rm(file, { force: true });
  const part = `${file}.${randomUUID()}`;
  await writeFile(part, randomBytes(24).toString('hex'), { mode: 0o600 });
  try {
    await link(part, file);
  } catch (error) {
    // Another process has made it.
    if (systemCode(error) !== 'EEXIST') throw error;
  } finally {
    await rm(part);
  }
  return readFile(file, 'utf8');
}

/** The content of a file that standalone wrote; undefined if standalone has not run. Throws bad-config if this user may not read it. `what` describes the file. */
export function readOwn(file: string, what: string): string | undefined {
  try {
    return readText(file, what);
  } catch (error) {
    const code = systemCode((error as Error).cause);
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    const message = `${(error as Error).message}: run this command as the user who runs standalone`;
    throw new LxstowError('bad-config', message, { cause: error });
  }
}
