/** Reads a bucket's stream in batches. */
import type { StoredMsg } from '@nats-io/jetstream';
import type { Nats } from '../connection.ts';

/** Messages of a batch come within milliseconds of each other. */
const stalledMs = 5000;
const batchSize = 1000;

/**
 * Reads a batch of messages from this sequence on, in order, with one request; only those of matching subjects, where `subject` is given. A message that
 * is overwritten during the listing comes again, later. A batch that is not `full` reached the end: the list was complete at that moment. Any replica of
 * the stream may answer. Throws the client's errors.
 */
async function batchOf(
  { jsm }: Nats,
  stream: string,
  { seq, size, subject }: { seq: number; size: number; subject: string | undefined },
): Promise<{ messages: StoredMsg[]; full: boolean }> {
  const { promise, resolve, reject } = Promise.withResolvers<StoredMsg[]>();
  const messages: StoredMsg[] = [];
  // With a callback, getBatch ends its subscription; its iterator would leave it open.
  const batch = await jsm.direct.getBatch(stream, {
    seq,
    batch: size,
    ...(subject !== undefined && { next_by_subj: subject }),
    callback: (done, message) => {
      stalled.refresh();
      if (!done) messages.push(message);
      else if (done.err && !isNothingThere(done.err)) reject(done.err);
      else resolve(messages);
    },
  });
  const stalled = setTimeout(() => batch.stop(new Error(`no answer in ${stalledMs} ms`)), stalledMs);
  try {
    return { messages: await promise, full: messages.length === size };
  } finally {
    clearTimeout(stalled);
  }
}

/** Where a scan begins, and what it scans. */
export interface ScanOptions {
  /** The revision of the first entry. Default: the first one. */
  from?: number;
  /** Only keys that match. */
  keys?: string;
  /** Entries that NATS sends at a time. */
  atOnce?: number;
}

/**
 * Calls `see` with each entry of a bucket, in the order of revisions; a deleted entry has no value. An entry that changes during the scan comes again,
 * later; a KV watch would sometimes miss it. When it resolves, the list was complete at some moment since the call; `see` ends the scan early by returning
 * false. Throws the client's errors.
 */
export async function scan(
  nats: Nats,
  bucket: string,
  see: (key: string, revision: number, value: Uint8Array | undefined) => unknown,
  { from = 1, keys, atOnce = batchSize }: ScanOptions = {},
): Promise<void> {
  const prefix = `$KV.${bucket}.`;
  for (let next = from; ; ) {
    const { messages, full } = await batchOf(nats, `KV_${bucket}`, {
      ...{ seq: next, size: atOnce },
      subject: keys && prefix + keys,
    });
    for (const { subject, seq, header, data } of messages) {
      next = seq + 1;
      if (see(subject.slice(prefix.length), seq, isGone(header) ? undefined : data) === false) return;
    }
    if (!full) return;
  }
}

function isNothingThere(error: Error): boolean {
  return error.name === 'JetStreamStatusError' && 'code' in error && error.code === 404;
}

/** True when a message of a bucket's stream is a deletion: its key has no value. */
export function isGone(headers: { has(name: string): boolean }): boolean {
  return headers.has('KV-Operation') || headers.has('Nats-Marker-Reason');
}
