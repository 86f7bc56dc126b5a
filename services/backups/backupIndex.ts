/**
 * What lists tell of a project's backups, in one object beside them, so that a gateway that has just started need not read every
 * manifest. It is a hint and no more: of a manifest whose ETag and size are not the listing's it says nothing (adr/0019).
 */
import { promisify } from 'node:util';
import { gunzip, gzip } from 'node:zlib';
import { isCode } from '../contract/errors.ts';
import { type BackupIndex, check, type IndexedBackup } from '../contract/schemas.ts';
import type { ObjectStore } from '../storage/objectStore.ts';
import type { Log } from '../telemetry/logger.ts';
import { indexKey } from './keys.ts';

type Place = { remote: string; project: string };

/** What was read, and what `write` is to take the place of. */
export interface StoredIndex {
  backups: IndexedBackup[];
  /** Undefined where there is none. */
  etag: string | undefined;
}

/** Unpacked; about 300 000 backups. A larger one is neither written nor read. */
const mostBytes = 64 * 1024 * 1024;
const [pack, unpack] = [promisify(gzip), promisify(gunzip)];

/** Reads the index; one that is missing, damaged or cannot be read is empty. */
export async function readIndex(
  store: ObjectStore,
  prefix: string,
  of: Place,
  log: Log,
  signal: AbortSignal,
): Promise<StoredIndex> {
  const key = indexKey(prefix, of);
  let etag: string | undefined;
  try {
    const stored = await store.read(key, signal);
    etag = stored.etag;
    const text = (await unpack(stored.body, { maxOutputLength: mostBytes })).toString();
    return { backups: check('backup-index.json', JSON.parse(text), key).backups, etag };
  } catch (error) {
    signal.throwIfAborted();
    if (etag !== undefined) log.warn('index of backups not understood, it will be made anew', { key, error });
    else if (!isCode(error, 'not-found')) log.warn('index of backups not read', { key, error });
    return { backups: [], etag };
  }
}

/** Writes it in the place of `over`. Where another gateway was faster, its index stays. A failure is logged: no list needs an index. */
export async function writeIndex(
  store: ObjectStore,
  prefix: string,
  of: Place,
  { backups, etag }: StoredIndex,
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  const key = indexKey(prefix, of);
  const text = JSON.stringify({ version: 4, backups } satisfies BackupIndex);
  if (text.length > mostBytes) return;
  try {
    const body = await pack(text);
    const contentType = 'application/gzip';
    if (etag === undefined) await store.create(key, body, { contentType }, signal);
    else await store.replace(key, etag, body, { tags: {}, contentType }, signal);
    log.debug('index of backups written', { key, backups: backups.length });
  } catch (error) {
    if (signal.aborted || isCode(error, 'conflict') || isCode(error, 'not-found')) return;
    log.warn('index of backups not written', { key, error });
  }
}
