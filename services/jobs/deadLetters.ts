/** Dead letters: job messages that no worker could complete, kept unchanged with the reason until a person handles them. */
import type { MsgRequest, StoredMsg } from '@nats-io/jetstream';
import { headers, type MsgHdrs } from '@nats-io/transport-node';
import { LxstowError } from '../contract/errors.ts';
import type { Nats } from '../nats/connection.ts';
import { apiCode, natsFailure } from '../nats/failures.ts';
import { headersOf } from '../nats/messageHeaders.ts';
import { deadLetterStream, jobsStream } from '../nats/streams.ts';
import { buriedSubject, deadSubject } from '../nats/subjects.ts';
import type { Delivery } from './deliveries.ts';
import { operationIdOf, uuid5 } from './jobs.ts';

export interface DeadLetter {
  /** Its sequence in the stream; never reused. */
  id: number;
  time: Date;
  /** The job's own subject. */
  subject: string;
  data: Buffer;
  /** The publisher's headers and NATS's, by their original names. */
  headers: [name: string, value: string][];
  /** One of the codes in services/contract/errors.ts. */
  code: string;
  reason: string;
  /** Id of the operation that failed. */
  operation: string;
}

const codeHeader = 'Lxstow-Error-Code';
const reasonHeader = 'Lxstow-Error';
const operationHeader = 'Lxstow-Operation';
const sequenceHeader = 'Lxstow-Sequence';
const ownHeaders = [codeHeader, reasonHeader, operationHeader, sequenceHeader];
/** NATS would act on its own headers again: they are stored under another name. */
const [natsPrefix, keptPrefix] = ['Nats-', 'Lxstow-Nats-'];
const tries = 3;

/** Stores the message unchanged, with the reason; headers that cannot be read are left out. A repeat is dropped as a duplicate. */
export async function bury(nats: Nats, message: Delivery, error: LxstowError): Promise<void> {
  const kept = headers();
  const { headers: sent } = headersOf(message);
  for (const [name, values] of sent ?? []) {
    for (const value of values) kept.append(name.startsWith(natsPrefix) ? `Lxstow-${name}` : name, value);
  }
  const messageId = sent?.get('Nats-Msg-Id');
  kept.set(codeHeader, error.code);
  kept.set(reasonHeader, error.message.replaceAll(/[\r\n]+/g, ' '));
  kept.set(operationHeader, operationIdOf({ messageId, sequence: message.seq }));
  kept.set(sequenceHeader, String(message.seq));
  await nats.js.publish(deadSubject(message.subject), message.data, {
    headers: kept,
    msgID: `dead-${jobsStream}-${message.seq}`,
  });
}

/** Yields all dead letters, oldest first. */
export async function* listDeadLetters(nats: Nats, signal: AbortSignal): AsyncGenerator<DeadLetter> {
  for (let from = 1; ; ) {
    signal.throwIfAborted();
    const message = await read(nats, { seq: from, next_by_subj: '>' });
    if (!message) return;
    yield letterOf(message);
    from = message.seq + 1;
  }
}

/** Throws not-found. */
export async function getDeadLetter(nats: Nats, id: number): Promise<DeadLetter> {
  const message = await read(nats, { seq: id });
  if (!message) throw new LxstowError('not-found', `there is no dead letter ${id}`);
  return letterOf(message);
}

/**
 * Queues the job again as a new operation, and then removes the letter. Returns the operation's id, which is derived from the letter: a repeat after
 * an interruption queues no second job.
 */
export async function retryDeadLetter(nats: Nats, letter: DeadLetter): Promise<string> {
  const operation = retryId(letter);
  const again = headers();
  for (const [name, value] of letter.headers) if (!name.startsWith(natsPrefix)) again.append(name, value);
  await assertTaken(nats, letter);
  for (let attempt = 1; ; attempt++) {
    nats.assertConnected();
    try {
      await nats.js.publish(letter.subject, letter.data, {
        headers: again,
        msgID: operation,
        expect: { streamName: jobsStream },
      });
      break;
    } catch (error) {
      const failure = natsFailure(error, `queueing dead letter ${letter.id} again`);
      if (failure.code !== 'nats-unavailable' || attempt === tries) throw failure;
    }
  }
  await discardDeadLetter(nats, letter.id);
  return operation;
}

/** Id of the operation that a retry of this letter starts. */
function retryId({ id, time }: Pick<DeadLetter, 'id' | 'time'>): string {
  return uuid5(`${deadLetterStream}:${id}:${time.toISOString()}`);
}

/** Removes a letter for good; does nothing if it is gone. */
export async function discardDeadLetter(nats: Nats, id: number): Promise<void> {
  await nats.ask(`discarding dead letter ${id}`, async () => {
    try {
      await nats.jsm.streams.deleteMessage(deadLetterStream, id);
    } catch (error) {
      if (!isMissing(error)) throw error;
    }
  });
}

/** Removes all letters present now, not those that arrive during the call. Returns how many. */
export function discardAllDeadLetters(nats: Nats): Promise<number> {
  return nats.ask('discarding dead letters', async () => {
    const { state } = await nats.jsm.streams.info(deadLetterStream);
    if (state.messages === 0) return 0;
    return (await nats.jsm.streams.purge(deadLetterStream, { seq: state.last_seq + 1 })).purged;
  });
}

async function read(
  nats: Nats,
  query: { seq: number } | { seq: number; next_by_subj: string },
): Promise<StoredMsg | undefined> {
  // The server accepts `next_by_subj` here too; the client's type does not.
  const ask = () => nats.jsm.streams.getMessage(deadLetterStream, query as MsgRequest);
  return (await nats.ask('reading dead letters', ask)) ?? undefined;
}

/** A deletion fails with 10043, or with 10057 and this reason. */
function isMissing(error: unknown): boolean {
  const code = apiCode(error);
  return code === 10043 || (code === 10057 && /no message found/i.test((error as Error).message));
}

function letterOf(message: StoredMsg): DeadLetter {
  const { seq, time, subject, data } = message;
  const { headers: header = headers() } = headersOf(message);
  return {
    id: seq,
    time,
    subject: buriedSubject(subject),
    data: Buffer.from(data),
    headers: original(header),
    code: header.get(codeHeader),
    reason: header.get(reasonHeader),
    operation: header.get(operationHeader),
  };
}

function original(header: MsgHdrs): DeadLetter['headers'] {
  const found: DeadLetter['headers'] = [];
  for (const [name, values] of header) {
    if (ownHeaders.includes(name) || name.startsWith(natsPrefix)) continue;
    const was = name.startsWith(keptPrefix) ? name.slice('Lxstow-'.length) : name;
    for (const value of values) found.push([was, value]);
  }
  return found;
}

/** Throws bad-message if the stream does not take the subject. Such a publish gets no reply, as if NATS were away, and would be retried in vain. */
async function assertTaken(nats: Nats, { id, subject }: DeadLetter): Promise<void> {
  const tokens = subject.split('.');
  const takes = (filter: string) => {
    const wanted = filter.split('.');
    return wanted.length === tokens.length && wanted.every((token, i) => token === '*' || token === tokens[i]);
  };
  const { config } = await nats.ask('looking at our stream', () => nats.jsm.streams.info(jobsStream));
  if (config.subjects.some(takes)) return;
  const why = `${jobsStream} does not accept ${subject}; add its remote to the configuration and run \`lxstow setup\``;
  throw new LxstowError('bad-message', `dead letter ${id} was not retried: ${why}`);
}
