/** Reads the description of the API, docs/openapi.json, when a client asks for it. */
import { readFile } from 'node:fs/promises';
import { LxstowError } from './errors.ts';

const page = new URL('docs/openapi.json', new URL('../../', import.meta.url));

/** Throws not-found if the file is not installed. */
export async function readOpenapi(): Promise<Buffer> {
  try {
    return await readFile(page);
  } catch (cause) {
    throw new LxstowError('not-found', 'this gateway was installed without docs/openapi.json', { cause });
  }
}
