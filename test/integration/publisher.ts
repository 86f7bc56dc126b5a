/** A program of somebody else's that puts a job on its subject. */
import { jetstream } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { operationIdOf } from '../../services/jobs/jobs.ts';

/** Publishes and returns the operation's id: the message's own when it is given, else the one that its place in the stream gives. */
export async function publish(url: string, subject: string, body: unknown, messageId?: string): Promise<string> {
  const connection = await connect({ servers: url });
  try {
    const data = body === undefined ? '' : typeof body === 'string' ? body : JSON.stringify(body);
    const ack = await jetstream(connection).publish(subject, data, messageId === undefined ? {} : { msgID: messageId });
    return operationIdOf({ messageId, sequence: ack.seq });
  } finally {
    await connection.close();
  }
}
