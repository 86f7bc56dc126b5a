/** Sends LXD's export to the object store: compressed blocks, in parts, several at a time. */
import type { ByteSource } from '../../archive/blocks.ts';
import { type PartDraft, partSizeFor, partsInFlight, smallestPartBytes } from '../../archive/cutParts.ts';
import { draftParts } from '../../archive/draftParts.ts';
import { paced } from '../../archive/pace.ts';
import { largestIndexBytes } from '../../archive/tar/indexYaml.ts';
import { TarScanner, type TarState } from '../../archive/tar/tar.ts';
import { etagAt } from '../../backups/archives.ts';
import { IdleWatch } from '../../concurrency/idleWatch.ts';
import { forEach } from '../../concurrency/orderedMap.ts';
import { asLxstowError, isCode, LxstowError } from '../../contract/errors.ts';
import type { BackupAddress, OperationMetadata } from '../../contract/schemas.ts';
import type { LxdBackup, Writing } from '../../lxd/archives/backups.ts';
import { followExport, openExport } from '../../lxd/archives/exports.ts';
import { nameOf } from '../../lxd/instances.ts';
import { type Attempt, bytesPerSecond } from '../../operations/attempt.ts';
import type { Tools } from '../tools.ts';
import type { ArchiveUpload } from './archiveUpload.ts';
import type { BackupCheckpoint, SentPart } from './checkpoint.ts';
import { zerosIn } from './zeros.ts';

/** The archive in the store. */
export interface Sent {
  parts: SentPart[];
  etag: string;
  /** LXD's copy, from which it was made. */
  made: LxdBackup;
}

/**
 * Sends what is not stored yet, also while LXD still writes it (docs/adr/0028-sending-ahead.md), and makes the object, unless an earlier attempt has
 * made it.
 */
export async function sendArchive(
  address: BackupAddress,
  checkpoint: BackupCheckpoint,
  upload: ArchiveUpload,
  attempt: Attempt,
  tools: Tools,
  writing?: Writing,
): Promise<Sent> {
  const { start } = checkpoint;
  const settled = writing ? settle(writing, checkpoint) : start.made;
  if (!settled) throw new TypeError('the export is incomplete, and LXD is not writing it');
  const send = { address, checkpoint, upload, made: settled, attempt, tools };
  if (writing) await sendAhead(send, writing);
  const made = await settled;
  const sent = checkpoint.parts;
  const last = sent.at(-1);
  const from = last?.rawEnd ?? 0;
  if (from > made.size) throw truncated(address, made, from);
  if (last && from === made.size) {
    TarScanner.from(last.tar).finish();
    if (!writing && (await etagAt(tools.store, upload.key, attempt.signal)) === upload.etag)
      return { parts: sent, etag: upload.etag, made };
  } else {
    const { size, source } = await openExport(tools.lxd, address, start.lxdBackup, attempt.signal, from);
    try {
      if (size !== made.size) throw truncated(address, made, size);
      const end = await new Transfer(send).run(source, partSizeFor(made.size - from, sent.length));
      if (end !== made.size) throw truncated(address, made, end);
    } finally {
      source.destroy();
    }
  }
  const parts = checkpoint.parts;
  const through = { bytes_done: made.size, bytes_total: made.size, bytes_stored: storedBytes(parts) };
  attempt.report({ stage: 'uploading', ...through });
  return { parts, etag: await upload.complete(attempt.signal), made };
}

interface Send {
  address: BackupAddress;
  checkpoint: BackupCheckpoint;
  upload: ArchiveUpload;
  /** LXD's copy, when LXD has written all of it. */
  made: LxdBackup | Promise<LxdBackup>;
  attempt: Attempt;
  tools: Tools;
}

/** Waits until LXD has written everything, and records that. */
function settle(writing: Writing, checkpoint: BackupCheckpoint): Promise<LxdBackup> {
  const settled = writing.made.then(async (made) => {
    await checkpoint.settle(made);
    return made;
  });
  settled.catch(() => undefined);
  return settled;
}

/**
 * Sends what LXD has written so far, up to a limit. If the store fails, the rest is sent later: LXD need not write its copy
 * again for that.
 */
async function sendAhead(send: Send, writing: Writing): Promise<void> {
  const { address, attempt, tools } = send;
  const limit = tools.config.worker.sendAheadMiB * 1024 * 1024;
  const source = followExport(tools.lxd, address, writing, limit);
  try {
    if (limit > 0) await new Transfer(send, limit).run(source, partSizeFor(limit));
  } catch (error) {
    if (attempt.signal.aborted || !asLxstowError(error).repeatable || isCode(error, 'archive-truncated')) throw error;
    attempt.log.warn('not all sent while LXD was writing', { error });
  } finally {
    source.destroy();
  }
}

/** The error for an export whose length is not the one that LXD announced. */
function truncated(address: BackupAddress, made: LxdBackup, size: number): LxstowError {
  return new LxstowError(
    'archive-truncated',
    `LXD announced ${made.size} bytes for the export of ${nameOf(address)}, but sent ${size}`,
  );
}

