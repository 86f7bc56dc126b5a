/** Stores a client's archive in parts of our own, so that it is verified and restored as our own backups are. */
import type { Readable } from 'node:stream';
import { blockSizeBytes } from '../archive/compression/compression.ts';
import type { Threads } from '../archive/compression/threads.ts';
import { mostParts, type PartDraft, partSizeFor, partsInFlight } from '../archive/cutParts.ts';
import { type DraftOptions, draftParts } from '../archive/draftParts.ts';
import type { SlotMemory } from '../archive/slotMemory.ts';
import { type OnEntry, TarScanner } from '../archive/tar/tar.ts';
import type { IdleWatch } from '../concurrency/idleWatch.ts';
import { mapInOrder } from '../concurrency/orderedMap.ts';
import { isCode, LxstowError } from '../contract/errors.ts';
import type { Compression, ManifestArchive, Part } from '../contract/schemas.ts';
import type { ObjectStore, Upload } from '../storage/objectStore.ts';

/** For an archive of unknown size: takes up to 312 GiB, and fits a slot's memory in a restore. */
const usualPartBytes = 32 * 1024 * 1024;
/** What recompression may add to an announced size. */
const allowance = 1.25;
const wantedInFlight = 2;
/** Two are in memory at a time. As parts begin smaller, 10 000 hold 9 TiB. */
const largestPartBytes = 1024 * 1024 * 1024;
/**
 * Above the usual size, this many times the bytes of a part precede it. So a false announcement takes no memory, neither here nor in a restore. It costs
 * up to 700 more parts.
 */
const precedingParts = 200;
/** Uploads with larger parts are received one at a time. */
const largestSharedPartBytes = 64 * 1024 * 1024;

interface ReceiveOptions {
  compression: Compression;
  /** Bytes that the client announced. */
  length: number | undefined;
  store: ObjectStore;
  threads: Threads;
  /** No other transfer may use it. */
  memory: SlotMemory;
  idle: IdleWatch;
  /** Called with each entry of the tar; may throw. */
  onEntry?: OnEntry;
  onProgress: (read: number, stored: number) => void;
  signal: AbortSignal;
}

type Received = Pick<ManifestArchive, 'size' | 'rawSize' | 'blockSize' | 'parts'>;

/** Whether an archive of this announced length, more than 450 GiB, must be received alone. */
export function isLarge(length: number | undefined): boolean {
  return partSizesFor(length).partSize > largestSharedPartBytes;
}

/** Bytes of the largest part, and of the part that begins at `rawStart`. */
export function partSizesFor(length: number | undefined): Pick<DraftOptions, 'partSize' | 'sizeAt'> {
  const partSize = length === undefined ? usualPartBytes : Math.min(largestPartBytes, partSizeFor(length * allowance));
  const sizeAt = (rawStart: number) => {
    const grown = Math.floor(rawStart / precedingParts / blockSizeBytes) * blockSizeBytes;
    return Math.min(partSize, Math.max(usualPartBytes, grown));
  };
  return { partSize, sizeAt };
}

/** Stores the tar's parts in the open upload. Throws bad-request if the tar is truncated or damaged, too-large if it has too many parts. */
export async function receiveParts(tar: Readable, upload: Upload, options: ReceiveOptions): Promise<Received> {
  const { compression, length, store, threads, memory, idle, onEntry, onProgress, signal } = options;
  const { partSize, sizeAt } = partSizesFor(length);
  const inFlight = partsInFlight(partSize, wantedInFlight);
  const scanner = new TarScanner('the archive', onEntry);
  let [rawSize, size] = [0, 0];

  const onBlock = (bytes: Buffer) => {
    scanner.push(bytes);
    rawSize += bytes.length;
  };
  const drafts = draftParts(tar, { compression, partSize, sizeAt, inFlight, memory, threads, onBlock, idle, signal });

  const sendPart = async ({ number, rawStart, rawEnd, body, release }: PartDraft): Promise<Part> => {
    if (number > mostParts)
      throw new LxstowError('too-large', 'the archive is too large for its parts: send it with its Content-Length');
    const { sha256, crc32 } = await threads.digest(body);
    const etag = await store.putPart(upload, number, body, crc32, signal);
    const part = { number, rawStart, rawEnd, size: body.length, etag, sha256, crc32 };
    release();
    size += part.size;
    onProgress(rawSize, size);
    return part;
  };
  let parts: Part[];
  try {
    parts = await Array.fromAsync(mapInOrder(drafts, inFlight, sendPart));
    scanner.finish();
  } catch (error) {
    if (!isCode(error, 'archive-truncated') && !isCode(error, 'archive-corrupt')) throw error;
    throw new LxstowError('bad-request', (error as Error).message, { cause: error });
  }
  return { size, rawSize, blockSize: compression === 'none' ? partSize : blockSizeBytes, parts };
}
