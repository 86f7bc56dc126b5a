/** Streams, as all that is done often uses them: a message appended, the last one of a subject read from the stream's leader. */
import { type ApiError, JetStreamApiError } from '@nats-io/jetstream';
import { type Msg, type MsgHdrs, MsgHdrsImpl } from '@nats-io/transport-node';
import type { Nats } from './connection.ts';

/** A message as it is kept. */
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

/** The last message whose subject matches; undefined where there is none. */
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

/** The client's own way looks at each name, letter by letter. */
function headersOf(headers: Record<string, string>): MsgHdrs {
  const each = Object.entries(headers).map(([name, value]) => [name, [value]]);
  return MsgHdrsImpl.fromRecord(Object.fromEntries(each));
}

function answerOf<T>(answer: Msg): T {
  const { error, ...found } = answer.json<{ error?: ApiError }>();
  if (error) throw new JetStreamApiError(error);
  return found as T;
}

function parseHeaders(encoded = ''): Map<string, string> {
  const [, ...lines] = Buffer.from(encoded, 'base64').toString().split('\r\n');
  return new Map(
    lines.filter(Boolean).map((line) => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon), line.slice(colon + 1).trim()];
    }),
  );
}
