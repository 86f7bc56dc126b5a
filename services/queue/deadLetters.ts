/** Dead letters: messages that no worker can do anything with, kept as they were, with the reason, until a person looks. */
import type { MsgRequest, StoredMsg } from '@nats-io/jetstream';
import { headers, type MsgHdrs } from '@nats-io/transport-node';
import { LxstowError } from '../errors.ts';
import { apiCode, type Nats, natsFailure } from './connection.ts';
import type { Delivery } from './deliveries.ts';
import { operationIdOf, uuid5 } from './jobs.ts';
import { buriedSubject, deadLetterStream, deadSubject, jobsStream } from './topology.ts';

export interface DeadLetter {
  /** Its sequence in the stream: never used again. */
  id: number;
  time: Date;
  /** The job's, as it was published. */
  subject: string;
  data: Buffer;
  /** The publisher's own, and NATS's, by their original names. */
  headers: [name: string, value: string][];
  /** One of the codes in services/errors.ts. */
  code: string;
  reason: string;
  /** The operation that failed. */
  operation: string;
}

const codeHeader = 'Lxstow-Error-Code';
const reasonHeader = 'Lxstow-Error';
const operationHeader = 'Lxstow-Operation';
const sequenceHeader = 'Lxstow-Sequence';
const ownHeaders = [codeHeader, reasonHeader, operationHeader, sequenceHeader];
/** NATS's own headers would act again on the dead letter: they are kept under another name. */
const [natsPrefix, keptPrefix] = ['Nats-', 'Lxstow-Nats-'];
const tries = 3;

/** Keeps the message as it was, with the reason. Done twice it is kept once. */
export async function bury(nats: Nats, message: Delivery, error: LxstowError): Promise<void> {
  const kept = headers();
  for (const [name, values] of message.headers ?? []) {
    for (const value of values) kept.append(name.startsWith(natsPrefix) ? `Lxstow-${name}` : name, value);
  }
  const messageId = message.headers?.get('Nats-Msg-Id') || undefined;
  kept.set(codeHeader, error.code);
  kept.set(reasonHeader, error.message.replaceAll(/[\r\n]+/g, ' '));
  kept.set(operationHeader, operationIdOf({ messageId, sequence: message.seq }));
  kept.set(sequenceHeader, String(message.seq));
  await nats.js.publish(deadSubject(message.subject), message.data, {
    headers: kept,
    msgID: `dead-${jobsStream}-${message.seq}`,
  });
}

/** All of them, the oldest first. */
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
 * Puts the job on the queue again, as a new operation, and returns its id; the letter is removed only when the queue has it. Interrupted
 * and done again it is no second job: the new id follows from the letter.
 */
export async function retryDeadLetter(nats: Nats, letter: DeadLetter): Promise<string> {
  const operation = retryId(letter);
  const again = headers();
  for (const [name, value] of letter.headers) if (!name.startsWith(natsPrefix)) again.append(name, value);
  nats.assertConnected();
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

/** The id of the operation that a retry of this letter is. */
export function retryId({ id, time }: Pick<DeadLetter, 'id' | 'time'>): string {
  return uuid5(`${deadLetterStream}:${id}:${time.toISOString()}`);
}

/** Removes a letter for good. One that is gone is fine. */
export async function discardDeadLetter(nats: Nats, id: number): Promise<void> {
  nats.assertConnected();
  try {
    await nats.jsm.streams.deleteMessage(deadLetterStream, id);
  } catch (error) {
    if (isMissing(error)) return;
    throw natsFailure(error, `discarding dead letter ${id}`);
  }
}

/** Removes all that are there now; one that comes meanwhile stays. Returns how many. */
export async function discardAllDeadLetters(nats: Nats): Promise<number> {
  nats.assertConnected();
  try {
    const { state } = await nats.jsm.streams.info(deadLetterStream);
    if (state.messages === 0) return 0;
    return (await nats.jsm.streams.purge(deadLetterStream, { seq: state.last_seq + 1 })).purged;
  } catch (error) {
    throw natsFailure(error, 'discarding dead letters');
  }
}

async function read(
  nats: Nats,
  query: { seq: number } | { seq: number; next_by_subj: string },
): Promise<StoredMsg | undefined> {
  nats.assertConnected();
  try {
    // The server knows `next_by_subj` here too; the client's type does not.
    return (await nats.jsm.streams.getMessage(deadLetterStream, query as MsgRequest)) ?? undefined;
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw natsFailure(error, 'reading dead letters');
  }
}

/** A read says 10037; a deletion 10043, or that it failed for this reason. */
function isMissing(error: unknown): boolean {
  const code = apiCode(error);
  return code === 10037 || code === 10043 || (code === 10057 && /no message found/i.test((error as Error).message));
}

function letterOf({ seq, time, subject, data, header }: StoredMsg): DeadLetter {
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

/** Nobody answers a publish to a subject that no stream takes: it looks like a NATS that is away, and would be tried in vain. */
async function assertTaken(nats: Nats, { id, subject }: DeadLetter): Promise<void> {
  const tokens = subject.split('.');
  const takes = (filter: string) => {
    const wanted = filter.split('.');
    return wanted.length === tokens.length && wanted.every((token, i) => token === '*' || token === tokens[i]);
  };
  try {
    const { config } = await nats.jsm.streams.info(jobsStream);
    if (config.subjects.some(takes)) return;
  } catch (error) {
    throw natsFailure(error, 'looking at our stream');
  }
  const why = `${jobsStream} does not take ${subject}: is its remote in the configuration, and was \`lxstow setup\` run since?`;
  throw new LxstowError('bad-message', `dead letter ${id} stays: ${why}`);
}
