/** LXD's export into the object store: blocks, compressed, in parts, several at a time; whole, or not at all. */
import type { ByteSource } from '../../archive/blocks.ts';
import { draftParts } from '../../archive/draftParts.ts';
import { paced } from '../../archive/pace.ts';
import { type PartDraft, partSizeFor, partsInFlight } from '../../archive/parts.ts';
import { largestIndexBytes } from '../../archive/tar/indexYaml.ts';
import { TarScanner, type TarState } from '../../archive/tar/tar.ts';
import { IdleWatch } from '../../concurrency/idleWatch.ts';
import { mapInOrder } from '../../concurrency/orderedMap.ts';
import { asLxstowError, isCode, LxstowError } from '../../contract/errors.ts';
import type { BackupAddress, OperationMetadata } from '../../contract/schemas.ts';
import type { LxdBackup, Writing } from '../../lxd/backups.ts';
import { followExport, openExport } from '../../lxd/exports.ts';
import { nameOf } from '../../lxd/instances.ts';
import { type Attempt, bytesPerSecond } from '../../operations/attempt.ts';
import type { Tools } from '../tools.ts';
import { type ArchiveUpload, etagAt } from './archiveUpload.ts';
import type { BackupCheckpoint, SentPart } from './checkpoint.ts';
import { zerosIn } from './zeros.ts';

/**
 * Sends what is not stored yet, and makes the object of it, unless an attempt before this one has. What LXD is still writing is sent meanwhile
 * (docs/adr/0028-sending-ahead.md).
 */
export async function sendArchive(
  address: BackupAddress,
  checkpoint: BackupCheckpoint,
  upload: ArchiveUpload,
  attempt: Attempt,
  tools: Tools,
  writing?: Writing,
): Promise<{ parts: SentPart[]; etag: string; made: LxdBackup }> {
  const { start } = checkpoint;
  const send = { address, checkpoint, upload, attempt, tools };
  const made = writing ? await sendAhead(send, writing) : start.made;
  if (!made) throw new TypeError('neither is the export whole, nor is anybody writing it');
  const sent = checkpoint.parts;
  const last = sent.at(-1);
  const from = last?.rawEnd ?? 0;
  if (from > made.size) throw truncated(address, made, from);
  if (last && from === made.size) {
    TarScanner.from(last.tar).finish();
    if (!writing && (await etagAt(tools.store, start.upload.key, attempt.signal)) === upload.etag)
      return { parts: sent, etag: upload.etag, made };
  } else {
    const { size, source } = await openExport(tools.lxd, address, start.lxdBackup, attempt.signal, from);
    try {
      if (size !== made.size) throw truncated(address, made, size);
      const end = await transfer(send, source, partSizeFor(made.size - from, sent.length));
      if (end !== made.size) throw truncated(address, made, end);
    } finally {
      source.destroy();
    }
  }
  const parts = checkpoint.parts;
  const through = { bytes_done: made.size, bytes_total: made.size, bytes_stored: storedBytes(parts) };
  await attempt.record({ metadata: { stage: 'uploading', ...through } });
  return { parts, etag: await upload.complete(attempt.signal), made };
}

interface Send {
  address: BackupAddress;
  checkpoint: BackupCheckpoint;
  upload: ArchiveUpload;
  attempt: Attempt;
  tools: Tools;
}

/**
 * Sends what LXD has written so far, and resolves when it has written all. When the store fails meanwhile, the rest is left for later: LXD's work
 * is not to be done twice for that.
 */
async function sendAhead(send: Send, writing: Writing): Promise<LxdBackup> {
  const { address, checkpoint, attempt, tools } = send;
  const settled = writing.made.then(async (made) => {
    await checkpoint.settle(made);
    return made;
  });
  settled.catch(() => undefined);
  const limit = tools.config.worker.sendAheadMiB * 1024 * 1024;
  const source = followExport(tools.lxd, address, writing, limit);
  try {
    if (limit > 0) await transfer(send, source, partSizeFor(limit), limit);
  } catch (error) {
    if (attempt.signal.aborted || asLxstowError(error).permanent || isCode(error, 'archive-truncated')) throw error;
    attempt.log.warn('not all sent while LXD was writing', { error });
  } finally {
    source.destroy();
  }
  return settled;
}

