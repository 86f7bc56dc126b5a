/** The most frequent calls to a stream: append a message, read a subject's last message from the stream's leader, read many in batches. */
import { type ApiError, JetStreamApiError, type StoredMsg } from '@nats-io/jetstream';
import type { Msg, MsgHdrs } from '@nats-io/transport-node';
import type { Nats } from './connection.ts';

/** A stored message. */
export interface Stored {
  subject: string;
  seq: number;
  headers: Map<string, string>;
  data: Buffer;
  /** By the server's clock. */
  time: Date;
}

const noMessage = 10037;
/** Messages of a batch come within milliseconds of each other. */
const stalledMs = 5000;
const batchSize = 1000;

/** Appends a message to the stream of its subject; returns its sequence once it is durable. Throws the client's errors, JetStreamApiError among them. */
export async function append(
  nats: Nats,
  subject: string,
  payload: Uint8Array | string,
  headers: Record<string, string>,
): Promise<number> {
  const answer = await nats.ask(subject, payload, { headers: headersOf(headers) });
  return answerOf<{ seq: number }>(answer).seq;
}

/** Returns the last message whose subject matches; undefined if there is none. */
export async function lastOf(nats: Nats, stream: string, subject: string): Promise<Stored | undefined> {
  const answer = await nats.ask(`$JS.API.STREAM.MSG.GET.${stream}`, JSON.stringify({ last_by_subj: subject }));
  try {
    const { message } = answerOf<{
      message: Omit<Stored, 'headers'> & { hdrs?: string } & Record<'data' | 'time', string>;
    }>(answer);
    return {
      subject: message.subject,
      seq: message.seq,
      headers: parseHeaders(message.hdrs),
      data: Buffer.from(message.data ?? '', 'base64'),
      time: new Date(message.time),
    };
  } catch (error) {
    if (error instanceof JetStreamApiError && error.code === noMessage) return undefined;
    throw error;
  }
}

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

/** Where a scan begins, and what of. */
export interface ScanOptions {
  /** The revision of the first entry. Default: the first one. */
  from?: number;
  /** Only keys that match. */
  keys?: string;
  /** Entries that NATS sends at a time. */
  atOnce?: number;
}

/**
 * Calls `see` with each entry of a bucket, in the order of revisions; one that is deleted has no value. An entry that changes during the scan comes again,
 * later; a KV watch would sometimes miss it. When it resolves, nothing was missing at some moment since the call; `see` ends it early by returning false.
 * Throws the client's errors.
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

/** Headers as the client would encode them: `encode` is all that it calls. Its own MsgHdrs checks every character. */
function headersOf(headers: Record<string, string>): MsgHdrs {
  let text = 'NATS/1.0\r\n';
  for (const name in headers) text += `${name}: ${headers[name]}\r\n`;
  const encoded = Buffer.from(`${text}\r\n`);
  return { encode: () => encoded } as unknown as MsgHdrs;
}

function answerOf<T>(answer: Msg): T {
  const found = answer.json<T & { error?: ApiError }>();
  if (found.error) throw new JetStreamApiError(found.error);
  return found;
}

function parseHeaders(encoded = ''): Map<string, string> {
  const found = new Map<string, string>();
  for (const line of Buffer.from(encoded, 'base64').toString().split('\r\n')) {
    const colon = line.indexOf(':');
    if (colon > 0) found.set(line.slice(0, colon), line.slice(colon + 1).trim());
  }
  return found;
}
