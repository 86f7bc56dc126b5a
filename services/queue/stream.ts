/** The two most frequent calls to a stream: append a message, and read a subject's last message from the stream's leader. */
import { type ApiError, JetStreamApiError } from '@nats-io/jetstream';
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