/** Sends the export, from the first byte that is not stored yet. */
class Transfer {
  readonly #send: Send;
  readonly #limit: number;
  readonly #tar: TarScanner;
  /** The scanner's state after each block, by its position in the tar. It is recorded with each part, so that an attempt can resume after it. */
  readonly #states = new Map<number, TarState>();
  readonly #start: { number: number; rawStart: number };
  readonly #begun = performance.now();
  #read: number;
  #stored: number;

  /** Sends the export up to byte `limit`, but no part that would be shorter because of the limit. */
  constructor(send: Send, limit = Number.POSITIVE_INFINITY) {
    const sent = send.checkpoint.parts;
    const last = sent.at(-1);
    this.#send = send;
    this.#limit = limit;
    this.#tar = last ? TarScanner.from(last.tar) : new TarScanner();
    this.#start = { number: (last?.number ?? 0) + 1, rawStart: last?.rawEnd ?? 0 };
    this.#read = this.#start.rawStart;
    this.#stored = storedBytes(sent);
  }

  /** Returns the position that was reached. */
  async run(source: ByteSource, partSize: number): Promise<number> {
    const { address, checkpoint, attempt, tools } = this.#send;
    const { threads, bandwidth, memory, config } = tools;
    using idle = new IdleWatch(config.worker.lxdIdleTimeoutMs, `the export of ${nameOf(address)}`);
    const signal = AbortSignal.any([attempt.signal, idle.signal]);
    const inFlight = partsInFlight(partSize, config.worker.partsInFlight);
    const drafts = draftParts(paced(source, bandwidth), {
      compression: checkpoint.start.compression,
      partSize,
      inFlight,
      memory,
      threads,
      onBlock: (bytes) => this.#onBlock(bytes),
      idle,
      signal,
      start: this.#start,
    });
    await forEach(drafts, inFlight, (draft) => this.#sendPart(draft, partSize, signal));
    if (this.#read < this.#limit) this.#tar.finish();
    return this.#read;
  }

  #onBlock(bytes: Buffer): void {
    const tar = this.#tar;
    tar.push(bytes);
    if ((tar.firstFileBytes ?? 0) > largestIndexBytes) throw indexTooLarge(this.#send.address, tar.firstFileBytes);
    this.#read += bytes.length;
    this.#states.set(this.#read, tar.state());
  }

  async #sendPart(
    { number, rawStart, rawEnd, body, release }: PartDraft,
    partSize: number,
    signal: AbortSignal,
  ): Promise<void> {
    const { checkpoint, upload, attempt, tools } = this.#send;
    if (rawEnd === this.#limit && body.length < partSize) return release();
    const { sha256, crc32 } = await tools.threads.digest(body);
    const tar = this.#states.get(rawEnd) ?? this.#tar.state();
    const zeros = checkpoint.start.compression === 'none' ? { zeros: zerosIn(body) } : {};
    const unsent = { number, rawStart, rawEnd, size: body.length, sha256, crc32, tar, ...zeros };
    const part = this.#isWhole(unsent, partSize)
      ? await upload.putWhole(await this.#checked(unsent), body, signal)
      : await upload.put(unsent, body, signal);
    release();
    for (const at of this.#states.keys()) if (at <= rawStart) this.#states.delete(at);
    this.#stored += part.size;
    tools.metrics.received.inc({ peer: 'lxd' }, rawEnd - rawStart);
    attempt.report(this.#progress());
  }

  /** Whether the archive is one part: it is shorter than one, so nothing follows. */
  #isWhole({ number, rawEnd, size }: Omit<SentPart, 'etag'>, partSize: number): boolean {
    return number === 1 && size < partSize && rawEnd <= smallestPartBytes;
  }

  /** Returns the part that is the whole archive, if LXD says so too: once it is sent, the object is there. */
  async #checked<P extends Omit<SentPart, 'etag'>>(part: P): Promise<P> {
    const { address, made } = this.#send;
    this.#tar.finish();
    const { size } = await made;
    if (part.rawEnd !== size) throw truncated(address, await made, part.rawEnd);
    return part;
  }

  #progress(): OperationMetadata {
    const { made } = this.#send.checkpoint.start;
    // Until LXD has finished, progress comes from its own operation.
    if (!made) return { bytes_stored: this.#stored };
    return {
      stage: 'uploading',
      bytes_done: this.#read,
      bytes_total: made.size,
      bytes_stored: this.#stored,
      bytes_per_second: bytesPerSecond(this.#read - this.#start.rawStart, this.#begun),
    };
  }
}

/** LXD can write an archive that it cannot import, because the index is too large: it contains each snapshot's configuration twice. */
function indexTooLarge(address: BackupAddress, bytes = 0): LxstowError {
  return new LxstowError(
    'too-large',
    `LXD could not import the backup of ${nameOf(address)}: its index.yaml is ${bytes} bytes, and LXD reads at most ${largestIndexBytes}. Delete snapshots or large configuration values, or use --instance-only`,
  );
}

export function storedBytes(parts: SentPart[]): number {
  return parts.reduce((sum, { size }) => sum + size, 0);
}