/** What LXD has sent must be a whole tar, and as long as LXD announced. */
function truncated(address: BackupAddress, made: LxdBackup, size: number): LxstowError {
  return new LxstowError(
    'archive-truncated',
    `LXD announced ${made.size} bytes for the export of ${nameOf(address)}, but sent ${size}`,
  );
}

/**
 * Sends the export from behind what is stored, up to its end, or to byte `limit`: a part that this one cuts short is not sent. Returns the byte
 * it came to.
 */
async function transfer(
  { address, checkpoint, upload, attempt, tools }: Send,
  source: ByteSource,
  partSize: number,
  limit = Number.POSITIVE_INFINITY,
): Promise<number> {
  const { threads, bandwidth, memory, config, metrics } = tools;
  const sent = checkpoint.parts;
  const last = sent.at(-1);
  const partStart = { number: (last?.number ?? 0) + 1, rawStart: last?.rawEnd ?? 0 };
  const begun = performance.now();
  const tar = last ? TarScanner.from(last.tar) : new TarScanner();
  using idle = new IdleWatch(config.worker.lxdIdleTimeoutMs, `the export of ${nameOf(address)}`);
  const signal = AbortSignal.any([attempt.signal, idle.signal]);
  let read = partStart.rawStart;
  let stored = storedBytes(sent);
  const progress = (): OperationMetadata => {
    const { made } = checkpoint.start;
    // Until then LXD says how far it is.
    if (!made) return { bytes_stored: stored };
    return {
      stage: 'uploading',
      bytes_done: read,
      bytes_total: made.size,
      bytes_stored: stored,
      bytes_per_second: bytesPerSecond(read - partStart.rawStart, begun),
    };
  };

  // The scanner's state behind each block, by the tar's byte: what a part needs to be gone on from.
  const states = new Map<number, TarState>();
  const onBlock = (bytes: Buffer) => {
    tar.push(bytes);
    if ((tar.firstFileBytes ?? 0) > largestIndexBytes) throw indexTooLarge(address, tar.firstFileBytes);
    read += bytes.length;
    states.set(read, tar.state());
  };

  const inFlight = partsInFlight(partSize, config.worker.partsInFlight);
  const drafts = draftParts(paced(source, bandwidth), {
    compression: checkpoint.start.compression,
    partSize,
    inFlight,
    memory,
    threads,
    onBlock,
    idle,
    signal,
    start: partStart,
  });

  const sendPart = async ({ number, rawStart, rawEnd, body, release }: PartDraft): Promise<void> => {
    if (rawEnd === limit && body.length < partSize) return release();
    const { sha256, crc32 } = await threads.digest(body);
    const state = states.get(rawEnd) ?? tar.state();
    const zeros = checkpoint.start.compression === 'none' ? { zeros: zerosIn(body) } : {};
    const part = await upload.put(
      { number, rawStart, rawEnd, size: body.length, sha256, crc32, tar: state, ...zeros },
      body,
      signal,
    );
    release();
    for (const at of states.keys()) if (at <= rawStart) states.delete(at);
    stored += part.size;
    metrics.received.inc({ peer: 'lxd' }, rawEnd - rawStart);
    attempt.report(progress());
  };
  for await (const _ of mapInOrder(drafts, inFlight, sendPart));
  if (read < limit) tar.finish();
  return read;
}

/** LXD writes an archive that it does not take back: the index has each snapshot's configuration twice. */
function indexTooLarge(address: BackupAddress, bytes = 0): LxstowError {
  return new LxstowError(
    'too-large',
    `LXD would not take the backup of ${nameOf(address)} back: its index.yaml is ${bytes} bytes, and LXD reads ${largestIndexBytes}. Delete snapshots, or large values of its configuration, or use --instance-only`,
  );
}

export function storedBytes(parts: SentPart[]): number {
  return parts.reduce((sum, { size }) => sum + size, 0);
}
