/** LXD's export into the object store: blocks, compressed, in parts, several at a time; whole, or not at all. */
import type { ByteSource } from '../archive/blocks.ts';
import { draftParts } from '../archive/draftParts.ts';
import { mapInOrder } from '../archive/flow.ts';
import { IdleWatch } from '../archive/idleWatch.ts';
import { paced } from '../archive/pace.ts';
import { type PartDraft, partSizeFor, partsInFlight } from '../archive/parts.ts';
import { TarScanner, type TarState } from '../archive/tar.ts';
import type { BackupAddress, OperationMetadata } from '../contract.ts';
import { LxstowError } from '../errors.ts';
import { openExport } from '../lxd/backups.ts';
import { nameOf } from '../lxd/instances.ts';
import { type Attempt, bytesPerSecond } from '../operations/attempt.ts';
import { type ArchiveUpload, etagAt } from './archiveUpload.ts';
import type { BackupCheckpoint, SentPart } from './checkpoint.ts';
import type { Tools } from './tools.ts';

/** Sends what is not stored yet, and makes the object of it, unless an attempt before this one has. */
export async function sendArchive(
  address: BackupAddress,
  checkpoint: BackupCheckpoint,
  upload: ArchiveUpload,
  attempt: Attempt,
  tools: Tools,
): Promise<{ parts: SentPart[]; etag: string }> {
  const { start } = checkpoint;
  const sent = checkpoint.parts;
  const last = sent.at(-1);
  const from = last?.rawEnd ?? 0;
  if (last && from === start.rawSize) {
    TarScanner.from(last.tar).finish();
    if ((await etagAt(tools.store, start.upload.key, attempt.signal)) === upload.etag)
      return { parts: sent, etag: upload.etag };
  } else {
    const { size, source } = await openExport(tools.lxd, address, start.lxdBackup, attempt.signal, from);
    try {
      if (size !== start.rawSize) {
        throw new LxstowError(
          'archive-truncated',
          `LXD announced ${start.rawSize} bytes for the export of ${nameOf(address)}, and now ${size}`,
        );
      }
      sent.push(...(await transfer(source, sent, checkpoint, upload, attempt, tools)));
    } finally {
      source.destroy();
    }
  }
  return { parts: sent, etag: await upload.complete(attempt.signal) };
}

/** Sends the export from behind `sent`; returns the further parts. The tar must be whole, and as long as LXD announced. */
async function transfer(
  source: ByteSource,
  sent: SentPart[],
  checkpoint: BackupCheckpoint,
  upload: ArchiveUpload,
  attempt: Attempt,
  { threads, bandwidth, memory, config, metrics }: Tools,
): Promise<SentPart[]> {
  const { compression, rawSize } = checkpoint.start;
  const last = sent.at(-1);
  const partStart = { number: (last?.number ?? 0) + 1, rawStart: last?.rawEnd ?? 0 };
  const begun = performance.now();
  const tar = last ? TarScanner.from(last.tar) : new TarScanner();
  using idle = new IdleWatch(config.worker.lxdIdleTimeoutMs, `the export of ${nameOf(attempt.operation)}`);
  const signal = AbortSignal.any([attempt.signal, idle.signal]);
  let read = partStart.rawStart;
  let stored = sent.reduce((sum, { size }) => sum + size, 0);
  const progress = (): OperationMetadata => ({
    stage: 'uploading',
    bytes_done: read,
    bytes_total: rawSize,
    bytes_stored: stored,
    bytes_per_second: bytesPerSecond(read - partStart.rawStart, begun),
  });

  // The scanner's state behind each block, by the tar's byte: what a part needs to be gone on from.
  const states = new Map<number, TarState>();
  const onBlock = (bytes: Buffer) => {
    tar.push(bytes);
    read += bytes.length;
    states.set(read, tar.state());
  };

  const partSize = partSizeFor(rawSize);
  const inFlight = partsInFlight(partSize, config.worker.partsInFlight);
  const drafts = draftParts(paced(source, bandwidth), {
    compression,
    partSize,
    inFlight,
    memory,
    threads,
    onBlock,
    idle,
    signal,
    start: partStart,
  });

  const sendPart = async ({ number, rawStart, rawEnd, body, release }: PartDraft): Promise<SentPart> => {
    const { sha256, crc32 } = await threads.digest(body);
    const state = states.get(rawEnd) ?? tar.state();
    const part = await upload.put(
      { number, rawStart, rawEnd, size: body.length, sha256, crc32, tar: state },
      body,
      signal,
    );
    release();
    for (const at of states.keys()) if (at <= rawStart) states.delete(at);
    stored += part.size;
    metrics.received.inc({ peer: 'lxd' }, rawEnd - rawStart);
    attempt.report(progress());
    return part;
  };
  const parts: SentPart[] = [];
  for await (const part of mapInOrder(drafts, inFlight, sendPart)) parts.push(part);

  if (read !== rawSize) {
    throw new LxstowError(
      'archive-truncated',
      `LXD announced ${rawSize} bytes for the export of ${nameOf(attempt.operation)}, but sent ${read}`,
    );
  }
  tar.finish();
  await attempt.record({ metadata: progress() });
  return parts;
}
