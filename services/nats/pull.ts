/** A pull from a consumer that ends with the connection. */
import { addAbortListener } from 'node:events';
import type { Consumer, FetchMessages, JsMsg } from '@nats-io/jetstream';
import type { Nats } from './connection.ts';

/**
 * Yields the messages of one pull, until it is complete or expires, the connection is lost, or `stop` aborts. Waits for a connection first. The client
 * itself would continue the pull after a reconnect, and pull once more for each login that was refused in between. Throws the client's errors.
 */
export async function* pull(
  nats: Pick<Nats, 'loss' | 'untilConnected'>,
  consumer: Consumer,
  options: FetchMessages,
  stop: AbortSignal,
): AsyncGenerator<JsMsg, undefined> {
  await nats.untilConnected(stop);
  if (stop.aborted) return;
  const { loss } = nats;
  const messages = await consumer.fetch(options);
  using _stopped = addAbortListener(stop, () => messages.stop());
  using _lost = addAbortListener(loss, () => messages.stop());
  yield* messages;
}
