/**
 * The index of a project's backups: one object with what lists show of them, so that a gateway that has just started need not read every manifest. An
 * entry counts only if its ETag and size are those of the listing (adr/0019).
 */
import { promisify } from 'node:util';
import { gunzip, gzip } from 'node:zlib';
import { isCode } from '../contract/errors.ts';
import { type BackupIndex, check, type IndexedBackup } from '../contract/schemas.ts';
import type { ObjectStore } from '../storage/objectStore.ts';
import type { Log } from '../telemetry/logger.ts';
import { indexKey } from './keys.ts';

type Place = { remote: string; project: string };

/** The index that was read, and that `writeIndex` replaces. */
interface StoredIndex {
  backups: IndexedBackup[];
  /** Undefined if there is none. */
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
    if (etag !== undefined) log.warn('index of backups not understood, it will be made again', { key, error });
    else if (!isCode(error, 'not-found')) log.warn('index of backups not read', { key, error });
    return { backups: [], etag };
  }
}

/** Writes the index, unless another gateway has written one first. Logs a failure: no list needs an index. */
export async function writeIndex(
  store: ObjectStore,
  prefix: string,
  of: Place,
  { backups, etag }: StoredIndex,
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  const key = indexKey(prefix, of);
  const text = JSON.stringify({ version: 5, backups } satisfies BackupIndex);
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
